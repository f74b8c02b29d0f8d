// Blocks of 64 x 64 through the packed formats of gemm_bf16.cpp. The backward works on transposed scores (keys by queries):
// probabilities and their gradients are then the rows that the products for dv and dk read, and in pairs of rows what the product
// for the transposed dq reads.
#include "attention_bf16.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "block_gemm.h"

namespace nift {
namespace {

constexpr int64_t kBlock = kAttentionBlock, kScoreStride = kBlock + 16;
constexpr int64_t kPanel = 32;  // columns of a panel of gemm_bf16.cpp
constexpr float kLog2E = 1.44269504088896340736f;

const AttentionRowKernels& row_kernels() {
  return kernels_causal_attention().rows;
}

// Hands out 64-byte aligned pieces of scratch memory.
class Pieces {
 public:
  explicit Pieces(void* memory) : next_(static_cast<char*>(memory)) {}
  template <typename T>
  T* take(int64_t bytes) {
    char* piece = next_;
    next_ += BlockGemm::multiple(bytes, 64);
    return reinterpret_cast<T*>(piece);
  }

 private:
  char* next_;
};

int64_t floats(int64_t count) {
  return BlockGemm::multiple(count * int64_t(sizeof(float)), 64);
}

Matrix rows_of(const float* data, int64_t stride, bool transposed = false) {
  return {data, DType::F32, stride, transposed};
}

int64_t first_key(int64_t position, int64_t window) {
  return window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
}

// Zeros from `used` columns to the padded depth of `count` rows of bf16.
void clear_tail(uint16_t* rows, int64_t count, int64_t used, int64_t depth, int64_t stride) {
  if (depth <= used) return;
  for (int64_t i = 0; i < count; i++) std::memset(rows + i * stride + used, 0, size_t(depth - used) * 2);
}

}  // namespace

bool attention_bf16_available() {
  return BlockGemm(DType::BF16).half();
}

int64_t attention_bf16_keys_bytes(int64_t head_dim) {
  return BlockGemm::multiple(BlockGemm(DType::BF16).b_bytes(head_dim, kBlock), 64);
}

int64_t attention_bf16_values_bytes(int64_t head_dim) {
  return BlockGemm::multiple(BlockGemm(DType::BF16).b_bytes(kBlock, head_dim), 64);
}

int64_t attention_bf16_forward_bytes(int64_t head_dim) {
  BlockGemm gemm(DType::BF16);
  return gemm.a_bytes(kBlock, head_dim) + gemm.a_bytes(kBlock, kBlock) + floats(kBlock * kScoreStride) +
         floats(kBlock * attention_padded(head_dim)) + 2 * floats(kBlock) + 512;
}

void attention_bf16_pack(const float* k, const float* v, int64_t stride, int64_t count, int64_t head_dim, float* keys_t,
                         float* values) {
  BlockGemm gemm(DType::BF16);
  gemm.pack_b(rows_of(k, stride, true), count, head_dim, keys_t);
  gemm.pack_b(rows_of(v, stride), head_dim, count, values);
}

void attention_bf16_forward(const AttentionHead& head, int64_t first, int64_t count, const float* q, int64_t q_stride,
                            const float* keys_t, const float* values, float* out, int64_t out_stride, float* lse,
                            float* scratch) {
  BlockGemm gemm(DType::BF16);
  const AttentionRowKernels& rows = row_kernels();
  int64_t D = head.head_dim, padded = attention_padded(D), past = head.keys - head.queries, p_stride = gemm.stride(kBlock);
  int64_t keys_bytes = attention_bf16_keys_bytes(D), values_bytes = attention_bf16_values_bytes(D);
  Pieces pieces(scratch);
  void* queries = pieces.take<void>(gemm.a_bytes(kBlock, D));
  uint16_t* p = pieces.take<uint16_t>(gemm.a_bytes(kBlock, kBlock));
  float* scores = pieces.take<float>(floats(kBlock * kScoreStride));
  float* o = pieces.take<float>(floats(kBlock * padded));
  float* maximum = pieces.take<float>(floats(kBlock));
  float* sum = pieces.take<float>(floats(kBlock));
  gemm.pack_a(rows_of(q + first * q_stride, q_stride), 0, count, D, queries);
  std::fill(maximum, maximum + count, -HUGE_VALF);
  std::fill(sum, sum + count, 0.0f);
  std::memset(o, 0, sizeof(float) * count * padded);
  int64_t low = past + first, high = low + count - 1;
  gemm.kernels.enter();
  for (int64_t block = first_key(low, head.window) / kBlock; block * kBlock <= high; block++) {
    int64_t key0 = block * kBlock, keys = std::min(kBlock, head.keys - key0), seen = std::min(keys, high + 1 - key0);
    int64_t columns = attention_padded(seen);
    gemm.multiply_padded(count, seen, D, queries, reinterpret_cast<const char*>(keys_t) + block * keys_bytes, false, scores,
                         kScoreStride);
    bool masked = key0 + columns - 1 > low || first_key(high, head.window) > key0;
    for (int64_t i = 0; i < count; i++) {
      if (masked) rows.mask(scores + i * kScoreStride, low + i, key0, columns, head.window);
      rows.softmax(scores + i * kScoreStride, columns, head.scale * kLog2E, maximum + i, sum + i, o + i * padded, padded,
                   p + i * p_stride);
    }
    clear_tail(p, count, columns, gemm.depth(keys), p_stride);
    gemm.multiply_padded(count, D, keys, p, reinterpret_cast<const char*>(values) + block * values_bytes, true, o, padded);
  }
  gemm.kernels.leave();
  for (int64_t i = 0; i < count; i++) {
    rows.store(o + i * padded, 1, D, padded, sum[i] == 0 ? 0.0f : 1.0f / sum[i], out + (first + i) * out_stride, out_stride);
    if (lse) lse[first + i] = sum[i] == 0 ? 0.0f : maximum[i] + std::log2(sum[i]);
  }
}

int64_t attention_bf16_backward_bytes(int64_t queries, int64_t head_dim) {
  BlockGemm gemm(DType::BF16);
  int64_t blocks = (queries + kBlock - 1) / kBlock, padded = attention_padded(head_dim);
  int64_t per_block = 2 * attention_bf16_keys_bytes(head_dim) + 2 * attention_bf16_values_bytes(head_dim) + 2 * floats(kBlock);
  return blocks * per_block + floats(padded * (blocks * kBlock + 16)) + 2 * gemm.a_bytes(kBlock, head_dim) +
         gemm.a_bytes(head_dim, kBlock) + 2 * gemm.a_bytes(kBlock, kBlock) + gemm.b_bytes(kBlock, kBlock) +
         2 * floats(kBlock * kScoreStride) + 2 * floats(kBlock * padded) + 4096;
}

namespace {

// One head: what is packed once for all blocks of keys, and the block at hand.
class Backward {
 public:
  Backward(const AttentionHead& head, float* scratch)
      : head_(head),
        T_(head.queries),
        D_(head.head_dim),
        padded_(attention_padded(D_)),
        blocks_((T_ + kBlock - 1) / kBlock),
        dq_stride_(blocks_ * kBlock + 16) {
    keys_bytes_ = attention_bf16_keys_bytes(D_), values_bytes_ = attention_bf16_values_bytes(D_);
    Pieces pieces(scratch);
    q_t_ = pieces.take<char>(blocks_ * keys_bytes_);
    do_t_ = pieces.take<char>(blocks_ * keys_bytes_);
    q_ = pieces.take<char>(blocks_ * values_bytes_);
    do_ = pieces.take<char>(blocks_ * values_bytes_);
    dq_t_ = pieces.take<float>(floats(padded_ * dq_stride_));
    lse_ = pieces.take<float>(blocks_ * floats(kBlock));
    delta_ = pieces.take<float>(blocks_ * floats(kBlock));
    k_rows_ = pieces.take<void>(gemm_.a_bytes(kBlock, D_));
    v_rows_ = pieces.take<void>(gemm_.a_bytes(kBlock, D_));
    k_t_ = pieces.take<void>(gemm_.a_bytes(D_, kBlock));
    p_ = pieces.take<uint16_t>(gemm_.a_bytes(kBlock, kBlock));
    ds_ = pieces.take<uint16_t>(gemm_.a_bytes(kBlock, kBlock));
    ds_pairs_ = pieces.take<uint32_t>(gemm_.b_bytes(kBlock, kBlock));
    scores_ = pieces.take<float>(floats(kBlock * kScoreStride));
    d_scores_ = pieces.take<float>(floats(kBlock * kScoreStride));
    dk_ = pieces.take<float>(floats(kBlock * padded_));
    dv_ = pieces.take<float>(floats(kBlock * padded_));
  }

