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

}  // namespace nift
