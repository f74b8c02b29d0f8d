#include "simd_math.h"

#include "simd_math_table.h"

namespace nift::NIFT_ISA {

static void exp_array(const float* x, float* out, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) out[i] = fast_exp(x[i]);
}

static void sigmoid_array(const float* x, float* out, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) out[i] = fast_sigmoid(x[i]);
}

extern const SimdMathKernels simd_math = {exp_array, sigmoid_array};

}  // namespace nift::NIFT_ISA
