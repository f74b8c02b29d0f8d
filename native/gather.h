// Rows of a table by index; 16-bit tables are expanded on the way.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace nift {

// out[o, m, :] = table[o, index[m], :]. table [outer, axis, inner] in any storage type, out float32 (or 4-byte words).
// Returns the position of the first index outside [0, axis), or -1 when all is copied; nothing is copied otherwise.
int64_t gather(const void* table, DType dtype, int64_t outer, int64_t axis, int64_t inner, const int32_t* index, int64_t count,
               float* out);

}  // namespace nift
