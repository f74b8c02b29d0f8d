#include "../gemm.h"

#include <algorithm>

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kSharedWork = 1 << 20;   // multiply-adds of a product that is worth splitting
constexpr int64_t kMinimumWork = 1 << 15;  // multiply-adds that are worth a thread

// out[b] = op(a[b]) op(b[b]); a stride of 0 broadcasts its operand over the batch.
Napi::Value batch_matmul(const Napi::CallbackInfo& info) {
  return guarded(info, "batchMatMul", [](Args& args) -> Napi::Value {
    View<float> out = args.f32("out"), a = args.f32("a"), b = args.f32("b");
    int64_t batch = args.integer("batch"), m = args.integer("m"), n = args.integer("n"), k = args.integer("k");
    int64_t stride_a = args.integer("strideA"), stride_b = args.integer("strideB");
    bool transpose_a = args.boolean("transposeA"), transpose_b = args.boolean("transposeB");
    if (batch == 0) return args.env().Undefined();
    if (out.length < batch * m * n) args.range("out", "is shorter than batch * m * n");
    if (a.length < (batch - 1) * stride_a + m * k) args.range("a", "is shorter than its matrices");
    if (b.length < (batch - 1) * stride_b + k * n) args.range("b", "is shorter than its matrices");
    auto multiply = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        Matrix A = {a.data + i * stride_a, DType::F32, transpose_a ? m : k, transpose_a};
        Matrix B = {b.data + i * stride_b, DType::F32, transpose_b ? k : n, transpose_b};
        gemm(m, n, k, 1, A, B, 0, out.data + i * m * n, n, DType::F32);
      }
    };
    // Threads share one large product, or else take whole products each: a sum's order is the same either way.
    int64_t work = m * n * k;
    if (work >= kSharedWork && batch < 4 * num_threads())
      multiply(0, batch);
    else
      parallel_for(batch, std::max<int64_t>(1, kMinimumWork / std::max<int64_t>(1, work)), multiply);
    return args.env().Undefined();
  });
}

// out = alpha op(a) op(b) + beta out, for any storage types; what the other bindings call, as one entry for tests and benchmarks.
Napi::Value matmul(const Napi::CallbackInfo& info) {
  return guarded(info, "matMul", [](Args& args) -> Napi::Value {
    View<float> out = args.f32("out");
    DType a_dtype = args.dtype("aDtype");
    Args::Weight a = args.weight("a", a_dtype);
    DType b_dtype = args.dtype("bDtype");
    Args::Weight b = args.weight("b", b_dtype);
    int64_t m = args.integer("m"), n = args.integer("n"), k = args.integer("k");
    bool transpose_a = args.boolean("transposeA"), transpose_b = args.boolean("transposeB");
    float alpha = float(args.number("alpha")), beta = float(args.number("beta"));
    DType compute = args.dtype("compute");
    if (out.length < m * n) args.range("out", "is shorter than m * n");
    if (a.length < m * k) args.range("a", "is shorter than m * k");
    if (b.length < k * n) args.range("b", "is shorter than k * n");
    gemm(m, n, k, alpha, {a.data, a.dtype, transpose_a ? m : k, transpose_a}, {b.data, b.dtype, transpose_b ? k : n, transpose_b},
         beta, out.data, n, compute);
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry gemm_entries[] = {{"batchMatMul", 11, batch_matmul}, {"matMul", 13, matmul}, {nullptr, 0, nullptr}};

}  // namespace nift
