// float32 to ggml's block formats, for GGUF files.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

constexpr int64_t kQ8Block = 32;
constexpr int64_t kQ8BlockBytes = 34;

struct QuantizeKernels {
  // Q8_0: blocks of 32 values -> fp16 d = max|x| / 127, then int8 q = x / d rounded to nearest, halves away from zero. 1/d comes
  // from the float32 d, as in quantize_row_q8_0_ref of ggml-quants.c. False when a value or d is not finite.
  bool (*q8_0)(const float* in, uint8_t* out, int64_t blocks);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(QuantizeKernels, quantize)
