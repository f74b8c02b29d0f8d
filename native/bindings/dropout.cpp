#include "../dropout.h"

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kGrain = 1 << 15;
constexpr int64_t kMaxUint32 = 0xffffffff;

Napi::Value dropout(const Napi::CallbackInfo& info) {
  return guarded(info, "dropout", [](Args& args) -> Napi::Value {
    View<float> x = args.f32("x");
    uint32_t key0 = uint32_t(args.integer("key0", 0, kMaxUint32)), key1 = uint32_t(args.integer("key1", 0, kMaxUint32));
    uint32_t threshold = uint32_t(args.integer("threshold", 0, kMaxUint32));
    float scale = float(args.number("scale"));
    View<float> out = args.f32("out", x.length);
    parallel_for(x.length, kGrain, [&](int64_t begin, int64_t end) {
      kernels_dropout().apply(x.data + begin, end - begin, uint64_t(begin), key0, key1, threshold, scale, out.data + begin);
    });
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry dropout_entries[] = {{"dropout", 6, dropout}, {nullptr, 0, nullptr}};

}  // namespace nift