  void pack_queries(const float* q, const float* out, const float* d_out, int64_t stride, const float* lse) {
    for (int64_t block = 0; block < blocks_; block++) {
      int64_t i0 = block * kBlock, count = std::min(kBlock, T_ - i0);
      Matrix q_block = rows_of(q + i0 * stride, stride), do_block = rows_of(d_out + i0 * stride, stride);
      gemm_.pack_b(q_block, D_, count, q_ + block * values_bytes_);
      gemm_.pack_b(do_block, D_, count, do_ + block * values_bytes_);
      q_block.transposed = do_block.transposed = true;
      gemm_.pack_b(q_block, count, D_, q_t_ + block * keys_bytes_);
      gemm_.pack_b(do_block, count, D_, do_t_ + block * keys_bytes_);
    }
    std::memset(dq_t_, 0, size_t(padded_ * dq_stride_) * sizeof(float));
    for (int64_t i = 0; i < blocks_ * kBlock; i++) {
      lse_[i] = i < T_ ? lse[i] : 0;
      delta_[i] = i < T_ ? rows_.dot(out + i * stride, d_out + i * stride, D_) : 0;
    }
  }

  void run_keys(int64_t key0, const float* k, const float* v, int64_t stride) {
    int64_t keys = std::min(kBlock, T_ - key0);
    Matrix k_block = rows_of(k + key0 * stride, stride);
    gemm_.pack_a(k_block, 0, keys, D_, k_rows_);
    gemm_.pack_a(rows_of(v + key0 * stride, stride), 0, keys, D_, v_rows_);
    k_block.transposed = true;
    gemm_.pack_a(k_block, 0, D_, keys, k_t_);
    int64_t depth = gemm_.depth(keys), panels = kBlock / kPanel;
    for (int64_t i = 0; i < panels; i++)  // the pairs of rows that no key writes
      std::memset(ds_pairs_ + (i * depth / 2 + (keys + 1) / 2) * kPanel, 0, size_t((depth / 2 - (keys + 1) / 2) * kPanel) * 4);
    // The last query that sees a key of this block.
    int64_t last = head_.window > 0 ? std::min(T_ - 1, key0 + keys - 1 + head_.window - 1) : T_ - 1;
    for (int64_t i0 = key0; i0 <= last; i0 += kBlock) run_block(key0, keys, i0, std::min(kBlock, T_ - i0));
  }

