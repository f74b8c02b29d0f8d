// Products of packed bf16 blocks on AMX tiles that go straight to and from C, without the pass that gemm_bf16.cpp makes
// over each finished tile for factors, bias and edges. For short depths that pass costs as much as the product.
#if defined(__x86_64__)
#pragma GCC target("avx512f,amx-tile,amx-bf16")
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC bug 105593, in its own header
#include <immintrin.h>

#include <cstdint>

namespace nift::amx {

namespace {

constexpr int64_t kPanelBytes = 32 * 4;  // a pair of rows of a panel of 32 columns
constexpr int64_t kStep = 32;            // depth of one tile product

// Sums in tiles 0-3 (2 x 2 of 16 x 16), A in 4 and 5, B in 6 and 7.
template <bool kTwoRows, bool kTwoColumns>
inline __attribute__((always_inline)) void product(int64_t depth, const char* a, int64_t a_stride, const char* b, bool accumulate,
                                                   float* c, int64_t c_stride) {
  float* below = c + 16 * (c_stride / 4);
  if (accumulate) {
    _tile_loadd(0, c, c_stride);
    if (kTwoColumns) _tile_loadd(1, c + 16, c_stride);
    if (kTwoRows) _tile_loadd(2, below, c_stride);
    if (kTwoRows && kTwoColumns) _tile_loadd(3, below + 16, c_stride);
  } else {
    _tile_zero(0);
    if (kTwoColumns) _tile_zero(1);
    if (kTwoRows) _tile_zero(2);
    if (kTwoRows && kTwoColumns) _tile_zero(3);
  }
  for (int64_t k = 0; k < depth; k += kStep) {
    _tile_loadd(4, a, a_stride);
    _tile_loadd(6, b, kPanelBytes);
    _tile_dpbf16ps(0, 4, 6);
    if (kTwoColumns) {
      _tile_loadd(7, b + 64, kPanelBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (kTwoRows) {
      _tile_loadd(5, a + 16 * a_stride, a_stride);
      _tile_dpbf16ps(2, 5, 6);
      if (kTwoColumns) _tile_dpbf16ps(3, 5, 7);
    }
    a += kStep * 2;
    b += kStep / 2 * kPanelBytes;
  }
  _tile_stored(0, c, c_stride);
  if (kTwoColumns) _tile_stored(1, c + 16, c_stride);
  if (kTwoRows) _tile_stored(2, below, c_stride);
  if (kTwoRows && kTwoColumns) _tile_stored(3, below + 16, c_stride);
}

}  // namespace

// C[M, N] (+)= A B; C has room for M and N rounded up to 16. Strides in elements.
void block_product(int64_t M, int64_t N, int64_t depth, const void* a, int64_t lda, const void* b, bool accumulate, float* C,
                   int64_t ldc) {
  for (int64_t j = 0; j < N; j += 32) {
    const char* panel = static_cast<const char*>(b) + j * depth * 2;
    bool two_columns = N - j > 16;
    for (int64_t i = 0; i < M; i += 32) {
      const char* rows = static_cast<const char*>(a) + i * lda * 2;
      float* c = C + i * ldc + j;
      if (M - i > 16) {
        if (two_columns)
          product<true, true>(depth, rows, lda * 2, panel, accumulate, c, ldc * 4);
        else
          product<true, false>(depth, rows, lda * 2, panel, accumulate, c, ldc * 4);
      } else if (two_columns) {
        product<false, true>(depth, rows, lda * 2, panel, accumulate, c, ldc * 4);
      } else {
        product<false, false>(depth, rows, lda * 2, panel, accumulate, c, ldc * 4);
      }
    }
  }
}

}  // namespace nift::amx
#endif
