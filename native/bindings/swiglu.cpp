#include "../swiglu.h"

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kGrain = 1 << 14;

Napi::Value swiglu(const Napi::CallbackInfo& info) {
  return guarded(info, "swiglu", [](Args& args) -> Napi::Value {
    View<float> gate = args.f32("gate");
    View<float> up = args.f32("up", gate.length), out = args.f32("out", gate.length);
    parallel_for(gate.length, kGrain, [&](int64_t begin, int64_t end) {
      kernels_swiglu().forward(gate.data + begin, up.data + begin, end - begin, out.data + begin);
    });
    return args.env().Undefined();
  });
}

Napi::Value swiglu_grad(const Napi::CallbackInfo& info) {
  return guarded(info, "swigluGrad", [](Args& args) -> Napi::Value {
    View<float> dy = args.f32("dy");
    View<float> gate = args.f32("gate", dy.length), up = args.f32("up", dy.length);
    View<float> dgate = args.f32("dGate", dy.length), dup = args.f32("dUp", dy.length);
    parallel_for(dy.length, kGrain, [&](int64_t begin, int64_t end) {
      kernels_swiglu().backward(dy.data + begin, gate.data + begin, up.data + begin, end - begin, dgate.data + begin,
                                dup.data + begin);
    });
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry swiglu_entries[] = {{"swiglu", 3, swiglu}, {"swigluGrad", 5, swiglu_grad}, {nullptr, 0, nullptr}};

}  // namespace nift
