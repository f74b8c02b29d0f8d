// A row of logits is read twice (maximum; exponentials) and its gradient written once, without the division by the sum:
// that is left to the row factor of the product that follows. A row of 32,000 (128 KB) stays in L2 in between.
// Bound: the exponentials, about 1 cycle an element in AVX-512, and writing the chunk.
#include "linear_cross_entropy.h"

#include "vec.h"

namespace nift::NIFT_ISA {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr int kUnroll = 4;

static float row_maximum(const float* z, int64_t n) {
  Vec best[kUnroll];
  for (int u = 0; u < kUnroll; u++) best[u] = vec_set(-__builtin_inff());
  int64_t j = 0;
  for (; j + kUnroll * kLanes <= n; j += kUnroll * kLanes)
    for (int u = 0; u < kUnroll; u++) best[u] = vec_max(vec_load(z + j + u * kLanes), best[u]);
  float highest = vec_max_lane(vec_max(vec_max(best[0], best[1]), vec_max(best[2], best[3])));
  for (; j < n; j++) highest = z[j] > highest ? z[j] : highest;
  return highest == -__builtin_inff() ? 0.0f : highest;
}

// A partial vector is filled up with -infinity, whose exponential is 0.
NIFT_INLINE Vec load_part(const float* z, int64_t count) {
  float lane[kLanes];
  for (int i = 0; i < kLanes; i++) lane[i] = i < count ? z[i] : -__builtin_inff();
  return vec_load(lane);
}

struct StoreNothing {
  NIFT_INLINE_MEMBER void operator()(int64_t, Vec) const {}
  NIFT_INLINE_MEMBER void part(int64_t, Vec, int64_t) const {}
};
struct StoreFloat {
  float* out;
  NIFT_INLINE_MEMBER void operator()(int64_t j, Vec e) const { vec_store(out + j, e); }
  NIFT_INLINE_MEMBER void part(int64_t j, Vec e, int64_t count) const {
    for (int64_t i = 0; i < count; i++) out[j + i] = e[i];
  }
};
struct StoreBfloat16 {
  uint16_t* out;
  NIFT_INLINE_MEMBER void operator()(int64_t j, Vec e) const {
    float lane[kLanes];
    vec_store(lane, e);
    for (int i = 0; i < kLanes; i++) out[j + i] = float_to_bf16(lane[i]);
  }
  NIFT_INLINE_MEMBER void part(int64_t j, Vec e, int64_t count) const {
    for (int64_t i = 0; i < count; i++) out[j + i] = float_to_bf16(e[i]);
  }
};

// Sum of exp(z - maximum); each exponential goes to `store`.
template <typename Store>
static float exponentials(const float* z, int64_t n, float maximum, const Store& store) {
  Vec total[kUnroll] = {};
  int64_t j = 0;
  for (; j + kUnroll * kLanes <= n; j += kUnroll * kLanes) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; u++) {
      Vec e = vec_exp2((vec_load(z + j + u * kLanes) - maximum) * kLog2E);
      total[u] += e;
      store(j + u * kLanes, e);
    }
  }
  for (; j + kLanes <= n; j += kLanes) {
    Vec e = vec_exp2((vec_load(z + j) - maximum) * kLog2E);
    total[0] += e;
    store(j, e);
  }
  if (j < n) {
    Vec e = vec_exp2((load_part(z + j, n - j) - maximum) * kLog2E);
    total[0] += e;
    store.part(j, e, n - j);
  }
  return vec_sum((total[0] + total[1]) + (total[2] + total[3]));
}

static float log_of(float sum) {
  return float(__builtin_log(double(sum)));
}

static float loss(const float* z, int64_t n, int64_t label) {
  float maximum = row_maximum(z, n);
  return log_of(exponentials(z, n, maximum, StoreNothing{})) - (z[label] - maximum);
}

static SoftmaxRow gradient(const float* z, int64_t n, int64_t label, DType dtype, void* out) {
  float maximum = row_maximum(z, n), target = z[label] - maximum, sum;
  float at_label = vec_exp2(vec_set(target * kLog2E))[0];
  if (dtype == DType::F32) {
    float* to = static_cast<float*>(out);
    sum = exponentials(z, n, maximum, StoreFloat{to});
    to[label] = at_label - sum;
  } else if (dtype == DType::BF16) {
    uint16_t* to = static_cast<uint16_t*>(out);
    sum = exponentials(z, n, maximum, StoreBfloat16{to});
    to[label] = float_to_bf16(at_label - sum);
  } else {
    // fp16 could not hold the undivided value at the label of a large vocabulary.
    uint16_t* to = static_cast<uint16_t*>(out);
    sum = exponentials(z, n, maximum, StoreNothing{});
    for (int64_t j = 0; j < n; j++) to[j] = float_to_f16(vec_exp2(vec_set((z[j] - maximum) * kLog2E))[0] / sum);
    to[label] = float_to_f16((at_label - sum) / sum);
    return {log_of(sum) - target, 1.0f};
  }
  return {log_of(sum) - target, 1.0f / sum};
}

static void scale(const float* in, float factor, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = in[i] * factor;
}

extern const LinearCrossEntropyKernels linear_cross_entropy = {loss, gradient, scale};

}  // namespace nift::NIFT_ISA
