// Memory that a thread keeps between calls: aligned, only ever grown, contents undefined. Huge pages when it is large.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nift {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  template <typename T>
  T* reserve(size_t count) {
    size_t bytes = count * sizeof(T);
    if (bytes > size_) grow(bytes);
    return static_cast<T*>(data_);
  }

 private:
  static constexpr size_t kHugePage = size_t(2) << 20;

  void grow(size_t bytes) {
    size_t alignment = bytes >= kHugePage ? kHugePage : 4096;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    std::free(data_);
    size_ = 0;
    data_ = std::aligned_alloc(alignment, bytes);
    if (!data_) throw std::bad_alloc();
    size_ = bytes;
#if defined(__linux__)
    if (alignment == kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }

  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace nift
