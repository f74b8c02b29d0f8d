// Softmax over rows.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

struct SoftmaxKernels {
  // out = exp(x - max) / sum. The largest element gives exp(0) = 1, so the sum is at least 1.
  void (*row)(const float* x, float* out, int64_t n);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(SoftmaxKernels, softmax)
