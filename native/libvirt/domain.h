// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <napi.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "reference.h"
#include "session.h"

namespace vesper::libvirt {

// JavaScript: one domain of a connection.
class Domain : public Napi::ObjectWrap<Domain> {
 public:
  static Napi::Function define(Napi::Env env);
  // Throws Failure where the connection is closed.
  static Napi::Value wrap(Napi::Env env, const std::shared_ptr<Session>& session, const DomainRef& domain);

  explicit Domain(const Napi::CallbackInfo& info);
  ~Domain() override;

  // Lets go of the domain, and with it of the connection.
  void connection_closed() { domain_ = nullptr; }

 private:
  struct Parts {
    std::shared_ptr<Session> session;
    DomainRef domain;
  };
  using Work = std::function<Data(virDomainPtr)>;

  // A call with the options at `index`, of which it takes the time limit.
  Napi::Value call(const Napi::CallbackInfo& info, std::size_t index, Work work);
  // The same for what moves a guest's memory.
  Napi::Value long_call(const Napi::CallbackInfo& info, std::size_t index, Work work);
  Napi::Value run(const Napi::CallbackInfo& info, std::chrono::milliseconds limit, Work work);

  Napi::Value name(const Napi::CallbackInfo& info);
  Napi::Value uuid(const Napi::CallbackInfo& info);

  Napi::Value id(const Napi::CallbackInfo& info);
  Napi::Value state(const Napi::CallbackInfo& info);
  Napi::Value xml(const Napi::CallbackInfo& info);
  Napi::Value is_persistent(const Napi::CallbackInfo& info);
  Napi::Value memory_statistics(const Napi::CallbackInfo& info);
  Napi::Value set_memory_statistics_period(const Napi::CallbackInfo& info);
  Napi::Value statistics(const Napi::CallbackInfo& info);
  Napi::Value metadata(const Napi::CallbackInfo& info);
  Napi::Value set_metadata(const Napi::CallbackInfo& info);

  Napi::Value start(const Napi::CallbackInfo& info);
  Napi::Value shutdown(const Napi::CallbackInfo& info);
  Napi::Value reboot(const Napi::CallbackInfo& info);
  Napi::Value reset(const Napi::CallbackInfo& info);
  Napi::Value destroy(const Napi::CallbackInfo& info);
  Napi::Value suspend(const Napi::CallbackInfo& info);
  Napi::Value resume(const Napi::CallbackInfo& info);
  Napi::Value undefine(const Napi::CallbackInfo& info);
  Napi::Value inject_nmi(const Napi::CallbackInfo& info);

  Napi::Value attach_device(const Napi::CallbackInfo& info);
  Napi::Value detach_device(const Napi::CallbackInfo& info);
  Napi::Value detach_alias(const Napi::CallbackInfo& info);
  Napi::Value update_device(const Napi::CallbackInfo& info);

  Napi::Value save(const Napi::CallbackInfo& info);
  Napi::Value managed_save(const Napi::CallbackInfo& info);
  Napi::Value remove_managed_save(const Napi::CallbackInfo& info);
  Napi::Value migrate(const Napi::CallbackInfo& info);
  Napi::Value job(const Napi::CallbackInfo& info);
  Napi::Value abort_job(const Napi::CallbackInfo& info);

  Napi::Value agent_command(const Napi::CallbackInfo& info);
  Napi::Value monitor_command(const Napi::CallbackInfo& info);
  Napi::Value open_channel(const Napi::CallbackInfo& info);
  Napi::Value open_console(const Napi::CallbackInfo& info);

  std::shared_ptr<Session> session_;
  DomainRef domain_;
  std::string name_;
  std::string uuid_;
};

}  // namespace vesper::libvirt
