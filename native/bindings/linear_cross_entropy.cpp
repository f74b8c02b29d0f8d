#include "../linear_cross_entropy.h"

#include <cstring>
#include <vector>

#include "../gemm.h"
#include "../scratch.h"
#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kRowGrain = 4;

struct Problem {
  View<float> x;
  Args::Weight weight;
  View<int32_t> labels;
  int64_t channels, vocabulary, chunk;
  DType compute;
  std::vector<int64_t> rows;  // those that have a target

  Matrix head() const { return {weight.data, weight.dtype, channels, false}; }            // [V, C]
  Matrix head_transposed() const { return {weight.data, weight.dtype, channels, true}; }  // [C, V]
};

// x, weight, weightDtype, labels, C, V, compute, chunkSize
Problem read_problem(Args& args) {
  Problem p;
  p.x = args.f32("x");
  Napi::Value weight = args.value("weight");
  p.weight.dtype = args.dtype("weightDtype");
  if (!weight.IsTypedArray()) args.fail("weight", "expected a Float32Array or Uint16Array");
  Napi::TypedArray typed = weight.As<Napi::TypedArray>();
  if (typed.TypedArrayType() != (p.weight.dtype == DType::F32 ? napi_float32_array : napi_uint16_array))
    args.fail("weight", "does not hold values of weightDtype");
  p.weight.data = static_cast<const uint8_t*>(typed.ArrayBuffer().Data()) + typed.ByteOffset();
  p.weight.length = int64_t(typed.ElementLength());
  p.labels = args.i32("labels");
  p.channels = args.integer("C", 1, 1 << 24);
  p.vocabulary = args.integer("V", 1, int64_t(1) << 31);
  p.compute = args.dtype("compute");
  p.chunk = args.integer("chunkSize", 1, int64_t(1) << 31);
  if (p.weight.length < p.vocabulary * p.channels) args.range("weight", "is shorter than V * C");
  if (p.x.length < p.labels.length * p.channels) args.range("x", "is shorter than N * C");
  for (int64_t n = 0; n < p.labels.length; n++) {
    if (p.labels.data[n] == -100) continue;
    if (p.labels.data[n] < 0 || p.labels.data[n] >= p.vocabulary) args.range("labels", "hold a target outside [0, V)");
    p.rows.push_back(n);
  }
  return p;
}

// Hidden states of rows [begin, begin + count) of those with a target, and their logits.
float* chunk_logits(const Problem& p, int64_t begin, int64_t count, float* x_rows) {
  for (int64_t i = 0; i < count; i++)
    std::memcpy(x_rows + i * p.channels, p.x.data + p.rows[begin + i] * p.channels, sizeof(float) * p.channels);
  float* logits = scratch_floats(ScratchSlot::Logits, p.chunk * p.vocabulary);
  gemm(count, p.vocabulary, p.channels, 1.0f, {x_rows, DType::F32, p.channels, false}, p.head_transposed(), 0.0f, logits,
       p.vocabulary, p.compute);
  return logits;
}

// Turns logits into row gradients (in place, or into 16-bit scratch when products are rounded anyway).
Matrix chunk_gradients(const Problem& p, int64_t begin, int64_t count, float* logits, float* nll, float* factors) {
  int64_t V = p.vocabulary;
  uint16_t* half = nullptr;
  if (p.compute != DType::F32) half = static_cast<uint16_t*>(scratch_bytes(ScratchSlot::Gradients, p.chunk * V * 2));
  parallel_for(count, kRowGrain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      void* out = half ? static_cast<void*>(half + i * V) : static_cast<void*>(logits + i * V);
      int64_t row = p.rows[begin + i];
      SoftmaxRow result = kernels_linear_cross_entropy().gradient(logits + i * V, V, p.labels.data[row], p.compute, out);
      if (nll) nll[row] = result.nll;
      factors[i] = result.factor;
    }
  });
  return {half ? static_cast<const void*>(half) : static_cast<const void*>(logits), p.compute, V, false};
}

