// A fixed pool of threads. The caller works too, so `num_threads() == 1` starts none.
#pragma once
#include <cstdint>
#include <functional>

namespace nift {

int num_threads();
void set_num_threads(int count);

// Runs body(begin, end) over disjoint chunks of [0, n), each at most `grain` long, taken in order from one counter.
// Which thread runs a chunk is not fixed, so a body must not let its result depend on it: whoever sums does so per chunk
// and combines the chunks in order. Nested calls run serially on the calling thread. Exceptions are rethrown to the caller.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

}  // namespace nift
