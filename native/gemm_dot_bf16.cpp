// Products with a few rows of x (decoding) and W stored in bf16, compiled twice: dpbf16ps (avx512bf16) and AMX tiles (amx).
// Bound: reading W, which streams past once and is not packed.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC bug 105593, in its own header
#include <immintrin.h>

#include "gemm_kernels.h"
#include "gemm_pack.h"

namespace nift::NIFT_ISA {

constexpr int64_t kStep = 32;  // elements of k in a vector, or in a row of a tile

// y[at] = alpha * sum + beta * y + bias for up to 16 neighbours.
static inline __attribute__((always_inline)) void finish(__m512 sum, __mmask16 mask, float* y, const float* bias, float alpha,
                                                         float beta) {
  __m512 value = _mm512_mul_ps(sum, _mm512_set1_ps(alpha));
  if (beta != 0) value = _mm512_fmadd_ps(_mm512_set1_ps(beta), _mm512_maskz_loadu_ps(mask, y), value);
  if (bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, bias));
  _mm512_mask_storeu_ps(y, mask, value);
}

#if defined(__AMX_BF16__)

// 16 rows of W are an A tile as they lie in memory; x is packed as the B tile, so the product is a tile of y transposed.
// Measured: the hardware's own prefetching of the rows beats software prefetches, near or far.
constexpr int kTile = 16, kBlock = 2;  // rows of a tile, tiles of W that share a tile of x
constexpr int64_t kPairBytes = 128;    // two rows of k of packed x, 32 columns wide

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

static const TileConfig config = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static int64_t x_bytes(int, int64_t K) {
  return round_up(K, kStep) * 32 * 2;
}

static void pack_x(const Matrix& x, int rows, int64_t K, void* out) {
  Matrix columns = {x.data, x.dtype, x.ld, !x.transposed};
  gemm_bf16.pack_b(columns, 0, rows, K, round_up(K, kStep), DType::BF16, out);
}

// N tiles of 16 rows of W, from `first` and `second`, times a tile of x. Sums in tiles 0 and 1.
template <int N>
static inline __attribute__((always_inline)) void step(const void* first, const void* second, int64_t stride, const char* x) {
  _tile_loadd(6, x, kPairBytes);
  _tile_loadd(4, first, stride);
  _tile_dpbf16ps(0, 4, 6);
  if (N > 1) {
    _tile_loadd(5, second, stride);
    _tile_dpbf16ps(1, 5, 6);
  }
}

// out[tile][row of W][row of x]. What lies behind the end of a row of W is not read: it may be no number.
template <int N>
static void block(const uint16_t* const* row, int64_t ld, int64_t K, const char* x, float (*out)[kTile * kTile]) {
  _tile_zero(0);
  if (N > 1) _tile_zero(1);
  int64_t k = 0;
  for (; k + kStep <= K; k += kStep) {
    step<N>(row[0] + k, row[N - 1] + k, ld * 2, x);
    x += kStep / 2 * kPairBytes;
  }
  if (k < K) {
    alignas(64) uint16_t rest[N][kTile * kStep] = {};
    for (int t = 0; t < N; t++)
      for (int i = 0; i < kTile; i++) std::memcpy(rest[t] + i * kStep, row[t] + i * ld + k, size_t(K - k) * 2);
    step<N>(rest[0], rest[N - 1], kStep * 2, x);
  }
  _tile_stored(0, out[0], kTile * 4);
  if (N > 1) _tile_stored(1, out[1], kTile * 4);
}

static void dot(const void* x, int rows, int64_t K, const uint16_t* w, int64_t ld, int64_t N, int64_t begin, int64_t end,
                float alpha, float beta, const float* bias, float* y, int64_t ldy) {
  alignas(64) float out[kBlock][kTile * kTile], turned[kTile * kTile];
  const char* packed = static_cast<const char*>(x);
  _tile_loadconfig(&config);
  for (int64_t j0 = begin; j0 < end; j0 += kBlock * kTile) {
    int n = end - j0 > kTile ? 2 : 1;
    const uint16_t* row[kBlock];
    int64_t first[kBlock];
    for (int t = 0; t < n; t++) {
      first[t] = min64(j0 + t * kTile, N - kTile);  // the last tile overlaps the one before
      row[t] = w + first[t] * ld;
    }
    n == 2 ? block<2>(row, ld, K, packed, out) : block<1>(row, ld, K, packed, out);
    for (int t = 0; t < n; t++) {
      int64_t skip = j0 + t * kTile - first[t], last = min64(kTile, end - first[t]);
      __mmask16 mask = __mmask16((0xffffu << skip) & (0xffffu >> (kTile - last)));
      transpose_square<16>(out[t], kTile, turned, kTile);
      for (int m = 0; m < rows; m++)
        finish(_mm512_load_ps(turned + m * kTile), mask, y + m * ldy + first[t], bias ? bias + first[t] : nullptr, alpha, beta);
    }
  }
  _tile_release();
}

