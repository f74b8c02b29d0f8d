// Vectors of the instruction set that a kernel source is compiled for, and small matrix products on them. Kernel sources
// include this; everything is static, so that no instruction set's code can stand in for another's.
#pragma once
#include <cstdint>
#include <cstring>

#include "isa.h"

#if defined(__AVX512F__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC bug 105593, in its own header
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#define NIFT_INLINE static inline __attribute__((always_inline))
#define NIFT_INLINE_MEMBER inline __attribute__((always_inline))

namespace nift::NIFT_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kTileVectors = 4;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kTileVectors = 2;
#else
constexpr int kLanes = 4, kTileVectors = 2;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef float VecUnaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t VecInt __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecWord __attribute__((vector_size(kLanes * 4)));
typedef uint16_t VecHalf __attribute__((vector_size(kLanes * 2)));

NIFT_INLINE Vec vec_load(const float* p) {
  return *reinterpret_cast<const VecUnaligned*>(p);
}
NIFT_INLINE void vec_store(float* p, Vec v) {
  *reinterpret_cast<VecUnaligned*>(p) = v;
}
// Rounded to nearest even; NaN stays NaN as long as it is the one that arithmetic makes.
// The bf16 is the upper half of each lane.
NIFT_INLINE VecWord vec_bf16_bits(Vec v) {
  VecWord bits = (VecWord)v;
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}
NIFT_INLINE void vec_store_bf16(uint16_t* p, Vec v) {
  VecHalf half = __builtin_convertvector(vec_bf16_bits(v) >> 16, VecHalf);
  std::memcpy(p, &half, sizeof half);
}
// The same in one instruction, for code that only runs on CPUs that multiply bf16.
NIFT_INLINE void vec_store_bf16_fast(uint16_t* p, Vec v) {
#if defined(__AVX512F__)
  VecHalf half;
  __asm__("vcvtneps2bf16 %1, %0" : "=v"(half) : "v"(v));
  std::memcpy(p, &half, sizeof half);
#else
  vec_store_bf16(p, v);
#endif
}
NIFT_INLINE Vec vec_set(float x) {
  return Vec{} + x;
}
NIFT_INLINE Vec vec_max(Vec a, Vec b) {
  return a > b ? a : b;
}

// Lane i of the result is lane i + by, cyclically.
template <int by>
NIFT_INLINE Vec vec_rotate(Vec v) {
  VecInt order;
  for (int i = 0; i < kLanes; i++) order[i] = (i + by) % kLanes;
  return __builtin_shuffle(v, order);
}

// Lanes are combined pairwise: the order is fixed within an instruction set.
NIFT_INLINE float vec_sum(Vec v) {
  if constexpr (kLanes > 8) v += vec_rotate<8>(v);
  if constexpr (kLanes > 4) v += vec_rotate<4>(v);
  v += vec_rotate<2>(v);
  v += vec_rotate<1>(v);
  return v[0];
}
NIFT_INLINE float vec_max_lane(Vec v) {
  if constexpr (kLanes > 8) v = vec_max(v, vec_rotate<8>(v));
  if constexpr (kLanes > 4) v = vec_max(v, vec_rotate<4>(v));
  v = vec_max(v, vec_rotate<2>(v));
  v = vec_max(v, vec_rotate<1>(v));
  return v[0];
}

// 2^f for |f| <= 1/2, relative error below 1e-7.
NIFT_INLINE Vec vec_exp2_fraction(Vec f) {
  Vec p = vec_set(1.5403530e-4f);
  p = p * f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  return p * f + 1.0f;
}

// 2^x for x <= 127; 0 for -infinity, 0 or right where the result is subnormal, NaN for NaN. Relative error below 2e-7.
NIFT_INLINE Vec vec_exp2(Vec x) {
#if defined(__AVX512F__)
  Vec clamped = _mm512_max_ps(_mm512_set1_ps(-1000.0f), x);  // NaN in x wins
  Vec n = _mm512_roundscale_ps(clamped, 8);                  // to nearest
  return _mm512_scalef_ps(vec_exp2_fraction(clamped - n), n);
#else
  const float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  Vec low = vec_set(-126.0f);
  Vec clamped = x < low ? low : x;
  Vec shifted = clamped + kMagic;
  VecInt exponent = (VecInt)shifted - 0x4b400000;
  Vec p = vec_exp2_fraction(clamped - (shifted - kMagic));
  Vec result = (Vec)((VecInt)p + (exponent << 23));
  return x < low ? Vec{} : result;
#endif
}

// C[MR, NV vectors] (+)= A[MR, K] B[K, NV vectors]; element (i, k) of A at A[i * a_row + k * a_col].
template <int MR, int NV>
NIFT_INLINE void vec_tile(int64_t K, const float* A, int64_t a_row, int64_t a_col, const float* B, int64_t ldb, float* C,
                          int64_t ldc, bool accumulate) {
  Vec c[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) c[i][v] = accumulate ? vec_load(C + i * ldc + v * kLanes) : Vec{};
  for (int64_t k = 0; k < K; k++) {
    Vec b[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) b[v] = vec_load(B + k * ldb + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      Vec a = vec_set(A[i * a_row + k * a_col]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) c[i][v] += a * b[v];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) vec_store(C + i * ldc + v * kLanes, c[i][v]);
}

template <int MR, int NV>
static void vec_rows(int64_t M, int64_t K, const float* A, int64_t a_row, int64_t a_col, const float* B, int64_t ldb, float* C,
                     int64_t ldc, bool accumulate) {
  int64_t i = 0;
  for (; i + MR <= M; i += MR) vec_tile<MR, NV>(K, A + i * a_row, a_row, a_col, B, ldb, C + i * ldc, ldc, accumulate);
  if constexpr (MR > 1) {
    if (i < M) vec_rows<MR / 2, NV>(M - i, K, A + i * a_row, a_row, a_col, B, ldb, C + i * ldc, ldc, accumulate);
  }
}

// C[M, N] (+)= A[M, K] B[K, N] for blocks that fit the caches; N is a multiple of kLanes, B and C are row-major.
// Each element of C is one sum over k in order.
[[maybe_unused]] static void vec_matmul(int64_t M, int64_t N, int64_t K, const float* A, int64_t a_row, int64_t a_col,
                                        const float* B, int64_t ldb, float* C, int64_t ldc, bool accumulate) {
  constexpr int kWide = kTileVectors * kLanes;
  int64_t j = 0;
  for (; j + kWide <= N; j += kWide) vec_rows<6, kTileVectors>(M, K, A, a_row, a_col, B + j, ldb, C + j, ldc, accumulate);
#if defined(__AVX512F__)
  if (N - j == 3 * kLanes) {
    vec_rows<8, 3>(M, K, A, a_row, a_col, B + j, ldb, C + j, ldc, accumulate);
    return;
  }
  if (N - j >= 2 * kLanes) {
    vec_rows<8, 2>(M, K, A, a_row, a_col, B + j, ldb, C + j, ldc, accumulate);
    j += 2 * kLanes;
  }
#endif
  if (j < N) vec_rows<8, 1>(M, K, A, a_row, a_col, B + j, ldb, C + j, ldc, accumulate);
}

}  // namespace nift::NIFT_ISA
