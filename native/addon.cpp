// The addon's table: every exported name comes from one of the entry lists below. src/backend/addon.ts types them.
#include <napi.h>

#include "bindings/bindings.h"

namespace nift {

extern const Entry runtime_entries[];
extern const Entry convert_entries[];
extern const Entry gemm_entries[];
extern const Entry mapped_file_entries[];

namespace {

const Entry* const families[] = {
    runtime_entries,
    convert_entries,
    gemm_entries,
    mapped_file_entries,
};

Napi::Object init(Napi::Env env, Napi::Object exports) {
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
