// One AdamW update over a run of elements, and the sum of squares that decides about clipping.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

struct AdamWScalars {
  float grad_scale;  // unscaling
  float clip;        // min(1, max_norm / (norm + 1e-6))
  float decay;       // 1 - lr * weight_decay
  float one_minus_beta1, beta2, one_minus_beta2;
  float step_size;        // lr / (1 - beta1^t)
  float root_correction;  // sqrt(1 - beta2^t)
  float eps;
};

struct AdamWKernels {
  // Sum of (g * grad_scale)^2 in float64; NaN or inf when an element is.
  double (*sum_squares)(const float* g, int64_t n, float grad_scale);
  void (*update)(float* p, const float* g, float* m, float* v, int64_t n, const AdamWScalars& s);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(AdamWKernels, adamw)
