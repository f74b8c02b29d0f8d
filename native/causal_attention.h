// Flash-style attention over one head: blocks of queries against blocks of keys, the T x T matrix never whole.
// Scores are kept in units of log 2 (queries are scaled by scale * log2(e) when packed), so exponentials are powers of 2.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

constexpr int64_t kAttentionBlock = 64;    // queries or keys of a block
constexpr int64_t kAttentionPadding = 16;  // head_dim is padded to a multiple of it, the widest vector

inline int64_t attention_padded(int64_t size) {
  return (size + kAttentionPadding - 1) / kAttentionPadding * kAttentionPadding;
}

// One head of one sequence. Row i of a matrix with stride s starts at data + i * s.
struct AttentionHead {
  int64_t queries, keys;  // query i stands at position keys - queries + i
  int64_t head_dim;
  int64_t window;  // sees positions p - window < j <= p; 0 = all
  float scale;
};

// What the products of a path that packs 16-bit blocks need in between.
struct AttentionRowKernels {
  // Columns [0, columns) of a row of scores that stand for keys key0 ... become -infinity where not visible.
  void (*mask)(float* scores, int64_t position, int64_t key0, int64_t columns, int64_t window);
  // One row of online softmax of factor * scores; exponentials go to `half` as bf16, columns is a multiple of
  // kAttentionPadding.
  void (*softmax)(float* scores, int64_t columns, float factor, float* maximum, float* sum, float* out, int64_t padded,
                  uint16_t* half);
  // Two rows (keys j and j + 1; stride between them: row_stride) of the transposed gradient, for `columns` queries:
  // p = exp2(factor * scores - lse), ds = p * (dp - delta), as rows of bf16, and ds again as pairs {j, j + 1} in panels of 32
  // columns that are panel_stride pairs apart. The second row is zero in the pairs when rows is 1.
  void (*gradient)(const float* scores, const float* dp, int64_t row_stride, int64_t rows, int64_t columns, float factor,
                   const float* lse, const float* delta, uint16_t* p, uint16_t* ds, int64_t half_stride, uint32_t* pairs,
                   int64_t panel_stride);
  // out[i * stride + d] = factor * x[d * ld + i]; x holds count and head_dim rounded up to kAttentionPadding.
  void (*store_transposed)(const float* x, int64_t ld, int64_t count, int64_t head_dim, float factor, float* out, int64_t stride);
  void (*store)(const float* x, int64_t count, int64_t head_dim, int64_t padded, float factor, float* out, int64_t stride);
  float (*dot)(const float* a, const float* b, int64_t n);
};

struct CausalAttentionKernels {
  // Packs `count` <= kAttentionBlock rows of keys into [D][64] and of values into [64][Dp], zero padded.
  void (*pack)(const float* k, const float* v, int64_t stride, int64_t count, int64_t head_dim, float* keys_t, float* values);
  // Rows [first, first + count) of the output. keys_t and values: packed blocks one after the other.
  // lse (may be null): log2-sum-exp2 of each row's scores. scratch: forward_scratch(D) floats.
  void (*forward)(const AttentionHead& head, int64_t first, int64_t count, const float* q, int64_t q_stride, const float* keys_t,
                  const float* values, float* out, int64_t out_stride, float* lse, float* scratch);
  // Gradients of a whole head; dq, dk, dv are overwritten. scratch: backward_scratch(queries, D) floats.
  void (*backward)(const AttentionHead& head, const float* q, const float* out, const float* d_out, int64_t q_stride,
                   const float* k, const float* v, int64_t k_stride, const float* lse, float* dq, int64_t dq_stride, float* dk,
                   float* dv, int64_t dk_stride, float* scratch);
  // One token: parts [kv_heads][group][D] of query heads that share a key head are added in order into out [kv_heads][D].
  void (*add_parts)(const float* parts, int64_t kv_heads, int64_t group, int64_t head_dim, float* out);
  AttentionRowKernels rows;
};

inline int64_t attention_packed_keys(int64_t head_dim) {
  return head_dim * kAttentionBlock;
}
inline int64_t attention_packed_values(int64_t head_dim) {
  return attention_padded(head_dim) * kAttentionBlock;
}
inline int64_t attention_forward_scratch(int64_t head_dim) {
  return kAttentionBlock * (kAttentionBlock + 2 * attention_padded(head_dim) + 2);
}
inline int64_t attention_backward_scratch(int64_t queries, int64_t head_dim) {
  int64_t padded = attention_padded(head_dim);
  int64_t rows = (queries + kAttentionBlock - 1) / kAttentionBlock * kAttentionBlock;
  return rows * (3 * padded + 1) + kAttentionBlock * (2 * kAttentionBlock + 3 * padded + 2 * head_dim);
}

}  // namespace nift

NIFT_DECLARE_KERNELS(CausalAttentionKernels, causal_attention)
