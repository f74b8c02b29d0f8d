// Decoding: the queries of one token against a range of cached keys; parts of the range are combined in order.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

constexpr int64_t kDecodeChunk = 256;  // keys of a part: fixed, so that results do not depend on the number of threads

// A part holds for each query head of the group: maximum, sum of exp2, and D weighted values.
inline int64_t decode_part_size(int64_t group, int64_t head_dim) {
  return group * (head_dim + 2);
}

// Floats of working memory for `decode`: scores, and for large groups queries and scores transposed.
inline int64_t decode_scratch(int64_t group, int64_t head_dim) {
  return group * kDecodeChunk + (group + 15) / 16 * 16 * (head_dim + kDecodeChunk);
}

struct CachedAttentionKernels {
  // q [group][D]; keys and values [count][D], count <= kDecodeChunk; scratch: decode_scratch(group, D) floats.
  void (*decode)(const float* q, int64_t group, int64_t head_dim, float scale, const float* keys, const float* values,
                 int64_t count, float* part, float* scratch);
  // out [group][D] from `parts` parts.
  void (*combine)(const float* parts, int64_t count, int64_t group, int64_t head_dim, float* out);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(CachedAttentionKernels, cached_attention)
