#include <immintrin.h>

#include "peak.h"

namespace nift::NIFT_ISA {

#if defined(__AMX_BF16__)

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static const TileConfig config = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static double multiply_add(int64_t rounds) {
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t r = 0; r < rounds; r++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return double(rounds) * 4 * 16 * 16 * 32 * 2;
}

#else

static double multiply_add(int64_t rounds) {
  constexpr int kSums = 24;
  __m512 sum[kSums];
#pragma GCC unroll 24
  for (int i = 0; i < kSums; i++) sum[i] = _mm512_setzero_ps();
  __m512i pairs = _mm512_set1_epi32(0x3f003f00);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; i++) {
      sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)pairs, (__m512bh)pairs);
      __asm__ volatile("" : "+v"(sum[i]));
    }
  }
  return double(rounds) * kSums * 32 * 2;
}

#endif

extern const PeakBf16Kernels peak_bf16 = {multiply_add};

}  // namespace nift::NIFT_ISA
