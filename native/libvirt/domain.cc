// SPDX-License-Identifier: Apache-2.0
#include "domain.h"

#include <array>
#include <utility>
#include <vector>

#include "arguments.h"
#include "names.h"
#include "statistics.h"

namespace vesper::libvirt {

Napi::Function Domain::define(Napi::Env env) {
  return DefineClass(env, "Domain",
                     {
                         InstanceAccessor<&Domain::name>("name", napi_enumerable),
                         InstanceAccessor<&Domain::uuid>("uuid", napi_enumerable),
                         InstanceMethod<&Domain::id>("id"),
                         InstanceMethod<&Domain::state>("state"),
                         InstanceMethod<&Domain::xml>("xml"),
                         InstanceMethod<&Domain::is_persistent>("isPersistent"),
                         InstanceMethod<&Domain::memory_statistics>("memoryStatistics"),
                         InstanceMethod<&Domain::set_memory_statistics_period>("setMemoryStatisticsPeriod"),
                         InstanceMethod<&Domain::statistics>("statistics"),
                         InstanceMethod<&Domain::metadata>("metadata"),
                         InstanceMethod<&Domain::set_metadata>("setMetadata"),
                         InstanceMethod<&Domain::start>("start"),
                         InstanceMethod<&Domain::shutdown>("shutdown"),
                         InstanceMethod<&Domain::reboot>("reboot"),
                         InstanceMethod<&Domain::reset>("reset"),
                         InstanceMethod<&Domain::destroy>("destroy"),
                         InstanceMethod<&Domain::suspend>("suspend"),
                         InstanceMethod<&Domain::resume>("resume"),
                         InstanceMethod<&Domain::undefine>("undefine"),
                         InstanceMethod<&Domain::inject_nmi>("injectNmi"),
                         InstanceMethod<&Domain::attach_device>("attachDevice"),
                         InstanceMethod<&Domain::detach_device>("detachDevice"),
                         InstanceMethod<&Domain::detach_alias>("detachAlias"),
                         InstanceMethod<&Domain::update_device>("updateDevice"),
                         InstanceMethod<&Domain::save>("save"),
                         InstanceMethod<&Domain::managed_save>("managedSave"),
                         InstanceMethod<&Domain::remove_managed_save>("removeManagedSave"),
                         InstanceMethod<&Domain::migrate>("migrate"),
                         InstanceMethod<&Domain::job>("job"),
                         InstanceMethod<&Domain::abort_job>("abortJob"),
                         InstanceMethod<&Domain::monitor_command>("monitorCommand"),
                         InstanceMethod<&Domain::agent_command>("agentCommand"),
                         InstanceMethod<&Domain::open_channel>("openChannel"),
                         InstanceMethod<&Domain::open_console>("openConsole"),
                     });
}

Napi::Value Domain::wrap(Napi::Env env, const std::shared_ptr<Session>& session, const DomainRef& domain) {
  if (!session->closed().empty()) throw session->closed_failure();
  Parts parts{session, domain};
  return Environment::of(env).domain_class.New({Napi::External<Parts>::New(env, &parts)});
}

Domain::Domain(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Domain>(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "a domain comes from a connection");
  const auto& parts = *info[0].As<Napi::External<Parts>>().Data();
  session_ = parts.session;
  domain_ = parts.domain;
  name_ = virDomainGetName(domain_.get());
  std::array<char, VIR_UUID_STRING_BUFLEN> uuid{};
  virDomainGetUUIDString(domain_.get(), uuid.data());
  uuid_ = uuid.data();
  session_->domains.insert(this);
}

Domain::~Domain() {
  if (session_ != nullptr) session_->domains.erase(this);
}

Napi::Value Domain::run(const Napi::CallbackInfo& info, std::chrono::milliseconds limit, Work work) {
  if (domain_ == nullptr) return rejected(info.Env(), session_->closed_failure());
  return session_->start(info.Env(), limit, [domain = domain_, work = std::move(work)] { return work(domain.get()); });
}

Napi::Value Domain::call(const Napi::CallbackInfo& info, std::size_t index, Work work) {
  return run(info, Options(info, index).time_limit(session_->limit()), std::move(work));
}

Napi::Value Domain::long_call(const Napi::CallbackInfo& info, std::size_t index, Work work) {
  return run(info, Options(info, index).time_limit(std::chrono::minutes(10)), std::move(work));
}

Napi::Value Domain::name(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), name_); }

Napi::Value Domain::uuid(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), uuid_); }

// libvirt keeps the number that the domain had when it was looked up: ask anew.
Napi::Value Domain::id(const Napi::CallbackInfo& info) {
  return call(info, 0, [](virDomainPtr domain) -> Data {
    std::array<unsigned char, VIR_UUID_BUFLEN> uuid{};
    checked(virDomainGetUUID(domain, uuid.data()), "virDomainGetUUID");
    const virDomainPtr fresh =
        checked(virDomainLookupByUUID(virDomainGetConnect(domain), uuid.data()), "virDomainLookupByUUID");
    const auto id = static_cast<int>(virDomainGetID(fresh));
    virDomainFree(fresh);
    return id < 0 ? Data(nullptr) : Data(id);
  });
}