  void store_keys(int64_t key0, float* dk, float* dv, int64_t stride) const {
    int64_t keys = std::min(kBlock, T_ - key0);
    rows_.store(dk_, keys, D_, padded_, head_.scale, dk + key0 * stride, stride);
    rows_.store(dv_, keys, D_, padded_, 1.0f, dv + key0 * stride, stride);
  }

  void store_queries(float* dq, int64_t stride) const {
    rows_.store_transposed(dq_t_, dq_stride_, T_, D_, head_.scale, dq, stride);
  }

  const BlockGemm gemm_{DType::BF16};

 private:
  void run_block(int64_t key0, int64_t keys, int64_t i0, int64_t queries) {
    int64_t block = i0 / kBlock, columns = attention_padded(queries), stride = gemm_.stride(kBlock);
    gemm_.multiply_padded(keys, queries, D_, k_rows_, q_t_ + block * keys_bytes_, false, scores_, kScoreStride);
    gemm_.multiply_padded(keys, queries, D_, v_rows_, do_t_ + block * keys_bytes_, false, d_scores_, kScoreStride);
    int64_t panel_stride = gemm_.depth(keys) / 2 * kPanel;
    for (int64_t j = 0; j < keys; j += 2) {
      float *scores = scores_ + j * kScoreStride, *d_scores = d_scores_ + j * kScoreStride;
      int64_t rows = std::min<int64_t>(2, keys - j);
      for (int64_t r = 0; r < rows; r++)
        mask(scores + r * kScoreStride, d_scores + r * kScoreStride, key0 + j + r - i0, queries, columns);
      rows_.gradient(scores, d_scores, kScoreStride, rows, columns, head_.scale * kLog2E, lse_ + i0, delta_ + i0, p_ + j * stride,
                     ds_ + j * stride, stride, ds_pairs_ + j / 2 * kPanel, panel_stride);
    }
    int64_t depth = gemm_.depth(queries);
    clear_tail(p_, keys, columns, depth, stride);
    clear_tail(ds_, keys, columns, depth, stride);
    bool more = i0 > key0;
    gemm_.multiply_padded(keys, D_, queries, p_, do_ + block * values_bytes_, more, dv_, padded_);
    gemm_.multiply_padded(keys, D_, queries, ds_, q_ + block * values_bytes_, more, dk_, padded_);
    gemm_.multiply_padded(D_, queries, keys, k_t_, ds_pairs_, true, dq_t_ + i0, dq_stride_);
  }