// x ..., nll, dx or null: the loss of each row and, when dx is given, its gradient with respect to the row of x.
Napi::Value linear_cross_entropy(const Napi::CallbackInfo& info) {
  return guarded(info, "linearCrossEntropy", [](Args& args) -> Napi::Value {
    Problem p = read_problem(args);
    int64_t C = p.channels, V = p.vocabulary, total = int64_t(p.rows.size());
    View<float> nll = args.f32("nll", p.labels.length), dx = args.optional_f32("dx", p.labels.length * C);
    std::memset(nll.data, 0, sizeof(float) * p.labels.length);
    if (dx.data) std::memset(dx.data, 0, sizeof(float) * p.labels.length * C);
    p.chunk = std::max<int64_t>(1, std::min(p.chunk, total));
    float* x_rows = scratch_floats(ScratchSlot::Rows, p.chunk * (C + 1));
    float* factors = x_rows + p.chunk * C;
    for (int64_t begin = 0; begin < total; begin += p.chunk) {
      int64_t count = std::min(p.chunk, total - begin);
      float* logits = chunk_logits(p, begin, count, x_rows);
      if (!dx.data) {
        parallel_for(count, kRowGrain, [&](int64_t first, int64_t last) {
          for (int64_t i = first; i < last; i++) {
            int64_t row = p.rows[begin + i];
            nll.data[row] = kernels_linear_cross_entropy().loss(logits + i * V, V, p.labels.data[row]);
          }
        });
        continue;
      }
      Matrix gradients = chunk_gradients(p, begin, count, logits, nll.data, factors);
      gemm(count, C, V, 1.0f, gradients, p.head(), 0.0f, x_rows, C, p.compute);
      for (int64_t i = 0; i < count; i++)
        kernels_linear_cross_entropy().scale(x_rows + i * C, factors[i], dx.data + p.rows[begin + i] * C, C);
    }
    return args.env().Undefined();
  });
}

// x ..., dNll, dWeight: gradient with respect to the head. The logits of each chunk are computed again.
Napi::Value linear_cross_entropy_weight_grad(const Napi::CallbackInfo& info) {
  return guarded(info, "linearCrossEntropyWeightGrad", [](Args& args) -> Napi::Value {
    Problem p = read_problem(args);
    int64_t C = p.channels, V = p.vocabulary, total = int64_t(p.rows.size());
    View<float> d_nll = args.f32("dNll", p.labels.length), d_weight = args.f32("dWeight", V * C);
    if (total == 0) std::memset(d_weight.data, 0, sizeof(float) * V * C);
    p.chunk = std::max<int64_t>(1, std::min(p.chunk, total));
    float* x_rows = scratch_floats(ScratchSlot::Rows, p.chunk * (C + 1));
    float* factors = x_rows + p.chunk * C;
    for (int64_t begin = 0; begin < total; begin += p.chunk) {
      int64_t count = std::min(p.chunk, total - begin);
      float* logits = chunk_logits(p, begin, count, x_rows);
      Matrix gradients = chunk_gradients(p, begin, count, logits, nullptr, factors);
      gradients.transposed = true;
      for (int64_t i = 0; i < count; i++) {
        float factor = factors[i] * d_nll.data[p.rows[begin + i]];
        kernels_linear_cross_entropy().scale(x_rows + i * C, factor, x_rows + i * C, C);
      }
      gemm(V, C, count, 1.0f, gradients, {x_rows, DType::F32, C, false}, begin == 0 ? 0.0f : 1.0f, d_weight.data, C, p.compute);
    }
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry linear_cross_entropy_entries[] = {{"linearCrossEntropy", 10, linear_cross_entropy},
                                                     {"linearCrossEntropyWeightGrad", 10, linear_cross_entropy_weight_grad},
                                                     {nullptr, 0, nullptr}};

}  // namespace nift
