#include "merge_adapter.h"

#include <cmath>

namespace nift::NIFT_ISA {

#define NIFT_INLINE static inline __attribute__((always_inline))

// Columns of A that are used for all rows of a block while they are in the first cache: 8 x 1024 floats.
constexpr int64_t kTile = 1024;

NIFT_INLINE void load_row(const void* in, DType dtype, int64_t at, int64_t n, float* __restrict out) {
  if (dtype == DType::F32) {
    const float* __restrict p = static_cast<const float*>(in) + at;
    for (int64_t i = 0; i < n; i++) out[i] = p[i];
  } else if (dtype == DType::BF16) {
    const uint16_t* __restrict p = static_cast<const uint16_t*>(in) + at;
    for (int64_t i = 0; i < n; i++) out[i] = bf16_to_float(p[i]);
  } else {
    const uint16_t* __restrict p = static_cast<const uint16_t*>(in) + at;
    for (int64_t i = 0; i < n; i++) out[i] = f16_to_float(p[i]);
  }
}

NIFT_INLINE uint32_t largest_of(const float* __restrict x, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t magnitude = float_to_bits(x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

NIFT_INLINE void store_row(const float* __restrict x, int64_t n, void* out, DType dtype, int64_t at) {
  if (dtype == DType::F32) {
    float* __restrict p = static_cast<float*>(out) + at;
    for (int64_t i = 0; i < n; i++) p[i] = x[i];
  } else if (dtype == DType::BF16) {
    uint16_t* __restrict p = static_cast<uint16_t*>(out) + at;
    for (int64_t i = 0; i < n; i++) p[i] = float_to_bf16(x[i]);
  } else {
    uint16_t* __restrict p = static_cast<uint16_t*>(out) + at;
    for (int64_t i = 0; i < n; i++) p[i] = float_to_f16(x[i]);
  }
}

// delta (+)= b A over n columns; a points at the first of them, `stride` floats lie between the ranks.
NIFT_INLINE void low_rank(const float* __restrict a, int64_t stride, const float* __restrict b, int64_t rank, int64_t n,
                          float* __restrict delta) {
  for (int64_t r = 0; r < rank; r += kRankStep, a += kRankStep * stride, b += kRankStep) {
    const float b0 = b[0], b1 = b[1], b2 = b[2], b3 = b[3], b4 = b[4], b5 = b[5], b6 = b[6], b7 = b[7];
    const float* __restrict a0 = a;
    if (r == 0) {
#pragma GCC ivdep
      for (int64_t i = 0; i < n; i++) {
        const float* p = a0 + i;
        delta[i] = b0 * p[0] + b1 * p[stride] + b2 * p[2 * stride] + b3 * p[3 * stride] + b4 * p[4 * stride] +
                   b5 * p[5 * stride] + b6 * p[6 * stride] + b7 * p[7 * stride];
      }
    } else {
#pragma GCC ivdep
      for (int64_t i = 0; i < n; i++) {
        const float* p = a0 + i;
        delta[i] += b0 * p[0] + b1 * p[stride] + b2 * p[2 * stride] + b3 * p[3 * stride] + b4 * p[4 * stride] +
                    b5 * p[5 * stride] + b6 * p[6 * stride] + b7 * p[7 * stride];
      }
    }
  }
}

NIFT_INLINE float load_value(const void* in, DType dtype, int64_t at) {
  if (dtype == DType::F32) return static_cast<const float*>(in)[at];
  const uint16_t bits = static_cast<const uint16_t*>(in)[at];
  return dtype == DType::BF16 ? bf16_to_float(bits) : f16_to_float(bits);
}

NIFT_INLINE void store_value(float value, void* out, DType dtype, int64_t at) {
  if (dtype == DType::F32)
    static_cast<float*>(out)[at] = value;
  else
    static_cast<uint16_t*>(out)[at] = dtype == DType::BF16 ? float_to_bf16(value) : float_to_f16(value);
}

// One adapter of rank 8, the usual case: everything in registers from load to store. The types are constants after inlining.
NIFT_INLINE uint32_t fused_row(const void* in, DType in_dtype, void* out, DType out_dtype, int64_t at, int64_t n, const float* a,
                               int64_t stride, const float* b, float factor) {
  const float b0 = b[0], b1 = b[1], b2 = b[2], b3 = b[3], b4 = b[4], b5 = b[5], b6 = b[6], b7 = b[7];
  uint32_t largest = 0;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    const float* p = a + i;
    const float delta = b0 * p[0] + b1 * p[stride] + b2 * p[2 * stride] + b3 * p[3 * stride] + b4 * p[4 * stride] +
                        b5 * p[5 * stride] + b6 * p[6 * stride] + b7 * p[7 * stride];
    const float value = load_value(in, in_dtype, at + i) + factor * delta;
    const uint32_t magnitude = float_to_bits(value) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
    store_value(value, out, out_dtype, at + i);
  }
  return largest;
}

static uint32_t merge_fused(const void* in, DType in_dtype, void* out, DType out_dtype, int64_t first, int64_t rows,
                            int64_t columns, const LowRankChange& change) {
  const float factor = change.scaling * change.weight;
  const bool bf16 = in_dtype == DType::BF16 && out_dtype == DType::BF16, f16 = in_dtype == DType::F16 && out_dtype == DType::F16;
  uint32_t largest = 0;
  for (int64_t begin = 0; begin < columns; begin += kTile) {
    const int64_t n = columns - begin < kTile ? columns - begin : kTile;
    const float* a = change.a + begin;
    for (int64_t row = 0; row < rows; row++) {
      const int64_t at = row * columns + begin;
      const float* b = change.b + (first + row) * kRankStep;
      const uint32_t magnitude = bf16  ? fused_row(in, DType::BF16, out, DType::BF16, at, n, a, columns, b, factor)
                                 : f16 ? fused_row(in, DType::F16, out, DType::F16, at, n, a, columns, b, factor)
                                       : fused_row(in, DType::F32, out, DType::F32, at, n, a, columns, b, factor);
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  return largest;
}

static uint32_t merge_plain(const void* in, DType in_dtype, void* out, DType out_dtype, int64_t first, int64_t rows,
                            int64_t columns, const LowRankChange* changes, int64_t count) {
  uint32_t largest = 0;
  alignas(64) float delta[kTile], values[kTile];
  for (int64_t begin = 0; begin < columns; begin += kTile) {
    const int64_t n = columns - begin < kTile ? columns - begin : kTile;
    for (int64_t row = 0; row < rows; row++) {
      const int64_t at = row * columns + begin;
      load_row(in, in_dtype, at, n, values);
      for (int64_t k = 0; k < count; k++) {
        const LowRankChange& change = changes[k];
        low_rank(change.a + begin, columns, change.b + (first + row) * change.rank, change.rank, n, delta);
        const float factor = change.scaling * change.weight;
        // With several adapters each product is added in turn: W + s1 B1 A1 + s2 B2 A2.
        for (int64_t i = 0; i < n; i++) values[i] += factor * delta[i];
      }
      const uint32_t magnitude = largest_of(values, n);
      largest = magnitude > largest ? magnitude : largest;
      store_row(values, n, out, out_dtype, at);
    }
  }
  return largest;
}

// Fixed lanes, so that the sum does not depend on the instruction set's width.
static double norm_of(const float* __restrict x, const float* __restrict delta, float scaling, int64_t n) {
  double lanes[8] = {0};
  for (int64_t i = 0; i < n; i++) {
    double value = double(x[i] + scaling * delta[i]);
    lanes[i & 7] += value * value;
  }
  return std::sqrt(((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7])));
}

// values = own * W + sum of factor_k delta_k, where DoRA's factors need the whole row first.
static uint32_t merge_with_norms(const void* in, DType in_dtype, void* out, DType out_dtype, int64_t first, int64_t rows,
                                 int64_t columns, const LowRankChange* changes, int64_t count, float* scratch) {
  uint32_t largest = 0;
  float *values = scratch, *delta = scratch + columns;
  for (int64_t row = 0; row < rows; row++) {
    const int64_t at = row * columns;
    load_row(in, in_dtype, at, columns, values);
    // All norms are those of the unchanged row.
    double own = 1;
    float factors[kMaxChanges];
    for (int64_t k = 0; k < count; k++) {
      const LowRankChange& change = changes[k];
      double factor = change.weight;
      if (change.magnitude) {
        low_rank(change.a, columns, change.b + (first + row) * change.rank, change.rank, columns, delta);
        factor *= double(change.magnitude[first + row]) / norm_of(values, delta, change.scaling, columns);
        own += factor - change.weight;
      }
      factors[k] = float(factor * change.scaling);
    }
    const float keep = float(own);
    for (int64_t i = 0; i < columns; i++) values[i] *= keep;
    for (int64_t k = 0; k < count; k++) {
      const LowRankChange& change = changes[k];
      low_rank(change.a, columns, change.b + (first + row) * change.rank, change.rank, columns, delta);
      for (int64_t i = 0; i < columns; i++) values[i] += factors[k] * delta[i];
    }
    const uint32_t magnitude = largest_of(values, columns);
    largest = magnitude > largest ? magnitude : largest;
    store_row(values, columns, out, out_dtype, at);
  }
  return largest;
}

static uint32_t merge_rows(const void* in, DType in_dtype, void* out, DType out_dtype, int64_t first, int64_t rows,
                           int64_t columns, const LowRankChange* changes, int64_t count, float* scratch) {
  for (int64_t k = 0; k < count; k++)
    if (changes[k].magnitude)
      return merge_with_norms(in, in_dtype, out, out_dtype, first, rows, columns, changes, count, scratch);
  if (count == 1 && changes[0].rank == kRankStep && in_dtype == out_dtype)
    return merge_fused(in, in_dtype, out, out_dtype, first, rows, columns, changes[0]);
  return merge_plain(in, in_dtype, out, out_dtype, first, rows, columns, changes, count);
}

extern const MergeAdapterKernels merge_adapter = {merge_rows};

}  // namespace nift::NIFT_ISA
