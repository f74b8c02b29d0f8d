#include "../causal_attention.h"

#include <vector>

#include "../attention_bf16.h"
#include "../scratch.h"
#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

struct Shape {
  int64_t heads, kv_heads, head_dim, window;
  float scale;
  DType compute;
  int64_t group() const { return heads / kv_heads; }
  int64_t q_stride() const { return heads * head_dim; }
  int64_t k_stride() const { return kv_heads * head_dim; }
};

Shape read_shape(Args& args) {
  Shape shape;
  shape.heads = args.integer("numHeads", 1, 1 << 20);
  shape.kv_heads = args.integer("numKvHeads", 1, 1 << 20);
  shape.head_dim = args.integer("headDim", 1, 1 << 20);
  shape.window = args.integer("window", 0, int64_t(1) << 40);
  shape.scale = float(args.number("scale"));
  shape.compute = args.dtype("compute");
  if (shape.heads % shape.kv_heads) args.range("numKvHeads", "must divide numHeads");
  return shape;
}

// fp32 products, or bf16 ones where the CPU has them and the caller asks for bf16. Sizes in floats.
struct Path {
  decltype(CausalAttentionKernels::pack) pack;
  decltype(CausalAttentionKernels::forward) forward;
  decltype(CausalAttentionKernels::backward) backward;
  int64_t key_size, value_size, forward_scratch;
  bool half;

  int64_t backward_scratch(int64_t queries, int64_t head_dim) const {
    return half ? attention_bf16_backward_bytes(queries, head_dim) / 4 : attention_backward_scratch(queries, head_dim);
  }
};

Path choose_path(const Shape& shape) {
  int64_t D = shape.head_dim;
  if (shape.compute == DType::BF16 && attention_bf16_available())
    return {attention_bf16_pack,
            attention_bf16_forward,
            attention_bf16_backward,
            attention_bf16_keys_bytes(D) / 4,
            attention_bf16_values_bytes(D) / 4,
            attention_bf16_forward_bytes(D) / 4,
            true};
  const CausalAttentionKernels& kernels = kernels_causal_attention();
  return {kernels.pack,
          kernels.forward,
          kernels.backward,
          attention_packed_keys(D),
          attention_packed_values(D),
          attention_forward_scratch(D),
          false};
}

void check_sequences(Args& args, View<int32_t> cu, int64_t tokens) {
  bool good = cu.length >= 1 && cu.data[0] == 0 && cu.data[cu.length - 1] == tokens;
  for (int64_t b = 1; good && b < cu.length; b++) good = cu.data[b] >= cu.data[b - 1];
  if (!good) args.range("cuSeqlens", "must rise from 0 to the number of tokens");
}

// A block of queries, or of keys, of one head.
struct Task {
  int64_t begin, length, head, first, packed;
};

// Blocks of every (sequence, head); `packed` counts the blocks of the sequences before, times heads.
std::vector<Task> block_tasks(View<int32_t> cu, int64_t heads) {
  std::vector<Task> tasks;
  int64_t blocks_before = 0;
  for (int64_t b = 0; b + 1 < cu.length; b++) {
    int64_t begin = cu.data[b], length = cu.data[b + 1] - begin, blocks = (length + kAttentionBlock - 1) / kAttentionBlock;
    for (int64_t head = 0; head < heads; head++)
      for (int64_t block = blocks - 1; block >= 0; block--)  // the long ones first
        tasks.push_back({begin, length, head, block * kAttentionBlock, blocks_before});
    blocks_before += blocks;
  }
  return tasks;
}

int64_t count_blocks(View<int32_t> cu) {
  int64_t blocks = 0;
  for (int64_t b = 0; b + 1 < cu.length; b++) blocks += (cu.data[b + 1] - cu.data[b] + kAttentionBlock - 1) / kAttentionBlock;
  return blocks;
}

void forward_all(const Shape& s, View<int32_t> cu, int64_t tokens, const float* q, const float* k, const float* v, float* out,
                 float* lse) {
  const Path kernels = choose_path(s);
  int64_t D = s.head_dim, key_size = kernels.key_size, value_size = kernels.value_size;
  int64_t blocks = count_blocks(cu);
  float* packed_keys = scratch_floats(ScratchSlot::Packed, blocks * s.kv_heads * (key_size + value_size));
  float* packed_values = packed_keys + blocks * s.kv_heads * key_size;
  // Blocks of one sequence and head lie one after the other.
  auto at = [&](const Task& task, int64_t kv_head) {
    int64_t sequence_blocks = (task.length + kAttentionBlock - 1) / kAttentionBlock;
    return task.packed * s.kv_heads + kv_head * sequence_blocks;
  };
  std::vector<Task> packs = block_tasks(cu, s.kv_heads);
  parallel_for(int64_t(packs.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const Task& task = packs[t];
      int64_t offset = (task.begin + task.first) * s.k_stride() + task.head * D;
      int64_t block = at(task, task.head) + task.first / kAttentionBlock;
      kernels.pack(k + offset, v + offset, s.k_stride(), std::min(kAttentionBlock, task.length - task.first), D,
                   packed_keys + block * key_size, packed_values + block * value_size);
    }
  });
  std::vector<Task> tasks = block_tasks(cu, s.heads);
  parallel_for(int64_t(tasks.size()), 1, [&](int64_t begin, int64_t end) {
    float* scratch = scratch_floats(ScratchSlot::Task, kernels.forward_scratch);
    for (int64_t t = begin; t < end; t++) {
      const Task& task = tasks[t];
      int64_t offset = task.begin * s.q_stride() + task.head * D, block = at(task, task.head / s.group());
      kernels.forward({task.length, task.length, D, s.window, s.scale}, task.first,
                      std::min(kAttentionBlock, task.length - task.first), q + offset, s.q_stride(),
                      packed_keys + block * key_size, packed_values + block * value_size, out + offset, s.q_stride(),
                      lse + task.head * tokens + task.begin, scratch);
    }
  });
}

