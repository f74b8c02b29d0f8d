#include "../softmax.h"

#include <algorithm>

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kGrain = 1 << 14;

// x, rows, columns, out
Napi::Value softmax_rows(const Napi::CallbackInfo& info) {
  return guarded(info, "softmaxRows", [](Args& args) -> Napi::Value {
    View<float> x = args.f32("x");
    int64_t rows = args.integer("rows", 1), columns = args.integer("columns", 1);
    View<float> out = args.f32("out", x.length);
    if (x.length / rows / columns < 1) args.range("out", "x is shorter than rows * columns");
    parallel_for(rows, std::max<int64_t>(1, kGrain / columns), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++)
        kernels_softmax().row(x.data + row * columns, out.data + row * columns, columns);
    });
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry softmax_entries[] = {{"softmaxRows", 4, softmax_rows}, {nullptr, 0, nullptr}};

}  // namespace nift
