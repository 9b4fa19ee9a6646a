// SPDX-License-Identifier: Apache-2.0
// The lives of a domain: from start to its end, and elsewhere.
#include <optional>
#include <utility>

#include "arguments.h"
#include "domain.h"
#include "names.h"
#include "typed_parameters.h"

namespace vesper::libvirt {
namespace {

const char* pointer(const std::optional<std::string>& text) { return text ? text->c_str() : nullptr; }

}  // namespace

Napi::Value Domain::start(const Napi::CallbackInfo& info) {
  const unsigned flags = Options(info, 0).flags({
      {"paused", VIR_DOMAIN_START_PAUSED},
      {"autoDestroy", VIR_DOMAIN_START_AUTODESTROY},
      {"forceBoot", VIR_DOMAIN_START_FORCE_BOOT},
      {"validate", VIR_DOMAIN_START_VALIDATE},
  });
  return call(info, 0, [flags](virDomainPtr domain) -> Data {
    checked(virDomainCreateWithFlags(domain, flags), "virDomainCreateWithFlags");
    return {};
  });
}

Napi::Value Domain::shutdown(const Napi::CallbackInfo& info) {
  const unsigned flags = Options(info, 0).word(
      "by", {{"acpi", VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN}, {"agent", VIR_DOMAIN_SHUTDOWN_GUEST_AGENT}},
      VIR_DOMAIN_SHUTDOWN_DEFAULT);
  return call(info, 0, [flags](virDomainPtr domain) -> Data {
    checked(virDomainShutdownFlags(domain, flags), "virDomainShutdownFlags");
    return {};
  });
}

Napi::Value Domain::reboot(const Napi::CallbackInfo& info) {
  const unsigned flags = Options(info, 0).word(
      "by", {{"acpi", VIR_DOMAIN_REBOOT_ACPI_POWER_BTN}, {"agent", VIR_DOMAIN_REBOOT_GUEST_AGENT}},
      VIR_DOMAIN_REBOOT_DEFAULT);
  return call(info, 0, [flags](virDomainPtr domain) -> Data {
    checked(virDomainReboot(domain, flags), "virDomainReboot");
    return {};
  });
}

Napi::Value Domain::reset(const Napi::CallbackInfo& info) {
  return call(info, 0, [](virDomainPtr domain) -> Data {
    checked(virDomainReset(domain, 0), "virDomainReset");
    return {};
  });
}

Napi::Value Domain::destroy(const Napi::CallbackInfo& info) {
  const unsigned flags = Options(info, 0).flags({{"graceful", VIR_DOMAIN_DESTROY_GRACEFUL}});
  return call(info, 0, [flags](virDomainPtr domain) -> Data {
    checked(virDomainDestroyFlags(domain, flags), "virDomainDestroyFlags");
    return {};
  });
}

Napi::Value Domain::suspend(const Napi::CallbackInfo& info) {
  return call(info, 0, [](virDomainPtr domain) -> Data {
    checked(virDomainSuspend(domain), "virDomainSuspend");
    return {};
  });
}

Napi::Value Domain::resume(const Napi::CallbackInfo& info) {
  return call(info, 0, [](virDomainPtr domain) -> Data {
    checked(virDomainResume(domain), "virDomainResume");
    return {};
  });
}

Napi::Value Domain::undefine(const Napi::CallbackInfo& info) {
  const unsigned flags = Options(info, 0).flags({
      {"managedSave", VIR_DOMAIN_UNDEFINE_MANAGED_SAVE},
      {"snapshotsMetadata", VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA},
      {"checkpointsMetadata", VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA},
      {"nvram", VIR_DOMAIN_UNDEFINE_NVRAM},
      {"keepNvram", VIR_DOMAIN_UNDEFINE_KEEP_NVRAM},
      {"tpm", VIR_DOMAIN_UNDEFINE_TPM},
      {"keepTpm", VIR_DOMAIN_UNDEFINE_KEEP_TPM},
  });
  return call(info, 0, [flags](virDomainPtr domain) -> Data {
    checked(virDomainUndefineFlags(domain, flags), "virDomainUndefineFlags");
    return {};
  });
}

Napi::Value Domain::inject_nmi(const Napi::CallbackInfo& info) {
  return call(info, 0, [](virDomainPtr domain) -> Data {
    checked(virDomainInjectNMI(domain, 0), "virDomainInjectNMI");
    return {};
  });
}

Napi::Value Domain::save(const Napi::CallbackInfo& info) {
  const auto file = text_argument(info, 0, "the file");
  const Options options(info, 1);
  const unsigned flags = options.flags({
      {"bypassCache", VIR_DOMAIN_SAVE_BYPASS_CACHE},
      {"running", VIR_DOMAIN_SAVE_RUNNING},
      {"paused", VIR_DOMAIN_SAVE_PAUSED},
  });
  return long_call(info, 1, [file, flags, xml = options.text("xml")](virDomainPtr domain) -> Data {
    checked(virDomainSaveFlags(domain, file.c_str(), pointer(xml), flags), "virDomainSaveFlags");
    return {};
  });
}

Napi::Value Domain::managed_save(const Napi::CallbackInfo& info) {
  const unsigned flags = Options(info, 0).flags({
      {"bypassCache", VIR_DOMAIN_SAVE_BYPASS_CACHE},
      {"running", VIR_DOMAIN_SAVE_RUNNING},
      {"paused", VIR_DOMAIN_SAVE_PAUSED},
  });
  return long_call(info, 0, [flags](virDomainPtr domain) -> Data {
    checked(virDomainManagedSave(domain, flags), "virDomainManagedSave");
    return {};
  });
}

Napi::Value Domain::remove_managed_save(const Napi::CallbackInfo& info) {
  return call(info, 0, [](virDomainPtr domain) -> Data {
    checked(virDomainManagedSaveRemove(domain, 0), "virDomainManagedSaveRemove");
    return {};
  });
}

Napi::Value Domain::migrate(const Napi::CallbackInfo& info) {
  const auto destination = text_argument(info, 0, "the destination's URI");
  const Options options(info, 1);
  const unsigned flags = options.flags({
      {"live", VIR_MIGRATE_LIVE},
      {"peerToPeer", VIR_MIGRATE_PEER2PEER},
      {"tunnelled", VIR_MIGRATE_TUNNELLED},
      {"persistDestination", VIR_MIGRATE_PERSIST_DEST},
      {"undefineSource", VIR_MIGRATE_UNDEFINE_SOURCE},
      {"paused", VIR_MIGRATE_PAUSED},
      {"copyDisks", VIR_MIGRATE_NON_SHARED_DISK},
      {"copyDiskChanges", VIR_MIGRATE_NON_SHARED_INC},
      {"changeProtection", VIR_MIGRATE_CHANGE_PROTECTION},
      {"unsafe", VIR_MIGRATE_UNSAFE},
      {"offline", VIR_MIGRATE_OFFLINE},
      {"compressed", VIR_MIGRATE_COMPRESSED},
      {"abortOnError", VIR_MIGRATE_ABORT_ON_ERROR},
      {"autoConverge", VIR_MIGRATE_AUTO_CONVERGE},
      {"postcopy", VIR_MIGRATE_POSTCOPY},
      {"tls", VIR_MIGRATE_TLS},
      {"parallel", VIR_MIGRATE_PARALLEL},
  });
  const auto parameters = std::make_shared<TypedParameters>();
  for (const auto& [name, field] : {
           std::pair{"uri", VIR_MIGRATE_PARAM_URI},
           std::pair{"destinationName", VIR_MIGRATE_PARAM_DEST_NAME},
           std::pair{"destinationXml", VIR_MIGRATE_PARAM_DEST_XML},
           std::pair{"persistentXml", VIR_MIGRATE_PARAM_PERSIST_XML},
           std::pair{"graphicsUri", VIR_MIGRATE_PARAM_GRAPHICS_URI},
           std::pair{"listenAddress", VIR_MIGRATE_PARAM_LISTEN_ADDRESS},
           std::pair{"disksUri", VIR_MIGRATE_PARAM_DISKS_URI},
       }) {
    if (const auto text = options.text(name)) parameters->add(field, *text);
  }
  if (const auto bandwidth = options.number("bandwidthMibPerSecond", 0, 1e9))
    parameters->add(VIR_MIGRATE_PARAM_BANDWIDTH, static_cast<unsigned long long>(*bandwidth));
  if (const auto connections = options.number("parallelConnections", 1, 1024))
    parameters->add(VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, static_cast<int>(*connections));
  return long_call(info, 1, [destination, flags, parameters](virDomainPtr domain) -> Data {
    checked(virDomainMigrateToURI3(domain, destination.c_str(), parameters->get(), parameters->count(), flags),
            "virDomainMigrateToURI3");
    return {};
  });
}

Napi::Value Domain::job(const Napi::CallbackInfo& info) {
  const unsigned flags =
      Options(info, 0).flags({{"completed", VIR_DOMAIN_JOB_STATS_COMPLETED | VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED}});
  return call(info, 0, [flags](virDomainPtr domain) -> Data {
    int type = 0;
    TypedParameters parameters;
    parameters.receive([&](virTypedParameterPtr* list, int* count) {
      checked(virDomainGetJobStats(domain, &type, list, count, flags), "virDomainGetJobStats");
    });
    return Fields{{"type", job_type_name(type)}, {"statistics", fields_of(parameters.get(), parameters.count())}};
  });
}

Napi::Value Domain::abort_job(const Napi::CallbackInfo& info) {
  return call(info, 0, [](virDomainPtr domain) -> Data {
    checked(virDomainAbortJob(domain), "virDomainAbortJob");
    return {};
  });
}

}  // namespace vesper::libvirt
