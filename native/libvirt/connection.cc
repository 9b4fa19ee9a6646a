// SPDX-License-Identifier: Apache-2.0
#include "connection.h"

#include <optional>
#include <utility>

#include "arguments.h"
#include "environment.h"
#include "statistics.h"
#include "subscription.h"

namespace vesper::libvirt {
namespace {

using std::chrono::milliseconds;

std::optional<std::pair<int, unsigned>> keep_alive(const Options& options, Napi::Env env) {
  const Napi::Value value = options.get("keepAlive");
  std::pair<int, unsigned> setting{5, 3};
  if (value.IsUndefined()) return setting;
  if (value.IsBoolean() && !value.ToBoolean()) return std::nullopt;
  if (!value.IsObject()) throw Napi::TypeError::New(env, "keepAlive has to be an object or false");
  const auto number = [&](const char* name, double otherwise) {
    const Napi::Value given = value.As<Napi::Object>().Get(name);
    const double chosen = given.IsUndefined() ? otherwise : given.ToNumber().DoubleValue();
    if (!(chosen >= 1 && chosen <= 3600)) throw Napi::RangeError::New(env, std::string(name) + " has to be 1 … 3600");
    return chosen;
  };
  setting.first = static_cast<int>(number("intervalSeconds", setting.first));
  setting.second = static_cast<unsigned>(number("count", setting.second));
  return setting;
}

std::map<std::string, std::string> credentials(const Options& options, Napi::Env env) {
  std::map<std::string, std::string> answers;
  const Napi::Value value = options.get("credentials");
  if (value.IsUndefined()) return answers;
  if (!value.IsObject()) throw Napi::TypeError::New(env, "credentials have to be an object");
  const auto object = value.As<Napi::Object>();
  const auto names = object.GetPropertyNames();
  for (std::uint32_t i = 0; i < names.Length(); ++i) {
    const auto name = names.Get(i).ToString();
    answers[name] = object.Get(name).ToString();
  }
  return answers;
}

Data domain_value(const ConnectionRef& connection, virDomainPtr domain, const char* call) {
  return adopt_domain(connection, checked(domain, call));
}

}  // namespace

Napi::Function Connection::define(Napi::Env env) {
  return DefineClass(env, "Connection",
                     {
                         StaticMethod<&Connection::open>("open"),
                         InstanceMethod<&Connection::close>("close"),
                         InstanceAccessor<&Connection::is_open>("isOpen"),
                         InstanceAccessor<&Connection::closed>("closed"),
                         InstanceAccessor<&Connection::abandoned_calls>("abandonedCalls"),
                         InstanceMethod<&Connection::describe>("describe"),
                         InstanceMethod<&Connection::capabilities>("capabilities"),
                         InstanceMethod<&Connection::list_domains>("listDomains"),
                         InstanceMethod<&Connection::domain_by_name>("domainByName"),
                         InstanceMethod<&Connection::domain_by_uuid>("domainByUuid"),
                         InstanceMethod<&Connection::domain_by_id>("domainById"),
                         InstanceMethod<&Connection::define_domain>("defineDomain"),
                         InstanceMethod<&Connection::create_domain>("createDomain"),
                         InstanceMethod<&Connection::restore>("restore"),
                         InstanceMethod<&Connection::statistics>("statistics"),
                         InstanceMethod<&Connection::subscribe>("subscribe"),
                     });
}

Connection::Connection(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Connection>(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "a connection comes from Connection.open()");
  session_ = *info[0].As<Napi::External<std::shared_ptr<Session>>>().Data();
}

Napi::Value Connection::open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Options options(info, 1);
  OpenRequest request;
  request.uri = text_argument(info, 0, "the URI");
  request.read_only = options.flags({{"readOnly", 1}}) != 0;
  request.keep_alive = keep_alive(options, env);
  request.credentials = credentials(options, env);
  request.limit = options.time_limit(std::chrono::seconds(10));
  return Session::open(env, std::move(request), [](Napi::Env js, const std::shared_ptr<Session>& session) {
    auto made = session;
    return Environment::of(js).connection_class.New({Napi::External<std::shared_ptr<Session>>::New(js, &made)});
  });
}

