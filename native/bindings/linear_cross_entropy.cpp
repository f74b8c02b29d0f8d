#include "../linear_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../block_gemm.h"
#include "../convert.h"
#include "../gemm.h"
#include "../scratch.h"
#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kRowGrain = 4;
constexpr int64_t kLogitBytes = int64_t(32) << 20;  // logits held at a time for the gradient of W

struct Problem {
  View<float> x;
  Args::Weight weight;
  View<int32_t> labels;
  int64_t channels, vocabulary, chunk;
  DType compute;
  std::vector<int64_t> rows;  // those that have a target

  Matrix head() const { return {weight.data, weight.dtype, channels, false}; }            // [V, C]
  Matrix head_transposed() const { return {weight.data, weight.dtype, channels, true}; }  // [C, V]
};

// x, weight, weightDtype, labels, C, V, compute, chunkSize
Problem read_problem(Args& args) {
  Problem p;
  p.x = args.f32("x");
  Napi::Value weight = args.value("weight");
  p.weight.dtype = args.dtype("weightDtype");
  if (!weight.IsTypedArray()) args.fail("weight", "expected a Float32Array or Uint16Array");
  Napi::TypedArray typed = weight.As<Napi::TypedArray>();
  if (typed.TypedArrayType() != (p.weight.dtype == DType::F32 ? napi_float32_array : napi_uint16_array))
    args.fail("weight", "does not hold values of weightDtype");
  p.weight.data = static_cast<const uint8_t*>(typed.ArrayBuffer().Data()) + typed.ByteOffset();
  p.weight.length = int64_t(typed.ElementLength());
  p.labels = args.i32("labels");
  p.channels = args.integer("C", 1, 1 << 24);
  p.vocabulary = args.integer("V", 1, int64_t(1) << 31);
  p.compute = args.dtype("compute");
  p.chunk = args.integer("chunkSize", 1, int64_t(1) << 31);
  if (p.weight.length < p.vocabulary * p.channels) args.range("weight", "is shorter than V * C");
  if (p.x.length < p.labels.length * p.channels) args.range("x", "is shorter than N * C");
  for (int64_t n = 0; n < p.labels.length; n++) {
    if (p.labels.data[n] == -100) continue;
    if (p.labels.data[n] < 0 || p.labels.data[n] >= p.vocabulary) args.range("labels", "hold a target outside [0, V)");
    p.rows.push_back(n);
  }
  return p;
}

// Hidden states of rows [begin, begin + count) of those with a target, and their logits.
float* chunk_logits(const Problem& p, int64_t begin, int64_t count, float* x_rows) {
  for (int64_t i = 0; i < count; i++)
    std::memcpy(x_rows + i * p.channels, p.x.data + p.rows[begin + i] * p.channels, sizeof(float) * p.channels);
  float* logits = scratch_floats(ScratchSlot::Logits, p.chunk * p.vocabulary);
  gemm(count, p.vocabulary, p.channels, 1.0f, {x_rows, DType::F32, p.channels, false}, p.head_transposed(), 0.0f, logits,
       p.vocabulary, p.compute);
  return logits;
}

// Rows [begin, begin + count) of those with a target against the whole vocabulary, tile by tile:
//   logits of a tile of words, exponentials with the running maximum, and their product with the same words of W
// as in flash attention with W as keys and values. The word of the label is left out of the product and added at the end
// in fp32, so that little of 1 - p is lost when p is near 1. A tile is packed once and read by all blocks of rows.
class FusedRows {
 public:
  FusedRows(const Problem& p, int64_t begin, int64_t count, float* dx)
      : p_(p),
        begin_(begin),
        count_(count),
        dx_(dx),
        gemm_(p.compute),
        tile_(tile_size()),
        block_(gemm_.rows(row_block())),
        width_(BlockGemm::multiple(p.channels, 16)) {}

