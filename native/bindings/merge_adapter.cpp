// rewriteTensor: one tensor from file to file, block by block, on all threads: read, add the low-rank changes, round to the
// new storage type, sum (CRC-32), write. A block stays in the second cache from the read to the write, and nothing else of the
// tensor is in memory.
#include "../merge_adapter.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <system_error>
#include <vector>

#include "../crc32.h"
#include "../scratch.h"
#include "../thread_pool.h"
#include "bindings.h"

namespace nift {
namespace {

constexpr int64_t kBlockBytes = 256 << 10;
constexpr int kBytes = -1;  // "dtype" of what is only copied

int64_t width_of(int dtype) {
  return dtype == kBytes ? 1 : dtype == int(DType::F32) ? 4 : 2;
}

struct Place {
  int fd;
  int64_t offset;
  int dtype;
};

struct Job {
  Place from, to;
  int64_t rows, columns;
  std::vector<LowRankChange> changes;
};

struct Result {
  uint32_t crc = 0, largest = 0;
};

void read_block(int fd, uint8_t* target, int64_t bytes, int64_t offset) {
  for (int64_t done = 0; done < bytes;) {
    ssize_t count = pread(fd, target + done, size_t(bytes - done), off_t(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw std::system_error(errno, std::generic_category(), "read");
    if (count == 0) throw std::runtime_error("the file has become shorter since it was opened");
    done += count;
  }
}

void write_block(int fd, const uint8_t* source, int64_t bytes, int64_t offset) {
  for (int64_t done = 0; done < bytes;) {
    ssize_t count = pwrite(fd, source + done, size_t(bytes - done), off_t(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw std::system_error(errno, std::generic_category(), "write");
    done += count;
  }
}

Result run(Job job) {
  // Without changes rows mean nothing: any cut will do.
  const bool flat = job.changes.empty();
  if (flat) {
    job.rows *= job.columns;
    job.columns = 1;
  }
  const int64_t in_row = job.columns * width_of(job.from.dtype), out_row = job.columns * width_of(job.to.dtype);
  const int64_t grain = std::max<int64_t>(1, kBlockBytes / std::max<int64_t>(1, std::max(in_row, out_row)));
  const bool copies = job.changes.empty() && job.from.dtype == job.to.dtype;
  std::vector<Result> results(size_t((job.rows + grain - 1) / grain));
  parallel_for(job.rows, grain, [&](int64_t begin, int64_t end) {
    const int64_t rows = end - begin, in_bytes = rows * in_row, out_bytes = rows * out_row;
    Result& result = results[size_t(begin / grain)];
    const int64_t in_space = (in_bytes + 63) & ~int64_t(63), out_space = (out_bytes + 63) & ~int64_t(63);
    const int64_t floats = flat ? 0 : 2 * job.columns * int64_t(sizeof(float));
    auto* in = static_cast<uint8_t*>(scratch_bytes(ScratchSlot::Task, in_space + (copies ? 0 : out_space) + floats));
    uint8_t* out = copies ? in : in + in_space;
    read_block(job.from.fd, in, in_bytes, job.from.offset + begin * in_row);
    if (!copies)
      result.largest = kernels_merge_adapter().merge_rows(in, DType(job.from.dtype), out, DType(job.to.dtype), begin,
                                                          flat ? 1 : rows, flat ? rows : job.columns, job.changes.data(),
                                                          int64_t(job.changes.size()), reinterpret_cast<float*>(out + out_space));
    result.crc = crc32_of(out, out_bytes);
    if (job.to.fd >= 0) write_block(job.to.fd, out, out_bytes, job.to.offset + begin * out_row);
  });
  Result total;
  for (size_t block = 0; block < results.size(); block++) {
    const int64_t rows = std::min(grain, job.rows - int64_t(block) * grain);
    total.crc = crc32_combine(total.crc, results[block].crc, rows * out_row);
    total.largest = std::max(total.largest, results[block].largest);
  }
  return total;
}

class RewriteWorker : public Napi::AsyncWorker {
 public:
  RewriteWorker(Napi::Env env, Job job)
      : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), job_(std::move(job)) {}

  void keep(const Napi::Value& value) { kept_.push_back(Napi::Persistent(value.As<Napi::Object>())); }
  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      result_ = run(job_);
    } catch (const std::system_error& error) {
      errno_ = error.code().value();
      SetError(error.what());
    } catch (const std::exception& error) {
      SetError(error.what());
    }
  }
  void OnOK() override {
    Napi::Object result = Napi::Object::New(Env());
    result.Set("crc32", double(result_.crc));
    result.Set("largest", double(result_.largest));
    deferred_.Resolve(result);
  }
  void OnError(const Napi::Error& error) override {
    if (errno_ != 0) error.Value().Set("errno", -errno_);
    deferred_.Reject(error.Value());
  }

 private:
  Napi::Promise::Deferred deferred_;
  Job job_;
  Result result_;
  int errno_ = 0;
  std::vector<Napi::ObjectReference> kept_;
};

Place place(Args& args, int64_t lowest_fd) {
  Place result;
  result.fd = int(args.integer("fd", lowest_fd, 1 << 30));
  result.offset = args.integer("offset");
  result.dtype = int(args.integer("dtype", kBytes, 2));
  return result;
}

Napi::Value rewrite_tensor(const Napi::CallbackInfo& info) {
  return guarded(info, "rewriteTensor", [](Args& args) -> Napi::Value {
    Job job;
    job.from = place(args, 0);
    job.to = place(args, -1);
    job.rows = args.integer("rows");
    job.columns = args.integer("columns", 1, int64_t(1) << 40);
    if ((job.from.dtype == kBytes) != (job.to.dtype == kBytes)) args.fail("dtype", "bytes cannot be converted");
    Napi::Value list = args.value("changes");
    if (!list.IsArray()) args.fail("changes", "expected a list");
    Napi::Array changes = list.As<Napi::Array>();
    if (changes.Length() > 0 && job.from.dtype == kBytes) args.fail("changes", "bytes cannot be changed");
    if (changes.Length() > uint32_t(kMaxChanges))
      args.range("changes", "at most " + std::to_string(kMaxChanges) + " adapters on one matrix");
    std::vector<Napi::Value> keep;
    auto floats = [&](const Napi::Object& change, const char* key, int64_t length) -> const float* {
      Napi::Value value = change.Get(key);
      if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array ||
          int64_t(value.As<Napi::TypedArray>().ElementLength()) != length)
        args.fail("changes", std::string(key) + ": expected a Float32Array of " + std::to_string(length));
      keep.push_back(value);
      return value.As<Napi::Float32Array>().Data();
    };
    for (uint32_t k = 0; k < changes.Length(); k++) {
      Napi::Object change = changes.Get(k).As<Napi::Object>();
      LowRankChange entry;
      const double rank = change.Get("rank").As<Napi::Number>().DoubleValue();
      if (!(rank >= kRankStep && rank <= 65536) || std::fmod(rank, double(kRankStep)) != 0)
        args.range("changes", "rank: expected a multiple of " + std::to_string(kRankStep));
      entry.rank = int64_t(rank);
      entry.scaling = change.Get("scaling").As<Napi::Number>().FloatValue();
      entry.weight = change.Get("weight").As<Napi::Number>().FloatValue();
      entry.a = floats(change, "a", entry.rank * job.columns);
      entry.b = floats(change, "b", job.rows * entry.rank);
      entry.magnitude = change.Get("magnitude").IsTypedArray() ? floats(change, "magnitude", job.rows) : nullptr;
      job.changes.push_back(entry);
    }
    auto worker = std::make_unique<RewriteWorker>(args.env(), std::move(job));
    for (const Napi::Value& value : keep) worker->keep(value);
    Napi::Promise promise = worker->promise();
    worker.release()->Queue();
    return promise;
  });
}

// reserveFile(fd, bytes): space for the whole file at once, where the file system can. Returns 0 or an errno.
Napi::Value reserve_file(const Napi::CallbackInfo& info) {
  return guarded(info, "reserveFile", [](Args& args) -> Napi::Value {
    int fd = int(args.integer("fd", 0, 1 << 30));
    int64_t bytes = args.integer("bytes");
    int failure = 0;
#if defined(__linux__)
    // Not posix_fallocate, which writes to every block where the file system cannot. Nothing is lost by going without.
    if (bytes > 0 && fallocate(fd, 0, 0, off_t(bytes)) != 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
      failure = errno;
#else
    (void)fd, (void)bytes;
#endif
    return Napi::Number::New(args.env(), failure);
  });
}

}  // namespace

extern const Entry merge_adapter_entries[] = {
    {"rewriteTensor", 9, rewrite_tensor}, {"reserveFile", 2, reserve_file}, {nullptr, 0, nullptr}};

}  // namespace nift
