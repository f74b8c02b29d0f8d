// Rows of a weight matrix with low-rank changes added, from one storage type to another:
//
//   out = round(W + sum_k w_k s_k B_k A_k)                                   LoRA
//   out = round(W + sum_k w_k (m_k (W + s_k B_k A_k) / |W + s_k B_k A_k| - W))   DoRA, norm of each row
//
// Everything is fp32 until the one rounding to nearest even.
#pragma once
#include <cstdint>

#include "dtype.h"
#include "isa.h"

namespace nift {

// Ranks are padded with zeros to multiples of this.
constexpr int64_t kRankStep = 8;

// Adapters on one matrix.
constexpr int64_t kMaxChanges = 64;

struct LowRankChange {
  const float* a;  // [rank, columns]
  const float* b;  // [rows of the matrix, rank]
  int64_t rank;    // a multiple of kRankStep
  float scaling;
  float weight;
  const float* magnitude;  // [rows of the matrix] for DoRA, else null
};

struct MergeAdapterKernels {
  // Rows [first, first + rows); `in` and `out` point at the first of them. `scratch`: 2 * columns floats.
  // Returns the bit pattern of the largest magnitude before rounding (NaN counts as larger than infinity).
  uint32_t (*merge_rows)(const void* in, DType in_dtype, void* out, DType out_dtype, int64_t first, int64_t rows, int64_t columns,
                         const LowRankChange* changes, int64_t count, float* scratch);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(MergeAdapterKernels, merge_adapter)
