#include "softmax.h"

#include "simd_math.h"

namespace nift::NIFT_ISA {

static constexpr int kLanes = 32;
// Float32 lanes are folded into a float64 sum this often: the sum is good to about 1e-7 at any length.
static constexpr int64_t kFold = 1024;

static float row_maximum(const float* x, int64_t n) {
  float lanes[kLanes];
  for (int j = 0; j < kLanes; j++) lanes[j] = -__builtin_inff();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; j++) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  float largest = -__builtin_inff();
  for (int j = 0; j < kLanes; j++) largest = lanes[j] > largest ? lanes[j] : largest;
  for (; i < n; i++) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

// Writes exp(x - shift) to `out` and returns the sum.
static double exp_sum(const float* x, float shift, float* out, int64_t n) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kFold) {
    int64_t end = begin + kFold < n ? begin + kFold : n, i = begin;
    float lanes[kLanes] = {0};
    for (; i + kLanes <= end; i += kLanes)
      for (int j = 0; j < kLanes; j++) {
        float e = fast_exp(x[i + j] - shift);
        out[i + j] = e;
        lanes[j] += e;
      }
    for (int j = 0; i < end; i++, j++) {
      float e = fast_exp(x[i] - shift);
      out[i] = e;
      lanes[j] += e;
    }
    for (int j = 0; j < kLanes; j++) total += double(lanes[j]);
  }
  return total;
}

// A NaN in the row reaches the sum, and with it every element.
static void row(const float* x, float* out, int64_t n) {
  float scale = float(1.0 / exp_sum(x, row_maximum(x, n), out, n));
  for (int64_t i = 0; i < n; i++) out[i] *= scale;
}

extern const SoftmaxKernels softmax = {row};

}  // namespace nift::NIFT_ISA
