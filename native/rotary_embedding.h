// Rotation of pairs (i, i + D/2) of every head by the angle of its token.
#pragma once
#include <cstdint>

#include "isa.h"

namespace nift {

struct RotaryEmbeddingKernels {
  // tokens rows of x [heads * D]; cos, sin [tokens][D/2]. direction: +1 rotates, -1 rotates back.
  void (*rotate)(const float* x, const float* cos, const float* sin, float* out, int64_t tokens, int64_t heads, int64_t head_dim,
                 float direction);
};

}  // namespace nift

NIFT_DECLARE_KERNELS(RotaryEmbeddingKernels, rotary_embedding)
