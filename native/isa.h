// One source, several instruction sets. A kernel file puts its code into `namespace nift::NIFT_ISA` and defines there one
// constant table of function pointers; binding.gyp compiles the file once per instruction set with -DNIFT_ISA=<name>.
//
//   rms_norm.h    struct RmsNormKernels { void (*forward)(...); };
//                 NIFT_DECLARE_KERNELS(RmsNormKernels, rms_norm)
//   rms_norm.cpp  namespace nift::NIFT_ISA { static void forward(...) {...}
//                 extern const RmsNormKernels rms_norm = {forward}; }
//   elsewhere     kernels_rms_norm().forward(...)   // the table of the instruction set in use
#pragma once

#ifndef NIFT_ISA
#define NIFT_ISA portable
#endif

namespace nift {

enum class Isa : int { Portable = 0, Avx2 = 1, Avx512 = 2, Avx512Bf16 = 3, Amx = 4 };

Isa active_isa();  // runtime.cpp

}  // namespace nift

// Avx512Bf16 and Amx differ from Avx512 in matrix multiplication only (gemm*.cpp); every other table falls back to Avx512.
#if defined(__x86_64__)
#define NIFT_DECLARE_KERNELS(Type, name)                   \
  namespace nift {                                         \
  namespace portable {                                     \
  extern const Type name;                                  \
  }                                                        \
  namespace avx2 {                                         \
  extern const Type name;                                  \
  }                                                        \
  namespace avx512 {                                       \
  extern const Type name;                                  \
  }                                                        \
  inline const Type& kernels_##name() {                    \
    Isa isa = active_isa();                                \
    if (isa >= Isa::Avx512) return avx512::name;           \
    return isa == Isa::Avx2 ? avx2::name : portable::name; \
  }                                                        \
  }
#else
#define NIFT_DECLARE_KERNELS(Type, name)                         \
  namespace nift {                                               \
  namespace portable {                                           \
  extern const Type name;                                        \
  }                                                              \
  inline const Type& kernels_##name() { return portable::name; } \
  }
#endif
