// Products of packed blocks with the matrix kernels of the instruction set in use, for ops that do something to a block of
// products before the next product. Compiled once; the kernels behind it are chosen at run time.
#pragma once
#include <algorithm>
#include <cstdint>

#include "gemm_kernels.h"

namespace nift {

#if defined(__x86_64__)
namespace amx {
void block_product(int64_t M, int64_t N, int64_t depth, const void* a, int64_t lda, const void* b, bool accumulate, float* C,
                   int64_t ldc);
}
#endif

inline const GemmKernels& block_kernels(DType compute) {
#if defined(__x86_64__)
  if (compute == DType::BF16 && active_isa() == Isa::Amx) return amx::gemm_bf16;
  if (compute == DType::BF16 && active_isa() == Isa::Avx512Bf16) return avx512bf16::gemm_bf16;
#endif
  return kernels_gemm_f32();
}

class BlockGemm {
 public:
  explicit BlockGemm(DType compute) : kernels(block_kernels(compute)), compute(compute) {}

  static int64_t multiple(int64_t n, int64_t of) { return (n + of - 1) / of * of; }
  // True when packed elements are bf16, false when they are float32.
  bool half() const { return kernels.element_size == 2; }
  int64_t depth(int64_t K) const { return multiple(K, kernels.depth_step); }
  int64_t rows(int64_t count) const { return multiple(count, kernels.mr); }
  int64_t columns(int64_t count) const { return multiple(count, kernels.nr); }
  // Row stride of a packed A: an odd number of cache lines, so that the rows of a tile fall into different sets.
  int64_t stride(int64_t K) const { return multiple(depth(K), 64) + 64 / kernels.element_size; }
  int64_t bytes(int64_t elements) const { return elements * kernels.element_size; }
  int64_t a_bytes(int64_t row_count, int64_t K) const { return bytes(rows(row_count) * stride(K)); }
  int64_t b_bytes(int64_t K, int64_t column_count) const { return bytes(depth(K) * columns(column_count)); }

  void pack_a(const Matrix& A, int64_t row0, int64_t row_count, int64_t K, void* out) const {
    kernels.pack_a(A, row0, row_count, K, depth(K), compute, out, stride(K));
  }
  // Panel `index` of the columns of B, of which there are N.
  void pack_panel(const Matrix& B, int64_t index, int64_t N, int64_t K, void* out) const {
    int64_t column = index * kernels.nr;
    kernels.pack_b(B, column, std::min<int64_t>(kernels.nr, N - column), K, depth(K), compute,
                   static_cast<char*>(out) + bytes(index * kernels.nr * depth(K)));
  }
  void pack_b(const Matrix& B, int64_t N, int64_t K, void* out) const {
    for (int64_t i = 0; i * kernels.nr < N; i++) pack_panel(B, i, N, K, out);
  }

  // C[M, N] = A B + beta C. This and the next: between enter() and leave() of the kernels.
  void multiply(int64_t M, int64_t N, int64_t K, const void* a, const void* b, float beta, float* C, int64_t ldc) const {
    int64_t all = depth(K), pieces = std::max<int64_t>(1, (all + kernels.max_depth - 1) / kernels.max_depth);
    int64_t piece = multiple((all + pieces - 1) / pieces, kernels.depth_step), lda = stride(K);
    const char *pa = static_cast<const char*>(a), *pb = static_cast<const char*>(b);
    for (int64_t k = 0; k < all; k += piece)
      for (int64_t j = 0; j < N; j += kernels.nr) {
        TileEnd end = {1.0f, k == 0 ? beta : 1.0f, nullptr, false, nullptr, 0};
        kernels.panel(std::min(piece, all - k), pa + bytes(k), lda, pb + bytes(j * all + k * kernels.nr), C + j, ldc, M,
                      int(std::min<int64_t>(kernels.nr, N - j)), end);
      }
  }

  // C[M, N] = A B, or += with `accumulate`. C must have room for M and N rounded up to 16: what lies there is overwritten.
  void multiply_padded(int64_t M, int64_t N, int64_t K, const void* a, const void* b, bool accumulate, float* C,
                       int64_t ldc) const {
#if defined(__x86_64__)
    if (&kernels == &amx::gemm_bf16) return amx::block_product(M, N, depth(K), a, stride(K), b, accumulate, C, ldc);
#endif
    multiply(M, N, K, a, b, accumulate ? 1.0f : 0.0f, C, ldc);
  }

  const GemmKernels& kernels;
  const DType compute;
};

}  // namespace nift
