#include "../runtime.h"

#include <algorithm>
#include <thread>

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

Napi::Value runtime_info(const Napi::CallbackInfo& info) {
  return guarded(info, "runtimeInfo", [&](Args& args) -> Napi::Value {
    Napi::Env env = args.env();
    Napi::Object result = Napi::Object::New(env);
    Napi::Array isas = Napi::Array::New(env), features = Napi::Array::New(env);
    for (Isa isa : available_isas()) isas[isas.Length()] = isa_name(isa);
    for (const std::string& name : cpu_features()) features[features.Length()] = name;
    result["isa"] = isa_name(active_isa());
    result["isas"] = isas;
    result["features"] = features;
    result["compiler"] = __VERSION__;
    result["threads"] = num_threads();
    return result;
  });
}

Napi::Value set_threads(const Napi::CallbackInfo& info) {
  return guarded(info, "setNumThreads", [](Args& args) -> Napi::Value {
    set_num_threads(int(args.integer("count", 1, 1024)));
    return args.env().Undefined();
  });
}

Napi::Value set_isa_by_name(const Napi::CallbackInfo& info) {
  return guarded(info, "setIsa", [](Args& args) -> Napi::Value {
    std::string name = args.string("name");
    for (Isa isa : available_isas()) {
      if (name == isa_name(isa)) {
        set_isa(isa);
        return args.env().Undefined();
      }
    }
    args.range("name", "this CPU or build lacks \"" + name + "\"");
  });
}

}  // namespace

extern const Entry runtime_entries[] = {
    {"runtimeInfo", 0, runtime_info}, {"setNumThreads", 1, set_threads}, {"setIsa", 1, set_isa_by_name}, {nullptr, 0, nullptr}};

}  // namespace nift
