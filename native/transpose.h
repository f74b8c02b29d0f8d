// Copies that change the order of elements: transposes, slices, rows into rows.
#pragma once
#include <cstdint>

namespace nift {

constexpr int kMaxCopyRank = 8;

// out[i0, i1, ...] = in[i0 * stride[0] + i1 * stride[1] + ...] for a contiguous out of the given size, 4-byte elements.
struct StridedCopy {
  int rank;
  int64_t size[kMaxCopyRank], stride[kMaxCopyRank];
};
void strided_copy(const StridedCopy& shape, const uint32_t* in, uint32_t* out);

}  // namespace nift
