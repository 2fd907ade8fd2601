// Increments folded into a full file, against a table of maps.
#include "snapshot/chain.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "snapshot/merge.h"
#include "snapshot/test_folder.h"
#include "table/check.h"

namespace headrace {
namespace {

struct Row {
  int64_t mark;
  std::byte value;
};

// A table of one byte a row that remembers everything, so that any snapshot of it can be written down.
struct Model {
  Layout layout;
  std::map<int64_t, Row> rows;
  std::map<int64_t, std::pair<int64_t, int64_t>> pending;  // count, mark of the last change
  std::map<int64_t, int64_t> removed, forgotten;           // mark
  std::map<int32_t, int64_t> sketch;                       // mark of the last change, by stripe
  uint64_t mark = 0, floor = 0;

  Model() {
    layout.row_bytes = 1;
    layout.has_marks = true;
  }

  void Step(Dice& dice) {
    ++mark;
    for (int change = 0; change < 6; ++change) {
      const int64_t id = dice.Between(0, 60), now = static_cast<int64_t>(mark);
      switch (dice.Below(4)) {
        case 0:
          pending.erase(id);
          removed.erase(id);
          rows[id] = {now, static_cast<std::byte>(dice.Word())};
          break;
        case 1:
          if (rows.erase(id) > 0) removed[id] = now;
          break;
        case 2:
          if (rows.count(id) == 0) pending[id] = {pending[id].first + 1, now};
          break;
        default:
          if (pending.erase(id) > 0) forgotten[id] = now;
      }
      sketch[StripeOf(id)] = now;
    }
  }

  void Forget(uint64_t to) {
    floor = to;
    std::erase_if(removed, [&](const auto& item) { return item.second <= static_cast<int64_t>(to); });
  }