extern const DotBf16Kernels gemm_dot_bf16 = {kTile, x_bytes, pack_x, dot};

#else

constexpr int kGroup = 8, kMaxRowsOfW = 4;
constexpr int64_t kPrefetchBytes = 8192;

static int64_t row_elements(int64_t K) {
  return round_up(K, 64) + 32;
}

static int64_t x_bytes(int rows, int64_t K) {
  return round_up(rows, gemm_bf16.mr) * row_elements(K) * 2;
}

static void pack_x(const Matrix& x, int rows, int64_t K, void* out) {
  gemm_bf16.pack_a(x, 0, rows, K, round_up(K, kStep), DType::BF16, out, row_elements(K));
}

// J rows of w against M rows of x, all sums in registers.
template <int M, int J>
static inline __attribute__((always_inline)) void block(const uint16_t* x, int64_t ldx, int64_t K, const uint16_t* w, int64_t ld,
                                                        int64_t ahead, float (*out)[kGroup]) {
  __m512 sum[J][M];
#pragma GCC unroll 8
  for (int j = 0; j < J; j++)
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) sum[j][m] = _mm512_setzero_ps();
  for (int64_t k = 0; k < K; k += kStep) {
    __mmask32 mask = K - k >= kStep ? ~__mmask32(0) : (__mmask32(1) << (K - k)) - 1;
    __m512bh value[J];
#pragma GCC unroll 8
    for (int j = 0; j < J; j++) {
      __builtin_prefetch(w + j * ld + k + ahead, 0, 2);
      value[j] = (__m512bh)_mm512_maskz_loadu_epi16(mask, w + j * ld + k);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      __m512bh xs = (__m512bh)_mm512_loadu_si512(x + m * ldx + k);
#pragma GCC unroll 8
      for (int j = 0; j < J; j++) sum[j][m] = _mm512_dpbf16_ps(sum[j][m], value[j], xs);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < J; j++)
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) out[j][m] = _mm512_reduce_add_ps(sum[j][m]);
}

struct DotEnd {
  float alpha, beta;
  const float* bias;
};

template <int M>
static void dot_rows(int rows, const uint16_t* x, int64_t ldx, int64_t K, const uint16_t* w, int64_t ld, int64_t begin,
                     int64_t end, const DotEnd& finish, float* y, int64_t ldy) {
  if constexpr (M > 1) {
    if (rows < M) return dot_rows<M - 1>(rows, x, ldx, K, w, ld, begin, end, finish, y, ldy);
  }
  constexpr int J = M <= 4 ? 4 : 3;
  float out[kMaxRowsOfW][kGroup];
  int64_t step = J * ld, ahead = (kPrefetchBytes / 2 + step - 1) / step * step;
  for (int64_t j0 = begin; j0 < end; j0 += J) {
    int n = int(min64(J, end - j0));
    if (n == J) {
      block<M, J>(x, ldx, K, w + j0 * ld, ld, ahead, out);
    } else {
      for (int j = 0; j < n; j++) block<M, 1>(x, ldx, K, w + (j0 + j) * ld, ld, ahead, out + j);
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

// More than kGroup rows take turns; the caller's piece of w is still in the cache then.
static void dot(const void* x, int rows, int64_t K, const uint16_t* w, int64_t ld, int64_t, int64_t begin, int64_t end,
                float alpha, float beta, const float* bias, float* y, int64_t ldy) {
  const uint16_t* packed = static_cast<const uint16_t*>(x);
  DotEnd ending = {alpha, beta, bias};
  int64_t ldx = row_elements(K);
  int groups = (rows + kGroup - 1) / kGroup, size = (rows + groups - 1) / groups;
  for (int m = 0; m < rows; m += size)
    dot_rows<kGroup>(rows - m < size ? rows - m : size, packed + m * ldx, ldx, K, w, ld, begin, end, ending, y + m * ldy, ldy);
}

extern const DotBf16Kernels gemm_dot_bf16 = {1, x_bytes, pack_x, dot};

#endif

}  // namespace nift::NIFT_ISA