  void run(float* nll) {
    int64_t C = p_.channels, V = p_.vocabulary, blocks = (count_ + block_ - 1) / block_;
    int64_t x_bytes = gemm_.a_bytes(block_, C), b_bytes = gemm_.b_bytes(C, tile_);
    int64_t floats = blocks * block_ * width_ + 3 * count_;
    x_ = static_cast<char*>(scratch_bytes(ScratchSlot::Rows, blocks * x_bytes + floats * int64_t(sizeof(float))));
    gradients_ = reinterpret_cast<float*>(x_ + blocks * x_bytes);
    states_ = reinterpret_cast<SoftmaxState*>(gradients_ + blocks * block_ * width_);
    targets_ = reinterpret_cast<float*>(states_ + count_);
    head_t_ = static_cast<char*>(scratch_bytes(ScratchSlot::Packed, b_bytes + gemm_.b_bytes(tile_, C)));
    head_ = head_t_ + b_bytes;
    parallel_for(blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; b++) pack_rows(b, x_ + b * x_bytes);
    });
    for (int64_t word = 0; word < V; word += tile_) {
      int64_t words = std::min(tile_, V - word);
      pack_tile(word, words);
      parallel_for(blocks, 1, [&](int64_t first, int64_t last) {
        gemm_.kernels.enter();
        for (int64_t b = first; b < last; b++) run_block(b, x_ + b * x_bytes, word, words);
        gemm_.kernels.leave();
      });
    }
    parallel_for(count_, kRowGrain, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) finish_row(i, nll);
    });
  }

 private:
  static constexpr int64_t kRowBlock = 96, kTileBytes = 512 << 10, kRowBytes = 384 << 10;

  // Words whose packed rows of W take about kTileBytes, so that a tile and its logits stay in L2.
  int64_t tile_size() const {
    int64_t words = kTileBytes / gemm_.bytes(gemm_.depth(p_.channels));
    return std::min(gemm_.columns(p_.vocabulary),
                    BlockGemm::multiple(std::min<int64_t>(1024, std::max<int64_t>(128, words)), 64));
  }

  // Rows whose packed hidden states take at most about kRowBytes: wide rows in fewer blocks leave room for the tile.
  int64_t row_block() const {
    return std::clamp<int64_t>(kRowBytes / gemm_.bytes(gemm_.depth(p_.channels)), kRowBlock / 2, kRowBlock);
  }

  void pack_rows(int64_t block, char* out) {
    int64_t row0 = block * block_, rows = std::min(block_, count_ - row0), C = p_.channels;
    float* gathered = scratch_floats(ScratchSlot::Task, rows * C);
    for (int64_t i = 0; i < rows; i++) {
      std::memcpy(gathered + i * C, p_.x.data + p_.rows[begin_ + row0 + i] * C, sizeof(float) * C);
      states_[row0 + i] = {-std::numeric_limits<float>::infinity(), 0};
    }
    gemm_.pack_a({gathered, DType::F32, C, false}, 0, rows, C, out);
  }

  void pack_tile(int64_t word, int64_t words) {
    int64_t C = p_.channels, size = p_.weight.dtype == DType::F32 ? 4 : 2, nr = gemm_.kernels.nr;
    const void* rows = static_cast<const char*>(p_.weight.data) + word * C * size;
    Matrix head = {rows, p_.weight.dtype, C, false}, transposed = {rows, p_.weight.dtype, C, true};
    int64_t down = (words + nr - 1) / nr, across = dx_ ? (C + nr - 1) / nr : 0;
    parallel_for(down + across, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) {
        if (i < down)
          gemm_.pack_panel(transposed, i, words, C, head_t_);
        else
          gemm_.pack_panel(head, i - down, C, words, head_);
      }
    });
  }

  void run_block(int64_t block, const char* x, int64_t word, int64_t words) {
    const LinearCrossEntropyKernels& kernels = kernels_linear_cross_entropy();
    int64_t row0 = block * block_, rows = std::min(block_, count_ - row0), C = p_.channels, depth = gemm_.depth(words);
    // Exponentials are written as the packed rows of the second product.
    int64_t ldz = tile_ + 16, lde = gemm_.stride(words);
    float* z = scratch_floats(ScratchSlot::Task, block_ * ldz);
    char* e = dx_ ? static_cast<char*>(scratch_bytes(ScratchSlot::Gradients, gemm_.a_bytes(block_, tile_))) : nullptr;
    gemm_.multiply_padded(rows, words, C, x, head_t_, false, z, ldz);
    for (int64_t i = 0; i < rows; i++) {
      float* logits = z + i * ldz;
      int64_t row = row0 + i, label = p_.labels.data[p_.rows[begin_ + row]] - word;
      bool here = label >= 0 && label < words;
      if (here) targets_[row] = logits[label];
      char* out = e ? e + gemm_.bytes(i * lde) : nullptr;
      float factor = kernels.advance(logits, words, &states_[row], gemm_.half() ? DType::BF16 : DType::F32, out);
      if (!e) continue;
      std::memset(out + gemm_.bytes(words), 0, size_t(gemm_.bytes(depth - words)));
      if (here) std::memset(out + gemm_.bytes(label), 0, size_t(gemm_.kernels.element_size));
      if (factor != 1.0f && word > 0) kernels.scale(factor, gradients_ + row * width_, C);
    }
    if (!e) return;
    if (rows < gemm_.rows(rows))
      std::memset(e + gemm_.bytes(rows * lde), 0, size_t(gemm_.bytes((gemm_.rows(rows) - rows) * lde)));
    if (!gemm_.half() && p_.compute != DType::F32) round_rows(reinterpret_cast<float*>(e), rows * lde);
    gemm_.multiply_padded(rows, C, words, e, head_, word > 0, gradients_ + row0 * width_, width_);
  }

  // Kernels without 16-bit arithmetic multiply floats that hold rounded values.
  void round_rows(float* values, int64_t n) const {
    uint16_t* half = static_cast<uint16_t*>(scratch_bytes(ScratchSlot::Logits, n * 2));
    kernels_convert().from_float(values, half, p_.compute, n);
    kernels_convert().to_float(half, p_.compute, values, n);
  }

  void finish_row(int64_t i, float* nll) {
    const LinearCrossEntropyKernels& kernels = kernels_linear_cross_entropy();
    SoftmaxState state = states_[i];
    int64_t row = p_.rows[begin_ + i], C = p_.channels, size = p_.weight.dtype == DType::F32 ? 4 : 2;
    double target = double(targets_[i]) - double(state.maximum);
    nll[row] = float(std::log(double(state.sum)) - target);
    if (!dx_) return;
    float* out = dx_ + row * C;
    std::memcpy(out, gradients_ + i * width_, sizeof(float) * C);
    kernels.scale(1.0f / state.sum, out, C);
    const char* word = static_cast<const char*>(p_.weight.data) + p_.labels.data[row] * C * size;
    kernels.add(word, p_.weight.dtype, float(std::exp(target) / double(state.sum) - 1.0), out, C);
  }

  const Problem& p_;
  int64_t begin_, count_;
  float* dx_;
  BlockGemm gemm_;
  int64_t tile_, block_, width_;
  char *x_ = nullptr, *head_t_ = nullptr, *head_ = nullptr;
  float *gradients_ = nullptr, *targets_ = nullptr;
  SoftmaxState* states_ = nullptr;
};

