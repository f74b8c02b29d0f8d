#include "mapped_file.h"

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

#ifndef _WIN32
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
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

int64_t size_of(int descriptor) {
  struct stat status;
  if (fstat(descriptor, &status) != 0) fail("fstat");
  return int64_t(status.st_size);
}

}  // namespace

std::shared_ptr<MappedFile> MappedFile::map(int descriptor, int64_t size) {
  if (size <= 0) throw std::runtime_error("an empty file cannot be mapped");
  if (size_of(descriptor) < size) throw std::runtime_error("the file is shorter than " + std::to_string(size) + " bytes");
  int own = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (own < 0) fail("dup");
  // Writable and private: a stray write from JavaScript makes a private copy of one page instead of a SIGSEGV. NORESERVE, so
  // that a checkpoint larger than memory is not counted against the commit limit.
  int flags = MAP_PRIVATE;
#ifdef MAP_NORESERVE
  flags |= MAP_NORESERVE;
#endif
  void* data = mmap(nullptr, size_t(size), PROT_READ | PROT_WRITE, flags, own, 0);
  if (data == MAP_FAILED) {
    int code = errno;
    close(own);
    errno = code;
    fail("mmap");
  }
  return std::shared_ptr<MappedFile>(new MappedFile(own, static_cast<uint8_t*>(data), size));
}

MappedFile::~MappedFile() {
  munmap(data_, size_t(size_));
  close(descriptor_);
}

uint8_t* MappedFile::bytes(int64_t offset, int64_t length) const {
  if (offset < 0 || length < 0 || offset > size_ || length > size_ - offset)
    throw std::runtime_error("bytes [" + std::to_string(offset) + ", +" + std::to_string(length) + ") lie outside the mapping of " +
                             std::to_string(size_) + " bytes");
  if (size_of(descriptor_) < offset + length)
    throw std::runtime_error("the file has become shorter than " + std::to_string(offset + length) + " bytes since it was opened");
  return data_ + offset;
}

#endif

}  // namespace nift
