// Elementwise arithmetic, comparisons and functions on float32 arrays.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

// The integers are those of src/backend/kernels/elementwise.ts.
enum class Binary : int { Add, Subtract, Multiply, Divide, Maximum, Minimum, SquaredDifference, Count };
enum class Compare : int { Equal, NotEqual, Less, LessEqual, Greater, GreaterEqual, Count };
enum class Unary : int { Negate, Abs, Square, Sqrt, Rsqrt, Reciprocal, Exp, Log, Relu, Sigmoid, Tanh, Step, Count };

// A step is 1, or 0 for an operand that is one number. `out` may be an operand.
struct ElementwiseKernels {
  void (*binary)(Binary op, const float* a, int step_a, const float* b, int step_b, float* out, int64_t n);
  void (*compare)(Compare op, const float* a, int step_a, const float* b, int step_b, uint8_t* out, int64_t n);
  // `parameter`: what Step gives for numbers that are not above 0.
  void (*unary)(Unary op, const float* x, float parameter, float* out, int64_t n);
  // condition ? a : b
  void (*select)(const uint8_t* condition, const float* a, const float* b, float* out, int64_t n);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(ElementwiseKernels, elementwise)
