// SPDX-License-Identifier: Apache-2.0
// The devices of a domain, and what talks through them.
#include <libvirt/libvirt-qemu.h>

#include "arguments.h"
#include "domain.h"
#include "stream.h"

namespace vesper::libvirt {
namespace {

unsigned impact(const Napi::CallbackInfo& info) {
  return Options(info, 1).flags({
      {"live", VIR_DOMAIN_AFFECT_LIVE},
      {"config", VIR_DOMAIN_AFFECT_CONFIG},
      {"force", VIR_DOMAIN_DEVICE_MODIFY_FORCE},
  });
}

const char* pointer(const std::string& text) { return text.empty() ? nullptr : text.c_str(); }

}  // namespace

Napi::Value Domain::attach_device(const Napi::CallbackInfo& info) {
  const auto xml = text_argument(info, 0, "the device's XML");
  return call(info, 1, [xml, flags = impact(info)](virDomainPtr domain) -> Data {
    checked(virDomainAttachDeviceFlags(domain, xml.c_str(), flags), "virDomainAttachDeviceFlags");
    return {};
  });
}

Napi::Value Domain::detach_device(const Napi::CallbackInfo& info) {
  const auto xml = text_argument(info, 0, "the device's XML");
  return call(info, 1, [xml, flags = impact(info)](virDomainPtr domain) -> Data {
    checked(virDomainDetachDeviceFlags(domain, xml.c_str(), flags), "virDomainDetachDeviceFlags");
    return {};
  });
}

Napi::Value Domain::detach_alias(const Napi::CallbackInfo& info) {
  const auto alias = text_argument(info, 0, "the alias");
  return call(info, 1, [alias, flags = impact(info)](virDomainPtr domain) -> Data {
    checked(virDomainDetachDeviceAlias(domain, alias.c_str(), flags), "virDomainDetachDeviceAlias");
    return {};
  });
}

Napi::Value Domain::update_device(const Napi::CallbackInfo& info) {
  const auto xml = text_argument(info, 0, "the device's XML");
  return call(info, 1, [xml, flags = impact(info)](virDomainPtr domain) -> Data {
    checked(virDomainUpdateDeviceFlags(domain, xml.c_str(), flags), "virDomainUpdateDeviceFlags");
    return {};
  });
}

Napi::Value Domain::monitor_command(const Napi::CallbackInfo& info) {
  const auto command = text_argument(info, 0, "the command");
  const unsigned flags = Options(info, 1).flags({{"hmp", VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP}});
  return call(info, 1, [command, flags](virDomainPtr domain) -> Data {
    char* result = nullptr;
    checked(virDomainQemuMonitorCommand(domain, command.c_str(), &result, flags), "virDomainQemuMonitorCommand");
    return taken_text(result, "virDomainQemuMonitorCommand");
  });
}

Napi::Value Domain::agent_command(const Napi::CallbackInfo& info) {
  const auto command = text_argument(info, 0, "the command");
  const int seconds = static_cast<int>(Options(info, 1).number("seconds", 1, 3600).value_or(2));
  return call(info, 1, [command, seconds](virDomainPtr domain) -> Data {
    char* result = virDomainQemuAgentCommand(domain, command.c_str(), seconds, 0);
    return taken_text(result, "virDomainQemuAgentCommand");
  });
}

Napi::Value Domain::open_channel(const Napi::CallbackInfo& info) {
  const auto name = text_argument(info, 0, "the channel's name");
  const unsigned flags = Options(info, 3).flags({{"force", VIR_DOMAIN_CHANNEL_FORCE}});
  if (domain_ == nullptr) return rejected(info.Env(), session_->closed_failure());
  return Stream::open(info, session_, [domain = domain_, name, flags](virStreamPtr stream) {
    checked(virDomainOpenChannel(domain.get(), pointer(name), stream, flags), "virDomainOpenChannel");
  });
}

Napi::Value Domain::open_console(const Napi::CallbackInfo& info) {
  const auto alias = text_argument(info, 0, "the console's alias");
  const unsigned flags =
      Options(info, 3).flags({{"force", VIR_DOMAIN_CONSOLE_FORCE}, {"safe", VIR_DOMAIN_CONSOLE_SAFE}});
  if (domain_ == nullptr) return rejected(info.Env(), session_->closed_failure());
  return Stream::open(info, session_, [domain = domain_, alias, flags](virStreamPtr stream) {
    checked(virDomainOpenConsole(domain.get(), pointer(alias), stream, flags), "virDomainOpenConsole");
  });
}

}  // namespace vesper::libvirt
