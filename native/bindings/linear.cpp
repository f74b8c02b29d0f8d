// Dense layers, plain and with a LoRA adapter, forward and gradient. Weights [out, in] in any storage type.
#include <vector>

#include "../gemm.h"
#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

struct Sizes {
  int64_t n, in, out;
  static Sizes read(Args& args) {
    Sizes s;
    s.n = args.integer("n");
    s.in = args.integer("in");
    s.out = args.integer("out");
    return s;
  }
};

void need(Args& args, const char* name, int64_t length, int64_t wanted) {
  if (length < wanted)
    args.range(name, "holds " + std::to_string(length) + " elements, its shape needs " + std::to_string(wanted));
}

Matrix plain(const float* data, int64_t ld) {
  return {data, DType::F32, ld, false};
}
Matrix turned(const float* data, int64_t ld) {
  return {data, DType::F32, ld, true};
}

Napi::Value linear(const Napi::CallbackInfo& info) {
  return guarded(info, "linear", [](Args& args) -> Napi::Value {
    View<float> y = args.f32("y"), x = args.f32("x");
    DType dtype = args.dtype("weightDtype");
    Args::Weight w = args.weight("weight", dtype);
    View<float> bias = args.optional_f32("bias");
    Sizes s = Sizes::read(args);
    DType compute = args.dtype("compute");
    need(args, "y", y.length, s.n * s.out);
    need(args, "x", x.length, s.n * s.in);
    need(args, "weight", w.length, s.out * s.in);
    if (bias.data) need(args, "bias", bias.length, s.out);
    GemmExtras extras;
    extras.bias = bias.data;
    gemm_with(s.n, s.out, s.in, 1, plain(x.data, s.in), {w.data, w.dtype, s.in, true}, 0, y.data, s.out, compute, extras);
    return args.env().Undefined();
  });
}

Napi::Value linear_grad_input(const Napi::CallbackInfo& info) {
  return guarded(info, "linearGradInput", [](Args& args) -> Napi::Value {
    View<float> dx = args.f32("dx"), dy = args.f32("dy");
    DType dtype = args.dtype("weightDtype");
    Args::Weight w = args.weight("weight", dtype);
    Sizes s = Sizes::read(args);
    DType compute = args.dtype("compute");
    need(args, "dx", dx.length, s.n * s.in);
    need(args, "dy", dy.length, s.n * s.out);
    need(args, "weight", w.length, s.out * s.in);
    gemm(s.n, s.in, s.out, 1, plain(dy.data, s.out), {w.data, w.dtype, s.in, false}, 0, dx.data, s.in, compute);
    return args.env().Undefined();
  });
}

Napi::Value linear_grad_weight(const Napi::CallbackInfo& info) {
  return guarded(info, "linearGradWeight", [](Args& args) -> Napi::Value {
    View<float> dw = args.f32("dw"), dy = args.f32("dy"), x = args.f32("x");
    Sizes s = Sizes::read(args);
    DType compute = args.dtype("compute");
    need(args, "dw", dw.length, s.out * s.in);
    need(args, "dy", dy.length, s.n * s.out);
    need(args, "x", x.length, s.n * s.in);
    gemm(s.out, s.in, s.n, 1, turned(dy.data, s.out), plain(x.data, s.in), 0, dw.data, s.in, compute);
    return args.env().Undefined();
  });
}

Napi::Value lora_linear(const Napi::CallbackInfo& info) {
  return guarded(info, "loraLinear", [](Args& args) -> Napi::Value {
    View<float> y = args.f32("y"), h = args.f32("h"), x = args.f32("x");
    DType dtype = args.dtype("weightDtype");
    Args::Weight w = args.weight("weight", dtype);
    View<float> a = args.f32("a"), b = args.f32("b"), bias = args.optional_f32("bias");
    Sizes s = Sizes::read(args);
    int64_t rank = args.integer("rank", 1);
    float scaling = float(args.number("scaling"));
    DType compute = args.dtype("compute");
    need(args, "y", y.length, s.n * s.out);
    need(args, "h", h.length, s.n * rank);
    need(args, "x", x.length, s.n * s.in);
    need(args, "weight", w.length, s.out * s.in);
    need(args, "a", a.length, rank * s.in);
    need(args, "b", b.length, s.out * rank);
    if (bias.data) need(args, "bias", bias.length, s.out);
    LowRank low = {turned(a.data, s.in), turned(b.data, rank), rank, scaling, h.data};
    GemmExtras extras;
    extras.bias = bias.data;
    extras.low_rank = &low;
    gemm_with(s.n, s.out, s.in, 1, plain(x.data, s.in), {w.data, w.dtype, s.in, true}, 0, y.data, s.out, compute, extras);
    return args.env().Undefined();
  });
}

// With u = s dy B: dx = dy W + u A, dA = u^T x, dB = s dy^T h. Both small products have few rows and many columns this way
// round, so that the large operand streams past once; dB comes out transposed.
Napi::Value lora_linear_grad(const Napi::CallbackInfo& info) {
  return guarded(info, "loraLinearGrad", [](Args& args) -> Napi::Value {
    View<float> dx = args.f32("dx"), da = args.f32("da"), db = args.f32("db"), dy = args.f32("dy"), x = args.f32("x"),
                h = args.f32("h");
    DType dtype = args.dtype("weightDtype");
    Args::Weight w = args.weight("weight", dtype);
    View<float> a = args.f32("a"), b = args.f32("b");
    Sizes s = Sizes::read(args);
    int64_t rank = args.integer("rank", 1);
    float scaling = float(args.number("scaling"));
    DType compute = args.dtype("compute");
    need(args, "dx", dx.length, s.n * s.in);
    need(args, "da", da.length, rank * s.in);
    need(args, "db", db.length, s.out * rank);
    need(args, "dy", dy.length, s.n * s.out);
    need(args, "x", x.length, s.n * s.in);
    need(args, "h", h.length, s.n * rank);
    need(args, "weight", w.length, s.out * s.in);
    need(args, "a", a.length, rank * s.in);
    need(args, "b", b.length, s.out * rank);
    std::vector<float> hidden(size_t(s.n * rank)), turned_db(size_t(rank * s.out));
    LowRank low = {plain(b.data, rank), plain(a.data, s.in), rank, scaling, hidden.data()};
    GemmExtras extras;
    extras.low_rank = &low;
    gemm_with(s.n, s.in, s.out, 1, plain(dy.data, s.out), {w.data, w.dtype, s.in, false}, 0, dx.data, s.in, compute, extras);
    gemm(rank, s.in, s.n, scaling, turned(hidden.data(), rank), plain(x.data, s.in), 0, da.data, s.in, compute);
    gemm(rank, s.out, s.n, scaling, turned(h.data, rank), plain(dy.data, s.out), 0, turned_db.data(), s.out, compute);
    for (int64_t j = 0; j < s.out; j++)
      for (int64_t r = 0; r < rank; r++) db.data[j * rank + r] = turned_db[size_t(r * s.out + j)];
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry linear_entries[] = {
    {"linear", 9, linear},           {"linearGradInput", 8, linear_grad_input}, {"linearGradWeight", 7, linear_grad_weight},
    {"loraLinear", 14, lora_linear}, {"loraLinearGrad", 15, lora_linear_grad},  {nullptr, 0, nullptr}};

}  // namespace nift
