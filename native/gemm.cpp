// Blocking and threading of matrix products; gemm_f32.cpp and gemm_bf16.cpp hold what depends on the instruction set.
//
// Three paths, by the number of rows of A:
//   dot    a few rows (decoding): rows of the weights stream past, nothing is packed
//   slim   one block of rows: A is packed once, each thread packs a panel of B into its own cache and uses it at once
//   wide   B is packed first, by all threads; then each thread packs blocks of rows of A and multiplies them
// A low-rank term rides along: its hidden rows are appended to the packed rows of A, its up-projection to the panels of B.
#include "gemm.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "gemm_kernels.h"
#include "gemm_scratch.h"
#include "thread_pool.h"

namespace nift {
namespace {

constexpr int64_t kDotPieceBytes = int64_t(128) << 10;
constexpr int64_t kMaxVectorRows = 2;                   // vectors stream W faster than tiles while they have little to do
constexpr int64_t kMinDotDepth = 32;                    // shorter sums are cheaper in packed panels
constexpr int64_t kMaxPackedBytes = int64_t(32) << 20;  // B is packed in pieces of at most this size

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
int64_t multiple(int64_t n, int64_t of) {
  return ceil_div(n, of) * of;
}

thread_local Scratch packed_a, packed_b, packed_down, packed_panel, hidden_rows, dot_rows;
thread_local uint64_t packed_a_owner = 0;  // which block of which call packed_a holds

struct Problem {
  int64_t M, N, K;
  float alpha;
  Matrix A, B;
  float beta;
  float* C;
  int64_t ldc;
  DType compute;
  const float* bias;
  const LowRank* low_rank;
};

const GemmKernels& choose(DType compute) {
#if defined(__x86_64__)
  if (compute == DType::BF16 && active_isa() == Isa::Amx) return amx::gemm_bf16;
  if (compute == DType::BF16 && active_isa() == Isa::Avx512Bf16) return avx512bf16::gemm_bf16;
#endif
  return kernels_gemm_f32();
}

// Sizes that all paths share. Depths are in elements of K, padded to the kernels' step.
class Driver {
 public:
  explicit Driver(const Problem& p)
      : p_(p),
        kernels_(choose(p.compute)),
        depth_(multiple(p.K, kernels_.depth_step)),
        extra_(p.low_rank ? multiple(p.low_rank->rank, kernels_.depth_step) : 0),
        total_(depth_ + extra_),
        // Rows of A get an odd number of cache lines, so that the rows of a tile do not fall into the same sets.
        lda_(multiple(total_, 64) + 64 / kernels_.element_size),
        panels_(ceil_div(p.N, kernels_.nr)) {
    int64_t bytes = ceil_div(p.N, 16) * 16 * p.M * 4;
    stream_ = bytes >= kStreamBytes && p.beta == 0 && p.ldc % 16 == 0 && reinterpret_cast<uintptr_t>(p.C) % 64 == 0;
  }

  void run() {
    int64_t rows = rows_in_block();
    // With one block of rows there is nothing to share B for, unless its rows alone overflow the cache.
    if (p_.M <= rows && (p_.M <= 2 * kernels_.mr || bytes(p_.M * total_) <= 2 * kernels_.block_bytes))
      slim();
    else
      wide(rows);
  }

 private:
  static constexpr int64_t kStreamBytes = int64_t(4) << 20;

  int64_t bytes(int64_t elements) const { return elements * kernels_.element_size; }
  int64_t panel_size() const { return total_ * kernels_.nr; }
  int64_t block_rows_padded(int64_t rows) const { return multiple(rows, kernels_.mr); }
  const char* at(const void* base, int64_t elements) const { return static_cast<const char*>(base) + bytes(elements); }
  char* at(void* base, int64_t elements) const { return static_cast<char*>(base) + bytes(elements); }

  int64_t rows_in_block() const {
    int64_t depth = std::min(total_, kernels_.max_depth);
    int64_t rows = std::max<int64_t>(kernels_.block_bytes / std::max<int64_t>(1, bytes(depth)), kernels_.mr);
    int64_t blocks = ceil_div(p_.M, rows);
    if (num_threads() > 1 && blocks > 1) {  // enough blocks to share out, but not so small that B is read too often
      int64_t wanted = ceil_div(p_.M, std::max<int64_t>(kernels_.min_rows, kernels_.mr));
      blocks = std::max(blocks, std::min(wanted, int64_t(4) * num_threads()));
    }
    return std::min(multiple(ceil_div(p_.M, blocks), kernels_.mr), multiple(p_.M, kernels_.mr));
  }