struct Gradients {
  float *dq, *dk, *dv;
};

void backward_all(const Shape& s, View<int32_t> cu, int64_t tokens, const float* q, const float* k, const float* v,
                  const float* out, const float* lse, const float* d_out, Gradients to) {
  const Path kernels = choose_path(s);
  int64_t D = s.head_dim, group = s.group();
  // Query heads that share a key head leave their parts side by side; they are added in order below.
  bool direct = group == 1;
  int64_t part_stride = s.q_stride();
  float* dk_parts = direct ? to.dk : scratch_floats(ScratchSlot::Packed, 2 * tokens * part_stride);
  float* dv_parts = direct ? to.dv : dk_parts + tokens * part_stride;
  int64_t sequences = cu.length - 1;
  parallel_for(sequences * s.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      int64_t head = t % s.heads, first = cu.data[t / s.heads], length = cu.data[t / s.heads + 1] - first;
      if (length == 0) continue;
      float* scratch = scratch_floats(ScratchSlot::Task, kernels.backward_scratch(length, D));
      int64_t at_q = first * s.q_stride() + head * D, at_k = first * s.k_stride() + head / group * D;
      kernels.backward({length, length, D, s.window, s.scale}, q + at_q, out + at_q, d_out + at_q, s.q_stride(), k + at_k,
                       v + at_k, s.k_stride(), lse + head * tokens + first, to.dq + at_q, s.q_stride(), dk_parts + at_q,
                       dv_parts + at_q, part_stride, scratch);
    }
  });
  if (direct) return;
  auto add_parts = kernels_causal_attention().add_parts;
  parallel_for(tokens, 16, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++) {
      add_parts(dk_parts + n * part_stride, s.kv_heads, group, D, to.dk + n * s.k_stride());
      add_parts(dv_parts + n * part_stride, s.kv_heads, group, D, to.dv + n * s.k_stride());
    }
  });
}

Napi::Value causal_attention(const Napi::CallbackInfo& info) {
  return guarded(info, "causalAttention", [](Args& args) -> Napi::Value {
    View<float> q = args.f32("q"), k = args.f32("k"), v = args.f32("v");
    View<int32_t> cu = args.i32("cuSeqlens", 1);
    View<float> out = args.f32("out", q.length), lse = args.f32("lse");
    Shape shape = read_shape(args);
    int64_t tokens = q.length / shape.q_stride();
    check_sequences(args, cu, tokens);
    if (k.length < tokens * shape.k_stride() || v.length < tokens * shape.k_stride()) args.range("k", "is too short");
    if (lse.length < tokens * shape.heads) args.range("lse", "is too short");
    forward_all(shape, cu, tokens, q.data, k.data, v.data, out.data, lse.data);
    return args.env().Undefined();
  });
}

Napi::Value causal_attention_grad(const Napi::CallbackInfo& info) {
  return guarded(info, "causalAttentionGrad", [](Args& args) -> Napi::Value {
    View<float> q = args.f32("q"), k = args.f32("k"), v = args.f32("v", k.length);
    View<int32_t> cu = args.i32("cuSeqlens", 1);
    View<float> out = args.f32("out", q.length), lse = args.f32("lse"), d_out = args.f32("dOut", q.length);
    View<float> dq = args.f32("dq", q.length), dk = args.f32("dk", k.length), dv = args.f32("dv", k.length);
    Shape shape = read_shape(args);
    int64_t tokens = q.length / shape.q_stride();
    check_sequences(args, cu, tokens);
    if (k.length < tokens * shape.k_stride()) args.range("k", "is too short");
    if (lse.length < tokens * shape.heads) args.range("lse", "is too short");
    backward_all(shape, cu, tokens, q.data, k.data, v.data, out.data, lse.data, d_out.data, {dq.data, dk.data, dv.data});
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry causal_attention_entries[] = {
    {"causalAttention", 12, causal_attention}, {"causalAttentionGrad", 16, causal_attention_grad}, {nullptr, 0, nullptr}};

}  // namespace nift
