// C[M,N] = alpha * op(A) op(B) + beta * C, fp32 accumulation and result, for row-major A and B in any storage type.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace nift {

// op(A) is [rows, cols]: element (i, j) lies at data[i * ld + j], or at data[j * ld + i] when `transposed`.
struct Matrix {
  const void* data;
  DType dtype;
  int64_t ld;
  bool transposed;
};

// `compute` is the precision that A and B are rounded to before they are multiplied (products and sums stay fp32).
// The order of every sum is fixed: the result does not depend on the number of threads.
void gemm(int64_t M, int64_t N, int64_t K, float alpha, Matrix A, Matrix B, float beta, float* C, int64_t ldc, DType compute);

// A second product of the same A: C += scaling * (op(A) op(down)) op(up). `hidden` [M, rank] receives op(A) op(down).
struct LowRank {
  Matrix down, up;
  int64_t rank;
  float scaling;
  float* hidden;
};

struct GemmExtras {
  const float* bias = nullptr;        // [N], added to every row
  const LowRank* low_rank = nullptr;  // needs alpha = 1
};

void gemm_with(int64_t M, int64_t N, int64_t K, float alpha, Matrix A, Matrix B, float beta, float* C, int64_t ldc, DType compute,
               const GemmExtras& extras);

}  // namespace nift
