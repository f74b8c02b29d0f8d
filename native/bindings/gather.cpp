#include "../gather.h"

#include "bindings.h"

namespace nift {
namespace {

// table, dtype, outer, axis, inner, indices, out
Napi::Value gather_rows(const Napi::CallbackInfo& info) {
  return guarded(info, "gatherRows", [](Args& args) -> Napi::Value {
    Args::Weight table = {nullptr, DType::F32, 0};
    Napi::Value value = args.value("table");
    DType dtype = args.dtype("dtype");
    if (!value.IsTypedArray()) args.fail("table", "expected a typed array");
    Napi::TypedArray array = value.As<Napi::TypedArray>();
    bool halves = array.TypedArrayType() == napi_uint16_array;
    if (halves != (dtype != DType::F32) || array.ElementSize() != (halves ? 2 : 4))
      args.fail("dtype", "does not fit the table's array");
    table = {static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset(), dtype, int64_t(array.ElementLength())};
    int64_t outer = args.integer("outer", 1), axis = args.integer("axis", 1), inner = args.integer("inner", 1);
    View<int32_t> indices = args.i32("indices");
    Napi::TypedArray out = args.value("out").As<Napi::TypedArray>();
    if (table.length / outer / axis < inner) args.range("table", "is shorter than outer * axis * inner");
    if (out.ElementSize() != 4 || int64_t(out.ElementLength()) / outer / inner < indices.length)
      args.range("out", "is shorter than outer * indices * inner");
    float* to = reinterpret_cast<float*>(static_cast<uint8_t*>(out.ArrayBuffer().Data()) + out.ByteOffset());
    int64_t bad = gather(table.data, table.dtype, outer, axis, inner, indices.data, indices.length, to);
    return Napi::Number::New(args.env(), double(bad));
  });
}

}  // namespace

extern const Entry gather_entries[] = {{"gatherRows", 7, gather_rows}, {nullptr, 0, nullptr}};

}  // namespace nift
