// A read-only file mapping that several owners share. The file itself is never changed: pages are private.
#pragma once
#include <cstdint>
#include <memory>

namespace nift {

class MappedFile {
 public:
  // Maps the first `size` bytes of an open descriptor, which the caller keeps and may close.
  // Throws std::runtime_error when the platform or the file refuses, or when the file is shorter than `size`.
  static std::shared_ptr<MappedFile> map(int descriptor, int64_t size);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // The bytes [offset, offset + length). Throws when they lie outside the mapping. Should the file have become shorter since it
  // was mapped, touching the lost pages is a SIGBUS: the caller, who has the descriptor, looks first.
  uint8_t* bytes(int64_t offset, int64_t length) const;
  int64_t size() const { return size_; }

 private:
  MappedFile(uint8_t* data, int64_t size) : data_(data), size_(size) {}

  uint8_t* data_;
  int64_t size_;
};

}  // namespace nift
