#include "scratch.h"

#include <cstdlib>
#include <new>

namespace nift {
namespace {

struct Buffers {
  void* data[int(ScratchSlot::Count)] = {};
  int64_t bytes[int(ScratchSlot::Count)] = {};
  ~Buffers() {
    for (void* buffer : data) std::free(buffer);
  }
};

thread_local Buffers buffers;

}  // namespace

void* scratch_bytes(ScratchSlot slot, int64_t bytes) {
  int i = int(slot);
  if (buffers.bytes[i] >= bytes) return buffers.data[i];
  int64_t rounded = (bytes + 4095) / 4096 * 4096;
  std::free(buffers.data[i]);
  buffers.bytes[i] = 0;
  buffers.data[i] = std::aligned_alloc(4096, size_t(rounded));
  if (!buffers.data[i]) throw std::bad_alloc();
  buffers.bytes[i] = rounded;
  return buffers.data[i];
}

}  // namespace nift
