#include "../rms_norm.h"

#include <algorithm>
#include <vector>

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kGrainElements = 1 << 14;
constexpr int64_t kColumnBlock = 128;

int64_t row_grain(int64_t columns) {
  return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, columns));
}

struct Rows {
  int64_t rows, columns;
  float eps;
};

// The three numbers follow the arrays, so the arrays are checked against them afterwards.
Rows read_rows(Args& args, int64_t elements) {
  Rows shape{args.integer("rows"), args.integer("columns"), float(args.number("eps"))};
  if (shape.columns > 0 && shape.rows > elements / shape.columns)
    args.range("rows", std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + " exceeds " +
                           std::to_string(elements) + " elements");
  return shape;
}

void check_weight(Args& args, View<float> weight, int64_t columns) {
  if (weight.length < columns)
    args.range("weight", "expected " + std::to_string(columns) + " elements, got " + std::to_string(weight.length));
}

Napi::Value rms_norm(const Napi::CallbackInfo& info) {
  return guarded(info, "rmsNorm", [](Args& args) -> Napi::Value {
    View<float> x = args.f32("x"), weight = args.f32("weight");
    Rows shape = read_rows(args, x.length);
    check_weight(args, weight, shape.columns);
    View<float> out = args.f32("out", shape.rows * shape.columns);
    parallel_for(shape.rows, row_grain(shape.columns), [&](int64_t begin, int64_t end) {
      int64_t offset = begin * shape.columns;
      kernels_rms_norm().forward(x.data + offset, weight.data, end - begin, shape.columns, shape.eps, out.data + offset);
    });
    return args.env().Undefined();
  });
}

Napi::Value rms_norm_grad_x(const Napi::CallbackInfo& info) {
  return guarded(info, "rmsNormGradX", [](Args& args) -> Napi::Value {
    View<float> dy = args.f32("dy"), x = args.f32("x"), weight = args.f32("weight");
    Rows shape = read_rows(args, std::min(dy.length, x.length));
    check_weight(args, weight, shape.columns);
    View<float> out = args.f32("out", shape.rows * shape.columns);
    parallel_for(shape.rows, row_grain(shape.columns), [&](int64_t begin, int64_t end) {
      int64_t offset = begin * shape.columns;
      kernels_rms_norm().grad_x(dy.data + offset, x.data + offset, weight.data, end - begin, shape.columns, shape.eps,
                                out.data + offset);
    });
    return args.env().Undefined();
  });
}

Napi::Value rms_norm_grad_weight(const Napi::CallbackInfo& info) {
  return guarded(info, "rmsNormGradWeight", [](Args& args) -> Napi::Value {
    View<float> dy = args.f32("dy"), x = args.f32("x");
    Rows shape = read_rows(args, std::min(dy.length, x.length));
    View<float> out = args.f32("out", shape.columns);
    std::vector<float> inverse(size_t(shape.rows));
    parallel_for(shape.rows, row_grain(shape.columns), [&](int64_t begin, int64_t end) {
      kernels_rms_norm().inverse_rms(x.data + begin * shape.columns, end - begin, shape.columns, shape.eps,
                                     inverse.data() + begin);
    });
    parallel_for(shape.columns, kColumnBlock, [&](int64_t begin, int64_t end) {
      kernels_rms_norm().grad_weight(dy.data, x.data, inverse.data(), shape.rows, shape.columns, begin, end, out.data);
    });
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry rms_norm_entries[] = {{"rmsNorm", 6, rms_norm},
                                         {"rmsNormGradX", 7, rms_norm_grad_x},
                                         {"rmsNormGradWeight", 6, rms_norm_grad_weight},
                                         {nullptr, 0, nullptr}};

}  // namespace nift
