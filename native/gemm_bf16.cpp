// bf16 products with float32 sums, compiled twice: dpbf16ps (avx512bf16) and AMX tiles (amx). Both read the same packed
// format: rows of A as bf16, panels of 32 columns of B as pairs [depth / 2][32][2].
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC bug 105593, in its own header
#include <immintrin.h>

#include "gemm_kernels.h"
#include "gemm_pack.h"

namespace nift::NIFT_ISA {

constexpr int W = 16, kColumns = 32;
constexpr int64_t kChunk = 64;
#if defined(__AMX_BF16__)
constexpr int kRows = 32, kStep = 32;
#else
constexpr int kRows = 12, kStep = 2;
#endif

static inline void load_half(const void* __restrict in, DType dtype, int64_t n, uint16_t* __restrict out) {
  if (dtype == DType::BF16) {
    std::memcpy(out, in, size_t(n) * 2);
    return;
  }
  int64_t i = 0;
  for (; i < n; i += 16) {
    __mmask16 mask = n - i >= 16 ? __mmask16(0xffff) : __mmask16((1u << (n - i)) - 1);
    __m512 values = dtype == DType::F32 ? _mm512_maskz_loadu_ps(mask, static_cast<const float*>(in) + i)
                                        : _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(in) + i));
    _mm256_mask_storeu_epi16(out + i, mask, (__m256i)_mm512_cvtneps_pbh(values));
  }
}

// Two rows of n elements as pairs.
static inline void interleave(const uint16_t* __restrict low, const uint16_t* __restrict high, int64_t n,
                              uint32_t* __restrict out) {
  for (int64_t j = 0; j < n; j++) out[j] = uint32_t(low[j]) | (uint32_t(high[j]) << 16);
}

static inline void transpose_pairs(const uint32_t* in, int64_t ldi, int64_t rows, int64_t cols, void* out, int64_t ldo) {
  transpose<W>(reinterpret_cast<const float*>(in), ldi, rows, cols, static_cast<float*>(out), ldo);
}

static void pack_a(const Matrix& A, int64_t row0, int64_t rows, int64_t K, int64_t depth, DType, void* out, int64_t lda) {
  uint16_t* packed = static_cast<uint16_t*>(out);
  if (!A.transposed) {
    for (int64_t i = 0; i < rows; i++) {
      load_half(element(A.data, A.dtype, (row0 + i) * A.ld), A.dtype, K, packed + i * lda);
      if (depth > K) std::memset(packed + i * lda + K, 0, size_t(depth - K) * 2);
    }
  } else {
    alignas(64) uint16_t low[kChunk], high[kChunk];
    alignas(64) uint32_t pairs[W * kChunk], turned[kChunk * W];
    for (int64_t k0 = 0; k0 < depth; k0 += 2 * W) {
      int64_t width = min64(2 * W, depth - k0);
      for (int64_t i0 = 0; i0 < rows; i0 += kChunk) {
        int64_t n = min64(kChunk, rows - i0);
        std::memset(pairs, 0, sizeof pairs);
        for (int64_t k = k0; k < min64(K, k0 + 2 * W); k += 2) {
          load_half(element(A.data, A.dtype, k * A.ld + row0 + i0), A.dtype, n, low);
          if (k + 1 < K)
            load_half(element(A.data, A.dtype, (k + 1) * A.ld + row0 + i0), A.dtype, n, high);
          else
            std::memset(high, 0, sizeof high);
          interleave(low, high, n, pairs + (k - k0) / 2 * kChunk);
        }
        transpose_pairs(pairs, kChunk, W, kChunk, turned, W);
        for (int64_t i = 0; i < n; i++) std::memcpy(packed + (i0 + i) * lda + k0, turned + i * W, size_t(width) * 2);
      }
    }
  }
  for (int64_t i = rows; i < round_up(rows, kRows); i++) std::memset(packed + i * lda, 0, size_t(depth) * 2);
}

constexpr int64_t kAhead = 2 * kChunk;  // elements of a row of W that are fetched before they are packed

