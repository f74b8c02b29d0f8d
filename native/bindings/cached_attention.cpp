#include "../cached_attention.h"

#include <cstring>
#include <vector>

#include "../causal_attention.h"
#include "../scratch.h"
#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

struct Call {
  const float *q, *k, *v;
  float *keys, *values, *out;  // cache [slot, kv head, capacity, D]
  View<int32_t> slots, lengths, counts;
  int64_t heads, kv_heads, head_dim, capacity, window;
  float scale;

  int64_t group() const { return heads / kv_heads; }
  int64_t q_stride() const { return heads * head_dim; }
  int64_t k_stride() const { return kv_heads * head_dim; }
  int64_t cache_at(int64_t sequence, int64_t kv_head) const {
    return (slots.data[sequence] * kv_heads + kv_head) * capacity * head_dim;
  }
};

void append(const Call& c, const std::vector<int64_t>& first) {
  size_t row = sizeof(float) * c.head_dim;
  for (int64_t b = 0; b < c.counts.length; b++)
    for (int64_t t = 0; t < c.counts.data[b]; t++)
      for (int64_t h = 0; h < c.kv_heads; h++) {
        int64_t from = (first[b] + t) * c.k_stride() + h * c.head_dim;
        int64_t to = c.cache_at(b, h) + (c.lengths.data[b] + t) * c.head_dim;
        std::memcpy(c.keys + to, c.k + from, row);
        std::memcpy(c.values + to, c.v + from, row);
      }
}

// A sequence with one new token. Parts of its keys run in parallel.
struct Part {
  int64_t sequence, kv_head, begin, end, index;
};

void decode_all(const Call& c, const std::vector<int64_t>& first) {
  std::vector<Part> parts;
  std::vector<int64_t> heads_first;  // index into parts where each (sequence, kv head) begins
  for (int64_t b = 0; b < c.counts.length; b++) {
    if (c.counts.data[b] != 1) continue;
    int64_t end = c.lengths.data[b] + 1, begin = c.window > 0 ? std::max<int64_t>(0, end - c.window) : 0;
    for (int64_t h = 0; h < c.kv_heads; h++) {
      heads_first.push_back(int64_t(parts.size()));
      for (int64_t at = begin; at < end; at += kDecodeChunk)
        parts.push_back({b, h, at, std::min(end, at + kDecodeChunk), int64_t(parts.size())});
    }
  }
  if (parts.empty()) return;
  int64_t group = c.group(), D = c.head_dim, size = decode_part_size(group, D);
  float* results = scratch_floats(ScratchSlot::Packed, int64_t(parts.size()) * size);
  const CachedAttentionKernels& kernels = kernels_cached_attention();
  parallel_for(int64_t(parts.size()), 1, [&](int64_t from, int64_t to) {
    float* scratch = scratch_floats(ScratchSlot::Task, decode_scratch(group, D));
    for (int64_t i = from; i < to; i++) {
      const Part& p = parts[i];
      int64_t at = c.cache_at(p.sequence, p.kv_head) + p.begin * D;
      kernels.decode(c.q + first[p.sequence] * c.q_stride() + p.kv_head * group * D, group, D, c.scale, c.keys + at,
                     c.values + at, p.end - p.begin, results + i * size, scratch);
    }
  });
  for (size_t i = 0; i < heads_first.size(); i++) {
    int64_t from = heads_first[i], to = i + 1 < heads_first.size() ? heads_first[i + 1] : int64_t(parts.size());
    const Part& p = parts[from];
    kernels.combine(results + from * size, to - from, group, D, c.out + first[p.sequence] * c.q_stride() + p.kv_head * group * D);
  }
}

