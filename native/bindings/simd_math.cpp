#include "../simd_math_table.h"
#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kGrain = 1 << 15;

Napi::Value simd_math_by_name(const Napi::CallbackInfo& info) {
  return guarded(info, "simdMath", [](Args& args) -> Napi::Value {
    std::string name = args.string("name");
    if (name != "exp" && name != "sigmoid") args.range("name", "expected \"exp\" or \"sigmoid\", got \"" + name + "\"");
    View<float> x = args.f32("x");
    View<float> out = args.f32("out", x.length);
    auto function = name == "exp" ? kernels_simd_math().exp : kernels_simd_math().sigmoid;
    parallel_for(x.length, kGrain, [&](int64_t begin, int64_t end) { function(x.data + begin, out.data + begin, end - begin); });
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry simd_math_entries[] = {{"simdMath", 3, simd_math_by_name}, {nullptr, 0, nullptr}};

}  // namespace nift
