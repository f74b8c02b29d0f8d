// Conversions between storage types over whole arrays.
#pragma once
#include <cstdint>

#include "dtype.h"
#include "isa.h"

namespace nift {

struct ConvertKernels {
  void (*to_float)(const uint16_t* in, DType dtype, float* out, int64_t n);
  void (*from_float)(const float* in, uint16_t* out, DType dtype, int64_t n);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(ConvertKernels, convert)