// Rows of 32 stored values as pairs of rows; returns how many rows it took, all but an odd one.
static inline int64_t pack_pairs(const uint16_t* rows, int64_t ld, int64_t K, uint32_t* packed) {
  alignas(64) uint16_t order[2][kColumns];
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < kColumns; j++) order[i][j] = uint16_t(16 * i + j / 2 + (j % 2 ? kColumns : 0));
  __m512i first = _mm512_load_si512(order[0]), second = _mm512_load_si512(order[1]);
  int64_t k = 0;
  for (; k + 1 < K; k += 2) {
    const uint16_t* from = rows + k * ld;
    __builtin_prefetch(from + 16 * ld, 0, 3);
    __builtin_prefetch(from + 17 * ld, 0, 3);
    __m512i low = _mm512_loadu_si512(from), high = _mm512_loadu_si512(from + ld);
    _mm512_storeu_si512(packed + k / 2 * kColumns, _mm512_permutex2var_epi16(low, first, high));
    _mm512_storeu_si512(packed + k / 2 * kColumns + W, _mm512_permutex2var_epi16(low, second, high));
  }
  return k;
}

static void pack_b(const Matrix& B, int64_t col0, int64_t cols, int64_t K, int64_t depth, DType, void* out) {
  uint32_t* packed = static_cast<uint32_t*>(out);
  bool stored = B.dtype == DType::BF16 && cols == kColumns;  // whole blocks are read where they lie
  if (!B.transposed) {
    int64_t k = 0;
    if (stored) k = pack_pairs(static_cast<const uint16_t*>(B.data) + col0, B.ld, K, packed);
    alignas(64) uint16_t low[kColumns] = {}, high[kColumns] = {};
    for (; k < K; k += 2) {
      load_half(element(B.data, B.dtype, k * B.ld + col0), B.dtype, cols, low);
      if (k + 1 < K)
        load_half(element(B.data, B.dtype, (k + 1) * B.ld + col0), B.dtype, cols, high);
      else
        std::memset(high, 0, sizeof high);
      interleave(low, high, kColumns, packed + k / 2 * kColumns);
    }
  } else {
    alignas(64) uint16_t block[kColumns * kChunk];
    alignas(64) uint32_t turned[kChunk / 2 * kColumns];
    for (int64_t k0 = 0; k0 < K; k0 += kChunk) {
      int64_t n = min64(kChunk, K - k0);
      bool whole = n == kChunk;
      if (whole && stored && B.ld % 2 == 0 && reinterpret_cast<uintptr_t>(B.data) % 4 == 0) {
        const uint16_t* rows = static_cast<const uint16_t*>(B.data) + col0 * B.ld + k0;
        for (int64_t j = 0; j < kColumns; j++) {
          __builtin_prefetch(rows + j * B.ld + kAhead, 0, 3);
          __builtin_prefetch(rows + j * B.ld + kAhead + kChunk / 2, 0, 3);
        }
        transpose_pairs(reinterpret_cast<const uint32_t*>(rows), B.ld / 2, kColumns, kChunk / 2, packed + k0 / 2 * kColumns,
                        kColumns);
        continue;
      }
      if (cols < kColumns || !whole) std::memset(block, 0, sizeof block);
      for (int64_t j = 0; j < cols; j++)
        load_half(element(B.data, B.dtype, (col0 + j) * B.ld + k0), B.dtype, n, block + j * kChunk);
      uint32_t* to = whole ? packed + k0 / 2 * kColumns : turned;
      transpose_pairs(reinterpret_cast<const uint32_t*>(block), kChunk / 2, kColumns, kChunk / 2, to, kColumns);
      if (!whole) std::memcpy(packed + k0 / 2 * kColumns, turned, size_t((n + 1) / 2 * kColumns) * 4);
    }
  }
  int64_t filled = (K + 1) / 2 * kColumns, all = depth / 2 * kColumns;
  if (all > filled) std::memset(packed + filled, 0, size_t(all - filled) * 4);
}

// c = alpha * sum + beta * c + bias for up to 16 columns.
static inline __attribute__((always_inline)) void finish(__m512 sum, float* c, int cols, const float* bias, const TileEnd& end) {
  __mmask16 mask = cols >= 16 ? __mmask16(0xffff) : __mmask16((1u << cols) - 1);
  __m512 value = _mm512_mul_ps(sum, _mm512_set1_ps(end.alpha));
  if (end.beta != 0) value = _mm512_fmadd_ps(_mm512_set1_ps(end.beta), _mm512_maskz_loadu_ps(mask, c), value);
  if (bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, bias));
  if (end.stream && cols >= 16)
    _mm512_stream_ps(c, value);
  else
    _mm512_mask_storeu_ps(c, mask, value);
}

#if defined(__AMX_BF16__)

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

static const TileConfig config = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static void enter() {
  _tile_loadconfig(&config);
}
static void leave() {
  _tile_release();
}

