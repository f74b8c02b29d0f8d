#include "../reduce.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {

double reduce_start(Reduce op) {
  switch (op) {
    case Reduce::Product:
      return 1;
    case Reduce::Maximum:
      return -std::numeric_limits<double>::infinity();
    case Reduce::Minimum:
      return std::numeric_limits<double>::infinity();
    default:
      return 0;
  }
}

double reduce_combine(Reduce op, double a, double b) {
  switch (op) {
    case Reduce::Product:
      return a * b;
    case Reduce::Maximum:
      return (a > b || a != a) ? a : b;
    case Reduce::Minimum:
      return (a < b || a != a) ? a : b;
    default:
      return a + b;
  }
}

namespace {

constexpr int64_t kPiece = 1 << 14;  // elements per partial result of a long row
constexpr int64_t kColumns = 256;    // columns per task: the accumulators fit into the L1 cache

// out[o] = scale * op over m of x[o, m]
void reduce_rows(Reduce op, const float* x, int64_t rows, int64_t n, double scale, float* out) {
  int64_t pieces = (n + kPiece - 1) / kPiece;
  std::vector<double> partial(rows * pieces);
  // Short rows are bundled, long ones are cut: a task is about one piece.
  int64_t grain = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, n));
  parallel_for(rows * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      int64_t row = task / pieces, from = (task % pieces) * kPiece;
      partial[task] = kernels_reduce().row(op, x + row * n + from, std::min(kPiece, n - from));
    }
  });
  for (int64_t row = 0; row < rows; row++) {
    double result = partial[row * pieces];
    for (int64_t piece = 1; piece < pieces; piece++) result = reduce_combine(op, result, partial[row * pieces + piece]);
    out[row] = float(scale == 1 ? result : result * scale);
  }
}

// out[o, i] = scale * op over m of x[o, m, i]
void reduce_columns(Reduce op, const float* x, int64_t outer, int64_t n, int64_t inner, double scale, float* out) {
  int64_t groups = (inner + kColumns - 1) / kColumns;
  int64_t grain = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, n * std::min(inner, kColumns)));
  parallel_for(outer * groups, grain, [&](int64_t begin, int64_t end) {
    double accumulator[kColumns];
    for (int64_t task = begin; task < end; task++) {
      int64_t o = task / groups, from = (task % groups) * kColumns, width = std::min(kColumns, inner - from);
      std::fill(accumulator, accumulator + width, reduce_start(op));
      const float* in = x + o * n * inner + from;
      for (int64_t m = 0; m < n; m++) kernels_reduce().column(op, in + m * inner, accumulator, width);
      for (int64_t j = 0; j < width; j++) out[o * inner + from + j] = float(scale == 1 ? accumulator[j] : accumulator[j] * scale);
    }
  });
}

// op, x, outer, n, inner, scale, out: reduces the middle dimension of x [outer, n, inner].
Napi::Value reduce_op(const Napi::CallbackInfo& info) {
  return guarded(info, "reduceOp", [](Args& args) -> Napi::Value {
    Reduce op = Reduce(args.integer("op", 0, int(Reduce::Count) - 1));
    View<float> x = args.f32("x");
    int64_t outer = args.integer("outer", 1), n = args.integer("n", 1), inner = args.integer("inner", 1);
    double scale = args.number("scale");
    View<float> out = args.f32("out", outer * inner);
    if (x.length / outer / n / inner < 1) args.range("out", "x is shorter than outer * n * inner");
    if (inner == 1)
      reduce_rows(op, x.data, outer, n, scale, out.data);
    else
      reduce_columns(op, x.data, outer, n, inner, scale, out.data);
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry reduce_entries[] = {{"reduceOp", 7, reduce_op}, {nullptr, 0, nullptr}};

}  // namespace nift
