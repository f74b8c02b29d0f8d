#include "../transpose.h"

#include <algorithm>
#include <cstring>

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

// A view of a Float32Array or an Int32Array: the copies below move 4-byte elements of any meaning.
View<uint32_t> words(Args& args, const char* name) {
  Napi::Value value = args.value(name);
  if (!value.IsTypedArray()) args.fail(name, "expected a Float32Array or Int32Array");
  Napi::TypedArray array = value.As<Napi::TypedArray>();
  napi_typedarray_type type = array.TypedArrayType();
  if (type != napi_float32_array && type != napi_int32_array) args.fail(name, "expected a Float32Array or Int32Array");
  uint8_t* data = static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
  return {reinterpret_cast<uint32_t*>(data), int64_t(array.ElementLength())};
}

// x, inShape, dimensions, begin, sizes, out: dimension d of out runs over sizes[d] elements of dimension dimensions[d] of
// x, from begin[dimensions[d]] on.
Napi::Value strided_copy_op(const Napi::CallbackInfo& info) {
  return guarded(info, "stridedCopy", [](Args& args) -> Napi::Value {
    View<uint32_t> x = words(args, "x");
    View<int32_t> in_shape = args.i32("inShape");
    const int64_t rank = in_shape.length;
    View<int32_t> dimensions = args.i32("dimensions", rank), begin = args.i32("begin", rank), sizes = args.i32("sizes", rank);
    View<uint32_t> out = words(args, "out");
    if (rank < 1 || rank > kMaxCopyRank) args.range("inShape", "expected 1 to 8 dimensions");
    int64_t strides[kMaxCopyRank], in_total = 1, offset = 0;
    for (int64_t d = rank - 1; d >= 0; d--) {
      strides[d] = in_total;
      in_total *= in_shape.data[d];
      offset += begin.data[d] * strides[d];
    }
    StridedCopy shape;
    shape.rank = int(rank);
    int64_t total = 1;
    for (int64_t d = 0; d < rank; d++) {
      int64_t from = dimensions.data[d];
      if (from < 0 || from >= rank) args.range("dimensions", "is not a permutation");
      if (sizes.data[d] < 1 || begin.data[from] < 0 || int64_t(begin.data[from]) + sizes.data[d] > in_shape.data[from])
        args.range("sizes", "the copy leaves the input");
      shape.size[d] = sizes.data[d];
      shape.stride[d] = strides[from];
      total *= sizes.data[d];
    }
    if (x.length < in_total || out.length < total) args.range("out", "an array is shorter than its shape");
    strided_copy(shape, x.data + offset, out.data);
    return args.env().Undefined();
  });
}

// x, rows, width, out, outOffset, outStride: row r of x goes to out[outOffset + r * outStride ...].
Napi::Value copy_rows_op(const Napi::CallbackInfo& info) {
  return guarded(info, "copyRows", [](Args& args) -> Napi::Value {
    View<uint32_t> x = words(args, "x");
    int64_t rows = args.integer("rows", 1), width = args.integer("width", 1);
    View<uint32_t> out = words(args, "out");
    int64_t offset = args.integer("outOffset"), stride = args.integer("outStride", 1);
    if (x.length / rows < width) args.range("x", "is shorter than rows * width");
    if (out.length < offset + (rows - 1) * stride + width) args.range("out", "is too short");
    parallel_for(rows, std::max<int64_t>(1, (1 << 15) / width), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) std::memcpy(out.data + offset + row * stride, x.data + row * width, width * 4);
    });
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry transpose_entries[] = {
    {"stridedCopy", 6, strided_copy_op}, {"copyRows", 6, copy_rows_op}, {nullptr, 0, nullptr}};

}  // namespace nift