// Lines to fetch in each step of depth.
struct Ahead {
  const char* from;
  int64_t stride;
  int lines;
};

// Sums in tiles 0-3 (2 x 2), A in 4 and 5, B in 6 and 7. The sums start from `in` (null: zero) and go to `out`.
template <bool kTwoRows, bool kTwoColumns>
static inline __attribute__((always_inline)) void multiply(int64_t depth, const char* a, int64_t stride, const char* b,
                                                           const float* in, int64_t ldi, float* out, int64_t ldo,
                                                           const Ahead& ahead) {
  const char* below = a + 16 * stride;
  if (in) {
    const float* in_below = in + 16 * ldi;
    _tile_loadd(0, in, ldi * 4);
    if (kTwoColumns) _tile_loadd(1, in + 16, ldi * 4);
    if (kTwoRows) _tile_loadd(2, in_below, ldi * 4);
    if (kTwoRows && kTwoColumns) _tile_loadd(3, in_below + 16, ldi * 4);
  } else {
    _tile_zero(0);
    if (kTwoColumns) _tile_zero(1);
    if (kTwoRows) _tile_zero(2);
    if (kTwoRows && kTwoColumns) _tile_zero(3);
  }
  for (int64_t k = 0; k < depth; k += kStep) {
    _tile_loadd(6, b, kColumns * 4);
    _tile_loadd(4, a, stride);
    if (kTwoColumns) _tile_loadd(7, b + 64, kColumns * 4);
    _tile_dpbf16ps(0, 4, 6);
    if (kTwoColumns) _tile_dpbf16ps(1, 4, 7);
    if (kTwoRows) {
      _tile_loadd(5, below, stride);
      _tile_dpbf16ps(2, 5, 6);
      if (kTwoColumns) _tile_dpbf16ps(3, 5, 7);
    }
    const char* line = ahead.from + k * ahead.stride;
    for (int i = 0; i < ahead.lines; i++, line += ahead.stride) __builtin_prefetch(line, 0, 2);
    a += kStep * 2;
    below += kStep * 2;
    b += kStep / 2 * kColumns * 4;
  }
  float* out_below = out + 16 * ldo;
  _tile_stored(0, out, ldo * 4);
  if (kTwoColumns) _tile_stored(1, out + 16, ldo * 4);
  if (kTwoRows) _tile_stored(2, out_below, ldo * 4);
  if (kTwoRows && kTwoColumns) _tile_stored(3, out_below + 16, ldo * 4);
}

// Up to kChunkRows rows. A long sum is cut into pieces whose panel stays in L1 while the rows stream past; meanwhile it
// grows in a local buffer, because rows of c lie far apart and often fall into the same cache sets. A finished block goes
// to c at once, so that the stores drain while the next block is multiplied.
constexpr int64_t kChunkRows = 128, kPieceDepth = 320;

static void multiply_chunk(int64_t depth, const char* a, int64_t lda, const char* b, float* c, int64_t ldc, int64_t rows,
                           int cols, const TileEnd& end, int64_t done, int lines) {
  alignas(64) float sums[kChunkRows * kColumns];
  int64_t pieces = depth > 0 ? (depth + kPieceDepth - 1) / kPieceDepth : 1;
  int64_t piece = round_up((depth + pieces - 1) / pieces, kStep);
  // Plain sums are loaded from c and stored to it as tiles.
  bool plain = cols == kColumns && end.alpha == 1 && (end.beta == 0 || end.beta == 1) && !end.bias && !end.stream;
  for (int64_t p = 0; p < pieces; p++) {
    int64_t k0 = p * piece, n = min64(piece, depth - k0);
    const char* pb = b + k0 * kColumns * 2;
    for (int64_t i = 0; i < rows; i += kRows) {
      const char* pa = a + (i * lda + k0) * 2;
      int64_t count = min64(kRows, rows - i);
      bool direct = plain && count == kRows, from_c = direct && p == 0 && end.beta == 1, to_c = direct && p == pieces - 1;
      float *block = sums + i * kColumns, *at = c + i * ldc;
      const float* in = from_c ? at : p > 0 ? block : nullptr;
      float* out = to_c ? at : block;
      int64_t ldi = from_c ? ldc : kColumns, ldo = to_c ? ldc : kColumns, line = (done + i) / kRows * lines;
      Ahead ahead = {end.next + (k0 + line) * end.next_stride, end.next_stride, int(min64(lines, kStep - line))};
      if (count <= 16)
        multiply<false, true>(n, pa, lda * 2, pb, in, ldi, out, ldo, ahead);
      else if (cols <= 16)
        multiply<true, false>(n, pa, lda * 2, pb, in, ldi, out, ldo, ahead);
      else
        multiply<true, true>(n, pa, lda * 2, pb, in, ldi, out, ldo, ahead);
      if (to_c || p < pieces - 1) continue;
      for (int64_t r = 0; r < count; r++)
        for (int j = 0; j < cols; j += W)
          finish(_mm512_load_ps(block + r * kColumns + j), at + r * ldc + j, cols - j, end.bias ? end.bias + j : nullptr, end);
    }
  }
}