  // Queries of a row that do not see its key, `offset` = key - first query, and columns that are no queries.
  void mask(float* scores, float* d_scores, int64_t offset, int64_t queries, int64_t columns) const {
    int64_t begin = std::clamp<int64_t>(offset, 0, columns);
    int64_t end = head_.window > 0 ? std::clamp<int64_t>(offset + head_.window, begin, queries) : std::max(begin, queries);
    std::fill(scores, scores + begin, -HUGE_VALF);
    std::fill(scores + end, scores + columns, -HUGE_VALF);
    if (queries < columns) std::fill(d_scores + queries, d_scores + columns, 0.0f);
  }

  const AttentionHead& head_;
  const AttentionRowKernels& rows_ = row_kernels();
  int64_t T_, D_, padded_, blocks_, dq_stride_, keys_bytes_, values_bytes_;
  char *q_t_, *do_t_, *q_, *do_;
  float *dq_t_, *lse_, *delta_, *scores_, *d_scores_, *dk_, *dv_;
  void *k_rows_, *v_rows_, *k_t_;
  uint16_t *p_, *ds_;
  uint32_t* ds_pairs_;
};

}  // namespace

void attention_bf16_backward(const AttentionHead& head, const float* q, const float* out, const float* d_out, int64_t q_stride,
                             const float* k, const float* v, int64_t k_stride, const float* lse, float* dq, int64_t dq_stride,
                             float* dk, float* dv, int64_t dk_stride, float* scratch) {
  Backward backward(head, scratch);
  backward.pack_queries(q, out, d_out, q_stride, lse);
  backward.gemm_.kernels.enter();
  for (int64_t key0 = 0; key0 < head.queries; key0 += kBlock) {
    backward.run_keys(key0, k, v, k_stride);
    backward.store_keys(key0, dk, dv, dk_stride);
  }
  backward.gemm_.kernels.leave();
  backward.store_queries(dq, dq_stride);
}

}  // namespace nift