// A sequence with several new tokens (a prompt): the blocked kernel over packed cache blocks.
void prefill(const Call& c, int64_t sequence, int64_t first) {
  const CausalAttentionKernels& kernels = kernels_causal_attention();
  int64_t D = c.head_dim, queries = c.counts.data[sequence], keys = c.lengths.data[sequence] + queries;
  int64_t blocks = (keys + kAttentionBlock - 1) / kAttentionBlock;
  int64_t key_size = attention_packed_keys(D), value_size = attention_packed_values(D);
  float* packed_keys = scratch_floats(ScratchSlot::Packed, blocks * c.kv_heads * (key_size + value_size));
  float* packed_values = packed_keys + blocks * c.kv_heads * key_size;
  parallel_for(blocks * c.kv_heads, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
      int64_t key0 = i % blocks * kAttentionBlock, at = c.cache_at(sequence, i / blocks) + key0 * D;
      kernels.pack(c.keys + at, c.values + at, D, std::min(kAttentionBlock, keys - key0), D, packed_keys + i * key_size,
                   packed_values + i * value_size);
    }
  });
  int64_t query_blocks = (queries + kAttentionBlock - 1) / kAttentionBlock;
  parallel_for(query_blocks * c.heads, 1, [&](int64_t from, int64_t to) {
    float* scratch = scratch_floats(ScratchSlot::Task, attention_forward_scratch(D));
    for (int64_t i = from; i < to; i++) {
      int64_t head = i % c.heads, row = (query_blocks - 1 - i / c.heads) * kAttentionBlock;
      int64_t packed = head / c.group() * blocks, offset = first * c.q_stride() + head * D;
      kernels.forward({queries, keys, D, c.window, c.scale}, row, std::min(kAttentionBlock, queries - row), c.q + offset,
                      c.q_stride(), packed_keys + packed * key_size, packed_values + packed * value_size, c.out + offset,
                      c.q_stride(), nullptr, scratch);
    }
  });
}

Napi::Value cached_attention(const Napi::CallbackInfo& info) {
  return guarded(info, "cachedAttention", [](Args& args) -> Napi::Value {
    View<float> q = args.f32("q"), k = args.f32("k"), v = args.f32("v", k.length);
    View<float> keys = args.f32("keys"), values = args.f32("values", keys.length);
    Call c{};
    c.slots = args.i32("slots");
    c.lengths = args.i32("lengths", c.slots.length);
    c.counts = args.i32("queryLengths", c.slots.length);
    View<float> out = args.f32("out", q.length);
    c.heads = args.integer("numHeads", 1, 1 << 20);
    c.kv_heads = args.integer("numKvHeads", 1, 1 << 20);
    c.head_dim = args.integer("headDim", 1, 1 << 20);
    c.capacity = args.integer("capacity", 1, int64_t(1) << 31);
    c.window = args.integer("window", 0, int64_t(1) << 40);
    c.scale = float(args.number("scale"));
    if (c.heads % c.kv_heads) args.range("numKvHeads", "must divide numHeads");
    if (c.lengths.length != c.slots.length || c.counts.length != c.slots.length)
      args.range("queryLengths", "needs one per sequence");
    std::vector<int64_t> first;
    int64_t tokens = 0;
    for (int64_t b = 0; b < c.slots.length; b++) {
      int64_t slot = c.slots.data[b], length = c.lengths.data[b], count = c.counts.data[b];
      if (slot < 0 || (slot + 1) * c.kv_heads * c.capacity * c.head_dim > keys.length)
        args.range("slots", "lie outside the cache");
      if (length < 0 || count < 0 || length + count > c.capacity) args.range("queryLengths", "do not fit the cache's capacity");
      first.push_back(tokens);
      tokens += count;
    }
    if (q.length < tokens * c.q_stride() || k.length < tokens * c.k_stride()) args.range("q", "or k is too short");
    c.q = q.data, c.k = k.data, c.v = v.data, c.keys = keys.data, c.values = values.data, c.out = out.data;
    append(c, first);
    decode_all(c, first);
    for (int64_t b = 0; b < c.slots.length; b++)
      if (c.counts.data[b] > 1) prefill(c, b, first[b]);
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry cached_attention_entries[] = {{"cachedAttention", 15, cached_attention}, {nullptr, 0, nullptr}};

}  // namespace nift
