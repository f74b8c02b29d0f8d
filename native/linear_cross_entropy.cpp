// Bound: the exponentials, about 1 cycle an element in AVX-512. A tile of logits is in L2 when it is read.
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
  return highest;
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
  NIFT_INLINE_MEMBER void operator()(int64_t j, Vec e) const { vec_store_bf16_fast(out + j, e); }
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

static float advance(const float* z, int64_t n, SoftmaxState* state, DType dtype, void* out) {
  float highest = row_maximum(z, n), factor = 1;
  if (highest > state->maximum) {
    factor = vec_exp2(vec_set((state->maximum - highest) * kLog2E))[0];
    state->maximum = highest;
  }
  float shift = state->maximum == -__builtin_inff() ? 0.0f : state->maximum, sum;
  if (!out)
    sum = exponentials(z, n, shift, StoreNothing{});
  else if (dtype == DType::BF16)
    sum = exponentials(z, n, shift, StoreBfloat16{static_cast<uint16_t*>(out)});
  else
    sum = exponentials(z, n, shift, StoreFloat{static_cast<float*>(out)});
  state->sum = state->sum * factor + sum;
  return factor;
}

static void scale(float factor, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] *= factor;
}

static void gradient(float* z, int64_t n, int64_t label) {
  float target = z[label];
  SoftmaxState state = {-__builtin_inff(), 0};
  advance(z, n, &state, DType::F32, z);
  scale(1.0f / state.sum, z, n);
  z[label] = (vec_exp2(vec_set((target - state.maximum) * kLog2E))[0] - state.sum) / state.sum;
}

static void add(const void* in, DType dtype, float factor, float* out, int64_t n) {
  const float* floats = static_cast<const float*>(in);
  const uint16_t* halves = static_cast<const uint16_t*>(in);
  if (dtype == DType::F32)
    for (int64_t i = 0; i < n; i++) out[i] += factor * floats[i];
  else if (dtype == DType::BF16)
    for (int64_t i = 0; i < n; i++) out[i] += factor * bf16_to_float(halves[i]);
  else
    for (int64_t i = 0; i < n; i++) out[i] += factor * f16_to_float(halves[i]);
}

extern const LinearCrossEntropyKernels linear_cross_entropy = {advance, gradient, scale, add};

}  // namespace nift::NIFT_ISA
