// The parts of a matrix product that depend on the instruction set: packing, and the product with one packed panel.
//
// op(A) is packed by rows, [rows][lda]; op(B) into panels of `nr` columns, [depth][nr]. The format is float32, or bf16 with
// panels as pairs of rows, [depth / 2][nr][2], which is what dpbf16ps and AMX tiles read. Padding is zero.
#pragma once
#include <cstdint>

#include "gemm.h"
#include "isa.h"

namespace nift {

// What happens to finished sums: c = alpha * sum + beta * c + bias. `stream`: c bypasses the cache (64-byte aligned rows).
struct TileEnd {
  float alpha, beta;
  const float* bias;  // of the panel's columns, or null
  bool stream;
  // What will be read next, to be fetched meanwhile: one cache line per step of depth, `next_stride` bytes apart. Or null.
  const char* next = nullptr;
  int64_t next_stride = 0;
};

struct GemmKernels {
  int mr, nr;           // rows and columns of a register tile
  int depth_step;       // the packed depth is a multiple of it
  int element_size;     // bytes of a packed element
  int64_t block_bytes;  // packed rows of A that a thread works on: what its share of L2 holds
  int64_t min_rows;     // fewer rows a block than this, and reading B again costs more than it gains in balance
  int64_t max_depth;    // depth of the blocks that `panel` is called with

  // out[i][k] = op(A)(row0 + i, k) for k < K, zero up to `depth`; rows beyond `rows` up to a multiple of mr are zero too.
  void (*pack_a)(const Matrix& A, int64_t row0, int64_t rows, int64_t K, int64_t depth, DType compute, void* out, int64_t lda);
  // One panel: columns col0 ... col0 + cols of op(B), k < K, zero up to `depth` and up to nr.
  void (*pack_b)(const Matrix& B, int64_t col0, int64_t cols, int64_t K, int64_t depth, DType compute, void* out);
  // c[rows][cols] from packed a (row stride lda elements) and one panel; rows < 2^31, cols <= nr.
  void (*panel)(int64_t depth, const void* a, int64_t lda, const void* b, float* c, int64_t ldc, int64_t rows, int cols,
                const TileEnd& end);
  // Before and after a thread's run of panels (AMX configures its tiles).
  void (*enter)();
  void (*leave)();
};

// y[m][j] = alpha * sum_k x[m][k] w[j * ld + k] for j in [begin, end), few rows m: streams w once.
struct DotKernels {
  void (*dot)(const float* x, int64_t ldx, int rows, int64_t K, const void* w, DType dtype, int64_t ld, DType compute,
              int64_t begin, int64_t end, float alpha, float beta, const float* bias, float* y, int64_t ldy);
  // Rounds n values to `compute`, from any storage.
  void (*load)(const void* in, DType dtype, DType compute, int64_t n, float* out);
};

// The same for w in bf16 and products of bf16, from packed x.
struct DotBf16Kernels {
  int min_columns;  // of w: with fewer rows than this, use another kernel
  int64_t (*x_bytes)(int rows, int64_t K);
  void (*pack_x)(const Matrix& x, int rows, int64_t K, void* out);
  // Of the N rows of w those in [begin, end).
  void (*dot)(const void* x, int rows, int64_t K, const uint16_t* w, int64_t ld, int64_t N, int64_t begin, int64_t end,
              float alpha, float beta, const float* bias, float* y, int64_t ldy);
};

constexpr int kMaxDotRows = 16;

#if defined(__x86_64__)
namespace avx512bf16 {
extern const GemmKernels gemm_bf16;
extern const DotBf16Kernels gemm_dot_bf16;
}  // namespace avx512bf16
namespace amx {
extern const GemmKernels gemm_bf16;
extern const DotBf16Kernels gemm_dot_bf16;
}  // namespace amx
#endif

}  // namespace nift

NIFT_DECLARE_KERNELS(GemmKernels, gemm_f32)
NIFT_DECLARE_KERNELS(DotKernels, gemm_dot)
