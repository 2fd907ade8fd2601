#include "cache/tier.h"

#include <algorithm>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/resource.h>
#define HEADRACE_FAULTS 1
#endif

namespace headrace {
namespace {

constexpr int64_t kLeast = 1024;

}  // namespace

void Tier::Cover(int64_t cells) {
  const auto wanted = static_cast<size_t>(cells);
  if (wanted > heat_.capacity()) heat_.reserve(heat_.empty() ? wanted : wanted + wanted / 16);
  if (wanted > heat_.size()) heat_.resize(wanted, 0);
}

void Tier::Age(int64_t hot) {
  const int64_t touched = hits_ + misses_;
  if (touched - touched_ < kSample * std::max(hot, kLeast)) return;
  touched_ = touched;
  for (uint8_t& counter : heat_) counter = static_cast<uint8_t>(counter >> 1);
}

Cell Tier::Victim(Cell cell, int64_t hot, const std::vector<uint64_t>& live) {
  uint8_t lowest = heat_[cell];
  if (lowest < kAtLeast) return kNoCell;
  Cell least = kNoCell;
  for (int64_t look = std::min(kLook, hot); look > 0; --look) {
    if (hand_ >= hot) hand_ = 0;
    const auto other = static_cast<Cell>(hand_++);
    if (heat_[other] >= lowest || ((live[other >> 6] >> (other & 63)) & 1) == 0) continue;
    lowest = heat_[other];
    least = other;
  }
  return least;
}

void Tier::Watch() {
#ifdef HEADRACE_FAULTS
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return;
  const int left = fetch_steps_.load(std::memory_order_relaxed);
  if (faults_ >= 0 && usage.ru_majflt > faults_) {
    fetch_steps_.store(kFetchSteps, std::memory_order_relaxed);
  } else if (left > 0) {
    fetch_steps_.store(left - 1, std::memory_order_relaxed);
  }
  faults_ = usage.ru_majflt;
#endif
}

}  // namespace headrace
