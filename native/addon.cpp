// The addon's table: every exported name comes from one of the entry lists below. src/backend/addon.ts types them.
#include <napi.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "bindings/bindings.h"

namespace nift {

extern const Entry runtime_entries[];
extern const Entry convert_entries[];
extern const Entry rotary_embedding_entries[];
extern const Entry linear_cross_entropy_entries[];
extern const Entry cached_attention_entries[];
extern const Entry causal_attention_entries[];
extern const Entry gather_entries[];
extern const Entry transpose_entries[];
extern const Entry softmax_entries[];
extern const Entry reduce_entries[];
extern const Entry elementwise_entries[];
extern const Entry adamw_entries[];
extern const Entry dropout_entries[];
extern const Entry embedding_entries[];
extern const Entry swiglu_entries[];
extern const Entry rms_norm_entries[];
extern const Entry simd_math_entries[];
extern const Entry gemm_entries[];
extern const Entry linear_entries[];
extern const Entry peak_entries[];
extern const Entry mapped_file_entries[];
extern const Entry merge_adapter_entries[];
extern const Entry quantize_entries[];

namespace {

const Entry* const families[] = {
    runtime_entries,          convert_entries,
    rotary_embedding_entries, linear_cross_entropy_entries,
    cached_attention_entries, causal_attention_entries,
    gather_entries,           transpose_entries,
    softmax_entries,          reduce_entries,
    elementwise_entries,      adamw_entries,
    dropout_entries,          embedding_entries,
    swiglu_entries,           rms_norm_entries,
    simd_math_entries,        gemm_entries,
    linear_entries,           peak_entries,
    mapped_file_entries,      merge_adapter_entries,
    quantize_entries,
};

// glibc raises its threshold for mapped blocks with every large block that is freed, after which tensors of changing sizes
// fragment the heap (measured: 145 MB over 300 MB of tensors) and freed memory stays with the process. A fixed one does not.
void keep_large_blocks_mapped() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  keep_large_blocks_mapped();
  for (const Entry* family : families)
    for (const Entry* entry = family; entry->name; entry++)
      exports.Set(entry->name, Napi::Function::New(env, entry->function, entry->name));
  return exports;
}

}  // namespace
}  // namespace nift

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  return nift::init(env, exports);
}
NODE_API_MODULE(nift, initialize)
