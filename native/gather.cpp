#include "gather.h"

#include <algorithm>
#include <cstring>

#include "convert.h"
#include "thread_pool.h"

namespace nift {

int64_t gather(const void* table, DType dtype, int64_t outer, int64_t axis, int64_t inner, const int32_t* index, int64_t count,
               float* out) {
  for (int64_t m = 0; m < count; m++)
    if (index[m] < 0 || index[m] >= axis) return m;
  int64_t grain = std::max<int64_t>(1, (1 << 15) / inner);
  parallel_for(outer * count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      int64_t from = (task / count * axis + index[task % count]) * inner;
      float* to = out + task * inner;
      if (dtype == DType::F32)
        std::memcpy(to, static_cast<const float*>(table) + from, inner * 4);
      else
        kernels_convert().to_float(static_cast<const uint16_t*>(table) + from, dtype, to, inner);
    }
  });
  return -1;
}

}  // namespace nift
