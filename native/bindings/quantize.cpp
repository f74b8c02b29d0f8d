#include "../quantize.h"

#include <atomic>

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kGrain = 1 << 11;  // blocks

Napi::Value quantize_q8_0(const Napi::CallbackInfo& info) {
  return guarded(info, "quantizeQ8", [](Args& args) -> Napi::Value {
    View<float> in = args.f32("values");
    int64_t blocks = in.length / kQ8Block;
    View<uint8_t> out = args.u8("out", blocks * kQ8BlockBytes);
    std::atomic<bool> finite{true};
    parallel_for(blocks, kGrain, [&](int64_t begin, int64_t end) {
      if (!kernels_quantize().q8_0(in.data + begin * kQ8Block, out.data + begin * kQ8BlockBytes, end - begin)) finite = false;
    });
    return Napi::Boolean::New(args.env(), finite);
  });
}

}  // namespace

extern const Entry quantize_entries[] = {{"quantizeQ8", 2, quantize_q8_0}, {nullptr, 0, nullptr}};

}  // namespace nift
