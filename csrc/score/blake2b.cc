#include "score/blake2b.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace headrace::score {
namespace {

constexpr uint64_t kStart[8] = {0x6A09E667F3BCC908ULL, 0xBB67AE8584CAA73BULL, 0x3C6EF372FE94F82BULL,
                                0xA54FF53A5F1D36F1ULL, 0x510E527FADE682D1ULL, 0x9B05688C2B3E6C1FULL,
                                0x1F83D9ABFB41BD6BULL, 0x5BE0CD19137E2179ULL};

constexpr uint8_t kOrder[10][16] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
                                    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
                                    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
                                    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
                                    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
                                    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
                                    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
                                    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
                                    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
                                    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

inline void Mix(uint64_t& a, uint64_t& b, uint64_t& c, uint64_t& d, uint64_t x, uint64_t y) {
  a += b + x;
  d = std::rotr(d ^ a, 32);
  c += d;
  b = std::rotr(b ^ c, 24);
  a += b + y;
  d = std::rotr(d ^ a, 16);
  c += d;
  b = std::rotr(b ^ c, 63);
}

void Compress(uint64_t (&state)[8], const char* block, uint64_t count, bool last) {
  uint64_t m[16];
  for (int i = 0; i < 16; ++i) {
    uint64_t word = 0;
    for (int byte = 0; byte < 8; ++byte) {
      word |= static_cast<uint64_t>(static_cast<uint8_t>(block[8 * i + byte])) << (8 * byte);
    }
    m[i] = word;
  }
  uint64_t v[16];
  std::copy(state, state + 8, v);
  std::copy(kStart, kStart + 8, v + 8);
  v[12] ^= count;
  if (last) v[14] = ~v[14];
  for (int round = 0; round < 12; ++round) {
    const uint8_t* o = kOrder[round % 10];
    Mix(v[0], v[4], v[8], v[12], m[o[0]], m[o[1]]);
    Mix(v[1], v[5], v[9], v[13], m[o[2]], m[o[3]]);
    Mix(v[2], v[6], v[10], v[14], m[o[4]], m[o[5]]);
    Mix(v[3], v[7], v[11], v[15], m[o[6]], m[o[7]]);
    Mix(v[0], v[5], v[10], v[15], m[o[8]], m[o[9]]);
    Mix(v[1], v[6], v[11], v[12], m[o[10]], m[o[11]]);
    Mix(v[2], v[7], v[8], v[13], m[o[12]], m[o[13]]);
    Mix(v[3], v[4], v[9], v[14], m[o[14]], m[o[15]]);
  }
  for (int i = 0; i < 8; ++i) state[i] ^= v[i] ^ v[i + 8];
}

}  // namespace

int64_t HashText(std::string_view text) {
  uint64_t state[8];
  std::copy(kStart, kStart + 8, state);
  state[0] ^= 0x01010000ULL ^ 8;
  size_t at = 0;
  for (; text.size() - at > 128; at += 128) Compress(state, text.data() + at, at + 128, false);
  char block[128] = {};
  std::memcpy(block, text.data() + at, text.size() - at);
  Compress(state, block, text.size(), true);
  return static_cast<int64_t>(state[0]);
}

}  // namespace headrace::score
