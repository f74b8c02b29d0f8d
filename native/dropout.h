// y[i] = keep(key, i) ? x[i] * scale : 0, bit for bit the mask of src/ops/dropout.ts.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

struct DropoutKernels {
  // `first` is the flat index of x[0].
  void (*apply)(const float* x, int64_t n, uint64_t first, uint32_t key0, uint32_t key1, uint32_t threshold, float scale,
                float* y);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(DropoutKernels, dropout)
