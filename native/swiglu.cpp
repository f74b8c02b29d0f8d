#include "swiglu.h"

#include "simd_math.h"

namespace nift::NIFT_ISA {

static void forward(const float* gate, const float* up, int64_t n, float* y) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) y[i] = gate[i] * fast_sigmoid(gate[i]) * up[i];
}

static void backward(const float* dy, const float* gate, const float* up, int64_t n, float* dgate, float* dup) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    float g = gate[i], d = dy[i], s = fast_sigmoid(g);
    dgate[i] = d * up[i] * (s * (1.0f + g * (1.0f - s)));
    dup[i] = d * (g * s);
  }
}

extern const SwigluKernels swiglu = {forward, backward};

}  // namespace nift::NIFT_ISA
