#include "../peak.h"

#include <atomic>

#include "../runtime.h"
#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

double (*multiply_add(DType compute))(int64_t) {
#if defined(__x86_64__)
  if (compute == DType::BF16 && active_isa() == Isa::Amx) return amx::peak_bf16.multiply_add;
  if (compute == DType::BF16 && active_isa() == Isa::Avx512Bf16) return avx512bf16::peak_bf16.multiply_add;
#endif
  (void)compute;
  return kernels_peak().multiply_add;
}

Napi::Value peak_multiply_add(const Napi::CallbackInfo& info) {
  return guarded(info, "peakMultiplyAdd", [](Args& args) -> Napi::Value {
    DType compute = args.dtype("compute");
    int64_t rounds = args.integer("rounds");
    double each = 0;
    parallel_for(num_threads(), 1, [&](int64_t begin, int64_t) {
      double done = multiply_add(compute)(rounds);
      if (begin == 0) each = done;
    });
    return Napi::Number::New(args.env(), each * num_threads());
  });
}

Napi::Value peak_read(const Napi::CallbackInfo& info) {
  return guarded(info, "peakRead", [](Args& args) -> Napi::Value {
    View<float> data = args.f32("data");
    std::atomic<int> nonzero{0};
    parallel_for(data.length, 1 << 18, [&](int64_t begin, int64_t end) {
      if (kernels_peak().read(data.data + begin, end - begin) != 0) nonzero.fetch_add(1, std::memory_order_relaxed);
    });
    return Napi::Number::New(args.env(), nonzero.load());
  });
}

}  // namespace

extern const Entry peak_entries[] = {
    {"peakMultiplyAdd", 2, peak_multiply_add}, {"peakRead", 1, peak_read}, {nullptr, 0, nullptr}};

}  // namespace nift
