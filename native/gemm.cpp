#include "gemm.h"

#include <vector>

#include "thread_pool.h"

namespace nift {
namespace {

float load(const Matrix& m, int64_t i, int64_t j, DType compute) {
  int64_t at = m.transposed ? j * m.ld + i : i * m.ld + j;
  float value = m.dtype == DType::F32    ? static_cast<const float*>(m.data)[at]
                : m.dtype == DType::BF16 ? bf16_to_float(static_cast<const uint16_t*>(m.data)[at])
                                         : f16_to_float(static_cast<const uint16_t*>(m.data)[at]);
  if (compute == DType::BF16) return bf16_to_float(float_to_bf16(value));
  if (compute == DType::F16) return f16_to_float(float_to_f16(value));
  return value;
}

}  // namespace

void gemm(int64_t M, int64_t N, int64_t K, float alpha, Matrix A, Matrix B, float beta, float* C, int64_t ldc, DType compute) {
  std::vector<float> b(K * N);
  parallel_for(K, 16, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; k++)
      for (int64_t j = 0; j < N; j++) b[k * N + j] = load(B, k, j, compute);
  });
  parallel_for(M, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      float* c = C + i * ldc;
      for (int64_t j = 0; j < N; j++) c[j] = beta == 0 ? 0 : beta * c[j];
      for (int64_t k = 0; k < K; k++) {
        float a = alpha * load(A, i, k, compute);
        for (int64_t j = 0; j < N; j++) c[j] += a * b[k * N + j];
      }
    }
  });
}

}  // namespace nift
