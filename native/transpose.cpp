#include "transpose.h"

#include <algorithm>
#include <cstring>

#include "thread_pool.h"

namespace nift {
namespace {

constexpr int64_t kGrain = 1 << 15;
constexpr int64_t kTile = 32;

// Offset into the input of the index-th row of out, where a row leaves out the dimensions `skip_a` and `skip_b`.
struct RowWalk {
  const StridedCopy& shape;
  int skip_a, skip_b;

  void offsets(int64_t row, int64_t& in, int64_t& out) const {
    in = out = 0;
    int64_t step = 1;
    for (int d = shape.rank - 1; d >= 0; d--) {
      if (d != skip_a && d != skip_b) {
        int64_t i = row % shape.size[d];
        row /= shape.size[d];
        in += i * shape.stride[d];
        out += i * step;
      }
      step *= shape.size[d];
    }
  }
};

// The innermost dimension of out is contiguous (or constant) in the input as well.
void copy_rows(const StridedCopy& shape, const uint32_t* in, uint32_t* out, int64_t total) {
  const int last = shape.rank - 1;
  const int64_t width = shape.size[last], stride = shape.stride[last];
  if (width == total && stride == 1) {
    parallel_for(total, kGrain, [&](int64_t begin, int64_t end) { std::memcpy(out + begin, in + begin, (end - begin) * 4); });
    return;
  }
  RowWalk walk{shape, last, last};
  parallel_for(total / width, std::max<int64_t>(1, kGrain / width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      int64_t from, to;
      walk.offsets(row, from, to);
      if (stride == 1)
        std::memcpy(out + to, in + from, width * 4);
      else
        for (int64_t j = 0; j < width; j++) out[to + j] = in[from + j * stride];
    }
  });
}

// Dimension `axis` is contiguous in the input and the last one in out: tiles keep both sides in the cache.
void copy_tiles(const StridedCopy& shape, int axis, const uint32_t* in, uint32_t* out, int64_t total) {
  const int last = shape.rank - 1;
  const int64_t rows = shape.size[axis], columns = shape.size[last], in_step = shape.stride[last];
  int64_t out_step = 1;
  for (int d = axis + 1; d <= last; d++) out_step *= shape.size[d];
  const int64_t row_tiles = (rows + kTile - 1) / kTile, matrices = total / rows / columns;
  RowWalk walk{shape, axis, last};
  parallel_for(matrices * row_tiles, std::max<int64_t>(1, kGrain / (kTile * columns)), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      int64_t from, to, row = (task % row_tiles) * kTile, row_end = std::min(rows, row + kTile);
      walk.offsets(task / row_tiles, from, to);
      for (int64_t column = 0; column < columns; column += kTile) {
        int64_t column_end = std::min(columns, column + kTile);
        for (int64_t i = row; i < row_end; i++) {
          uint32_t* to_row = out + to + i * out_step;
          const uint32_t* from_column = in + from + i;
          for (int64_t j = column; j < column_end; j++) to_row[j] = from_column[j * in_step];
        }
      }
    }
  });
}

}  // namespace

void strided_copy(const StridedCopy& shape, const uint32_t* in, uint32_t* out) {
  int64_t total = 1;
  for (int d = 0; d < shape.rank; d++) total *= shape.size[d];
  if (total == 0) return;
  const int last = shape.rank - 1;
  if (shape.stride[last] != 1)
    for (int d = last - 1; d >= 0; d--)
      if (shape.stride[d] == 1 && shape.size[d] > 1) return copy_tiles(shape, d, in, out, total);
  copy_rows(shape, in, out, total);
}

}  // namespace nift