static void panel(int64_t depth, const void* a, int64_t lda, const void* b, float* c, int64_t ldc, int64_t rows, int cols,
                  const TileEnd& end) {
  int64_t blocks = (rows + kRows - 1) / kRows;
  int lines = end.next ? int((kStep + blocks - 1) / blocks) : 0;
  for (int64_t i = 0; i < rows; i += kChunkRows)
    multiply_chunk(depth, static_cast<const char*>(a) + i * lda * 2, lda, static_cast<const char*>(b), c + i * ldc, ldc,
                   min64(kChunkRows, rows - i), cols, end, i, lines);
}

extern const GemmKernels gemm_bf16 = {kRows, kColumns, kStep, 2, 1 << 20, 256, 2048, pack_a, pack_b, panel, enter, leave};

#else

#define NIFT_PAIR(p, i) (*reinterpret_cast<const int32_t*>((p)[(i) / 3] + ((i) % 3) * stride))

template <int R, int NV>
static void tile_rows(int64_t depth, const char* a, int64_t stride, const uint32_t* b, float* c, int64_t ldc, int cols,
                      const TileEnd& end) {
  __m512 sum[R][NV];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) sum[i][v] = _mm512_setzero_ps();
  const char* p[(R + 2) / 3];
#pragma GCC unroll 4
  for (int i = 0; i < (R + 2) / 3; i++) p[i] = a + 3 * i * stride;
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; k += 2) {
    __m512bh column[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) column[v] = (__m512bh)_mm512_loadu_si512(b + v * W);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      __m512bh value = (__m512bh)_mm512_set1_epi32(NIFT_PAIR(p, i));
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], value, column[v]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < (R + 2) / 3; i++) p[i] += 4;
    b += kColumns;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++)
      if (v * W < cols) finish(sum[i][v], c + i * ldc + v * W, cols - v * W, end.bias ? end.bias + v * W : nullptr, end);
}

typedef void (*TileFunction)(int64_t, const char*, int64_t, const uint32_t*, float*, int64_t, int, const TileEnd&);

static const TileFunction tiles[2][kRows] = {
    {tile_rows<1, 1>, tile_rows<2, 1>, tile_rows<3, 1>, tile_rows<4, 1>, tile_rows<5, 1>, tile_rows<6, 1>, tile_rows<7, 1>,
     tile_rows<8, 1>, tile_rows<9, 1>, tile_rows<10, 1>, tile_rows<11, 1>, tile_rows<12, 1>},
    {tile_rows<1, 2>, tile_rows<2, 2>, tile_rows<3, 2>, tile_rows<4, 2>, tile_rows<5, 2>, tile_rows<6, 2>, tile_rows<7, 2>,
     tile_rows<8, 2>, tile_rows<9, 2>, tile_rows<10, 2>, tile_rows<11, 2>, tile_rows<12, 2>}};

static void panel(int64_t depth, const void* a, int64_t lda, const void* b, float* c, int64_t ldc, int64_t rows, int cols,
                  const TileEnd& end) {
  for (int64_t i = 0; i < rows; i += kRows) {
    int n = int(min64(kRows, rows - i));
    const char* from = static_cast<const char*>(a) + i * lda * 2;
    tiles[cols > W ? 1 : 0][n - 1](depth, from, lda * 2, static_cast<const uint32_t*>(b), c + i * ldc, ldc, cols, end);
  }
}

static void enter() {}
static void leave() {
  _mm_sfence();
}  // orders streamed stores before the thread reports its work done

extern const GemmKernels gemm_bf16 = {kRows, kColumns, kStep, 2, 512 << 10, 48, 2048, pack_a, pack_b, panel, enter, leave};

#endif

}  // namespace nift::NIFT_ISA
