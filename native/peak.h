// What this machine can do at best: loops of multiply-adds in registers, and of memory reads. For benchmarks.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

struct PeakKernels {
  double (*multiply_add)(int64_t rounds);  // returns the floating point operations done
  float (*read)(const float* data, int64_t n);
};

struct PeakBf16Kernels {
  double (*multiply_add)(int64_t rounds);
};

#if defined(__x86_64__)
namespace avx512bf16 {
extern const PeakBf16Kernels peak_bf16;
}
namespace amx {
extern const PeakBf16Kernels peak_bf16;
}
#endif

}  // namespace nift

NIFT_DECLARE_KERNELS(PeakKernels, peak)