  // Columns [col0, col0 + cols) of B, and of the up-projection below it.
  void pack_panel(int64_t col0, void* out) const {
    int64_t cols = std::min<int64_t>(kernels_.nr, p_.N - col0);
    kernels_.pack_b(p_.B, col0, cols, p_.K, depth_, p_.compute, out);
    if (p_.low_rank)
      kernels_.pack_b(p_.low_rank->up, col0, cols, p_.low_rank->rank, extra_, p_.compute, at(out, depth_ * kernels_.nr));
  }

  int64_t down_panels() const { return ceil_div(p_.low_rank->rank, kernels_.nr); }

  void* pack_down() const {
    int64_t size = depth_ * kernels_.nr;
    void* out = packed_down.reserve<char>(bytes(down_panels() * size) + 64);
    for (int64_t i = 0; i < down_panels(); i++) {
      int64_t col0 = i * kernels_.nr, cols = std::min<int64_t>(kernels_.nr, p_.low_rank->rank - col0);
      kernels_.pack_b(p_.low_rank->down, col0, cols, p_.K, depth_, p_.compute, at(out, i * size));
    }
    return out;
  }

  // Sums are cut into blocks of about equal depth, so that the packed rows in use stay in the cache while panels pass.
  int64_t depth_blocks(int64_t depth) const { return std::max<int64_t>(1, ceil_div(depth, kernels_.max_depth)); }

  // c[rows, cols of the panel] = alpha * packed rows * panel, its sums over depth block i only.
  void multiply(int64_t i, const void* a, int64_t rows, const void* panel, int64_t cols, int64_t depth, const TileEnd& whole,
                float* c, int64_t ldc) const {
    int64_t blocks = depth_blocks(depth), size = multiple(ceil_div(depth, blocks), kernels_.depth_step), k0 = i * size;
    TileEnd end = {
        whole.alpha, i == 0 ? whole.beta : 1, i == blocks - 1 ? whole.bias : nullptr, whole.stream && blocks == 1, nullptr, 64};
    if (whole.next) end.next = whole.next + k0 * whole.next_stride;
    end.next_stride = whole.next_stride;
    int64_t n = std::max<int64_t>(0, std::min(size, depth - k0));
    kernels_.panel(n, at(a, k0), lda_, at(panel, k0 * kernels_.nr), c, ldc, rows, int(cols), end);
  }

  // hidden[rows, rank] of packed rows; they are appended, scaled, to the packed rows.
  void append_hidden(void* a, int64_t rows, const void* down, float* hidden) const {
    const LowRank& low = *p_.low_rank;
    for (int64_t i = 0; i < down_panels(); i++) {
      int64_t col0 = i * kernels_.nr, cols = std::min<int64_t>(kernels_.nr, low.rank - col0);
      for (int64_t d = 0; d < depth_blocks(depth_); d++)
        multiply(d, a, rows, at(down, i * depth_ * kernels_.nr), cols, depth_, {1, 0, nullptr, false, nullptr, 0}, hidden + col0,
                 low.rank);
    }
    float* scaled = hidden_rows.reserve<float>(size_t(rows * low.rank));
    for (int64_t i = 0; i < rows * low.rank; i++) scaled[i] = low.scaling * hidden[i];
    Matrix appended = {scaled, DType::F32, low.rank, false};
    kernels_.pack_a(appended, 0, rows, low.rank, extra_, p_.compute, at(a, depth_), lda_);
  }

  void multiply_panel(int64_t block, const void* a, int64_t row0, int64_t rows, int64_t panel, const void* packed,
                      const char* next, int64_t next_stride) const {
    int64_t col0 = panel * kernels_.nr, cols = std::min<int64_t>(kernels_.nr, p_.N - col0);
    TileEnd end = {p_.alpha, p_.beta, p_.bias ? p_.bias + col0 : nullptr, stream_, next, next_stride};
    multiply(block, a, rows, packed, cols, total_, end, p_.C + row0 * p_.ldc + col0, p_.ldc);
  }

