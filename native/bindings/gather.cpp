#include "../gather.h"

#include "bindings.h"

namespace nift {
namespace {

Napi::TypedArray typed(Args& args, const char* name) {
  Napi::Value value = args.value(name);
  if (!value.IsTypedArray()) args.fail(name, "expected a typed array");
  return value.As<Napi::TypedArray>();
}

// table, dtype, outer, axis, inner, indices, out
Napi::Value gather_rows(const Napi::CallbackInfo& info) {
  return guarded(info, "gatherRows", [](Args& args) -> Napi::Value {
    Napi::TypedArray table = typed(args, "table");
    DType dtype = args.dtype("dtype");
    if (table.ElementSize() != (dtype == DType::F32 ? 4 : 2)) args.fail("dtype", "does not fit the table's array");
    int64_t outer = args.integer("outer", 1), axis = args.integer("axis", 1), inner = args.integer("inner", 1);
    View<int32_t> indices = args.i32("indices");
    Napi::TypedArray out = typed(args, "out");
    if (int64_t(table.ElementLength()) / outer / axis < inner) args.range("table", "is shorter than outer * axis * inner");
    if (out.ElementSize() != 4 || int64_t(out.ElementLength()) / outer / inner < indices.length)
      args.range("out", "is shorter than outer * indices * inner");
    const void* from = static_cast<uint8_t*>(table.ArrayBuffer().Data()) + table.ByteOffset();
    float* to = reinterpret_cast<float*>(static_cast<uint8_t*>(out.ArrayBuffer().Data()) + out.ByteOffset());
    int64_t bad = gather(from, dtype, outer, axis, inner, indices.data, indices.length, to);
    return Napi::Number::New(args.env(), double(bad));
  });
}

}  // namespace

extern const Entry gather_entries[] = {{"gatherRows", 7, gather_rows}, {nullptr, 0, nullptr}};

}  // namespace nift
