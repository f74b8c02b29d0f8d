// Softmax over one row of logits, for the chunked loss.
#pragma once
#include <cstdint>

#include "dtype.h"
#include "isa.h"

namespace nift {

struct SoftmaxRow {
  float nll;     // -log softmax(z)[label]
  float factor;  // gradient of nll with respect to z = factor * what was written
};

struct LinearCrossEntropyKernels {
  // nll of a row of logits.
  float (*loss)(const float* logits, int64_t vocabulary, int64_t label);
  // The same, and (softmax - onehot) / factor in `dtype` into `out`, which may be `logits` itself for F32.
  SoftmaxRow (*gradient)(const float* logits, int64_t vocabulary, int64_t label, DType dtype, void* out);
  void (*scale)(const float* in, float factor, float* out, int64_t n);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(LinearCrossEntropyKernels, linear_cross_entropy)
