#include "snapshot/crc32c.h"

#include <array>
#include <bit>
#include <cstring>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HEADRACE_CRC32C_SSE42 1
#include <nmmintrin.h>
#endif

namespace headrace {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78u;  // of CRC32C, lowest bit first

using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables MakeTables() {
  Tables tables{};
  for (uint32_t value = 0; value < 256; ++value) {
    uint32_t sum = value;
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ ((sum & 1) ? kPolynomial : 0);
    tables[0][value] = sum;
  }
  for (size_t value = 0; value < 256; ++value) {
    for (size_t table = 1; table < 8; ++table) {
      const uint32_t before = tables[table - 1][value];
      tables[table][value] = (before >> 8) ^ tables[0][before & 255];
    }
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

uint64_t Load64(const unsigned char* data) {
  uint64_t word;
  std::memcpy(&word, data, sizeof word);
  if constexpr (std::endian::native == std::endian::big) word = __builtin_bswap64(word);
  return word;
}

// Works on the sum without its first and last inversion, as the hardware does.
uint32_t RunPortable(const unsigned char* data, size_t bytes, uint32_t sum) {
  for (; bytes >= 8; bytes -= 8, data += 8) {
    const uint64_t word = Load64(data) ^ sum;
    sum = 0;
    for (size_t byte = 0; byte < 8; ++byte) sum ^= kTables[7 - byte][(word >> (8 * byte)) & 255];
  }
  for (; bytes > 0; --bytes, ++data) sum = (sum >> 8) ^ kTables[0][(sum ^ *data) & 255];
  return sum;
}

#ifdef HEADRACE_CRC32C_SSE42

// Appending k zero bytes to a message is a linear map of its sum: a matrix of 32 columns over GF(2).
using Matrix = std::array<uint32_t, 32>;

constexpr uint32_t Times(const Matrix& matrix, uint32_t vector) {
  uint32_t sum = 0;
  for (size_t bit = 0; vector != 0; ++bit, vector >>= 1) {
    if (vector & 1) sum ^= matrix[bit];
  }
  return sum;
}

constexpr Matrix Square(const Matrix& matrix) {
  Matrix square{};
  for (size_t bit = 0; bit < 32; ++bit) square[bit] = Times(matrix, matrix[bit]);
  return square;
}

using Shift = std::array<std::array<uint32_t, 256>, 4>;

// The map for 2^log_bytes zero bytes, one table for each byte of the sum.
constexpr Shift MakeShift(int log_bytes) {
  Matrix matrix{};  // one zero bit
  matrix[0] = kPolynomial;
  for (size_t bit = 1; bit < 32; ++bit) matrix[bit] = 1u << (bit - 1);
  for (int power = 0; power < log_bytes + 3; ++power) matrix = Square(matrix);
  Shift shift{};
  for (uint32_t value = 0; value < 256; ++value) {
    for (uint32_t byte = 0; byte < 4; ++byte) shift[byte][value] = Times(matrix, value << (8 * byte));
  }
  return shift;
}

constexpr int kLogLong = 12, kLogShort = 8;
constexpr Shift kShiftLong = MakeShift(kLogLong), kShiftShort = MakeShift(kLogShort);

inline uint64_t Shifted(const Shift& shift, uint64_t sum) {
  return shift[0][sum & 255] ^ shift[1][(sum >> 8) & 255] ^ shift[2][(sum >> 16) & 255] ^
         shift[3][(sum >> 24) & 255];
}

// The instruction takes three cycles and may start every cycle: three streams keep it busy; their sums are
// then put together as if the first two were followed by zeros.
template <int kLog>
__attribute__((target("sse4.2"))) const unsigned char* RunThree(const unsigned char* data, size_t* bytes,
                                                                uint64_t* sum, const Shift& shift) {
  constexpr size_t kPart = size_t{1} << kLog;
  uint64_t first = *sum;
  while (*bytes >= 3 * kPart) {
    uint64_t second = 0, third = 0;
    for (const unsigned char* end = data + kPart; data < end; data += 8) {
      first = _mm_crc32_u64(first, Load64(data));
      second = _mm_crc32_u64(second, Load64(data + kPart));
      third = _mm_crc32_u64(third, Load64(data + 2 * kPart));
    }
    first = Shifted(shift, first) ^ second;
    first = Shifted(shift, first) ^ third;
    data += 2 * kPart;
    *bytes -= 3 * kPart;
  }
  *sum = first;
  return data;
}

__attribute__((target("sse4.2"))) uint32_t RunHardware(const unsigned char* data, size_t bytes,
                                                       uint32_t start) {
  uint64_t sum = start;
  data = RunThree<kLogLong>(data, &bytes, &sum, kShiftLong);
  data = RunThree<kLogShort>(data, &bytes, &sum, kShiftShort);
  for (; bytes >= 8; bytes -= 8, data += 8) sum = _mm_crc32_u64(sum, Load64(data));
  auto rest = static_cast<uint32_t>(sum);
  for (; bytes > 0; --bytes, ++data) rest = _mm_crc32_u8(rest, *data);
  return rest;
}

#endif

}  // namespace

bool Crc32cHasHardware() {
#ifdef HEADRACE_CRC32C_SSE42
  static const bool has = __builtin_cpu_supports("sse4.2") != 0;
  return has;
#else
  return false;
#endif
}

uint32_t Crc32cPortable(const void* data, size_t bytes, uint32_t sum) {
  return ~RunPortable(static_cast<const unsigned char*>(data), bytes, ~sum);
}

uint32_t Crc32c(const void* data, size_t bytes, uint32_t sum) {
#ifdef HEADRACE_CRC32C_SSE42
  if (Crc32cHasHardware()) return ~RunHardware(static_cast<const unsigned char*>(data), bytes, ~sum);
#endif
  return Crc32cPortable(data, bytes, sum);
}

}  // namespace headrace
