#include "adamw.h"

namespace nift::NIFT_ISA {

static double sum_squares(const float* g, int64_t n, float grad_scale) {
  double lane[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; j++) {
      double value = double(g[i + j] * grad_scale);
      lane[j] += value * value;
    }
  for (int j = 0; i + j < n; j++) {
    double value = double(g[i + j] * grad_scale);
    lane[j] += value * value;
  }
  double sum = 0;
  for (int j = 0; j < 16; j++) sum += lane[j];
  return sum;
}

static void update(float* p, const float* grad, float* m, float* v, int64_t n, const AdamWScalars& scalars) {
  const AdamWScalars s = scalars;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    float g = grad[i] * s.grad_scale * s.clip;
    float first = m[i] + (g - m[i]) * s.one_minus_beta1;
    float second = v[i] * s.beta2 + g * g * s.one_minus_beta2;
    m[i] = first;
    v[i] = second;
    p[i] = p[i] * s.decay - s.step_size * (first / (__builtin_sqrtf(second) / s.root_correction + s.eps));
  }
}

extern const AdamWKernels adamw = {sum_squares, update};

}  // namespace nift::NIFT_ISA
