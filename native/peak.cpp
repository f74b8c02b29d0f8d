#include "peak.h"

namespace nift::NIFT_ISA {

#if defined(__AVX512F__)
constexpr int W = 16, kSums = 24;
#elif defined(__AVX2__)
constexpr int W = 8, kSums = 12;
#else
constexpr int W = 4, kSums = 12;
#endif
typedef float Vec __attribute__((vector_size(W * 4)));

// Keeps a value in a register and hides from the compiler that the loop has a closed form.
#if defined(__AVX512F__)
#define NIFT_KEEP(x) __asm__ volatile("" : "+v"(x))
#elif defined(__x86_64__)
#define NIFT_KEEP(x) __asm__ volatile("" : "+x"(x))
#else
#define NIFT_KEEP(x) __asm__ volatile("" : "+w"(x))
#endif

static double multiply_add(int64_t rounds) {
  Vec sum[kSums];
#pragma GCC unroll 24
  for (int i = 0; i < kSums; i++) sum[i] = Vec{};
  Vec a = 0.5f - Vec{}, b = 0.25f - Vec{};
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; i++) {
      sum[i] += a * b;
      NIFT_KEEP(sum[i]);
    }
    NIFT_KEEP(a);
  }
  return double(rounds) * kSums * W * 2;
}

static float read(const float* data, int64_t n) {
  Vec sum[4] = {};
  for (int64_t i = 0; i + 4 * W <= n; i += 4 * W)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) sum[v] += *reinterpret_cast<const Vec __attribute__((aligned(4)))*>(data + i + v * W);
  Vec all = sum[0] + sum[1] + sum[2] + sum[3];
  return all[0];
}

extern const PeakKernels peak = {multiply_add, read};

}  // namespace nift::NIFT_ISA