// x ..., nll, dx or null: the loss of each row and, when dx is given, its gradient with respect to the row of x.
Napi::Value linear_cross_entropy(const Napi::CallbackInfo& info) {
  return guarded(info, "linearCrossEntropy", [](Args& args) -> Napi::Value {
    Problem p = read_problem(args);
    View<float> nll = args.f32("nll", p.labels.length), dx = args.optional_f32("dx", p.labels.length * p.channels);
    std::memset(nll.data, 0, sizeof(float) * p.labels.length);
    if (dx.data) std::memset(dx.data, 0, sizeof(float) * p.labels.length * p.channels);
    int64_t total = int64_t(p.rows.size());
    for (int64_t begin = 0; begin < total; begin += p.chunk)
      FusedRows(p, begin, std::min(p.chunk, total - begin), dx.data).run(nll.data);
    return args.env().Undefined();
  });
}

// x ..., dNll, dWeight: gradient with respect to the head. The logits of each chunk are computed again.
Napi::Value linear_cross_entropy_weight_grad(const Napi::CallbackInfo& info) {
  return guarded(info, "linearCrossEntropyWeightGrad", [](Args& args) -> Napi::Value {
    Problem p = read_problem(args);
    int64_t C = p.channels, V = p.vocabulary, total = int64_t(p.rows.size());
    View<float> d_nll = args.f32("dNll", p.labels.length), d_weight = args.f32("dWeight", V * C);
    if (total == 0) std::memset(d_weight.data, 0, sizeof(float) * V * C);
    p.chunk = std::max<int64_t>(1, std::min({p.chunk, total, kLogitBytes / 4 / V}));
    float* x_rows = scratch_floats(ScratchSlot::Rows, p.chunk * C);
    for (int64_t begin = 0; begin < total; begin += p.chunk) {
      int64_t count = std::min(p.chunk, total - begin);
      float* logits = chunk_logits(p, begin, count, x_rows);
      parallel_for(count, kRowGrain, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
          int64_t row = p.rows[begin + i];
          kernels_linear_cross_entropy().gradient(logits + i * V, V, p.labels.data[row]);
          kernels_linear_cross_entropy().scale(d_nll.data[row], x_rows + i * C, C);
        }
      });
      Matrix gradients = {logits, DType::F32, V, true};
      gemm(V, C, count, 1.0f, gradients, {x_rows, DType::F32, C, false}, begin == 0 ? 0.0f : 1.0f, d_weight.data, C, p.compute);
    }
    return args.env().Undefined();
  });
}

}  // namespace

extern const Entry linear_cross_entropy_entries[] = {{"linearCrossEntropy", 10, linear_cross_entropy},
                                                     {"linearCrossEntropyWeightGrad", 10, linear_cross_entropy_weight_grad},
                                                     {nullptr, 0, nullptr}};

}  // namespace nift
