// mapFile(fd, size) -> handle; mapView(handle, offset, length) -> ArrayBuffer; unmapFile(handle).
// The handle and every view own a share of the mapping: it goes when the last of them is gone.
#include "../mapped_file.h"

#include "bindings.h"

namespace nift {
namespace {

using Share = std::shared_ptr<MappedFile>;

const napi_type_tag kTag = {0x6e6966746d617066ULL, 0x8d1c4b0a5e2f7391ULL};

Share& share_of(Args& args) {
  Napi::Value value = args.value("handle");
  if (!value.IsExternal() || !value.As<Napi::External<Share>>().CheckTypeTag(&kTag))
    args.fail("handle", "expected a handle of mapFile");
  return *value.As<Napi::External<Share>>().Data();
}

Napi::Value map_file(const Napi::CallbackInfo& info) {
  return guarded(info, "mapFile", [](Args& args) -> Napi::Value {
    int descriptor = int(args.integer("fd", 0, 1 << 30));
    int64_t size = args.integer("size");
    auto share = std::make_unique<Share>(MappedFile::map(descriptor, size));
    auto handle = Napi::External<Share>::New(args.env(), share.get(), [](Napi::BasicEnv, Share* data) { delete data; });
    share.release();
    handle.TypeTag(&kTag);
    return handle;
  });
}

Napi::Value map_view(const Napi::CallbackInfo& info) {
  return guarded(info, "mapView", [](Args& args) -> Napi::Value {
    Share& share = share_of(args);
    int64_t offset = args.integer("offset"), length = args.integer("length");
    if (!share) throw std::runtime_error("the file is closed");
    uint8_t* data = share->bytes(offset, length);
    // A view of nothing needs no memory, and engines dislike several external buffers at one address.
    if (length == 0) return Napi::ArrayBuffer::New(args.env(), 0);
    auto* own = new Share(share);
    napi_value result;
    napi_status status = napi_create_external_arraybuffer(
        args.env(), data, size_t(length), [](napi_env, void*, void* hint) { delete static_cast<Share*>(hint); }, own, &result);
    if (status != napi_ok) {
      // Electron refuses external buffers before it takes the share; Node, for lengths that it cannot hold, throws, and still
      // calls the finalizer.
      if (status == napi_no_external_buffers_allowed) delete own;
      bool pending = false;
      napi_is_exception_pending(args.env(), &pending);
      napi_value ignored;
      if (pending) napi_get_and_clear_last_exception(args.env(), &ignored);
      throw std::runtime_error("this engine refuses an ArrayBuffer of " + std::to_string(length) + " bytes");
    }
    return Napi::Value(args.env(), result);
  });
}

Napi::Value unmap_file(const Napi::CallbackInfo& info) {
  return guarded(info, "unmapFile", [](Args& args) -> Napi::Value {
    share_of(args).reset();
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry mapped_file_entries[] = {
    {"mapFile", 2, map_file}, {"mapView", 3, map_view}, {"unmapFile", 1, unmap_file}, {nullptr, 0, nullptr}};

}  // namespace nift
