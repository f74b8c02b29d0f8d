// Storage types and their conversions. bf16 and fp16 round to nearest even; NaN stays NaN.
#pragma once
#include <cstdint>
#include <cstring>

namespace nift {

enum class DType : int { F32 = 0, BF16 = 1, F16 = 2 };

static inline __attribute__((always_inline)) float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

static inline __attribute__((always_inline)) uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

static inline __attribute__((always_inline)) float bf16_to_float(uint16_t half) {
  return bits_to_float(uint32_t(half) << 16);
}

static inline __attribute__((always_inline)) uint16_t float_to_bf16(float value) {
  uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40u);
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline __attribute__((always_inline)) float f16_to_float(uint16_t half) {
  uint32_t sign = uint32_t(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    float value = float(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -value : value;
  }
  return bits_to_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

static inline __attribute__((always_inline)) uint16_t float_to_f16(float value) {
  uint32_t bits = float_to_bits(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // rounds to 65536 or beyond
  if (magnitude < 0x38800000u) {                                  // subnormal: let the FPU round at 2^-24
    float shifted = bits_to_float(magnitude) + 0.5f;
    return uint16_t(sign | (float_to_bits(shifted) - 0x3f000000u));
  }
  magnitude += 0xfffu + ((magnitude >> 13) & 1u);
  return uint16_t(sign | ((magnitude - 0x38000000u) >> 13));
}

}  // namespace nift
