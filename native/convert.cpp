#include "convert.h"

namespace nift::NIFT_ISA {

static void to_float(const uint16_t* in, DType dtype, float* out, int64_t n) {
  if (dtype == DType::BF16)
    for (int64_t i = 0; i < n; i++) out[i] = bf16_to_float(in[i]);
  else
    for (int64_t i = 0; i < n; i++) out[i] = f16_to_float(in[i]);
}

static void from_float(const float* in, uint16_t* out, DType dtype, int64_t n) {
  if (dtype == DType::BF16)
    for (int64_t i = 0; i < n; i++) out[i] = float_to_bf16(in[i]);
  else
    for (int64_t i = 0; i < n; i++) out[i] = float_to_f16(in[i]);
}

extern const ConvertKernels convert = {to_float, from_float};

}  // namespace nift::NIFT_ISA
