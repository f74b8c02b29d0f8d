// Products with a few rows of x (decoding): dot products along k. Rows of W stream past once, nothing of them is packed.
// Bound: reading W. Each block of J rows of W meets up to kGroup rows of x at a time, all sums in registers.
#if defined(__x86_64__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC bug 105593, in its own header
#include <immintrin.h>
#endif

#include "gemm_kernels.h"
#include "gemm_pack.h"

namespace nift::NIFT_ISA {

// kGroup rows of x times J rows of W, one vector of sums each, plus J vectors of W: what 32 or 16 registers hold.
#if defined(__AVX512F__)
constexpr int W = 16, kGroup = 8;
constexpr int rows_of_w(int m) {
  return m <= 4 ? 4 : 3;
}
#else
#if defined(__AVX2__)
constexpr int W = 8, kGroup = 4;
#else
constexpr int W = 4, kGroup = 4;
#endif
constexpr int rows_of_w(int m) {
  return m <= 2 ? 4 : 3;
}
#endif
constexpr int kMaxRowsOfW = 4;
constexpr int64_t kPrefetchBytes = 8192;  // about how far ahead of the sums W is fetched

typedef Vector<W> Vec;
typedef uint16_t Half __attribute__((vector_size(W * 2), aligned(2), may_alias));
typedef uint32_t Bits __attribute__((vector_size(W * 4)));

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

static inline __attribute__((always_inline)) Vec widen(const float* in) {
  return *reinterpret_cast<const Vec*>(in);
}
static inline __attribute__((always_inline)) Vec widen(const Bf16* in) {
  Half half = *reinterpret_cast<const Half*>(in);
  return reinterpret_cast<Vec>(__builtin_convertvector(half, Bits) << 16);
}
static inline __attribute__((always_inline)) Vec widen(const F16* in) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in)));
#elif defined(__F16C__)
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in)));
#else
  float out[W];
  for (int i = 0; i < W; i++) out[i] = f16_to_float(in[i].bits);
  return *reinterpret_cast<const Vec*>(out);
#endif
}

static inline __attribute__((always_inline)) float scalar(float value) {
  return value;
}
static inline __attribute__((always_inline)) float scalar(Bf16 value) {
  return bf16_to_float(value.bits);
}
static inline __attribute__((always_inline)) float scalar(F16 value) {
  return f16_to_float(value.bits);
}

