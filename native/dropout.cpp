#include "dropout.h"

namespace nift::NIFT_ISA {

// lowbias32, as `mix` in src/ops/dropout.ts.
static inline __attribute__((always_inline)) uint32_t mix(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

static void apply(const float* x, int64_t n, uint64_t first, uint32_t key0, uint32_t key1, uint32_t threshold, float scale,
                  float* y) {
  while (n > 0) {
    // Up to the next multiple of 2^32 the high word is constant, so that the inner loop is 32-bit.
    uint32_t low = uint32_t(first);
    uint64_t left = (uint64_t(1) << 32) - low;
    int64_t count = left < uint64_t(n) ? int64_t(left) : n;
    uint32_t key = key1 + uint32_t(first >> 32);
#pragma GCC ivdep
    for (int64_t i = 0; i < count; i++) {
      uint32_t hash = mix(mix((low + uint32_t(i)) ^ key0) + key);
      y[i] = x[i] * (hash >= threshold ? scale : 0.0f);
    }
    x += count;
    y += count;
    n -= count;
    first += uint64_t(count);
  }
}

extern const DropoutKernels dropout = {apply};

}  // namespace nift::NIFT_ISA
