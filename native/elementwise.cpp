// NaN goes through maximum, minimum and relu, and +0 is above -0, as Math.max has it.
#include "elementwise.h"

#include <math.h>

#include "dtype.h"
#include "simd_math.h"

namespace nift::NIFT_ISA {

#define INLINE static inline __attribute__((always_inline))

INLINE float maximum(float x, float y) {
  float larger = (x > y || x != x) ? x : y;
  return x == y ? bits_to_float(float_to_bits(x) & float_to_bits(y)) : larger;
}

INLINE float minimum(float x, float y) {
  float smaller = (x < y || x != x) ? x : y;
  return x == y ? bits_to_float(float_to_bits(x) | float_to_bits(y)) : smaller;
}

// Polynomials of Cephes' tanhf and logf, as straight-line code that vectorises.
INLINE float fast_tanh(float x) {
  float a = bits_to_float(float_to_bits(x) & 0x7fffffffu), z = a * a;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  float small = p * z * a + a, large = 1.0f - 2.0f / (fast_exp(a + a) + 1.0f);
  float result = a > 0.625f ? large : small;
  return bits_to_float(float_to_bits(result) | (float_to_bits(x) & 0x80000000u));
}

INLINE float fast_log(float x) {
  bool subnormal = x < 1.17549435e-38f;
  uint32_t bits = float_to_bits(subnormal ? x * 8388608.0f : x);
  float e = float(int32_t(bits >> 23) - 126 - (subnormal ? 23 : 0));
  float m = bits_to_float((bits & 0x7fffffu) | 0x3f000000u);
  bool below = m < 0.707106781186547524f;
  e = below ? e - 1.0f : e;
  m = below ? m + m - 1.0f : m - 1.0f;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  float z = m * m;
  float result = m + (p * m * z - 2.12194440e-4f * e - 0.5f * z) + 0.693359375f * e;
  result = x == 0 ? -__builtin_inff() : result;
  result = x < 0 ? __builtin_nanf("") : result;
  return x < __builtin_inff() ? result : x;  // infinity and NaN as they are
}

// One loop per combination of steps, so that each vectorises.
#define BINARY_LOOPS(expression)                             \
  do {                                                       \
    if (step_a && step_b) {                                  \
      _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) { \
        float x = a[i], y = b[i];                            \
        out[i] = (expression);                               \
      }                                                      \
    } else if (step_a) {                                     \
      float y = b[0];                                        \
      _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) { \
        float x = a[i];                                      \
        out[i] = (expression);                               \
      }                                                      \
    } else {                                                 \
      float x = a[0];                                        \
      _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) { \
        float y = b[step_b ? i : 0];                         \
        out[i] = (expression);                               \
      }                                                      \
    }                                                        \
  } while (0)

static void binary(Binary op, const float* a, int step_a, const float* b, int step_b, float* out, int64_t n) {
  switch (op) {
    case Binary::Add:
      BINARY_LOOPS(x + y);
      break;
    case Binary::Subtract:
      BINARY_LOOPS(x - y);
      break;
    case Binary::Multiply:
      BINARY_LOOPS(x * y);
      break;
    case Binary::Divide:
      BINARY_LOOPS(x / y);
      break;
    case Binary::Maximum:
      BINARY_LOOPS(maximum(x, y));
      break;
    case Binary::Minimum:
      BINARY_LOOPS(minimum(x, y));
      break;
    case Binary::SquaredDifference:
      BINARY_LOOPS((x - y) * (x - y));
      break;
    case Binary::Count:
      break;
  }
}

static void compare(Compare op, const float* a, int step_a, const float* b, int step_b, uint8_t* out, int64_t n) {
  switch (op) {
    case Compare::Equal:
      BINARY_LOOPS(x == y);
      break;
    case Compare::NotEqual:
      BINARY_LOOPS(x != y);
      break;
    case Compare::Less:
      BINARY_LOOPS(x < y);
      break;
    case Compare::LessEqual:
      BINARY_LOOPS(x <= y);
      break;
    case Compare::Greater:
      BINARY_LOOPS(x > y);
      break;
    case Compare::GreaterEqual:
      BINARY_LOOPS(x >= y);
      break;
    case Compare::Count:
      break;
  }
}

#define UNARY_LOOP(expression)                             \
  do {                                                     \
    _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) { \
      float x = in[i];                                     \
      out[i] = (expression);                               \
    }                                                      \
  } while (0)

static void unary(Unary op, const float* in, float parameter, float* out, int64_t n) {
  switch (op) {
    case Unary::Negate:
      UNARY_LOOP(-x);
      break;
    case Unary::Abs:
      UNARY_LOOP(bits_to_float(float_to_bits(x) & 0x7fffffffu));
      break;
    case Unary::Square:
      UNARY_LOOP(x * x);
      break;
    case Unary::Sqrt:
      UNARY_LOOP(sqrtf(x));
      break;
    case Unary::Rsqrt:
      UNARY_LOOP(1.0f / sqrtf(x));
      break;
    case Unary::Reciprocal:
      UNARY_LOOP(1.0f / x);
      break;
    case Unary::Exp:
      UNARY_LOOP(fast_exp(x));
      break;
    case Unary::Log:
      UNARY_LOOP(fast_log(x));
      break;
    case Unary::Relu:
      UNARY_LOOP(x <= 0 ? 0.0f : x);
      break;
    case Unary::Sigmoid:
      UNARY_LOOP(fast_sigmoid(x));
      break;
    case Unary::Tanh:
      UNARY_LOOP(fast_tanh(x));
      break;
    case Unary::Step:
      UNARY_LOOP(x != x ? x : (x > 0 ? 1.0f : parameter));
      break;
    case Unary::Count:
      break;
  }
}

static void select(const uint8_t* condition, const float* a, const float* b, float* out, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    float x = a[i], y = b[i];
    out[i] = condition[i] ? x : y;
  }
}

extern const ElementwiseKernels elementwise = {binary, compare, unary, select};

}  // namespace nift::NIFT_ISA