  // Everything, or what changed after `since`.
  Sample Write(bool incremental, uint64_t since, bool whole_pending) const {
    Sample sample{layout, {}, std::vector<Block>(kStripes)};
    sample.layout.incremental = incremental;
    sample.layout.whole_pending = whole_pending;
    sample.layout.since = since;
    sample.numbers.mark = mark;
    sample.numbers.floor = floor;
    const auto after = static_cast<int64_t>(since), least = std::max<int64_t>(static_cast<int64_t>(floor), 1);
    for (int32_t stripe = 0; stripe < kStripes; ++stripe) {
      Block& block = sample.blocks[static_cast<size_t>(stripe)];
      block.stripe = stripe;
      const auto changed = sketch.find(stripe);
      const int64_t value = changed == sketch.end() ? 0 : changed->second;
      if (!incremental || value > after) block.sketch.assign(16, static_cast<std::byte>(value));
    }
    const auto block = [&](int64_t id) -> Block& { return sample.blocks[static_cast<size_t>(StripeOf(id))]; };
    for (const auto& [id, row] : rows) {
      if (row.mark <= after) continue;
      block(id).ids.push_back(id);
      block(id).marks.push_back(std::max(row.mark, least));
      block(id).rows.push_back(row.value);
    }
    for (const auto& [id, count] : pending) {
      if (count.second <= after && !whole_pending) continue;
      block(id).pending_ids.push_back(id);
      block(id).pending_counts.push_back(count.first);
      block(id).pending_times.push_back(count.second);
    }
    for (const auto& [id, at] : removed) {
      if (at <= after) continue;
      block(id).removed_ids.push_back(id);
      block(id).removed_marks.push_back(at);
    }
    for (const auto& [id, at] : forgotten) {
      if (!incremental || whole_pending || at <= after || rows.count(id) > 0 || pending.count(id) > 0)
        continue;
      block(id).forgotten_ids.push_back(id);
    }
    return sample;
  }
};

bool ChainIs(const std::vector<std::string>& paths, const Sample& expected) {
  ChainReader chain;
  if (!chain.Open(paths).ok()) return false;
  Block block;
  bool done = false;
  for (const Block& one : expected.blocks) {
    if (!chain.Next(&block, &done).ok() || done || !SameBlock(block, one)) return false;
  }
  Numbers numbers;
  return chain.Next(&block, &done).ok() && done && chain.Close(&numbers).ok() &&
         SameNumbers(numbers, expected.numbers) && chain.layout() == expected.layout;
}

void AChainIsTheTableAtItsEnd() {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const TestFolder folder;
    Dice dice(seed);
    Model model;
    std::vector<std::string> paths;
    uint64_t digest = 0, since = 0;
    for (int file = 0; file < 4; ++file) {
      for (auto steps = dice.Below(5); steps > 0; --steps) model.Step(dice);
      const bool incremental = file > 0;
      Sample sample = model.Write(incremental, since, incremental && dice.Below(3) == 0);
      sample.layout.parent = incremental ? digest : 0;
      paths.push_back(folder.At(std::to_string(file)));
      CHECK(WriteSample(sample, paths.back(), "{}", &digest).ok());
      since = model.mark;
      CHECK(ChainIs(paths, model.Write(false, 0, false)));
      if (dice.Below(2)) model.Forget(model.floor + dice.Below(model.mark - model.floor + 1));
    }
  }
}

void WhatDoesNotContinueIsRefused() {
  const TestFolder folder;
  Layout layout;
  layout.row_bytes = 4;
  layout.has_marks = true;
  const Sample full = MakeSample(1, layout, 50, 0);
  uint64_t digest = 0;
  CHECK(WriteSample(full, folder.At("full"), "{}", &digest).ok());
  layout.incremental = true;
  layout.since = full.numbers.mark;
  layout.parent = digest;
  const auto refused = [&](const Layout& other, const char* name) {
    CHECK(WriteSample(MakeSample(2, other, 0, 0), folder.At(name), "{}").ok());
    ChainReader chain;
    const Status status = chain.Open({folder.At("full"), folder.At(name)});
    return status.code == Code::kInvalid && chain.where() == 1;
  };
  Layout other = layout;
  CHECK(!refused(other, "good"));
  other.parent = digest + 1;
  CHECK(refused(other, "parent"));
  other = layout;
  other.since = full.numbers.mark + 1;
  CHECK(refused(other, "since"));
  other = layout;
  other.row_bytes = 5;
  CHECK(refused(other, "rows"));
  other = layout;
  other.shards = 2;
  CHECK(refused(other, "shard"));
  ChainReader twice, headless;
  CHECK(twice.Open({folder.At("full"), folder.At("full")}).code == Code::kInvalid);
  CHECK(headless.Open({folder.At("good")}).code == Code::kInvalid);
}

void DamageInAnIncrementIsFoundInTime() {
  const TestFolder folder;
  Dice dice(5);
  Model model;
  model.Step(dice);
  uint64_t digest = 0;
  CHECK(WriteSample(model.Write(false, 0, false), folder.At("full"), "{}", &digest).ok());
  Sample increment = model.Write(true, model.mark, true);
  increment.layout.parent = digest;
  CHECK(WriteSample(increment, folder.At("next")).ok());
  std::string bytes = BytesOf(folder.At("next"));
  bytes[bytes.size() - kTailBytes - 1] ^= 1;  // the last block's checksum
  std::ofstream(folder.At("next"), std::ios::binary) << bytes;
  ChainReader chain;
  CHECK(chain.Open({folder.At("full"), folder.At("next")}).ok());
  Block block;
  bool done = false;
  Status status;
  while (status.ok() && !done) status = chain.Next(&block, &done);
  CHECK(status.code == Code::kCorrupt && chain.where() == 1 && !done);
  std::string first = BytesOf(folder.At("full"));
  first[first.size() - kTailBytes - 1] ^= 1;
  std::ofstream(folder.At("full"), std::ios::binary) << first;
  ChainReader other;
  CHECK(other.Open({folder.At("full"), folder.At("next")}).ok());
  for (status = {}; status.ok() && !done;) status = other.Next(&block, &done);
  CHECK(status.code == Code::kCorrupt && other.where() == 0 && !done);
}

void UntouchedFrequenciesAreHalved() {
  Layout layout;
  layout.row_bytes = 1;
  layout.has_frequencies = true;
  Block older, increment, out;
  for (int64_t id = 0; older.ids.size() < 2; ++id) {
    if (StripeOf(id) != 0) continue;
    older.ids.push_back(id);
    older.frequencies.push_back(200);
    older.rows.push_back(std::byte{1});
  }
  increment.ids = {older.ids[1]};
  increment.frequencies = {99};
  increment.rows = {std::byte{2}};
  CHECK(Fold(layout, older, increment, false, 3, 0, &out));
  CHECK((out.frequencies == std::vector<uint8_t>{25, 99}));
  CHECK(Fold(layout, older, increment, false, 1000, 0, &out) && out.frequencies[0] == 0);
  CHECK(!Fold(layout, older, increment, false, -1, 0, &out));
  increment.sketch.resize(16);
  CHECK(!Fold(layout, older, increment, false, 0, 0, &out));
}

void ColumnsAreGivenAsAsked() {
  const TestFolder folder;
  Layout with, without;
  with.row_bytes = without.row_bytes = 4;
  with.has_times = with.has_marks = with.has_frequencies = true;
  const Sample full = MakeSample(1, with, 900, 0), bare = MakeSample(2, without, 900, 0);
  CHECK(WriteSample(full, folder.At("full")).ok() && WriteSample(bare, folder.At("bare")).ok());
  ChainReader less, more;
  CHECK(less.Open({folder.At("full")}).ok() && more.Open({folder.At("bare")}).ok());
  less.Give(false, false, false);
  more.Give(true, true, true);
  CHECK(less.numbers().floor == full.numbers.mark && more.numbers().floor == bare.numbers.mark);
  Block block;
  bool done = false;
  for (size_t stripe = 0; less.Next(&block, &done).ok() && !done; ++stripe) {
    CHECK(HasShape(without, block) && block.rows == full.blocks[stripe].rows && block.removed_ids.empty());
  }
  CHECK(done);
  const auto mark = static_cast<int64_t>(bare.numbers.mark);
  for (done = false; more.Next(&block, &done).ok() && !done;) {
    CHECK(HasShape(with, block));
    CHECK(std::all_of(block.marks.begin(), block.marks.end(), [&](int64_t one) { return one == mark; }));
  }
  CHECK(done);
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::AChainIsTheTableAtItsEnd();
  headrace::WhatDoesNotContinueIsRefused();
  headrace::DamageInAnIncrementIsFoundInTime();
  headrace::UntouchedFrequenciesAreHalved();
  headrace::ColumnsAreGivenAsAsked();
  return headrace::ReportChecks("chain_test");
}
