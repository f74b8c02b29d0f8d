// float32 products: packed panels, one register tile of kRows x (2 vectors).
// Lower precision is done by rounding while packing; every sum runs over k in order, in one accumulator per element.
#include "gemm_kernels.h"
#include "gemm_pack.h"

namespace nift::NIFT_ISA {

#if defined(__AVX512F__)
constexpr int W = 16, kRows = 12;
#elif defined(__AVX2__)
constexpr int W = 8, kRows = 6;
#else
constexpr int W = 4, kRows = 4;
#endif
constexpr int kColumns = 2 * W;
constexpr int64_t kChunk = 64;  // depth of the blocks that are transposed through a buffer

typedef Vector<W> Vec;

static void pack_a(const Matrix& A, int64_t row0, int64_t rows, int64_t K, int64_t depth, DType compute, void* out, int64_t lda) {
  float* packed = static_cast<float*>(out);
  int64_t padded = round_up(rows, kRows);
  if (!A.transposed) {
    for (int64_t i = 0; i < rows; i++) {
      float* row = packed + i * lda;
      load_row(element(A.data, A.dtype, (row0 + i) * A.ld), A.dtype, compute, K, row);
      for (int64_t k = K; k < depth; k++) row[k] = 0;
    }
  } else {
    float block[W * kChunk];
    float turned[kChunk * W];
    for (int64_t k0 = 0; k0 < depth; k0 += W) {
      int64_t kn = min64(W, depth - k0);
      for (int64_t i0 = 0; i0 < rows; i0 += kChunk) {
        int64_t n = min64(kChunk, rows - i0);
        std::memset(block, 0, sizeof block);
        for (int64_t k = k0; k < min64(K, k0 + W); k++)
          load_row(element(A.data, A.dtype, k * A.ld + row0 + i0), A.dtype, compute, n, block + (k - k0) * kChunk);
        transpose<W>(block, kChunk, W, kChunk, turned, W);
        for (int64_t i = 0; i < n; i++) std::memcpy(packed + (i0 + i) * lda + k0, turned + i * W, size_t(kn) * 4);
      }
    }
  }
  for (int64_t i = rows; i < padded; i++) std::memset(packed + i * lda, 0, size_t(depth) * 4);
}

static void pack_b(const Matrix& B, int64_t col0, int64_t cols, int64_t K, int64_t depth, DType compute, void* out) {
  float* packed = static_cast<float*>(out);
  if (!B.transposed) {
    for (int64_t k = 0; k < K; k++) {
      float* row = packed + k * kColumns;
      load_row(element(B.data, B.dtype, k * B.ld + col0), B.dtype, compute, cols, row);
      for (int64_t j = cols; j < kColumns; j++) row[j] = 0;
    }
  } else {
    float block[kColumns * kChunk];
    float turned[kChunk * kColumns];
    for (int64_t k0 = 0; k0 < K; k0 += kChunk) {
      int64_t n = min64(kChunk, K - k0);
      if (cols < kColumns || n < kChunk) std::memset(block, 0, sizeof block);
      for (int64_t j = 0; j < cols; j++)
        load_row(element(B.data, B.dtype, (col0 + j) * B.ld + k0), B.dtype, compute, n, block + j * kChunk);
      bool whole = n == kChunk;
      float* to = whole ? packed + k0 * kColumns : turned;
      transpose<W>(block, kChunk, kColumns, kChunk, to, kColumns);
      if (!whole) std::memcpy(packed + k0 * kColumns, turned, size_t(n * kColumns) * 4);
    }
  }
  for (int64_t i = K * kColumns; i < depth * kColumns; i++) packed[i] = 0;
}

// Row i of the tile: rows 0, 3, 6, 9 have a pointer of their own, the others lie one or two strides behind it, so that
// addresses need few registers.
#define NIFT_ROW(p, i) (*reinterpret_cast<const float*>((p)[(i) / 3] + ((i) % 3) * stride))

template <int R, int NV>
static void tile(int64_t depth, const float* a, int64_t lda, const float* b, float* c, int64_t ldc, int cols,
                 const TileEnd& end) {
  Vec sum[R][NV];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) sum[i][v] = Vec{};
  int64_t stride = lda * 4;
  const char* p[(R + 2) / 3];
#pragma GCC unroll 4
  for (int i = 0; i < (R + 2) / 3; i++) p[i] = reinterpret_cast<const char*>(a) + 3 * i * stride;
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; k++) {
    Vec column[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) column[v] = *reinterpret_cast<const Vec*>(b + v * W);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      Vec value = NIFT_ROW(p, i) - Vec{};  // a broadcast: x - 0 is x, even for x = -0
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) sum[i][v] += value * column[v];
    }
