// Who is moved up, and who makes room.
#include "cache/tier.h"

#include <vector>

#include "table/check.h"

namespace headrace {
namespace {

constexpr int64_t kHot = 32;
constexpr Cell kCold = 40;

std::vector<uint64_t> AllLive() {
  return {~uint64_t{0}};
}

void TheLeastFrequentOfTheNextMakesRoom() {
  Tier tier({"unused", 1000, -1});
  tier.Cover(64);
  for (Cell cell = 0; cell < kHot; ++cell) {
    for (Cell times = 0; times < 3 + (cell * 7) % 16; ++times) tier.Hit(cell);
  }
  for (int times = 0; times < 3; ++times) tier.Miss(kCold);
  CHECK(tier.Victim(kCold, kHot, AllLive()) == kNoCell);  // every row was learned as often
  tier.Miss(kCold);
  const Cell victim = tier.Victim(kCold, kHot, AllLive());
  CHECK(victim == 16);  // the one of the second sixteen that was learned three times
  tier.Exchanged(kCold, victim);
  CHECK(tier.Victim(kCold, kHot, AllLive()) == kNoCell);  // it took the place with its count
  CHECK(tier.promoted() == 1 && tier.misses() == 4);
}

void OnceIsNotEnough() {
  Tier tier({"unused", 1000, -1});
  tier.Cover(64);
  tier.Miss(kCold);
  CHECK(tier.Victim(kCold, kHot, AllLive()) == kNoCell);
  tier.Miss(kCold);
  CHECK(tier.Victim(kCold, kHot, AllLive()) != kNoCell);
  CHECK(tier.Victim(kCold, 0, AllLive()) == kNoCell);
}

void AFreeCellIsNoVictim() {
  Tier tier({"unused", 1000, -1});
  tier.Cover(64);
  tier.Set(kCold, 9);
  CHECK(tier.Victim(kCold, kHot, {uint64_t{1} << 5}) == 5);
  CHECK(tier.Victim(kCold, kHot, {uint64_t{1} << 5}) == kNoCell);  // the hand has passed it
}

void WhatWasFrequentLongAgoIsForgotten() {
  Tier tier({"unused", 1000, -1});
  for (int i = 0; i < 5; ++i) tier.Hit(3);  // before there are counters
  CHECK(!tier.covers());
  tier.Cover(64);
  for (int i = 0; i < 200; ++i) tier.Hit(3);
  for (int i = 0; i < 200'000; ++i) {
    tier.Hit(4);
    tier.Age(kHot);
  }
  tier.Set(kCold, 2);
  CHECK(tier.Victim(kCold, kHot, {uint64_t{1} << 3}) == 3);
  CHECK(tier.hits() == 200'205 && tier.misses() == 0);
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::TheLeastFrequentOfTheNextMakesRoom();
  headrace::OnceIsNotEnough();
  headrace::AFreeCellIsNoVictim();
  headrace::WhatWasFrequentLongAgoIsForgotten();
  return headrace::ReportChecks("tier_test");
}