static inline __attribute__((always_inline)) float total(Vec v) {
  float lanes[W];
  *reinterpret_cast<Vec*>(lanes) = v;
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

// J rows of w against M rows of x.
template <typename T, int M, int J, bool kRounds>
static inline __attribute__((always_inline)) void dot_block(const float* x, int64_t ldx, int64_t K, const T* w, int64_t ld,
                                                            DType compute, int64_t ahead, float (*out)[kGroup]) {
  Vec sum[J][M];
#pragma GCC unroll 8
  for (int j = 0; j < J; j++)
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) sum[j][m] = Vec{};
  int64_t k = 0;
  for (; k + W <= K; k += W) {
    Vec value[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; j++) {
      __builtin_prefetch(w + j * ld + k + ahead, 0, 2);
      value[j] = widen(w + j * ld + k);
      if (kRounds) {
        float lanes[W];
        *reinterpret_cast<Vec*>(lanes) = value[j];
        round_row(lanes, W, compute);
        value[j] = *reinterpret_cast<const Vec*>(lanes);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      Vec xs = *reinterpret_cast<const Vec*>(x + m * ldx + k);
#pragma GCC unroll 8
      for (int j = 0; j < J; j++) sum[j][m] += value[j] * xs;
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < J; j++)
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) out[j][m] = total(sum[j][m]);
  for (; k < K; k++)
    for (int j = 0; j < J; j++) {
      float value = scalar(w[j * ld + k]);
      if (kRounds) round_row(&value, 1, compute);
      for (int m = 0; m < M; m++) out[j][m] += value * x[m * ldx + k];
    }
}

struct DotEnd {
  float alpha, beta;
  const float* bias;
};

template <typename T, int M, bool kRounds>
static void dot_rows(const float* x, int64_t ldx, int64_t K, const T* w, int64_t ld, DType compute, int64_t begin, int64_t end,
                     const DotEnd& finish, float* y, int64_t ldy) {
  constexpr int J = rows_of_w(M);
  float out[kMaxRowsOfW][kGroup];
  int64_t block = J * ld, ahead = (kPrefetchBytes / int64_t(sizeof(T)) + block - 1) / block * block;
  for (int64_t j0 = begin; j0 < end; j0 += J) {
    int n = int(min64(J, end - j0));
    if (n == J) {
      dot_block<T, M, J, kRounds>(x, ldx, K, w + j0 * ld, ld, compute, ahead, out);
    } else {
      for (int j = 0; j < n; j++) dot_block<T, M, 1, kRounds>(x, ldx, K, w + (j0 + j) * ld, ld, compute, ahead, out + j);
    }
    for (int j = 0; j < n; j++)
      for (int m = 0; m < M; m++) {
        float* at = y + m * ldy + j0 + j;
        float value = finish.alpha * out[j][m];
        if (finish.beta != 0) value += finish.beta * *at;
        if (finish.bias) value += finish.bias[j0 + j];
        *at = value;
      }
  }
}

template <typename T, int M>
static void dot_group(int rows, const float* x, int64_t ldx, int64_t K, const T* w, int64_t ld, DType compute, int64_t begin,
                      int64_t end, const DotEnd& finish, float* y, int64_t ldy) {
  if constexpr (M > 1) {
    if (rows < M) return dot_group<T, M - 1>(rows, x, ldx, K, w, ld, compute, begin, end, finish, y, ldy);
  }
  if (compute == DType::F32)
    dot_rows<T, M, false>(x, ldx, K, w, ld, compute, begin, end, finish, y, ldy);
  else
    dot_rows<T, M, true>(x, ldx, K, w, ld, compute, begin, end, finish, y, ldy);
}

// More rows than fit take turns; the caller's piece of w is still in the cache then.
template <typename T>
static void dot_typed(const float* x, int64_t ldx, int rows, int64_t K, const T* w, int64_t ld, DType compute, int64_t begin,
                      int64_t end, const DotEnd& finish, float* y, int64_t ldy) {
  int groups = (rows + kGroup - 1) / kGroup, size = (rows + groups - 1) / groups;
  for (int m = 0; m < rows; m += size) {
    int n = rows - m < size ? rows - m : size;
    dot_group<T, kGroup>(n, x + m * ldx, ldx, K, w, ld, compute, begin, end, finish, y + m * ldy, ldy);
  }
}

static void dot(const float* x, int64_t ldx, int rows, int64_t K, const void* w, DType dtype, int64_t ld, DType compute,
                int64_t begin, int64_t end, float alpha, float beta, const float* bias, float* y, int64_t ldy) {
  DType rounding = compute == dtype ? DType::F32 : compute;  // stored values need no rounding to their own type
  DotEnd finish = {alpha, beta, bias};
  if (dtype == DType::F32)
    dot_typed(x, ldx, rows, K, static_cast<const float*>(w), ld, rounding, begin, end, finish, y, ldy);
  else if (dtype == DType::BF16)
    dot_typed(x, ldx, rows, K, static_cast<const Bf16*>(w), ld, rounding, begin, end, finish, y, ldy);
  else
    dot_typed(x, ldx, rows, K, static_cast<const F16*>(w), ld, rounding, begin, end, finish, y, ldy);
}

static void load(const void* in, DType dtype, DType compute, int64_t n, float* out) {
  load_row(in, dtype, compute, n, out);
}

extern const DotKernels gemm_dot = {dot, load};

}  // namespace nift::NIFT_ISA
