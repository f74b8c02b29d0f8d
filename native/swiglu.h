// y = silu(gate) * up and its two gradients, elementwise.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

struct SwigluKernels {
  void (*forward)(const float* gate, const float* up, int64_t n, float* y);
  void (*backward)(const float* dy, const float* gate, const float* up, int64_t n, float* dgate, float* dup);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(SwigluKernels, swiglu)
