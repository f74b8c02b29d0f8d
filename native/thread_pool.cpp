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

class Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; i++) threads_.emplace_back([this] { loop(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  void run(Job& job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      pending_.store(int(threads_.size()), std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.work();
    while (pending_.load(std::memory_order_acquire) != 0) pause();
  }

 private:
  // Long enough to bridge the gap between two ops of a step, short enough not to burn a shared core.
  static constexpr int kSpins = 4000;

  static void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  void loop() {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; spin++) pause();
      Job* job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        if (stop_) return;
        job = job_;
      }
      job->work();
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> pending_{0};
  Job* job_ = nullptr;
  bool stop_ = false;
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
