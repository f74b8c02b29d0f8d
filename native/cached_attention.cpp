// Bound: reading the cached keys and values once for all query heads that share them.
#include "cached_attention.h"

#include "vec.h"

namespace nift::NIFT_ISA {

constexpr float kLog2E = 1.44269504088896340736f;

static float dot(const float* a, const float* b, int64_t n) {
  Vec even{}, odd{};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    even += vec_load(a + i) * vec_load(b + i);
    odd += vec_load(a + i + kLanes) * vec_load(b + i + kLanes);
  }
  for (; i + kLanes <= n; i += kLanes) even += vec_load(a + i) * vec_load(b + i);
  float rest = 0;
  for (; i < n; i++) rest += a[i] * b[i];
  return vec_sum(even + odd) + rest;
}

static void add_scaled(const float* x, float factor, float* out, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) vec_store(out + i, vec_load(out + i) + factor * vec_load(x + i));
  for (; i < n; i++) out[i] += factor * x[i];
}

static float exp2_of(float x) {
  return vec_exp2(vec_set(x))[0];
}

// scores[g][j] = factor * q[g] . keys[j]. From kLanes / 4 heads on, a lane for each head beats a sum over lanes for each score.
static void score(const float* q, int64_t group, int64_t head_dim, float factor, const float* keys, int64_t count, float* scores,
                  float* scratch) {
  if (group < kLanes / 4) {
    for (int64_t j = 0; j < count; j++)
      for (int64_t g = 0; g < group; g++)
        scores[g * kDecodeChunk + j] = factor * dot(q + g * head_dim, keys + j * head_dim, head_dim);
    return;
  }
  int64_t lanes = (group + kLanes - 1) / kLanes * kLanes;
  float *turned = scratch, *products = turned + head_dim * lanes;
  for (int64_t d = 0; d < head_dim; d++)
    for (int64_t g = 0; g < lanes; g++) turned[d * lanes + g] = g < group ? factor * q[g * head_dim + d] : 0;
  vec_matmul(count, lanes, head_dim, keys, head_dim, 1, turned, lanes, products, lanes, false);
  for (int64_t g = 0; g < group; g++)
    for (int64_t j = 0; j < count; j++) scores[g * kDecodeChunk + j] = products[j * lanes + g];
}

static void decode(const float* q, int64_t group, int64_t head_dim, float scale, const float* keys, const float* values,
                   int64_t count, float* part, float* scratch) {
  score(q, group, head_dim, scale * kLog2E, keys, count, scratch, scratch + group * kDecodeChunk);
  int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  for (int64_t g = 0; g < group; g++) {
    float *scores = scratch + g * kDecodeChunk, *to = part + g * (head_dim + 2);
    float maximum = scores[0];
    for (int64_t j = 1; j < count; j++) maximum = scores[j] > maximum ? scores[j] : maximum;
    for (int64_t j = count; j < padded; j++) scores[j] = -__builtin_inff();
    Vec total{};
    for (int64_t j = 0; j < padded; j += kLanes) {
      Vec p = vec_exp2(vec_load(scores + j) - maximum);
      vec_store(scores + j, p);
      total += p;
    }
    to[0] = maximum;
    to[1] = vec_sum(total);
    for (int64_t d = 0; d < head_dim; d++) to[2 + d] = 0;
  }
  if (head_dim % kLanes == 0) {
    vec_matmul(group, head_dim, count, scratch, kDecodeChunk, 1, values, head_dim, part + 2, head_dim + 2, false);
    return;
  }
  for (int64_t j = 0; j < count; j++)
    for (int64_t g = 0; g < group; g++)
      add_scaled(values + j * head_dim, scratch[g * kDecodeChunk + j], part + g * (head_dim + 2) + 2, head_dim);
}

static void combine(const float* parts, int64_t count, int64_t group, int64_t head_dim, float* out) {
  int64_t size = decode_part_size(group, head_dim);
  for (int64_t g = 0; g < group; g++) {
    const float* first = parts + g * (head_dim + 2);
    float maximum = first[0], sum = 0;
    for (int64_t c = 1; c < count; c++) maximum = first[c * size] > maximum ? first[c * size] : maximum;
    for (int64_t d = 0; d < head_dim; d++) out[g * head_dim + d] = 0;
    for (int64_t c = 0; c < count; c++) {
      float weight = exp2_of(first[c * size] - maximum);
      sum += weight * first[c * size + 1];
      add_scaled(first + c * size + 2, weight, out + g * head_dim, head_dim);
    }
    for (int64_t d = 0; d < head_dim; d++) out[g * head_dim + d] /= sum;
  }
}

extern const CachedAttentionKernels cached_attention = {decode, combine};

}  // namespace nift::NIFT_ISA
