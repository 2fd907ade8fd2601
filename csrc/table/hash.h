// splitmix64: the one hash of the store, equal bit by bit to `headrace/store/hashing.py`.
//
// Thread safety: pure functions.
// Invariants:
//   1. Mix64 is a bijection of 64-bit words.
//   2. Stream and Draw depend on key, id and index alone: not on order, process or machine.
#pragma once

#include <cstdint>

namespace headrace {

inline constexpr uint64_t kGamma = 0x9E3779B97F4A7C15ULL;

inline uint64_t Mix64(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31);
}

// The word that Mix64 maps to `value`.
inline uint64_t Unmix64(uint64_t value) {
  value = (value ^ (value >> 31) ^ (value >> 62)) * 0x319642B2D24D8EC3ULL;
  value = (value ^ (value >> 27) ^ (value >> 54)) * 0x96DE1B173F119089ULL;
  return value ^ (value >> 30) ^ (value >> 60);
}

// The start of the stream of draws that belongs to (key, id).
inline uint64_t Stream(uint64_t key, int64_t id) {
  return Mix64(Mix64(static_cast<uint64_t>(id)) ^ key);
}

// Draw `index` (from 0) of a stream.
inline uint64_t Draw(uint64_t stream, uint64_t index) {
  return Mix64(stream + (index + 1) * kGamma);
}

}  // namespace headrace
