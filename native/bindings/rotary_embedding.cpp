#include "../rotary_embedding.h"

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

Napi::Value rotary_embedding(const Napi::CallbackInfo& info) {
  return guarded(info, "rotaryEmbedding", [](Args& args) -> Napi::Value {
    View<float> x = args.f32("x"), cos = args.f32("cos"), sin = args.f32("sin"), out = args.f32("out", x.length);
    int64_t tokens = args.integer("tokens"), heads = args.integer("numHeads", 1, 1 << 20),
            D = args.integer("headDim", 2, 1 << 20);
    float direction = args.boolean("inverse") ? -1.0f : 1.0f;
    if (D % 2) args.range("headDim", "must be even");
    if (x.length < tokens * heads * D) args.range("x", "is too short");
    if (cos.length < tokens * (D / 2) || sin.length < tokens * (D / 2))
      args.range("cos", "and sin need tokens * headDim / 2 values");
    int64_t grain = std::max<int64_t>(1, 16384 / (heads * D));
    parallel_for(tokens, grain, [&](int64_t begin, int64_t end) {
      kernels_rotary_embedding().rotate(x.data + begin * heads * D, cos.data + begin * (D / 2), sin.data + begin * (D / 2),
                                        out.data + begin * heads * D, end - begin, heads, D, direction);
    });
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry rotary_embedding_entries[] = {{"rotaryEmbedding", 8, rotary_embedding}, {nullptr, 0, nullptr}};

}  // namespace nift
