#include "../adamw.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kChunk = 1 << 14;

// A run of at most kChunk elements of one parameter: the unit of work, and of summation.
struct Chunk {
  float *p, *g, *m, *v;
  int64_t length;
};

std::vector<View<float>> arrays(Args& args, const char* name) {
  Napi::Value value = args.value(name);
  if (!value.IsArray()) args.fail(name, "expected an array of Float32Array");
  Napi::Array array = value.As<Napi::Array>();
  std::vector<View<float>> views;
  for (uint32_t i = 0; i < array.Length(); i++) {
    Napi::Value element = array[i];
    if (!element.IsTypedArray() || element.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
      args.fail(name, "element " + std::to_string(i) + ": expected a Float32Array");
    Napi::Float32Array typed = element.As<Napi::Float32Array>();
    views.push_back({typed.Data(), int64_t(typed.ElementLength())});
  }
  return views;
}

std::vector<Chunk> split(Args& args, const std::vector<View<float>>& p, const std::vector<View<float>>& g,
                         const std::vector<View<float>>& m, const std::vector<View<float>>& v) {
  if (g.size() != p.size() || m.size() != p.size() || v.size() != p.size())
    args.range("grads, m, v", "expected " + std::to_string(p.size()) + " arrays each");
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < p.size(); i++) {
    int64_t n = p[i].length;
    if (g[i].length != n || m[i].length != n || v[i].length != n)
      args.range("grads, m, v", "array " + std::to_string(i) + ": expected " + std::to_string(n) + " elements each");
    for (int64_t begin = 0; begin < n; begin += kChunk)
      chunks.push_back({p[i].data + begin, g[i].data + begin, m[i].data + begin, v[i].data + begin, std::min(kChunk, n - begin)});
  }
  return chunks;
}

double global_norm(const std::vector<Chunk>& chunks, float grad_scale) {
  std::vector<double> partial(chunks.size());
  parallel_for(int64_t(chunks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      partial[size_t(i)] = kernels_adamw().sum_squares(chunks[size_t(i)].g, chunks[size_t(i)].length, grad_scale);
  });
  double sum = 0;
  for (double value : partial) sum += value;
  return std::sqrt(sum);
}

Napi::Value adamw(const Napi::CallbackInfo& info) {
  return guarded(info, "adamw", [](Args& args) -> Napi::Value {
    auto p = arrays(args, "params"), g = arrays(args, "grads"), m = arrays(args, "m"), v = arrays(args, "v");
    Napi::Value hyper_value = args.value("hyper");
    if (!hyper_value.IsTypedArray() || hyper_value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array ||
        hyper_value.As<Napi::TypedArray>().ElementLength() < 8)
      args.fail("hyper", "expected a Float64Array of 8 numbers");
    const double* hyper = hyper_value.As<Napi::Float64Array>().Data();
    double lr = hyper[0], beta1 = hyper[1], beta2 = hyper[2], step = hyper[5], max_norm = hyper[6];
    std::vector<Chunk> chunks = split(args, p, g, m, v);

    AdamWScalars scalars;
    scalars.grad_scale = float(hyper[7]);
    double norm = global_norm(chunks, scalars.grad_scale);
    bool finite = std::isfinite(norm);
    if (finite) {
      scalars.clip = max_norm > 0 ? float(std::min(1.0, max_norm / (norm + 1e-6))) : 1.0f;
      scalars.decay = float(1.0 - lr * hyper[4]);
      scalars.one_minus_beta1 = float(1.0 - beta1);
      scalars.beta2 = float(beta2);
      scalars.one_minus_beta2 = float(1.0 - beta2);
      scalars.step_size = float(lr / (1.0 - std::pow(beta1, step)));
      scalars.root_correction = float(std::sqrt(1.0 - std::pow(beta2, step)));
      scalars.eps = float(hyper[3]);
      parallel_for(int64_t(chunks.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const Chunk& c = chunks[size_t(i)];
          kernels_adamw().update(c.p, c.g, c.m, c.v, c.length, scalars);
        }
      });
    }
    Napi::Object result = Napi::Object::New(args.env());
    result["gradNorm"] = norm;
    result["finite"] = finite;
    return result;
  });
}

}  // namespace

extern const Entry adamw_entries[] = {{"adamw", 5, adamw}, {nullptr, 0, nullptr}};

}  // namespace nift
