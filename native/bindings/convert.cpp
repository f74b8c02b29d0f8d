#include "../convert.h"

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kGrain = 1 << 16;

Napi::Value half_to_float(const Napi::CallbackInfo& info) {
  return guarded(info, "halfToFloat", [](Args& args) -> Napi::Value {
    View<uint16_t> in = args.u16("bits");
    DType dtype = DType(args.integer("dtype", 1, 2));
    View<float> out = args.f32("out", in.length);
    parallel_for(in.length, kGrain, [&](int64_t begin, int64_t end) {
      kernels_convert().to_float(in.data + begin, dtype, out.data + begin, end - begin);
    });
    return args.env().Undefined();
  });
}

Napi::Value float_to_half(const Napi::CallbackInfo& info) {
  return guarded(info, "floatToHalf", [](Args& args) -> Napi::Value {
    View<float> in = args.f32("values");
    DType dtype = DType(args.integer("dtype", 1, 2));
    View<uint16_t> out = args.u16("out", in.length);
    parallel_for(in.length, kGrain, [&](int64_t begin, int64_t end) {
      kernels_convert().from_float(in.data + begin, out.data + begin, dtype, end - begin);
    });
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry convert_entries[] = {
    {"halfToFloat", 3, half_to_float}, {"floatToHalf", 3, float_to_half}, {nullptr, 0, nullptr}};

}  // namespace nift
