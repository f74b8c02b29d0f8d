#include "thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nift {
namespace {

thread_local bool inside_parallel = false;

struct Job {
  const std::function<void(int64_t, int64_t)>* body;
  int64_t n, grain;
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;

  void work() {
    inside_parallel = true;
    try {
      for (;;) {
        int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= n) break;
        (*body)(begin, std::min(n, begin + grain));
      }
    } catch (...) {
      std::lock_guard<std::mutex> lock(error_mutex);
      if (!error) error = std::current_exception();
      next.store(n, std::memory_order_relaxed);
    }
    inside_parallel = false;
  }
};

// Workers join a job while it is open; the caller works too, closes it when no chunk is left, and waits only for those who
// joined. So a worker that the system has not scheduled yet delays nobody.
class Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; i++) threads_.emplace_back([this] { loop(); });
  }
  ~Pool() {
    stop_.store(true);
    wake();
    for (auto& thread : threads_) thread.join();
  }

  void run(Job& job) {
    job_ = &job;
    // seq_cst: either a worker that goes to sleep sees the open job, or we see the sleeper.
    state_.store(((state_.load(std::memory_order_relaxed) >> kGenerationShift) + 1) << kGenerationShift | kOpen);
    if (sleepers_.load() > 0) wake();
    job.work();
    state_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int spin = 0; state_.load(std::memory_order_acquire) & kJoinedMask; spin++) {
      if (spin < kSpins)
        pause();
      else
        std::this_thread::yield();
    }
  }

 private:
  // A pause lasts 20 to 40 ns: long enough in all to bridge the gap between two ops of a step, short enough not to burn a
  // shared core.
  static constexpr int kSpins = 3000;

  // state_: generation of the job, number of workers in it, and whether more may join.
  static constexpr uint64_t kOpen = 1, kJoined = 2, kJoinedMask = 0xfffe;
  static constexpr int kGenerationShift = 16;

  static void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  void wake() {
    { std::lock_guard<std::mutex> lock(mutex_); }  // a worker is now either before its last check or asleep
    wake_.notify_all();
  }

  bool fresh(uint64_t state, uint64_t seen) const {
    return (state & kOpen) && (state >> kGenerationShift) != seen;
  }

  void loop() {
    uint64_t seen = 0;
    for (int spin = 0; !stop_.load(std::memory_order_relaxed);) {
      uint64_t state = state_.load(std::memory_order_acquire);
      if (fresh(state, seen)) {
        if (!state_.compare_exchange_weak(state, state + kJoined, std::memory_order_acq_rel)) continue;
        seen = state >> kGenerationShift;
        job_->work();
        state_.fetch_sub(kJoined, std::memory_order_release);
        spin = 0;
      } else if (spin++ < kSpins) {
        pause();
      } else {
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return stop_.load() || fresh(state_.load(), seen); });
        sleepers_.fetch_sub(1);
        spin = 0;
      }
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> state_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  Job* job_ = nullptr;
};

// Worker threads of Node may call at the same time; they take turns with the pool, and nobody waits inside a kernel.
std::mutex pool_mutex;
Pool* pool = nullptr;
std::atomic<int> thread_count{0};

}  // namespace

int num_threads() {
  int count = thread_count.load();
  if (count == 0) {
    count = std::max(1u, std::thread::hardware_concurrency());
    thread_count.store(count);
  }
  return count;
}

void set_num_threads(int count) {
  std::lock_guard<std::mutex> lock(pool_mutex);
  delete pool;
  pool = nullptr;
  thread_count.store(std::max(1, count));
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (n <= 0) return;
  grain = std::max<int64_t>(1, grain);
  Job job;
  job.body = &body;
  job.n = n;
  job.grain = grain;
  if (inside_parallel || n <= grain || num_threads() == 1) {
    bool nested = inside_parallel;
    job.work();
    inside_parallel = nested;
  } else {
    std::lock_guard<std::mutex> lock(pool_mutex);
    if (!pool) pool = new Pool(num_threads() - 1);
    pool->run(job);
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace nift
