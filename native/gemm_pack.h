// Helpers of the packing code. Everything is static: each includer compiles it for its own instruction set.
#pragma once
#include <cstdint>
#include <cstring>

#include "dtype.h"

namespace nift {
namespace {

static inline const void* element(const void* data, DType dtype, int64_t at) {
  return static_cast<const char*>(data) + at * (dtype == DType::F32 ? 4 : 2);
}

static inline void round_row(float* __restrict values, int64_t n, DType compute) {
  if (compute == DType::BF16) {
    for (int64_t i = 0; i < n; i++) values[i] = bf16_to_float(float_to_bf16(values[i]));
  } else if (compute == DType::F16) {
    for (int64_t i = 0; i < n; i++) values[i] = f16_to_float(float_to_f16(values[i]));
  }
}

// out[0 ... n) = n consecutive stored elements as floats, rounded to `compute`.
static inline void load_row(const void* __restrict in, DType dtype, DType compute, int64_t n, float* __restrict out) {
  if (dtype == DType::F32) {
    std::memcpy(out, in, size_t(n) * 4);
  } else if (dtype == DType::BF16) {
    const uint16_t* __restrict half = static_cast<const uint16_t*>(in);
    for (int64_t i = 0; i < n; i++) out[i] = bf16_to_float(half[i]);
  } else {
    const uint16_t* __restrict half = static_cast<const uint16_t*>(in);
    for (int64_t i = 0; i < n; i++) out[i] = f16_to_float(half[i]);
  }
  if (compute != DType::F32 && compute != dtype) round_row(out, n, compute);
}

template <int W>
struct VectorOf {
  typedef float type __attribute__((vector_size(W * 4), aligned(4), may_alias));
};
template <int W>
using Vector = typename VectorOf<W>::type;

template <int W>
struct ShuffleOf {
  typedef int32_t type __attribute__((vector_size(W * 4)));
};

// {a0 b0 a1 b1 ...} of the low halves, or of the high halves.
template <int W, bool kHigh>
static inline __attribute__((always_inline)) Vector<W> zip(Vector<W> a, Vector<W> b) {
  typename ShuffleOf<W>::type order;
  for (int i = 0; i < W; i++) order[i] = (kHigh ? W / 2 : 0) + i / 2 + (i % 2 ? W : 0);
  return __builtin_shuffle(a, b, order);
}

// out[c * ldo + r] = in[r * ldi + c] for r < W, c < W: log2(W) rounds of perfect shuffles.
template <int W>
static inline __attribute__((always_inline)) void transpose_square(const float* in, int64_t ldi, float* out, int64_t ldo) {
  Vector<W> a[W], b[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) a[i] = *reinterpret_cast<const Vector<W>*>(in + i * ldi);
#pragma GCC unroll 4
  for (int half = W; half > 1; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; i++) {
      b[2 * i] = zip<W, false>(a[i], a[i + W / 2]);
      b[2 * i + 1] = zip<W, true>(a[i], a[i + W / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) a[i] = b[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) *reinterpret_cast<Vector<W>*>(out + i * ldo) = a[i];
}

// The same for rows x cols, both multiples of W.
template <int W>
static inline void transpose(const float* in, int64_t ldi, int64_t rows, int64_t cols, float* out, int64_t ldo) {
  for (int64_t r = 0; r < rows; r += W)
    for (int64_t c = 0; c < cols; c += W) transpose_square<W>(in + r * ldi + c, ldi, out + c * ldo + r, ldo);
}

static inline int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}
static inline int64_t min64(int64_t a, int64_t b) {
  return a < b ? a : b;
}

}  // namespace
}  // namespace nift
