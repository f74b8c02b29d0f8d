#include "../gemm.h"

#include "bindings.h"

namespace nift {
namespace {

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
    for (int64_t i = 0; i < batch; i++) {
      Matrix A = {a.data + i * stride_a, DType::F32, transpose_a ? m : k, transpose_a};
      Matrix B = {b.data + i * stride_b, DType::F32, transpose_b ? k : n, transpose_b};
      gemm(m, n, k, 1, A, B, 0, out.data + i * m * n, n, DType::F32);
    }
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry gemm_entries[] = {{"batchMatMul", 11, batch_matmul}, {nullptr, 0, nullptr}};

}  // namespace nift
