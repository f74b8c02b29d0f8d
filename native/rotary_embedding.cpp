#include "rotary_embedding.h"

namespace nift::NIFT_ISA {

static void rotate(const float* x, const float* cos, const float* sin, float* out, int64_t tokens, int64_t heads,
                   int64_t head_dim, float direction) {
  int64_t half = head_dim / 2;
  for (int64_t n = 0; n < tokens; n++) {
    const float *c = cos + n * half, *s = sin + n * half;
    for (int64_t h = 0; h < heads; h++) {
      const float *first = x + (n * heads + h) * head_dim, *second = first + half;
      float *out_first = out + (n * heads + h) * head_dim, *out_second = out_first + half;
#pragma GCC ivdep
      for (int64_t i = 0; i < half; i++) {
        float a = first[i], b = second[i], t = s[i] * direction;
        out_first[i] = a * c[i] - b * t;
        out_second[i] = b * c[i] + a * t;
      }
    }
  }
}

extern const RotaryEmbeddingKernels rotary_embedding = {rotate};

}  // namespace nift::NIFT_ISA