Napi::Value Connection::run(const Napi::CallbackInfo& info, milliseconds limit, Work work) {
  if (!session_->closed().empty()) return rejected(info.Env(), session_->closed_failure());
  return session_->start(info.Env(), limit,
                         [connection = session_->reference(), work = std::move(work)] { return work(connection); });
}

Napi::Value Connection::call(const Napi::CallbackInfo& info, std::size_t index, Work work) {
  return run(info, Options(info, index).time_limit(session_->limit()), std::move(work));
}

Napi::Value Connection::close(const Napi::CallbackInfo& info) {
  return session_->close(info.Env(), Options(info, 0).time_limit(session_->limit()));
}

Napi::Value Connection::is_open(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), session_->closed().empty());
}

Napi::Value Connection::closed(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (closed_.IsEmpty()) {
    const auto deferred = Napi::Promise::Deferred::New(env);
    closed_ = Napi::Persistent(deferred.Promise().As<Napi::Object>());
    if (session_->closed().empty()) {
      auto& environment = Environment::of(env);
      environment.watches.emplace(environment.next_id(), Environment::Watch{session_, deferred});
    } else {
      deferred.Resolve(Napi::String::New(env, session_->closed()));
    }
  }
  return closed_.Value();
}

Napi::Value Connection::abandoned_calls(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), session_->abandoned());
}

Napi::Value Connection::describe(const Napi::CallbackInfo& info) {
  return call(info, 0, [](const ConnectionRef& connection) -> Data {
    unsigned long library = 0;
    unsigned long hypervisor = 0;
    checked(virConnectGetLibVersion(connection->get(), &library), "virConnectGetLibVersion");
    checked(virConnectGetVersion(connection->get(), &hypervisor), "virConnectGetVersion");
    return Fields{
        {"uri", taken_text(virConnectGetURI(connection->get()), "virConnectGetURI")},
        {"hostname", taken_text(virConnectGetHostname(connection->get()), "virConnectGetHostname")},
        {"hypervisor", checked(virConnectGetType(connection->get()), "virConnectGetType")},
        {"libvirtVersion", library},
        {"hypervisorVersion", hypervisor},
    };
  });
}

Napi::Value Connection::capabilities(const Napi::CallbackInfo& info) {
  return call(info, 0, [](const ConnectionRef& connection) -> Data {
    return taken_text(virConnectGetCapabilities(connection->get()), "virConnectGetCapabilities");
  });
}

Napi::Value Connection::list_domains(const Napi::CallbackInfo& info) {
  const unsigned flags = Options(info, 0).flags({
      {"active", VIR_CONNECT_LIST_DOMAINS_ACTIVE},
      {"inactive", VIR_CONNECT_LIST_DOMAINS_INACTIVE},
      {"persistent", VIR_CONNECT_LIST_DOMAINS_PERSISTENT},
      {"transient", VIR_CONNECT_LIST_DOMAINS_TRANSIENT},
  });
  return call(info, 0, [flags](const ConnectionRef& connection) -> Data {
    virDomainPtr* domains = nullptr;
    const int count = checked(virConnectListAllDomains(connection->get(), &domains, flags), "virConnectListAllDomains");
    List list;
    list.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) list.emplace_back(adopt_domain(connection, domains[i]));
    std::free(domains);
    return list;
  });
}

Napi::Value Connection::domain_by_name(const Napi::CallbackInfo& info) {
  return call(info, 1, [name = text_argument(info, 0, "the name")](const ConnectionRef& connection) -> Data {
    return domain_value(connection, virDomainLookupByName(connection->get(), name.c_str()), "virDomainLookupByName");
  });
}

