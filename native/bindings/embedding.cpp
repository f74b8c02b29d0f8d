#include "../embedding.h"

#include <algorithm>
#include <cstring>

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kGrainElements = 1 << 15;
constexpr int64_t kColumnBlock = 64;

// Position of the first id outside [0, vocab), or -1.
int64_t first_bad_id(View<int32_t> ids, int64_t vocab) {
  for (int64_t i = 0; i < ids.length; i++)
    if (ids.data[i] < 0 || ids.data[i] >= vocab) return i;
  return -1;
}

int64_t elements(Args& args, const char* name, int64_t rows, int64_t columns) {
  int64_t product = 0;
  if (__builtin_mul_overflow(rows, columns, &product)) args.range(name, "is too large");
  return product;
}

Napi::Value embedding(const Napi::CallbackInfo& info) {
  return guarded(info, "embedding", [&](Args& args) -> Napi::Value {
    View<int32_t> ids = args.i32("ids");
    DType half = info.Length() > 2 && info[2].IsNumber() ? DType(info[2].As<Napi::Number>().Int32Value()) : DType::F32;
    Args::Weight table = args.weight("table", half);
    args.dtype("dtype");
    int64_t vocab = args.integer("vocab"), columns = args.integer("columns");
    if (table.length < elements(args, "columns", vocab, columns)) args.range("table", "is smaller than vocab x columns");
    View<float> out = args.f32("out", elements(args, "columns", ids.length, columns));
    int64_t bad = first_bad_id(ids, vocab);
    if (bad < 0)
      parallel_for(ids.length, std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, columns)),
                   [&](int64_t begin, int64_t end) {
                     kernels_embedding().forward(ids.data + begin, end - begin, table.data, table.dtype, columns,
                                                 out.data + begin * columns);
                   });
    return Napi::Number::New(args.env(), double(bad));
  });
}

Napi::Value embedding_grad(const Napi::CallbackInfo& info) {
  return guarded(info, "embeddingGrad", [](Args& args) -> Napi::Value {
    View<int32_t> ids = args.i32("ids");
    View<float> dy = args.f32("dy");
    int64_t vocab = args.integer("vocab"), columns = args.integer("columns");
    if (dy.length < elements(args, "columns", ids.length, columns)) args.range("dy", "is smaller than ids x columns");
    View<float> out = args.f32("out", elements(args, "columns", vocab, columns));
    int64_t bad = first_bad_id(ids, vocab);
    if (bad >= 0) args.range("ids", "id " + std::to_string(ids.data[bad]) + " is outside the table");
    parallel_for(vocab * columns, 1 << 18,
                 [&](int64_t begin, int64_t end) { std::memset(out.data + begin, 0, size_t(end - begin) * sizeof(float)); });
    parallel_for(columns, kColumnBlock, [&](int64_t begin, int64_t end) {
      kernels_embedding().scatter_add(ids.data, ids.length, dy.data, columns, begin, end, out.data);
    });
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry embedding_entries[] = {
    {"embedding", 6, embedding}, {"embeddingGrad", 5, embedding_grad}, {nullptr, 0, nullptr}};

}  // namespace nift
