// Softmax over rows of logits for the fused loss: whole rows, or tiles of a row as they come.
#pragma once
#include <cstdint>

#include "dtype.h"
#include "isa.h"

namespace nift {

// Of one row so far: largest logit, and sum of exp(logit - maximum).
struct SoftmaxState {
  float maximum, sum;
};

struct LinearCrossEntropyKernels {
  // Takes n more logits of a row and returns the factor by which everything accumulated before must be multiplied.
  // exp(logit - maximum) goes to `out` as F32 (may be `logits` itself) or BF16; null: only the state.
  float (*advance)(const float* logits, int64_t n, SoftmaxState* state, DType dtype, void* out);
  // logits become softmax(logits) - onehot(label).
  void (*gradient)(float* logits, int64_t vocabulary, int64_t label);
  // out = out * factor, or out + factor * in (in: stored in `dtype`).
  void (*scale)(float factor, float* out, int64_t n);
  void (*add)(const void* in, DType dtype, float factor, float* out, int64_t n);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(LinearCrossEntropyKernels, linear_cross_entropy)
