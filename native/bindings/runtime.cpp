#include "../runtime.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

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

// An uninitialised buffer whose bytes start on a cache line, or on a huge page when it is that large: stores of whole
// vectors and tiles then touch one line each. Memory of the engine itself starts anywhere at 16 bytes.
Napi::Value aligned_buffer(const Napi::CallbackInfo& info) {
  return guarded(info, "alignedBuffer", [](Args& args) -> Napi::Value {
    constexpr size_t kLine = 64, kHugePage = size_t(2) << 20;
    size_t bytes = size_t(args.integer("bytes", 1, int64_t(1) << 40));
    size_t alignment = bytes >= kHugePage ? kHugePage : kLine;
    void* data = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (!data) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == kHugePage) madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
    napi_value result;
    napi_status status = napi_create_external_arraybuffer(
        args.env(), data, bytes, [](napi_env, void* memory, void*) { std::free(memory); }, nullptr, &result);
    if (status == napi_ok) return Napi::Value(args.env(), result);
    // Electron refuses before it takes the memory; other failures run the finalizer.
    if (status == napi_no_external_buffers_allowed) std::free(data);
    bool pending = false;
    napi_is_exception_pending(args.env(), &pending);
    napi_value ignored;
    if (pending) napi_get_and_clear_last_exception(args.env(), &ignored);
    return Napi::ArrayBuffer::New(args.env(), bytes);
  });
}

}  // namespace

extern const Entry runtime_entries[] = {{"alignedBuffer", 1, aligned_buffer},
                                        {"runtimeInfo", 0, runtime_info},
                                        {"setNumThreads", 1, set_threads},
                                        {"setIsa", 1, set_isa_by_name},
                                        {nullptr, 0, nullptr}};

}  // namespace nift
