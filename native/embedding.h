// Row lookup and its scatter-add.
#pragma once
#include <cstdint>

#include "dtype.h"
#include "isa.h"

namespace nift {

struct EmbeddingKernels {
  // Ids must lie in the table.
  void (*forward)(const int32_t* ids, int64_t n, const void* table, DType dtype, int64_t columns, float* y);
  // Columns [begin, end) of dtable += dy, in the order of n.
  void (*scatter_add)(const int32_t* ids, int64_t n, const float* dy, int64_t columns, int64_t begin, int64_t end, float* dtable);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(EmbeddingKernels, embedding)
