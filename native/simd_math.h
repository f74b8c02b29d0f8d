// exp and sigmoid as straight-line code that compilers vectorise inside plain loops. No tables, no branches.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace nift {

// exp(x) within 2 ulp for every float: 0 at -inf, subnormal results kept, inf from 88.7229 on, NaN stays NaN.
// x = n ln2 + r with |r| <= ln2 / 2; polynomial of Cephes' expf; 2^n in two factors, so that neither overflows early.
static inline __attribute__((always_inline)) float fast_exp(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  x = x > 89.0f ? 89.0f : x;
  x = x < -105.0f ? -105.0f : x;
  float shifted = x * 1.44269504088896341f + kShift;
  float n = shifted - kShift;
  float r = x - n * 0.693359375f;  // exact: the constant has 9 bits
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  int32_t exponent = int32_t(float_to_bits(shifted)) - 0x4b400000;
  int32_t half = exponent >> 1;
  float low = bits_to_float(uint32_t(half + 127) << 23);
  float high = bits_to_float(uint32_t(exponent - half + 127) << 23);
  return p * low * high;
}

// 1 / (1 + exp(-x)) within 4 ulp; 0 and 1 at the infinities.
static inline __attribute__((always_inline)) float fast_sigmoid(float x) {
  return 1.0f / (1.0f + fast_exp(-x));
}

}  // namespace nift
