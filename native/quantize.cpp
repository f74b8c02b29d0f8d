#include "quantize.h"

#include <cstring>

#include "dtype.h"

namespace nift::NIFT_ISA {

static uint32_t largest_magnitude(const float* in) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < kQ8Block; i++) {
    // Of floats without sign, the order of the bits is that of the values; NaN and infinity come last.
    uint32_t magnitude = float_to_bits(in[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

static bool q8_0(const float* in, uint8_t* out, int64_t blocks) {
  for (int64_t block = 0; block < blocks; block++, in += kQ8Block, out += kQ8BlockBytes) {
    uint32_t largest = largest_magnitude(in);
    float scale = bits_to_float(largest) / 127.0f;
    uint16_t half = float_to_f16(scale);
    if (largest >= 0x7f800000u || (half & 0x7c00u) == 0x7c00u) return false;
    std::memcpy(out, &half, 2);
    // A scale whose inverse overflows is zero in fp16 as well.
    float inverse = scale < 3e-39f ? 0.0f : 1.0f / scale;
    int8_t quants[kQ8Block];
    for (int64_t i = 0; i < kQ8Block; i++) {
      float scaled = in[i] * inverse;
      int32_t whole = int32_t(scaled);
      float rest = scaled - float(whole);  // exact
      quants[i] = int8_t(whole + (rest >= 0.5f) - (rest <= -0.5f));
    }
    std::memcpy(out + 2, quants, kQ8Block);
  }
  return true;
}

extern const QuantizeKernels quantize = {q8_0};

}  // namespace nift::NIFT_ISA
