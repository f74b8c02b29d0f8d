// The N-API side: argument checks that name the op and the argument, and one guard around every entry point.
#pragma once
#include <napi.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "../dtype.h"

namespace nift {

struct Entry {
  const char* name;
  int arity;
  Napi::Value (*function)(const Napi::CallbackInfo&);
};

// One view of a TypedArray argument; valid during the call only.
template <typename T>
struct View {
  T* data;
  int64_t length;
};

// Reads the arguments of one call in order. Every failure is a JS TypeError/RangeError: "op: argument 3 (weight): ...".
class Args {
 public:
  Args(const Napi::CallbackInfo& info, const char* op) : info_(info), op_(op) {}

  Napi::Env env() const { return info_.Env(); }
  bool done() const { return next_ >= info_.Length(); }

  int64_t integer(const char* name, int64_t low = 0, int64_t high = (int64_t(1) << 53) - 1) {
    Napi::Value value = take(name);
    if (!value.IsNumber()) fail(name, "expected an integer");
    double number = value.As<Napi::Number>().DoubleValue();
    if (!(number >= double(low) && number <= double(high)) || number != std::floor(number))
      range(name,
            "expected an integer in [" + std::to_string(low) + ", " + std::to_string(high) + "], got " + std::to_string(number));
    return int64_t(number);
  }
  double number(const char* name) {
    Napi::Value value = take(name);
    if (!value.IsNumber()) fail(name, "expected a number");
    return value.As<Napi::Number>().DoubleValue();
  }
  bool boolean(const char* name) {
    Napi::Value value = take(name);
    if (!value.IsBoolean()) fail(name, "expected a boolean");
    return value.As<Napi::Boolean>().Value();
  }
  std::string string(const char* name) {
    Napi::Value value = take(name);
    if (!value.IsString()) fail(name, "expected a string");
    return value.As<Napi::String>().Utf8Value();
  }
  // min_length < 0: any length.
  View<float> f32(const char* name, int64_t min_length = -1) {
    return typed<float>(name, napi_float32_array, "Float32Array", min_length);
  }
  View<int32_t> i32(const char* name, int64_t min_length = -1) {
    return typed<int32_t>(name, napi_int32_array, "Int32Array", min_length);
  }
  View<uint16_t> u16(const char* name, int64_t min_length = -1) {
    return typed<uint16_t>(name, napi_uint16_array, "Uint16Array", min_length);
  }
  View<uint8_t> u8(const char* name, int64_t min_length = -1) {
    return typed<uint8_t>(name, napi_uint8_array, "Uint8Array", min_length);
  }
  // null or undefined gives {nullptr, 0}.
  View<float> optional_f32(const char* name, int64_t min_length = -1) {
    if (next_ >= info_.Length() || info_[next_].IsNull() || info_[next_].IsUndefined()) {
      next_++;
      return {nullptr, 0};
    }
    return f32(name, min_length);
  }
  // Weights: a Float32Array, or a Uint16Array of `dtype` bits.
  struct Weight {
    const void* data;
    DType dtype;
    int64_t length;
  };
  Weight weight(const char* name, DType half, int64_t min_length = -1) {
    Napi::Value value = peek(name);
    if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_uint16_array) {
      if (half == DType::F32) fail(name, "a Uint16Array needs dtype 1 (bfloat16) or 2 (float16)");
      View<uint16_t> view = u16(name, min_length);
      return {view.data, half, view.length};
    }
    View<float> view = f32(name, min_length);
    return {view.data, DType::F32, view.length};
  }
  DType dtype(const char* name) { return DType(integer(name, 0, 2)); }
  Napi::Value value(const char* name) { return take(name); }

  [[noreturn]] void fail(const char* name, const std::string& what) { throw Napi::TypeError::New(env(), where(name) + what); }
  [[noreturn]] void range(const char* name, const std::string& what) { throw Napi::RangeError::New(env(), where(name) + what); }

 private:
  std::string where(const char* name) const {
    return std::string(op_) + ": argument " + std::to_string(next_) + " (" + name + "): ";
  }
  Napi::Value peek(const char* name) {
    if (next_ >= info_.Length()) {
      next_++;
      fail(name, "is missing");
    }
    return info_[next_];
  }
  Napi::Value take(const char* name) {
    Napi::Value value = peek(name);
    next_++;
    return value;
  }
  template <typename T>
  View<T> typed(const char* name, napi_typedarray_type type, const char* type_name, int64_t min_length) {
    Napi::Value value = take(name);
    if (!value.IsTypedArray()) fail(name, std::string("expected a ") + type_name);
    napi_typedarray_type actual;
    size_t length = 0;
    void* data = nullptr;
    napi_get_typedarray_info(env(), value, &actual, &length, &data, nullptr, nullptr);
    if (actual != type) fail(name, std::string("expected a ") + type_name);
    if (min_length > 0 && int64_t(length) < min_length)
      range(name, "expected at least " + std::to_string(min_length) + " elements, got " + std::to_string(length) +
                      " (detached or too short)");
    return {static_cast<T*>(data), int64_t(length)};
  }

  const Napi::CallbackInfo& info_;
  const char* op_;
  size_t next_ = 0;
};

// Turns C++ exceptions into JS errors; nothing may leave an entry point.
template <typename F>
Napi::Value guarded(const Napi::CallbackInfo& info, const char* op, F body) {
  try {
    Args args(info, op);
    return body(args);
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw Napi::Error::New(info.Env(), std::string(op) + ": out of memory");
  } catch (const std::exception& error) {
    throw Napi::Error::New(info.Env(), std::string(op) + ": " + error.what());
  } catch (...) {
    throw Napi::Error::New(info.Env(), std::string(op) + ": unknown native error");
  }
}

}  // namespace nift
