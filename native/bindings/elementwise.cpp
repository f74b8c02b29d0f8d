#include "../elementwise.h"

#include <algorithm>

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kGrain = 1 << 15;
constexpr int kMaxRank = 8;

// The shape of a broadcast, outermost dimension first: how many, and which operand moves along (bit 0: a, bit 1: b).
struct Broadcast {
  int rank;
  int64_t size[kMaxRank], step_a[kMaxRank], step_b[kMaxRank];
  int64_t total, length_a, length_b;
};

Broadcast read_broadcast(Args& args) {
  View<int32_t> shape = args.i32("shape");
  View<int32_t> moves = args.i32("moves", shape.length);
  Broadcast result;
  if (shape.length < 1 || shape.length > kMaxRank) args.range("shape", "expected 1 to 8 dimensions");
  result.rank = int(shape.length);
  int64_t a = 1, b = 1, total = 1;
  for (int d = result.rank - 1; d >= 0; d--) {
    if (shape.data[d] < 1) args.range("shape", "expected positive sizes");
    bool moves_a = moves.data[d] & 1, moves_b = moves.data[d] & 2;
    result.size[d] = shape.data[d];
    result.step_a[d] = moves_a ? a : 0;
    result.step_b[d] = moves_b ? b : 0;
    if (moves_a) a *= shape.data[d];
    if (moves_b) b *= shape.data[d];
    total *= shape.data[d];
  }
  result.total = total;
  result.length_a = a;
  result.length_b = b;
  return result;
}

// Calls body(offset_a, offset_b, offset_out, count) for runs along the innermost dimension.
template <typename F>
void for_runs(const Broadcast& shape, const F& body) {
  const int last = shape.rank - 1;
  const int64_t width = shape.size[last];
  parallel_for(shape.total, kGrain, [&](int64_t begin, int64_t end) {
    int64_t index[kMaxRank], rest = begin;
    for (int d = last; d >= 0; d--) {
      index[d] = rest % shape.size[d];
      rest /= shape.size[d];
    }
    while (begin < end) {
      int64_t a = 0, b = 0;
      for (int d = 0; d <= last; d++) {
        a += index[d] * shape.step_a[d];
        b += index[d] * shape.step_b[d];
      }
      int64_t count = std::min(width - index[last], end - begin);
      body(a, b, begin, count);
      begin += count;
      index[last] = 0;
      for (int d = last - 1; d >= 0 && ++index[d] == shape.size[d]; d--) index[d] = 0;
    }
  });
}

// op, a, b, shape, moves, out
Napi::Value binary_op(const Napi::CallbackInfo& info) {
  return guarded(info, "binaryOp", [](Args& args) -> Napi::Value {
    Binary op = Binary(args.integer("op", 0, int(Binary::Count) - 1));
    View<float> a = args.f32("a"), b = args.f32("b");
    Broadcast shape = read_broadcast(args);
    View<float> out = args.f32("out", shape.total);
    if (a.length < shape.length_a || b.length < shape.length_b) args.range("out", "an operand is shorter than its shape");
    int step_a = shape.step_a[shape.rank - 1] != 0, step_b = shape.step_b[shape.rank - 1] != 0;
    for_runs(shape, [&](int64_t at_a, int64_t at_b, int64_t at, int64_t count) {
      kernels_elementwise().binary(op, a.data + at_a, step_a, b.data + at_b, step_b, out.data + at, count);
    });
    return args.env().Undefined();
  });
}

// op, a, b, shape, moves, out (0 or 1 per element)
Napi::Value compare_op(const Napi::CallbackInfo& info) {
  return guarded(info, "compareOp", [](Args& args) -> Napi::Value {
    Compare op = Compare(args.integer("op", 0, int(Compare::Count) - 1));
    View<float> a = args.f32("a"), b = args.f32("b");
    Broadcast shape = read_broadcast(args);
    View<uint8_t> out = args.u8("out", shape.total);
    if (a.length < shape.length_a || b.length < shape.length_b) args.range("out", "an operand is shorter than its shape");
    int step_a = shape.step_a[shape.rank - 1] != 0, step_b = shape.step_b[shape.rank - 1] != 0;
    for_runs(shape, [&](int64_t at_a, int64_t at_b, int64_t at, int64_t count) {
      kernels_elementwise().compare(op, a.data + at_a, step_a, b.data + at_b, step_b, out.data + at, count);
    });
    return args.env().Undefined();
  });
}

// op, x, parameter, out
Napi::Value unary_op(const Napi::CallbackInfo& info) {
  return guarded(info, "unaryOp", [](Args& args) -> Napi::Value {
    Unary op = Unary(args.integer("op", 0, int(Unary::Count) - 1));
    View<float> x = args.f32("x");
    float parameter = float(args.number("parameter"));
    View<float> out = args.f32("out", x.length);
    parallel_for(x.length, kGrain, [&](int64_t begin, int64_t end) {
      kernels_elementwise().unary(op, x.data + begin, parameter, out.data + begin, end - begin);
    });
    return args.env().Undefined();
  });
}

// condition (bytes), a, b, out: all equally long
Napi::Value select_op(const Napi::CallbackInfo& info) {
  return guarded(info, "selectOp", [](Args& args) -> Napi::Value {
    View<uint8_t> condition = args.u8("condition");
    View<float> a = args.f32("a", condition.length), b = args.f32("b", condition.length);
    View<float> out = args.f32("out", condition.length);
    parallel_for(condition.length, kGrain, [&](int64_t begin, int64_t end) {
      kernels_elementwise().select(condition.data + begin, a.data + begin, b.data + begin, out.data + begin, end - begin);
    });
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry elementwise_entries[] = {
    {"binaryOp", 6, binary_op}, {"compareOp", 6, compare_op}, {"unaryOp", 4, unary_op},
    {"selectOp", 4, select_op}, {nullptr, 0, nullptr},
};

}  // namespace nift
