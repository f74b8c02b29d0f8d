#include "rms_norm.h"

namespace nift::NIFT_ISA {

static constexpr int kLanes = 16;

static inline float sum_lanes(const float* lane) {
  float eight[8], four[4];
  for (int j = 0; j < 8; j++) eight[j] = lane[j] + lane[j + 8];
  for (int j = 0; j < 4; j++) four[j] = eight[j] + eight[j + 4];
  return (four[0] + four[2]) + (four[1] + four[3]);
}

static inline float row_inverse_rms(const float* x, int64_t columns, float eps) {
  float lane[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes)
    for (int j = 0; j < kLanes; j++) lane[j] += x[c + j] * x[c + j];
  for (int j = 0; c + j < columns; j++) lane[j] += x[c + j] * x[c + j];
  return 1.0f / __builtin_sqrtf(sum_lanes(lane) / float(columns) + eps);
}

static void forward(const float* x, const float* weight, int64_t rows, int64_t columns, float eps, float* y) {
  for (int64_t r = 0; r < rows; r++, x += columns, y += columns) {
    float inverse = row_inverse_rms(x, columns, eps);
#pragma GCC ivdep
    for (int64_t c = 0; c < columns; c++) y[c] = x[c] * inverse * weight[c];
  }
}

static void grad_x(const float* dy, const float* x, const float* weight, int64_t rows, int64_t columns, float eps, float* dx) {
  for (int64_t r = 0; r < rows; r++, dy += columns, x += columns, dx += columns) {
    float inverse = row_inverse_rms(x, columns, eps);
    float lane[kLanes] = {};
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes)
      for (int j = 0; j < kLanes; j++) lane[j] += dy[c + j] * weight[c + j] * x[c + j];
    for (int j = 0; c + j < columns; j++) lane[j] += dy[c + j] * weight[c + j] * x[c + j];
    float share = sum_lanes(lane) * inverse * inverse * inverse / float(columns);
#pragma GCC ivdep
    for (int64_t i = 0; i < columns; i++) dx[i] = dy[i] * weight[i] * inverse - x[i] * share;
  }
}

static void inverse_rms(const float* x, int64_t rows, int64_t columns, float eps, float* out) {
  for (int64_t r = 0; r < rows; r++) out[r] = row_inverse_rms(x + r * columns, columns, eps);
}

static void grad_weight(const float* dy, const float* x, const float* inverse, int64_t rows, int64_t columns, int64_t begin,
                        int64_t end, float* dweight) {
  float total[128] = {};
  int64_t width = end - begin;
  for (int64_t first = 0; first < rows; first += 64) {
    int64_t last = first + 64 < rows ? first + 64 : rows;
    float block[128] = {};
    for (int64_t r = first; r < last; r++) {
      const float *a = dy + r * columns + begin, *b = x + r * columns + begin;
      float scale = inverse[r];
#pragma GCC ivdep
      for (int64_t c = 0; c < width; c++) block[c] += a[c] * b[c] * scale;
    }
    for (int64_t c = 0; c < width; c++) total[c] += block[c];
  }
  for (int64_t c = 0; c < width; c++) dweight[begin + c] = total[c];
}

extern const RmsNormKernels rms_norm = {forward, grad_x, inverse_rms, grad_weight};

}  // namespace nift::NIFT_ISA
