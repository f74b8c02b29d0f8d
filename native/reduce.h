// Reductions of float32 arrays. Sums are kept in float64, in an order that depends on the sizes only.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

// The integers are those of src/backend/kernels/reduce.ts.
enum class Reduce : int { Sum, Maximum, Minimum, Product, Count };

struct ReduceKernels {
  // One number from n >= 1 numbers; NaN wins in maximum and minimum.
  double (*row)(Reduce op, const float* x, int64_t n);
  // accumulator[j] = op(accumulator[j], x[j])
  void (*column)(Reduce op, const float* x, double* accumulator, int64_t n);
};

double reduce_start(Reduce op);                        // the neutral element
double reduce_combine(Reduce op, double a, double b);  // of two partial results

}  // namespace nift

NIFT_DECLARE_KERNELS(ReduceKernels, reduce)
