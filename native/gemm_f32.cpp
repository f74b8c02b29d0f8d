// float32 products: packed panels, one register tile of kRows x (2 vectors). Also the dot products of decoding.
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

static void panel(int64_t depth, const void* a, int64_t lda, const void* b, float* c, int64_t ldc, int64_t rows, int cols,
                  const TileEnd& end) {
  for (int64_t i = 0; i < rows; i += kRows) {
    int n = int(min64(kRows, rows - i));
    const float* from = static_cast<const float*>(a) + i * lda;
    tiles[cols > W ? 1 : 0][n - 1](depth, from, lda, static_cast<const float*>(b), c + i * ldc, ldc, cols, end);
  }
}

static void nothing() {}

extern const GemmKernels gemm_f32 = {kRows, kColumns, 1, 4, 512 << 10, 48, 1024, pack_a, pack_b, panel, nothing, nothing};

// --- few rows: dot products along k, w read once ---

static inline __attribute__((always_inline)) Vec widen(const float* in) {
  return *reinterpret_cast<const Vec*>(in);
}

typedef uint16_t Half __attribute__((vector_size(W * 2), aligned(2), may_alias));
typedef uint32_t Bits __attribute__((vector_size(W * 4)));

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

static inline __attribute__((always_inline)) Vec widen(const Bf16* in) {
  Half half = *reinterpret_cast<const Half*>(in);
  return reinterpret_cast<Vec>(__builtin_convertvector(half, Bits) << 16);
}
static inline __attribute__((always_inline)) Vec widen(const F16* in) {
  float out[W];
  for (int i = 0; i < W; i++) out[i] = f16_to_float(in[i].bits);
  return *reinterpret_cast<const Vec*>(out);
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

// J rows of w against M rows of x. Two accumulators per product when there are few, to cover the latency of FMA.
template <typename T, int M, int J>
static inline __attribute__((always_inline)) void dot_block(const float* x, int64_t ldx, int64_t K, const T* w, int64_t ld,
                                                            DType compute, float (*out)[kMaxDotRows]) {
  Vec sum[J][M];
  for (int j = 0; j < J; j++)
    for (int m = 0; m < M; m++) sum[j][m] = Vec{};
  int64_t k = 0;
  bool rounds = compute != DType::F32;
  for (; k + W <= K; k += W) {
    Vec xs[M];
#pragma GCC unroll 4
    for (int m = 0; m < M; m++) xs[m] = *reinterpret_cast<const Vec*>(x + m * ldx + k);
#pragma GCC unroll 8
    for (int j = 0; j < J; j++) {
      __builtin_prefetch(w + j * ld + k + 1024 / sizeof(T));
      Vec value = widen(w + j * ld + k);
      if (rounds) {
        float lanes[W];
        *reinterpret_cast<Vec*>(lanes) = value;
        round_row(lanes, W, compute);
        value = *reinterpret_cast<const Vec*>(lanes);
      }
#pragma GCC unroll 4
      for (int m = 0; m < M; m++) sum[j][m] += value * xs[m];
    }
  }
  for (int j = 0; j < J; j++)
    for (int m = 0; m < M; m++) {
      float tail = 0;
      for (int64_t t = k; t < K; t++) {
        float value = scalar(w[j * ld + t]);
        if (rounds) round_row(&value, 1, compute);
        tail += value * x[m * ldx + t];
      }
      out[j][m] = total(sum[j][m]) + tail;
    }
}

template <typename T, int M>
static void dot_rows(const float* x, int64_t ldx, int64_t K, const T* w, int64_t ld, DType compute, int64_t begin, int64_t end,
                     float alpha, float beta, const float* bias, float* y, int64_t ldy) {
  constexpr int J = 4;
  float out[J][kMaxDotRows];
  for (int64_t j0 = begin; j0 < end; j0 += J) {
    int n = int(min64(J, end - j0));
    if (n == J) {
      dot_block<T, M, J>(x, ldx, K, w + j0 * ld, ld, compute, out);
    } else {
      for (int j = 0; j < n; j++) dot_block<T, M, 1>(x, ldx, K, w + (j0 + j) * ld, ld, compute, out + j);
    }
    for (int j = 0; j < n; j++)
      for (int m = 0; m < M; m++) {
        float* at = y + m * ldy + j0 + j;
        float value = alpha * out[j][m];
        if (beta != 0) value += beta * *at;
        if (bias) value += bias[j0 + j];
        *at = value;
      }
  }
}

template <typename T>
static void dot_typed(const float* x, int64_t ldx, int rows, int64_t K, const T* w, int64_t ld, DType compute, int64_t begin,
                      int64_t end, float alpha, float beta, const float* bias, float* y, int64_t ldy) {
  switch (rows) {
    case 1:
      return dot_rows<T, 1>(x, ldx, K, w, ld, compute, begin, end, alpha, beta, bias, y, ldy);
    case 2:
      return dot_rows<T, 2>(x, ldx, K, w, ld, compute, begin, end, alpha, beta, bias, y, ldy);
    case 3:
      return dot_rows<T, 3>(x, ldx, K, w, ld, compute, begin, end, alpha, beta, bias, y, ldy);
    default:
      return dot_rows<T, 4>(x, ldx, K, w, ld, compute, begin, end, alpha, beta, bias, y, ldy);
  }
}

static void dot(const float* x, int64_t ldx, int rows, int64_t K, const void* w, DType dtype, int64_t ld, DType compute,
                int64_t begin, int64_t end, float alpha, float beta, const float* bias, float* y, int64_t ldy) {
  DType rounding = compute == dtype ? DType::F32 : compute;  // stored values need no rounding to their own type
  if (dtype == DType::F32)
    dot_typed(x, ldx, rows, K, static_cast<const float*>(w), ld, rounding, begin, end, alpha, beta, bias, y, ldy);
  else if (dtype == DType::BF16)
    dot_typed(x, ldx, rows, K, static_cast<const Bf16*>(w), ld, rounding, begin, end, alpha, beta, bias, y, ldy);
  else
    dot_typed(x, ldx, rows, K, static_cast<const F16*>(w), ld, rounding, begin, end, alpha, beta, bias, y, ldy);
}

static void load(const void* in, DType dtype, DType compute, int64_t n, float* out) {
  load_row(in, dtype, compute, n, out);
}

extern const DotKernels gemm_dot = {dot, load};

}  // namespace nift::NIFT_ISA
