// The same attention with products of bf16 inputs and fp32 sums, for CPUs that have them (dpbf16ps, AMX): rounds q, k, v,
// the gradient of the output, the probabilities and their gradients. Signatures as in CausalAttentionKernels, packed memory
// and scratch in bytes.
#pragma once
#include "causal_attention.h"

namespace nift {

bool attention_bf16_available();

int64_t attention_bf16_keys_bytes(int64_t head_dim);
int64_t attention_bf16_values_bytes(int64_t head_dim);
int64_t attention_bf16_forward_bytes(int64_t head_dim);
int64_t attention_bf16_backward_bytes(int64_t queries, int64_t head_dim);

void attention_bf16_pack(const float* k, const float* v, int64_t stride, int64_t count, int64_t head_dim, float* keys_t,
                         float* values);
void attention_bf16_forward(const AttentionHead& head, int64_t first, int64_t count, const float* q, int64_t q_stride,
                            const float* keys_t, const float* values, float* out, int64_t out_stride, float* lse, float* scratch);
void attention_bf16_backward(const AttentionHead& head, const float* q, const float* out, const float* d_out, int64_t q_stride,
                             const float* k, const float* v, int64_t k_stride, const float* lse, float* dq, int64_t dq_stride,
                             float* dk, float* dv, int64_t dk_stride, float* scratch);

}  // namespace nift
