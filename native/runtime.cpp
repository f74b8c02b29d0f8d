#include "runtime.h"

#include <atomic>
#include <stdexcept>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace nift {
namespace {

bool amx_permitted() {
#if defined(__x86_64__) && defined(__linux__)
  // Linux hands out the 8 KB tile state per process on request (Documentation/arch/x86/xstate.rst).
  constexpr int kArchReqXcompPerm = 0x1023, kXfeatureTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
#else
  return false;
#endif
}

std::vector<Isa> detect() {
  std::vector<Isa> isas = {Isa::Portable};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))) return isas;
  isas.push_back(Isa::Avx2);
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")))
    return isas;
  isas.push_back(Isa::Avx512);
  if (!__builtin_cpu_supports("avx512bf16")) return isas;
  isas.push_back(Isa::Avx512Bf16);
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  bool amx_bf16 = (edx >> 22) & 1, amx_tile = (edx >> 24) & 1;
  if (amx_bf16 && amx_tile && amx_permitted()) isas.push_back(Isa::Amx);
#endif
  return isas;
}

std::atomic<int> active{-1};

}  // namespace

std::vector<Isa> available_isas() {
  static const std::vector<Isa> isas = detect();
  return isas;
}

Isa active_isa() {
  int isa = active.load(std::memory_order_relaxed);
  if (isa < 0) {
    isa = int(available_isas().back());
    active.store(isa);
  }
  return Isa(isa);
}

void set_isa(Isa isa) {
  for (Isa candidate : available_isas()) {
    if (candidate == isa) {
      active.store(int(isa));
      return;
    }
  }
  throw std::invalid_argument(std::string("this CPU lacks ") + isa_name(isa));
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::Avx2:
      return "avx2";
    case Isa::Avx512:
      return "avx512";
    case Isa::Avx512Bf16:
      return "avx512bf16";
    case Isa::Amx:
      return "amx";
    default:
      return "portable";
  }
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> names;
  for (Isa isa : available_isas())
    if (isa != Isa::Portable) names.push_back(isa_name(isa));
  return names;
}

}  // namespace nift