Napi::Value Domain::state(const Napi::CallbackInfo& info) {
  return call(info, 0, [](virDomainPtr domain) -> Data {
    int state = 0;
    int reason = 0;
    checked(virDomainGetState(domain, &state, &reason, 0), "virDomainGetState");
    return Fields{{"state", state_name(state)}, {"reason", state_reason_name(state, reason)}};
  });
}

Napi::Value Domain::xml(const Napi::CallbackInfo& info) {
  const unsigned flags = Options(info, 0).flags({
      {"inactive", VIR_DOMAIN_XML_INACTIVE},
      {"secure", VIR_DOMAIN_XML_SECURE},
      {"migratable", VIR_DOMAIN_XML_MIGRATABLE},
  });
  return call(info, 0, [flags](virDomainPtr domain) -> Data {
    return taken_text(virDomainGetXMLDesc(domain, flags), "virDomainGetXMLDesc");
  });
}

Napi::Value Domain::is_persistent(const Napi::CallbackInfo& info) {
  return call(info, 0, [](virDomainPtr domain) -> Data {
    return checked(virDomainIsPersistent(domain), "virDomainIsPersistent") == 1;
  });
}

Napi::Value Domain::memory_statistics(const Napi::CallbackInfo& info) {
  return call(info, 0, [](virDomainPtr domain) -> Data {
    std::array<virDomainMemoryStatStruct, VIR_DOMAIN_MEMORY_STAT_NR> statistics{};
    const int count =
        checked(virDomainMemoryStats(domain, statistics.data(), statistics.size(), 0), "virDomainMemoryStats");
    Fields fields;
    for (int i = 0; i < count; ++i) fields.emplace_back(memory_statistic_name(statistics[i].tag), statistics[i].val);
    return fields;
  });
}

Napi::Value Domain::set_memory_statistics_period(const Napi::CallbackInfo& info) {
  if (!info[0].IsNumber()) throw Napi::TypeError::New(info.Env(), "the period has to be a number of seconds");
  const int period = info[0].As<Napi::Number>().Int32Value();
  return call(info, 1, [period](virDomainPtr domain) -> Data {
    checked(virDomainSetMemoryStatsPeriod(domain, period, VIR_DOMAIN_AFFECT_LIVE), "virDomainSetMemoryStatsPeriod");
    return {};
  });
}

Napi::Value Domain::statistics(const Napi::CallbackInfo& info) {
  const StatisticsRequest request(Options(info, 0));
  return call(info, 0, [request](virDomainPtr domain) -> Data {
    std::array<virDomainPtr, 2> domains{domain, nullptr};
    virDomainStatsRecordPtr* records = nullptr;
    const int count = checked(virDomainListGetStats(domains.data(), request.groups, &records, request.flags),
                              "virDomainListGetStats");
    const StatisticsRecords owned(records, count);
    return count == 0 ? Fields() : fields_of(records[0]->params, records[0]->nparams);
  });
}

namespace {

constexpr unsigned kNoType = ~0U;

unsigned metadata_type(const Options& options, Napi::Env env) {
  const unsigned type = options.word("type",
                                     {{"description", VIR_DOMAIN_METADATA_DESCRIPTION},
                                      {"title", VIR_DOMAIN_METADATA_TITLE},
                                      {"element", VIR_DOMAIN_METADATA_ELEMENT}},
                                     kNoType);
  if (type == kNoType) throw Napi::TypeError::New(env, "the type of the metadata is needed");
  return type;
}

unsigned impact(const Options& options) {
  return options.flags({{"live", VIR_DOMAIN_AFFECT_LIVE}, {"config", VIR_DOMAIN_AFFECT_CONFIG}});
}

const char* pointer(const std::optional<std::string>& text) { return text ? text->c_str() : nullptr; }

}  // namespace

Napi::Value Domain::metadata(const Napi::CallbackInfo& info) {
  const Options options(info, 0);
  return call(info, 0,
              [type = metadata_type(options, info.Env()), uri = options.text("uri"),
               flags = impact(options)](virDomainPtr domain) -> Data {
                return taken_text(virDomainGetMetadata(domain, static_cast<int>(type), pointer(uri), flags),
                                  "virDomainGetMetadata");
              });
}

Napi::Value Domain::set_metadata(const Napi::CallbackInfo& info) {
  std::optional<std::string> text;
  if (!info[0].IsNull()) text = text_argument(info, 0, "the metadata");
  const Options options(info, 1);
  return call(
      info, 1,
      [text, type = metadata_type(options, info.Env()), key = options.text("key"), uri = options.text("uri"),
       flags = impact(options)](virDomainPtr domain) -> Data {
        checked(virDomainSetMetadata(domain, static_cast<int>(type), pointer(text), pointer(key), pointer(uri), flags),
                "virDomainSetMetadata");
        return {};
      });
}

}  // namespace vesper::libvirt
