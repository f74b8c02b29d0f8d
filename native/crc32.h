// CRC-32 of zip and gzip. Blocks' values combine into that of their concatenation.
#pragma once
#include <cstdint>

namespace nift {

uint32_t crc32_of(const uint8_t* data, int64_t length);
// Of two byte strings, one after the other, from their own; `length`: bytes of the second.
uint32_t crc32_combine(uint32_t first, uint32_t second, int64_t length);

}  // namespace nift
