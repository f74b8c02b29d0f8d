// Per block of 64 queries x 64 keys the forward does 2 and the backward 5 products of 64 x 64 x D in fp32; the bound is
// fp32 FMA throughput, the exponentials add about 15 % at D = 64. Blocks outside the causal triangle or the window are
// skipped. Order of sums: key blocks left to right for outputs and dq, query blocks top to bottom for dk and dv.
#include "causal_attention.h"

#include "gemm_pack.h"
#include "vec.h"

namespace nift::NIFT_ISA {

constexpr int64_t kBlock = kAttentionBlock;
constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.693147180559945309417f;
#define NIFT_MINUS_INFINITY (-__builtin_inff())

NIFT_INLINE int64_t max64(int64_t a, int64_t b) {
  return a > b ? a : b;
}

// First key that a query at this position sees.
NIFT_INLINE int64_t first_key(int64_t position, int64_t window) {
  return window > 0 ? max64(0, position - window + 1) : 0;
}

static void pack_transposed(const float* x, int64_t stride, int64_t count, int64_t head_dim, float* out) {
  for (int64_t d0 = 0; d0 < head_dim; d0 += 16) {
    int64_t d1 = min64(head_dim, d0 + 16);
    for (int64_t j = 0; j < count; j++)
      for (int64_t d = d0; d < d1; d++) out[d * kBlock + j] = x[j * stride + d];
    for (int64_t d = d0; d < d1; d++)
      for (int64_t j = count; j < kBlock; j++) out[d * kBlock + j] = 0;
  }
}

static void pack_rows(const float* x, int64_t stride, int64_t count, int64_t head_dim, int64_t padded, float factor, float* out) {
  for (int64_t i = 0; i < kBlock; i++) {
    float* row = out + i * padded;
    int64_t n = i < count ? head_dim : 0;
    for (int64_t d = 0; d < n; d++) row[d] = x[i * stride + d] * factor;
    for (int64_t d = n; d < padded; d++) row[d] = 0;
  }
}

static void pack(const float* k, const float* v, int64_t stride, int64_t count, int64_t head_dim, float* keys_t, float* values) {
  pack_transposed(k, stride, count, head_dim, keys_t);
  pack_rows(v, stride, count, head_dim, attention_padded(head_dim), 1.0f, values);
}

// Scores that row `position` must not see become -infinity. Columns [0, columns) are keys key0 ...
static void mask_row(float* scores, int64_t position, int64_t key0, int64_t columns, int64_t window) {
  int64_t begin = min64(columns, max64(0, first_key(position, window) - key0));
  int64_t end = min64(columns, max64(0, position + 1 - key0));
  for (int64_t j = 0; j < begin; j++) scores[j] = NIFT_MINUS_INFINITY;
  for (int64_t j = end; j < columns; j++) scores[j] = NIFT_MINUS_INFINITY;
}

// True when every query at positions [low, high] sees every key of [key0, key0 + columns).
NIFT_INLINE bool fully_visible(int64_t low, int64_t high, int64_t key0, int64_t columns, int64_t window) {
  return key0 + columns - 1 <= low && first_key(high, window) <= key0;
}

// One row of online softmax: scores become exp2(factor * score - running maximum), in place or as bf16 in `half`; the output
// row is rescaled to the new maximum.
NIFT_INLINE void softmax(float* scores, int64_t columns, float factor, float* maximum, float* sum, float* out, int64_t padded,
                         uint16_t* half) {
  Vec best = vec_load(scores) * factor;
  for (int64_t j = kLanes; j < columns; j += kLanes) best = vec_max(vec_load(scores + j) * factor, best);
  float highest = vec_max_lane(best);
  highest = highest > *maximum ? highest : *maximum;
  float shift = highest == NIFT_MINUS_INFINITY ? 0.0f : highest;
  Vec total{};
  for (int64_t j = 0; j < columns; j += kLanes) {
    Vec p = vec_exp2(vec_load(scores + j) * factor - shift);
    if (half)
      vec_store_bf16_fast(half + j, p);
    else
      vec_store(scores + j, p);
    total += p;
  }
  float row_sum = vec_sum(total);
  if (*maximum == highest) {
    *sum += row_sum;
    return;
  }
  float correction = vec_exp2(vec_set(*maximum - shift))[0];
  *sum = *sum * correction + row_sum;
  *maximum = highest;
  for (int64_t d = 0; d < padded; d += kLanes) vec_store(out + d, vec_load(out + d) * correction);
}

static void softmax_row(float* scores, int64_t columns, float factor, float* maximum, float* sum, float* out, int64_t padded,
                        uint16_t* half) {
  softmax(scores, columns, factor, maximum, sum, out, padded, half);
}

static void forward(const AttentionHead& head, int64_t first, int64_t count, const float* q, int64_t q_stride,
                    const float* keys_t, const float* values, float* out, int64_t out_stride, float* lse, float* scratch) {
  int64_t D = head.head_dim, padded = attention_padded(D), past = head.keys - head.queries;
  float* scores = scratch;
  float* queries = scores + kBlock * kBlock;
  float* o = queries + kBlock * padded;
  float* maximum = o + kBlock * padded;
  float* sum = maximum + kBlock;
  for (int64_t i = 0; i < count; i++) {
    for (int64_t d = 0; d < D; d++) queries[i * D + d] = q[(first + i) * q_stride + d] * (head.scale * kLog2E);
    maximum[i] = NIFT_MINUS_INFINITY;
    sum[i] = 0;
  }
  std::memset(o, 0, sizeof(float) * count * padded);
  int64_t low = past + first, high = low + count - 1;
  for (int64_t block = first_key(low, head.window) / kBlock; block * kBlock <= high; block++) {
    int64_t key0 = block * kBlock, keys = min64(kBlock, head.keys - key0),
            columns = attention_padded(min64(keys, high + 1 - key0));
    vec_matmul(count, columns, D, queries, D, 1, keys_t + block * attention_packed_keys(D), kBlock, scores, kBlock, false);
    bool masked = !fully_visible(low, high, key0, columns, head.window);
    for (int64_t i = 0; i < count; i++) {
      if (masked) mask_row(scores + i * kBlock, low + i, key0, columns, head.window);
      softmax(scores + i * kBlock, columns, 1.0f, maximum + i, sum + i, o + i * padded, padded, nullptr);
    }
    vec_matmul(count, padded, min64(keys, high + 1 - key0), scores, kBlock, 1, values + block * attention_packed_values(D),
               padded, o, padded, true);
  }
  for (int64_t i = 0; i < count; i++) {
    float factor = sum[i] == 0 ? 0.0f : 1.0f / sum[i];
    for (int64_t d = 0; d < D; d++) out[(first + i) * out_stride + d] = o[i * padded + d] * factor;
    if (lse) lse[first + i] = sum[i] == 0 ? 0.0f : maximum[i] + __builtin_log2f(sum[i]);
  }
}

// Probabilities from scores and the row's log2-sum-exp2, then dS = P * (dP - delta), in place in `d_scores`.
static void gradient_row(float* scores, float* d_scores, int64_t columns, float lse, float delta) {
  for (int64_t j = 0; j < columns; j += kLanes) {
    Vec p = vec_exp2(vec_load(scores + j) - lse);
    vec_store(scores + j, p);
    vec_store(d_scores + j, p * (vec_load(d_scores + j) - delta));
  }
}

NIFT_INLINE Vec gradient_half(const float* scores, const float* dp, float factor, Vec lse, Vec delta, uint16_t* p_out,
                              uint16_t* ds_out) {
  Vec p = vec_exp2(vec_load(scores) * factor - lse);
  Vec ds = p * (vec_load(dp) - delta);
  vec_store_bf16_fast(p_out, p);
  vec_store_bf16_fast(ds_out, ds);
  return ds;
}

static void gradient_rows_half(const float* scores, const float* dp, int64_t row_stride, int64_t rows, int64_t columns,
                               float factor, const float* lse, const float* delta, uint16_t* p, uint16_t* ds, int64_t half_stride,
                               uint32_t* pairs, int64_t panel_stride) {
  for (int64_t i = 0; i < columns; i += kLanes) {
    Vec row_lse = vec_load(lse + i), row_delta = vec_load(delta + i), second{};
    Vec first = gradient_half(scores + i, dp + i, factor, row_lse, row_delta, p + i, ds + i);
    if (rows > 1) {
      int64_t at = row_stride + i, to = half_stride + i;
      second = gradient_half(scores + at, dp + at, factor, row_lse, row_delta, p + to, ds + to);
    }
    VecWord pair = (vec_bf16_bits(first) >> 16) | (vec_bf16_bits(second) & 0xffff0000u);
    std::memcpy(pairs + i / 32 * panel_stride + i % 32, &pair, sizeof pair);
  }
}

static void store_transposed(const float* x, int64_t ld, int64_t count, int64_t head_dim, float factor, float* out,
                             int64_t stride) {
  float square[kLanes * kLanes];
  for (int64_t i = 0; i < count; i += kLanes)
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      transpose_square<kLanes>(x + d * ld + i, ld, square, kLanes);
      int64_t rows = min64(kLanes, count - i), columns = min64(kLanes, head_dim - d);
      for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) out[(i + r) * stride + d + c] = square[r * kLanes + c] * factor;
    }
}

