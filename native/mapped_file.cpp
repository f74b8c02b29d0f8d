#include "mapped_file.h"

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

#ifndef _WIN32
#include <sys/mman.h>
#include <sys/stat.h>
#endif

namespace nift {

#ifdef _WIN32

std::shared_ptr<MappedFile> MappedFile::map(int, int64_t) {
  throw std::runtime_error("files are not mapped on this platform");
}
MappedFile::~MappedFile() = default;
uint8_t* MappedFile::bytes(int64_t, int64_t) const {
  throw std::runtime_error("files are not mapped on this platform");
}

#else

namespace {

[[noreturn]] void fail(const char* call) {
  throw std::runtime_error(std::string(call) + ": " + std::strerror(errno));
}

}  // namespace

std::shared_ptr<MappedFile> MappedFile::map(int descriptor, int64_t size) {
  if (size <= 0) throw std::runtime_error("an empty file cannot be mapped");
  struct stat status;
  if (fstat(descriptor, &status) != 0) fail("fstat");
  if (int64_t(status.st_size) < size) throw std::runtime_error("the file is shorter than " + std::to_string(size) + " bytes");
  // Writable and private: a stray write from JavaScript makes a private copy of one page instead of a SIGSEGV. NORESERVE, so
  // that a checkpoint larger than memory is not counted against the commit limit.
  int flags = MAP_PRIVATE;
#ifdef MAP_NORESERVE
  flags |= MAP_NORESERVE;
#endif
  void* data = mmap(nullptr, size_t(size), PROT_READ | PROT_WRITE, flags, descriptor, 0);
  if (data == MAP_FAILED) fail("mmap");
  return std::shared_ptr<MappedFile>(new MappedFile(static_cast<uint8_t*>(data), size));
}

MappedFile::~MappedFile() {
  munmap(data_, size_t(size_));
}

uint8_t* MappedFile::bytes(int64_t offset, int64_t length) const {
  if (offset < 0 || length < 0 || offset > size_ || length > size_ - offset)
    throw std::runtime_error("bytes [" + std::to_string(offset) + ", +" + std::to_string(length) +
                             ") lie outside the mapping of " + std::to_string(size_) + " bytes");
  return data_ + offset;
}

#endif

}  // namespace nift
