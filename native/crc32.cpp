#include "crc32.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nift {
namespace {

constexpr uint32_t kPolynomial = 0xedb88320u;

struct Tables {
  uint32_t byte[8][256];  // byte[k][v]: value v followed by k zero bytes
  uint32_t power[32];     // x^(2^n)
  Tables();
};

// a b modulo the polynomial, both reflected.
uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t mask = 0x80000000u; mask; mask >>= 1) {
    if (a & mask) product ^= b;
    b = b & 1 ? (b >> 1) ^ kPolynomial : b >> 1;
  }
  return product;
}

Tables::Tables() {
  for (uint32_t v = 0; v < 256; v++) {
    uint32_t value = v;
    for (int bit = 0; bit < 8; bit++) value = value & 1 ? (value >> 1) ^ kPolynomial : value >> 1;
    byte[0][v] = value;
  }
  for (int k = 1; k < 8; k++)
    for (int v = 0; v < 256; v++) byte[k][v] = byte[0][byte[k - 1][v] & 255] ^ (byte[k - 1][v] >> 8);
  power[0] = 0x40000000u;
  for (int n = 1; n < 32; n++) power[n] = multiply(power[n - 1], power[n - 1]);
}

const Tables& tables() {
  static const Tables instance;
  return instance;
}

// Eight bytes a step. `state` is the inverted value, as below.
uint32_t update_portable(uint32_t state, const uint8_t* data, int64_t length) {
  const auto& t = tables().byte;
  for (; length >= 8; length -= 8, data += 8) {
    uint32_t low = state ^ (data[0] | data[1] << 8 | data[2] << 16 | uint32_t(data[3]) << 24);
    state = t[7][low & 255] ^ t[6][(low >> 8) & 255] ^ t[5][(low >> 16) & 255] ^ t[4][low >> 24] ^ t[3][data[4]] ^ t[2][data[5]] ^
            t[1][data[6]] ^ t[0][data[7]];
  }
  for (; length > 0; length--) state = t[0][(state ^ *data++) & 255] ^ (state >> 8);
  return state;
}

#if defined(__x86_64__)

#define NIFT_CLMUL __attribute__((target("pclmul,sse4.1"))) static inline

NIFT_CLMUL __m128i load(const uint8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

// x carried over the distance of `constants`, plus what lies there.
NIFT_CLMUL __m128i fold(__m128i x, __m128i constants, __m128i next) {
  __m128i low = _mm_clmulepi64_si128(x, constants, 0x00), high = _mm_clmulepi64_si128(x, constants, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// Carry-less multiplication, 64 bytes a step. Source: Gopal et al., Fast CRC Computation for Generic Polynomials Using
// PCLMULQDQ (Intel, 2009), with its constants for the reflected polynomial. `length`: at least 64, a multiple of 16.
NIFT_CLMUL uint32_t update_clmul(uint32_t state, const uint8_t* data, int64_t length) {
  const __m128i by64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4), by16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
  __m128i x1 = _mm_xor_si128(load(data), _mm_cvtsi32_si128(int(state)));
  __m128i x2 = load(data + 16), x3 = load(data + 32), x4 = load(data + 48);
  for (data += 64, length -= 64; length >= 64; data += 64, length -= 64) {
    x1 = fold(x1, by64, load(data));
    x2 = fold(x2, by64, load(data + 16));
    x3 = fold(x3, by64, load(data + 32));
    x4 = fold(x4, by64, load(data + 48));
  }
  x1 = fold(fold(fold(x1, by16, x2), by16, x3), by16, x4);
  for (; length >= 16; data += 16, length -= 16) x1 = fold(x1, by16, load(data));
  // 128 -> 64 bits, then Barrett's reduction to 32.
  const __m128i low32 = _mm_setr_epi32(-1, 0, -1, 0);
  __m128i y = _mm_clmulepi64_si128(x1, by16, 0x10);
  x1 = _mm_xor_si128(_mm_srli_si128(x1, 8), y);
  y = _mm_srli_si128(x1, 4);
  x1 = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(x1, low32), _mm_set_epi64x(0, 0x0163cd6124), 0x00), y);
  const __m128i barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641);
  y = _mm_clmulepi64_si128(_mm_and_si128(x1, low32), barrett, 0x10);
  y = _mm_clmulepi64_si128(_mm_and_si128(y, low32), barrett, 0x00);
  return uint32_t(_mm_extract_epi32(_mm_xor_si128(x1, y), 1));
}

bool has_clmul() {
  static const bool answer = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  return answer;
}

#endif

}  // namespace

uint32_t crc32_of(const uint8_t* data, int64_t length) {
  uint32_t state = ~0u;
#if defined(__x86_64__)
  if (length >= 64 && has_clmul()) {
    int64_t whole = length & ~int64_t(15);
    state = update_clmul(state, data, whole);
    data += whole;
    length -= whole;
  }
#endif
  return ~update_portable(state, data, length);
}

uint32_t crc32_combine(uint32_t first, uint32_t second, int64_t length) {
  uint32_t shift = 0x80000000u;
  for (int power = 3; length > 0; length >>= 1, power++)
    if (length & 1) shift = multiply(tables().power[power & 31], shift);
  return multiply(shift, first) ^ second;
}

}  // namespace nift
