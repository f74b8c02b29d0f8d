#include "reduce.h"

namespace nift::NIFT_ISA {

#define INLINE static inline __attribute__((always_inline))

// Independent partial results: enough to keep the adders busy, the same number for every instruction set.
static constexpr int kLanes = 32;

INLINE double maximum(double x, double y) {
  return (x > y || x != x) ? x : y;
}
INLINE double minimum(double x, double y) {
  return (x < y || x != x) ? x : y;
}
INLINE float maximum(float x, float y) {
  return (x > y || x != x) ? x : y;
}
INLINE float minimum(float x, float y) {
  return (x < y || x != x) ? x : y;
}

// `lane` combines the accumulator y with the element x in type T.
#define ROW(T, start, combined)                          \
  do {                                                   \
    T lanes[kLanes];                                     \
    for (int j = 0; j < kLanes; j++) lanes[j] = (start); \
    int64_t i = 0;                                       \
    for (; i + kLanes <= n; i += kLanes)                 \
      for (int j = 0; j < kLanes; j++) {                 \
        T x = T(in[i + j]), y = lanes[j];                \
        lanes[j] = (combined);                           \
      }                                                  \
    for (int j = 0; i < n; i++, j++) {                   \
      T x = T(in[i]), y = lanes[j];                      \
      lanes[j] = (combined);                             \
    }                                                    \
    for (int half = kLanes / 2; half > 0; half /= 2)     \
      for (int j = 0; j < half; j++) {                   \
        T x = lanes[j + half], y = lanes[j];             \
        lanes[j] = (combined);                           \
      }                                                  \
    return double(lanes[0]);                             \
  } while (0)

static double row(Reduce op, const float* in, int64_t n) {
  const float infinity = __builtin_inff();
  switch (op) {
    case Reduce::Sum:
      ROW(double, 0.0, y + x);
    case Reduce::Product:
      ROW(double, 1.0, y* x);
    case Reduce::Maximum:
      ROW(float, -infinity, maximum(y, x));
    case Reduce::Minimum:
      ROW(float, infinity, minimum(y, x));
    case Reduce::Count:
      break;
  }
  return 0;
}

#define COLUMN(combined)                                   \
  do {                                                     \
    _Pragma("GCC ivdep") for (int64_t j = 0; j < n; j++) { \
      double x = double(in[j]), y = accumulator[j];        \
      accumulator[j] = (combined);                         \
    }                                                      \
  } while (0)

static void column(Reduce op, const float* in, double* accumulator, int64_t n) {
  switch (op) {
    case Reduce::Sum:
      COLUMN(y + x);
      break;
    case Reduce::Product:
      COLUMN(y * x);
      break;
    case Reduce::Maximum:
      COLUMN(maximum(y, x));
      break;
    case Reduce::Minimum:
      COLUMN(minimum(y, x));
      break;
    case Reduce::Count:
      break;
  }
}

extern const ReduceKernels reduce = {row, column};

}  // namespace nift::NIFT_ISA