#pragma GCC unroll 4
    for (int i = 0; i < (R + 2) / 3; i++) p[i] += 4;
    b += kColumns;
  }
  Vec alpha = end.alpha - Vec{}, beta = end.beta - Vec{};
  if (cols == NV * W) {
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) {
        float* at = c + i * ldc + v * W;
        Vec value = alpha * sum[i][v];
        if (end.beta != 0) value += beta * *reinterpret_cast<const Vec*>(at);
        if (end.bias) value += *reinterpret_cast<const Vec*>(end.bias + v * W);
        *reinterpret_cast<Vec*>(at) = value;
      }
    }
    return;
  }
  float row[NV * W];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++) {
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) *reinterpret_cast<Vec*>(row + v * W) = alpha * sum[i][v];
    float* at = c + i * ldc;
    for (int j = 0; j < cols; j++) {
      float value = row[j];
      if (end.beta != 0) value += end.beta * at[j];
      if (end.bias) value += end.bias[j];
      at[j] = value;
    }
  }
}

typedef void (*TileFunction)(int64_t, const float*, int64_t, const float*, float*, int64_t, int, const TileEnd&);

static const TileFunction tiles[2][kRows] = {
#if defined(__AVX512F__)
    {tile<1, 1>, tile<2, 1>, tile<3, 1>, tile<4, 1>, tile<5, 1>, tile<6, 1>, tile<7, 1>, tile<8, 1>, tile<9, 1>, tile<10, 1>,
     tile<11, 1>, tile<12, 1>},
    {tile<1, 2>, tile<2, 2>, tile<3, 2>, tile<4, 2>, tile<5, 2>, tile<6, 2>, tile<7, 2>, tile<8, 2>, tile<9, 2>, tile<10, 2>,
     tile<11, 2>, tile<12, 2>},
#elif defined(__AVX2__)
    {tile<1, 1>, tile<2, 1>, tile<3, 1>, tile<4, 1>, tile<5, 1>, tile<6, 1>},
    {tile<1, 2>, tile<2, 2>, tile<3, 2>, tile<4, 2>, tile<5, 2>, tile<6, 2>},
#else
    {tile<1, 1>, tile<2, 1>, tile<3, 1>, tile<4, 1>},
    {tile<1, 2>, tile<2, 2>, tile<3, 2>, tile<4, 2>},
#endif
};

// Long sums grow in c piece by piece, so that a piece of the panel stays in L1 while the rows stream past.
constexpr int64_t kPieceDepth = 320;

static void panel(int64_t depth, const void* a, int64_t lda, const void* b, float* c, int64_t ldc, int64_t rows, int cols,
                  const TileEnd& end) {
  int64_t pieces = depth > 0 ? (depth + kPieceDepth - 1) / kPieceDepth : 1, piece = (depth + pieces - 1) / pieces;
  int64_t blocks = (rows + kRows - 1) / kRows;
  for (int64_t p = 0; p < pieces; p++) {
    int64_t k0 = p * piece, n = min64(piece, depth - k0), share = (n + blocks - 1) / blocks;
    TileEnd part = {end.alpha, p == 0 ? end.beta : 1.0f, p == pieces - 1 ? end.bias : nullptr, false, nullptr, 0};
    for (int64_t i = 0; i < rows; i += kRows) {
      if (end.next) {
        int64_t first = i / kRows * share;
        for (int64_t k = first; k < min64(n, first + share); k++) {
          const char* line = end.next + (k0 + k) * end.next_stride;
          for (int at = 0; at < kColumns * 4; at += 64) __builtin_prefetch(line + at, 0, 2);
        }
      }
      int count = int(min64(kRows, rows - i));
      const float* from = static_cast<const float*>(a) + i * lda + k0;
      tiles[cols > W ? 1 : 0][count - 1](n, from, lda, static_cast<const float*>(b) + k0 * kColumns, c + i * ldc, ldc, cols,
                                         part);
    }
  }
}

static void nothing() {}

extern const GemmKernels gemm_f32 = {kRows, kColumns, 1, 4, 768 << 10, 96, 768, pack_a, pack_b, panel, nothing, nothing};

}  // namespace nift::NIFT_ISA