  void slim() const {
    int64_t rows = block_rows_padded(p_.M);
    char* a = packed_a.reserve<char>(bytes(rows * lda_) + 64);
    packed_a_owner = 0;
    auto pack = [&](int64_t begin, int64_t end) {
      kernels_.pack_a(p_.A, begin, end - begin, p_.K, depth_, p_.compute, at(a, begin * lda_), lda_);
    };
    int64_t grain = multiple(16, kernels_.mr);
    if (p_.M * p_.K < (1 << 16))
      pack(0, p_.M);
    else
      parallel_for(p_.M, grain, pack);
    if (p_.low_rank) {
      void* down = pack_down();
      parallel_for(p_.M, grain, [&](int64_t begin, int64_t end) {
        kernels_.enter();
        append_hidden(at(a, begin * lda_), end - begin, down, p_.low_rank->hidden + begin * p_.low_rank->rank);
        kernels_.leave();
      });
    }
    int64_t group = std::max<int64_t>(1, std::min<int64_t>(4, panels_ / (4 * num_threads())));
    parallel_for(panels_, group, [&](int64_t begin, int64_t end) {
      void* packed = packed_panel.reserve<char>(bytes(panel_size()) + 64);
      kernels_.enter();
      for (int64_t j = begin; j < end; j++) {
        pack_panel(j * kernels_.nr, packed);
        for (int64_t d = 0; d < depth_blocks(total_); d++) multiply_panel(d, a, 0, p_.M, j, packed, nullptr, 0);
      }
      kernels_.leave();
    });
  }

  void wide(int64_t rows) const {
    static std::atomic<uint64_t> serials{0};
    int64_t blocks = ceil_div(p_.M, rows), threads = num_threads();
    uint64_t serial = serials.fetch_add(uint64_t(blocks)) + 1;
    void* down = p_.low_rank ? pack_down() : nullptr;
    int64_t batch = std::max<int64_t>(1, std::min(panels_, kMaxPackedBytes / std::max<int64_t>(1, bytes(panel_size()))));
    char* b = packed_b.reserve<char>(bytes(batch * panel_size()) + 64);
    for (int64_t first = 0; first < panels_; first += batch) {
      int64_t count = std::min(batch, panels_ - first);
      parallel_for(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t j = begin; j < end; j++) pack_panel((first + j) * kernels_.nr, at(b, j * panel_size()));
      });
      int64_t chunks = threads == 1 ? 1 : std::min(ceil_div(4 * threads, blocks), ceil_div(count, 4));
      int64_t chunk = ceil_div(count, chunks);
      chunks = ceil_div(count, chunk);
      parallel_for(blocks * chunks, 1, [&](int64_t begin, int64_t end) {
        kernels_.enter();
        for (int64_t job = begin; job < end; job++) {
          int64_t block = job / chunks, j0 = job % chunks * chunk;
          int64_t row0 = block * rows, n = std::min(rows, p_.M - row0);
          const void* a = block_of_a(serial + uint64_t(block), rows, row0, n, down, j0 == 0 && first == 0);
          for (int64_t d = 0; d < depth_blocks(total_); d++)
            for (int64_t j = j0; j < std::min(count, j0 + chunk); j++)
              multiply_panel(d, a, row0, n, first + j, at(b, j * panel_size()),
                             j + 1 < count ? at(b, (j + 1) * panel_size()) : nullptr, kernels_.nr * kernels_.element_size);
        }
        kernels_.leave();
      });
    }
  }

  // The packed rows [row0, row0 + n), from the previous job of this thread when it was the same block.
  const void* block_of_a(uint64_t owner, int64_t rows, int64_t row0, int64_t n, const void* down, bool writes_hidden) const {
    char* a = packed_a.reserve<char>(bytes(block_rows_padded(rows) * lda_) + 64);
    bool packed = packed_a_owner == owner;
    if (!packed) {
      packed_a_owner = 0;
      kernels_.pack_a(p_.A, row0, n, p_.K, depth_, p_.compute, a, lda_);
    }
    if (p_.low_rank && (!packed || writes_hidden)) {
      const LowRank& low = *p_.low_rank;
      // Only one job of a block writes `hidden`; the others compute the same values for themselves.
      thread_local Scratch own;
      float* hidden = writes_hidden ? low.hidden + row0 * low.rank : own.reserve<float>(size_t(n * low.rank));
      append_hidden(a, n, down, hidden);
    }
    packed_a_owner = owner;
    return a;
  }

  const Problem& p_;
  const GemmKernels& kernels_;
  int64_t depth_, extra_, total_, lda_, panels_;
  bool stream_;
};

