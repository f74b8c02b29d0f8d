// Working memory that a thread keeps between calls: aligned, only ever grown, contents undefined.
#pragma once
#include <cstdint>

namespace nift {

// One buffer per slot and thread; a request invalidates what the same slot held before.
enum class ScratchSlot : int { Task, Packed, Logits, Gradients, Rows, Count };

void* scratch_bytes(ScratchSlot slot, int64_t bytes);

inline float* scratch_floats(ScratchSlot slot, int64_t count) {
  return static_cast<float*>(scratch_bytes(slot, count * int64_t(sizeof(float))));
}

}  // namespace nift
