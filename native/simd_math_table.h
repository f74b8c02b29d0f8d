// simd_math.h over whole arrays, per instruction set: for tests and for elementwise kernels.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

struct SimdMathKernels {
  void (*exp)(const float* x, float* out, int64_t n);
  void (*sigmoid)(const float* x, float* out, int64_t n);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(SimdMathKernels, simd_math)
