#include "embedding.h"

namespace nift::NIFT_ISA {

static void forward(const int32_t* ids, int64_t n, const void* table, DType dtype, int64_t columns, float* y) {
  for (int64_t i = 0; i < n; i++, y += columns) {
    int64_t offset = int64_t(ids[i]) * columns;
    if (dtype == DType::F32) {
      std::memcpy(y, static_cast<const float*>(table) + offset, size_t(columns) * 4);
      continue;
    }
    const uint16_t* row = static_cast<const uint16_t*>(table) + offset;
    if (dtype == DType::BF16) {
#pragma GCC ivdep
      for (int64_t c = 0; c < columns; c++) y[c] = bf16_to_float(row[c]);
    } else {
#pragma GCC ivdep
      for (int64_t c = 0; c < columns; c++) y[c] = f16_to_float(row[c]);
    }
  }
}

static void scatter_add(const int32_t* ids, int64_t n, const float* dy, int64_t columns, int64_t begin, int64_t end,
                        float* dtable) {
  for (int64_t i = 0; i < n; i++) {
    float* row = dtable + int64_t(ids[i]) * columns;
    const float* d = dy + i * columns;
#pragma GCC ivdep
    for (int64_t c = begin; c < end; c++) row[c] += d[c];
  }
}

extern const EmbeddingKernels embedding = {forward, scatter_add};

}  // namespace nift::NIFT_ISA