Napi::Value Connection::domain_by_uuid(const Napi::CallbackInfo& info) {
  return call(info, 1, [uuid = text_argument(info, 0, "the UUID")](const ConnectionRef& connection) -> Data {
    return domain_value(connection, virDomainLookupByUUIDString(connection->get(), uuid.c_str()),
                        "virDomainLookupByUUIDString");
  });
}

Napi::Value Connection::domain_by_id(const Napi::CallbackInfo& info) {
  if (!info[0].IsNumber()) throw Napi::TypeError::New(info.Env(), "the id has to be a number");
  return call(info, 1, [id = info[0].As<Napi::Number>().Int32Value()](const ConnectionRef& connection) -> Data {
    return domain_value(connection, virDomainLookupByID(connection->get(), id), "virDomainLookupByID");
  });
}

Napi::Value Connection::define_domain(const Napi::CallbackInfo& info) {
  const unsigned flags = Options(info, 1).flags({{"validate", VIR_DOMAIN_DEFINE_VALIDATE}});
  return call(info, 1, [xml = text_argument(info, 0, "the XML"), flags](const ConnectionRef& connection) -> Data {
    return domain_value(connection, virDomainDefineXMLFlags(connection->get(), xml.c_str(), flags),
                        "virDomainDefineXMLFlags");
  });
}

Napi::Value Connection::create_domain(const Napi::CallbackInfo& info) {
  const unsigned flags = Options(info, 1).flags({
      {"paused", VIR_DOMAIN_START_PAUSED},
      {"autoDestroy", VIR_DOMAIN_START_AUTODESTROY},
      {"validate", VIR_DOMAIN_START_VALIDATE},
  });
  return call(info, 1, [xml = text_argument(info, 0, "the XML"), flags](const ConnectionRef& connection) -> Data {
    return domain_value(connection, virDomainCreateXML(connection->get(), xml.c_str(), flags), "virDomainCreateXML");
  });
}

Napi::Value Connection::restore(const Napi::CallbackInfo& info) {
  const Options options(info, 1);
  const unsigned flags = options.flags({
      {"bypassCache", VIR_DOMAIN_SAVE_BYPASS_CACHE},
      {"running", VIR_DOMAIN_SAVE_RUNNING},
      {"paused", VIR_DOMAIN_SAVE_PAUSED},
  });
  return run(info, options.time_limit(std::chrono::minutes(10)),
             [file = text_argument(info, 0, "the file"), xml = options.text("xml"),
              flags](const ConnectionRef& connection) -> Data {
               checked(virDomainRestoreFlags(connection->get(), file.c_str(), xml ? xml->c_str() : nullptr, flags),
                       "virDomainRestoreFlags");
               return {};
             });
}

Napi::Value Connection::statistics(const Napi::CallbackInfo& info) {
  const Options options(info, 0);
  const StatisticsRequest request(options);
  const unsigned which = options.flags({
      {"active", VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE},
      {"inactive", VIR_CONNECT_GET_ALL_DOMAINS_STATS_INACTIVE},
  });
  return call(info, 0, [request, which](const ConnectionRef& connection) -> Data {
    virDomainStatsRecordPtr* records = nullptr;
    const int count =
        checked(virConnectGetAllDomainStats(connection->get(), request.groups, &records, request.flags | which),
                "virConnectGetAllDomainStats");
    const StatisticsRecords owned(records, count);
    List list;
    for (const virDomainStatsRecordPtr record : owned) {
      virDomainRef(record->dom);
      list.emplace_back(Fields{{"domain", adopt_domain(connection, record->dom)},
                               {"statistics", fields_of(record->params, record->nparams)}});
    }
    return list;
  });
}

Napi::Value Connection::subscribe(const Napi::CallbackInfo& info) { return Subscription::subscribe(info, session_); }

}  // namespace vesper::libvirt
