// RMSNorm over rows: y = x * rsqrt(mean(x^2) + eps) * weight. Row sums run in 16 fixed lanes, the same on every
// instruction set.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

struct RmsNormKernels {
  void (*forward)(const float* x, const float* weight, int64_t rows, int64_t columns, float eps, float* y);
  void (*grad_x)(const float* dy, const float* x, const float* weight, int64_t rows, int64_t columns, float eps, float* dx);
  // inverse_rms[r] = rsqrt(mean(x[r]^2) + eps)
  void (*inverse_rms)(const float* x, int64_t rows, int64_t columns, float eps, float* inverse_rms);
  // Columns [begin, end) of dweight, end - begin <= 128; rows are added in blocks of 64 to keep rounding small.
  void (*grad_weight)(const float* dy, const float* x, const float* inverse_rms, int64_t rows, int64_t columns, int64_t begin,
                      int64_t end, float* dweight);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(RmsNormKernels, rms_norm)
