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
    case Binary::ReluGrad:
      BINARY_LOOPS(y > 0 ? x : 0.0f);
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
      UNARY_LOOP(logf(x));
      break;
    case Unary::Relu:
      UNARY_LOOP(x <= 0 ? 0.0f : x);
      break;
    case Unary::Sigmoid:
      UNARY_LOOP(fast_sigmoid(x));
      break;
    case Unary::Tanh:
      UNARY_LOOP(tanhf(x));
      break;
    case Unary::Scale:
      UNARY_LOOP(x * parameter);
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