// Rows of op(A) as floats rounded to `compute`; several rows an odd number of aligned cache lines apart.
const float* load_rows(const Matrix& A, int64_t rows, int64_t K, DType compute, int64_t* ld) {
  if (A.dtype == DType::F32 && compute == DType::F32 && !A.transposed && rows == 1) {
    *ld = A.ld;
    return static_cast<const float*>(A.data);
  }
  const DotKernels& kernels = kernels_gemm_dot();
  int64_t size = A.dtype == DType::F32 ? 4 : 2;
  int64_t stride = multiple(K, 32) + 16;
  float* out = dot_rows.reserve<float>(size_t(rows * stride));
  *ld = stride;
  for (int64_t m = 0; m < rows; m++) {
    const char* row = static_cast<const char*>(A.data) + (A.transposed ? m : m * A.ld) * size;
    if (!A.transposed) {
      kernels.load(row, A.dtype, compute, K, out + m * stride);
    } else {
      for (int64_t k = 0; k < K; k++) kernels.load(row + k * A.ld * size, A.dtype, compute, 1, out + m * stride + k);
    }
  }
  return out;
}

const DotBf16Kernels* choose_dot_bf16(const Problem& p) {
#if defined(__x86_64__)
  if (p.compute != DType::BF16 || p.B.dtype != DType::BF16) return nullptr;
  const DotBf16Kernels* kernels = nullptr;
  if (active_isa() >= Isa::Avx512Bf16) kernels = &avx512bf16::gemm_dot_bf16;
  if (active_isa() == Isa::Amx && p.M > kMaxVectorRows && p.N >= amx::gemm_dot_bf16.min_columns) kernels = &amx::gemm_dot_bf16;
  return kernels;
#else
  (void)p;
  return nullptr;
#endif
}

void dot_product(const Problem& p) {
  // Pieces of about 128 KB of weights, a multiple of the rows that are read together.
  int64_t row_bytes = std::max<int64_t>(1, p.K * (p.B.dtype == DType::F32 ? 4 : 2));
  int64_t rows = std::min<int64_t>(kDotPieceBytes / row_bytes, ceil_div(p.N, 4 * num_threads()));
  int64_t grain = multiple(std::max<int64_t>(1, rows), 16 * 3);
  if (const DotBf16Kernels* kernels = choose_dot_bf16(p)) {
    char* x = dot_rows.reserve<char>(size_t(kernels->x_bytes(int(p.M), p.K)) + 64);
    kernels->pack_x(p.A, int(p.M), p.K, x);
    parallel_for(p.N, multiple(grain, 64), [&](int64_t begin, int64_t end) {
      kernels->dot(x, int(p.M), p.K, static_cast<const uint16_t*>(p.B.data), p.B.ld, p.N, begin, end, p.alpha, p.beta, p.bias,
                   p.C, p.ldc);
    });
    return;
  }
  int64_t ldx = 0;
  const float* x = load_rows(p.A, p.M, p.K, p.compute, &ldx);
  parallel_for(p.N, grain, [&](int64_t begin, int64_t end) {
    kernels_gemm_dot().dot(x, ldx, int(p.M), p.K, p.B.data, p.B.dtype, p.B.ld, p.compute, begin, end, p.alpha, p.beta, p.bias,
                           p.C, p.ldc);
  });
}

void run(const Problem& p) {
  if (p.M <= 0 || p.N <= 0) return;
  if (p.M <= kMaxDotRows && p.B.transposed && p.K >= kMinDotDepth) {
    dot_product(p);
    if (!p.low_rank) return;
    const LowRank& low = *p.low_rank;
    run({p.M, low.rank, p.K, 1, p.A, low.down, 0, low.hidden, low.rank, p.compute, nullptr, nullptr});
    Matrix hidden = {low.hidden, DType::F32, low.rank, false};
    run({p.M, p.N, low.rank, low.scaling, hidden, low.up, 1, p.C, p.ldc, p.compute, nullptr, nullptr});
    return;
  }
  Driver(p).run();
}

}  // namespace

void gemm(int64_t M, int64_t N, int64_t K, float alpha, Matrix A, Matrix B, float beta, float* C, int64_t ldc, DType compute) {
  run({M, N, K, alpha, A, B, beta, C, ldc, compute, nullptr, nullptr});
}

void gemm_with(int64_t M, int64_t N, int64_t K, float alpha, Matrix A, Matrix B, float beta, float* C, int64_t ldc, DType compute,
               const GemmExtras& extras) {
  run({M, N, K, alpha, A, B, beta, C, ldc, compute, extras.bias, extras.low_rank});
}

}  // namespace nift