static float dot_row(const float* a, const float* b, int64_t n) {
  Vec total{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total += vec_load(a + i) * vec_load(b + i);
  float rest = 0;
  for (; i < n; i++) rest += a[i] * b[i];
  return vec_sum(total) + rest;
}

static void store_rows(const float* x, int64_t count, int64_t head_dim, int64_t padded, float factor, float* out,
                       int64_t stride) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t d = 0; d < head_dim; d++) out[i * stride + d] = x[i * padded + d] * factor;
}

static void backward(const AttentionHead& head, const float* q, const float* out, const float* d_out, int64_t q_stride,
                     const float* k, const float* v, int64_t k_stride, const float* lse, float* dq, int64_t dq_stride, float* dk,
                     float* dv, int64_t dk_stride, float* scratch) {
  int64_t T = head.queries, D = head.head_dim, padded = attention_padded(D);
  int64_t blocks = (T + kBlock - 1) / kBlock, rows = blocks * kBlock;
  float* all_q = scratch;                  // [rows][padded], scaled
  float* all_do = all_q + rows * padded;   // [rows][padded]
  float* all_dq = all_do + rows * padded;  // [rows][padded]
  float* delta = all_dq + rows * padded;   // [rows]
  float* scores = delta + rows;
  float* d_scores = scores + kBlock * kBlock;
  float* keys = d_scores + kBlock * kBlock;  // [64][padded]
  float* d_keys = keys + kBlock * padded;
  float* d_values = d_keys + kBlock * padded;
  float* keys_t = d_values + kBlock * padded;  // [D][64]
  float* values_t = keys_t + kBlock * D;
  for (int64_t i0 = 0; i0 < T; i0 += kBlock) {
    int64_t count = min64(kBlock, T - i0);
    pack_rows(q + i0 * q_stride, q_stride, count, D, padded, head.scale * kLog2E, all_q + i0 * padded);
    pack_rows(d_out + i0 * q_stride, q_stride, count, D, padded, 1.0f, all_do + i0 * padded);
  }
  std::memset(all_dq, 0, sizeof(float) * rows * padded);
  for (int64_t i = 0; i < T; i++) delta[i] = dot_row(out + i * q_stride, d_out + i * q_stride, D);
  for (int64_t key0 = 0; key0 < T; key0 += kBlock) {
    int64_t count = min64(kBlock, T - key0), columns = attention_padded(count);
    pack_transposed(k + key0 * k_stride, k_stride, count, D, keys_t);
    pack_transposed(v + key0 * k_stride, k_stride, count, D, values_t);
    pack_rows(k + key0 * k_stride, k_stride, count, D, padded, 1.0f, keys);
    // The last query that sees a key of this block.
    int64_t last = head.window > 0 ? min64(T - 1, key0 + count - 1 + head.window - 1) : T - 1;
    for (int64_t i0 = key0; i0 <= last; i0 += kBlock) {
      int64_t queries = min64(kBlock, T - i0);
      const float *q_block = all_q + i0 * padded, *do_block = all_do + i0 * padded;
      vec_matmul(queries, columns, D, q_block, padded, 1, keys_t, kBlock, scores, kBlock, false);
      vec_matmul(queries, columns, D, do_block, padded, 1, values_t, kBlock, d_scores, kBlock, false);
      bool masked = !fully_visible(i0, i0 + queries - 1, key0, columns, head.window);
      for (int64_t i = 0; i < queries; i++) {
        if (masked) mask_row(scores + i * kBlock, i0 + i, key0, columns, head.window);
        gradient_row(scores + i * kBlock, d_scores + i * kBlock, columns, lse[i0 + i], delta[i0 + i]);
      }
      bool more = i0 > key0;
      vec_matmul(count, padded, queries, scores, 1, kBlock, do_block, padded, d_values, padded, more);
      vec_matmul(count, padded, queries, d_scores, 1, kBlock, q_block, padded, d_keys, padded, more);
      vec_matmul(queries, padded, count, d_scores, kBlock, 1, keys, padded, all_dq + i0 * padded, padded, true);
    }
    store_rows(d_keys, count, D, padded, kLn2, dk + key0 * dk_stride, dk_stride);  // queries carry scale * log2(e)
    store_rows(d_values, count, D, padded, 1.0f, dv + key0 * dk_stride, dk_stride);
  }
  store_rows(all_dq, T, D, padded, head.scale, dq, dq_stride);
}

static void add_parts(const float* parts, int64_t kv_heads, int64_t group, int64_t head_dim, float* out) {
  for (int64_t h = 0; h < kv_heads; h++) {
    const float* part = parts + h * group * head_dim;
    for (int64_t d = 0; d < head_dim; d++) out[h * head_dim + d] = part[d];
    for (int64_t g = 1; g < group; g++)
      for (int64_t d = 0; d < head_dim; d++) out[h * head_dim + d] += part[g * head_dim + d];
  }
}

extern const CausalAttentionKernels causal_attention = {
    pack, forward, backward, add_parts, {mask_row, softmax_row, gradient_rows_half, store_transposed, store_rows, dot_row}};

}  // namespace nift::NIFT_ISA
