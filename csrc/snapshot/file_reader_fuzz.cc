// Feeds the reader damaged table files: bits and bytes changed, cuts, pieces moved, lengths and values set,
// with and without their checksums made right again (so that what is checked behind them is reached).
//
//   file_reader_fuzz [count = 20000] [seed = 1]
//
// Expects of each: an error of code kCorrupt, or, where checksums were left alone, exactly the original;
// where they were made right, blocks that keep every invariant of the format. No request for memory beyond
// the file's length.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <set>
#include <string>
#include <vector>

#include "snapshot/crc32c.h"
#include "snapshot/file_reader.h"
#include "snapshot/samples.h"
#include "snapshot/test_folder.h"

namespace {
size_t largest_request = 0;
}

void* operator new(size_t bytes) {
  largest_request = bytes > largest_request ? bytes : largest_request;
  if (void* memory = std::malloc(bytes > 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace headrace {
namespace {

struct Original {
  Sample sample;
  std::string bytes;
};

std::vector<Original> MakeOriginals() {
  const TestFolder folder;
  std::vector<Original> originals;
  for (int number = 0; number < 24; ++number) {
    Layout layout;
    layout.row_bytes = 4 + number % 3;
    layout.slots = number % 2;
    layout.has_times = number % 4 < 2;
    layout.has_marks = number % 3 < 2;
    layout.has_frequencies = number % 5 == 0;
    if (number % 6 == 3) {
      layout.incremental = layout.has_marks = true;
      layout.since = 30;
      layout.parent = 77;
      layout.whole_pending = number % 4 == 1;
    }
    if (number % 8 == 7) layout.shards = 5, layout.shard = 3;
    constexpr int kCounts[] = {0, 20, 300};
    originals.push_back(
        {MakeSample(static_cast<uint64_t>(number), layout, kCounts[number % 3], 16 * (number % 2)), ""});
    if (!WriteSample(originals.back().sample, folder.At("file"), "{\"spec\": 1}").ok()) std::abort();
    originals.back().bytes = BytesOf(folder.At("file"));
  }
  return originals;
}

template <typename T>
T Get(const std::string& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}
template <typename T>
void Set(std::string* bytes, size_t at, T value) {
  std::memcpy(bytes->data() + at, &value, sizeof value);
}

// Where the blocks of a file begin, as far as it can be followed.
std::vector<size_t> BlockStarts(const std::string& bytes) {
  std::vector<size_t> starts;
  Prefix prefix;
  if (bytes.size() < kPrefixBytes + kTailBytes + 4) return starts;
  if (!ReadPrefix(reinterpret_cast<const std::byte*>(bytes.data()), &prefix)) return starts;
  const uint64_t end = bytes.size() - kTailBytes;
  uint64_t at = kPrefixBytes + uint64_t{prefix.header_bytes} + 4;
  while (at + kBlockHeadBytes + 8 <= end && starts.size() < 300) {
    BlockHead head;
    ReadBlockHead(reinterpret_cast<const std::byte*>(bytes.data()) + at, &head);
    starts.push_back(at);
    for (const uint64_t count : {head.rows, head.pending, head.removed, head.forgotten, head.sketch}) {
      if (count > end) return starts;
    }
    at += kBlockHeadBytes + 8 + head.rows * static_cast<uint64_t>(prefix.layout.BytesPerRow()) +
          24 * head.pending + 16 * head.removed + 8 * head.forgotten + head.sketch;
  }
  starts.push_back(at);
  return starts;
}

// Makes checksums, digest, length and totals right again, as far as the file can be followed.
void Repair(std::string* bytes) {
  const std::vector<size_t> starts = BlockStarts(*bytes);
  if (starts.empty() || starts[0] > bytes->size() - kTailBytes) return;
  Digest digest;
  const uint32_t prefix_sum = Crc32c(bytes->data(), starts[0] - 4);
  Set(bytes, starts[0] - 4, prefix_sum);
  digest.Add(prefix_sum);
  Totals totals;
  for (size_t place = 0; place + 1 < starts.size(); ++place) {
    const size_t start = starts[place], content = start + kBlockHeadBytes + 4, end = starts[place + 1];
    const uint32_t head_sum = Crc32c(bytes->data() + start, kBlockHeadBytes);
    Set(bytes, start + kBlockHeadBytes, head_sum);
    if (end > bytes->size() - kTailBytes) break;
    const uint32_t sum = Crc32c(bytes->data() + content, end - 4 - content);
    Set(bytes, end - 4, sum);
    digest.Add(uint64_t{head_sum} << 32 | sum);
    totals.rows += Get<uint64_t>(*bytes, start + 8);
    totals.pending += Get<uint64_t>(*bytes, start + 16);
    totals.removed += Get<uint64_t>(*bytes, start + 24);
    totals.forgotten += Get<uint64_t>(*bytes, start + 32);
  }
  const size_t tail = bytes->size() - kTailBytes;
  auto* at = reinterpret_cast<std::byte*>(bytes->data()) + tail;
  Footer footer = ReadFooter(at);
  AddNumbers(footer.numbers, totals, &digest);
  footer.totals = totals;
  footer.length = bytes->size();
  footer.digest = digest.value();
  WriteFooter(footer, at);
  Set(bytes, tail + kFooterBytes, Crc32c(at, kFooterBytes));
  std::memcpy(at + kFooterBytes + 4, kEnd.data(), kEnd.size());
}

constexpr uint64_t kTelling[] = {
    0, 1, 2, 16, 255, 256, ~0ULL, 1 << 20, 1u << 31, 1ULL << 32, 1ULL << 60, 1ULL << 63, (1ULL << 63) - 1};

uint64_t TellingValue(Dice& dice, uint64_t present) {
  switch (dice.Below(4)) {
    case 0:
      return present + 1;
    case 1:
      return present - 1;
    case 2:
      return dice.Word();
    default:
      return kTelling[dice.Below(std::size(kTelling))];
  }
}

// Sets a field of the prefix, of a block's head or of the footer, or a word of a block's content.
void SetField(Dice& dice, std::string* bytes) {
  if (bytes->size() < kPrefixBytes + kTailBytes) return;
  const std::vector<size_t> starts = BlockStarts(*bytes);
  size_t at = 8 + 4 * dice.Below(11);
  if (dice.Below(4) == 0) at = bytes->size() - kTailBytes + 8 * dice.Below(13);
  if (starts.size() > 1 && dice.Below(3) > 0) {
    // Blocks with content are the ones that tell.
    size_t place = dice.Below(starts.size() - 1);
    for (int tries = 0; tries < 8 && starts[place + 1] - starts[place] < 100; ++tries) {
      place = dice.Below(starts.size() - 1);
    }
    const size_t words = (starts[place + 1] - starts[place]) / 4;
    at = starts[place] + (dice.Below(2) ? 8 * dice.Below(6) : 4 * dice.Below(words));
  }
  if (at + 8 > bytes->size()) return;
  if (dice.Below(2)) {
    Set(bytes, at, TellingValue(dice, Get<uint64_t>(*bytes, at)));
  } else {
    Set(bytes, at, static_cast<uint32_t>(TellingValue(dice, Get<uint32_t>(*bytes, at))));
  }
}

void Flip(Dice& dice, std::string* bytes) {
  for (auto flips = 1 + dice.Below(8); flips > 0; --flips) {
    char& byte = (*bytes)[dice.Below(bytes->size())];
    byte = static_cast<char>(byte ^ (1 << dice.Below(8)));
  }
}

void SetBytes(Dice& dice, std::string* bytes) {
  const size_t at = dice.Below(bytes->size());
  const size_t run = std::min<size_t>(1 + dice.Below(16), bytes->size() - at);
  const auto value = static_cast<char>(dice.Word());
  for (size_t place = at; place < at + run; ++place) (*bytes)[place] = value;
}

void Cut(Dice& dice, std::string* bytes) {
  if (dice.Below(2)) {
    bytes->resize(dice.Below(bytes->size()));
  } else {
    const size_t at = dice.Below(bytes->size());
    bytes->erase(at, 1 + dice.Below(200));
  }
}

// Puts a piece of one file into another: in place of as much, or between.
void Splice(Dice& dice, const std::string& from, std::string* bytes) {
  const size_t start = dice.Below(from.size()),
               size = std::min<size_t>(1 + dice.Below(400), from.size() - start);
  const size_t at = dice.Below(bytes->size());
  bytes->replace(at, dice.Below(2) ? size : 0, from, start, size);
}

// A whole block of another file, or of this one, in place of a block or between blocks.
void SpliceBlock(Dice& dice, const std::string& from, std::string* bytes) {
  const std::vector<size_t> there = BlockStarts(from), here = BlockStarts(*bytes);
  if (there.size() < 2 || here.size() < 2) return;
  const size_t place = dice.Below(std::min(there.size(), here.size()) - 1);
  const size_t other = dice.Below(4) ? place : dice.Below(there.size() - 1);
  bytes->replace(here[place], dice.Below(4) ? here[place + 1] - here[place] : 0, from, there[other],
                 there[other + 1] - there[other]);
}

// Whether a list ascends in the right stripe and shard, and adds it to a set; by other means than the
// reader's.
bool Listed(const Layout& layout, int32_t stripe, const std::vector<int64_t>& ids, std::set<int64_t>* all) {
  for (const int64_t id : ids) {
    const uint64_t hash = Mix64(static_cast<uint64_t>(id));
    if (static_cast<int32_t>(hash >> 56) != stripe || !Owns(layout, id) || !all->insert(id).second)
      return false;
  }
  return std::is_sorted(ids.begin(), ids.end());
}

bool KeepsInvariants(const Layout& layout, const Numbers& numbers, const Block& block) {
  const size_t n = block.ids.size();
  std::set<int64_t> rows, waiting, removed;
  if (!Listed(layout, block.stripe, block.ids, &rows)) return false;
  removed = waiting = rows;
  if (!Listed(layout, block.stripe, block.pending_ids, &waiting)) return false;
  if (!Listed(layout, block.stripe, block.forgotten_ids, &waiting)) return false;
  if (!Listed(layout, block.stripe, block.removed_ids, &removed)) return false;
  if (block.rows.size() != n * static_cast<size_t>(layout.row_bytes)) return false;
  if (block.slots.size() != n * static_cast<size_t>(layout.slots)) return false;
  if (block.times.size() != n * layout.has_times || block.marks.size() != n * layout.has_marks) return false;
  if (block.frequencies.size() != n * layout.has_frequencies) return false;
  if (block.pending_counts.size() != block.pending_ids.size()) return false;
  const auto mark = static_cast<int64_t>(numbers.mark), since = static_cast<int64_t>(layout.since);
  const auto floor = std::max(since, static_cast<int64_t>(numbers.floor));
  return std::all_of(block.pending_counts.begin(), block.pending_counts.end(),
                     [](int64_t c) { return c > 0; }) &&
         std::all_of(block.marks.begin(), block.marks.end(),
                     [&](int64_t m) { return m > since && m <= mark; }) &&
         std::all_of(block.removed_marks.begin(), block.removed_marks.end(),
                     [&](int64_t m) { return m > floor && m <= mark; }) &&
         (layout.incremental || block.forgotten_ids.empty()) &&
         (layout.has_marks || block.removed_ids.empty()) && block.sketch.size() % 16 == 0;
}

struct Tally {
  uint64_t errors = 0, same = 0, sound = 0, deep = 0, wrong = 0;
};

// Reads what is left of a file and judges the answer.
void Judge(const Original& original, const std::string& bytes, bool repaired, bool moved, Tally* tally) {
  largest_request = 0;
  TableFileReader reader;
  Status status = reader.Open(std::as_bytes(std::span(bytes)));
  bool right = true, done = false;
  Block block;
  for (size_t stripe = 0; status.ok() && !done; ++stripe) {
    status = reader.Next(&block, &done);
    if (!status.ok() || done) break;
    if (repaired || moved) {
      right = right && KeepsInvariants(reader.layout(), reader.numbers(), block);
    } else {
      right = right && SameBlock(block, original.sample.blocks[stripe]);
    }
    tally->deep += stripe == 0;
  }
  right = right && largest_request <= bytes.size() + 64;
  if (done) {
    if (!repaired) right = right && bytes == original.bytes;
    bytes == original.bytes ? ++tally->same : ++tally->sound;
  } else {
    right = right && status.code == Code::kCorrupt && status.detail >= 0 &&
            status.detail <= static_cast<int64_t>(bytes.size()) && bytes != original.bytes;
    ++tally->errors;
  }
  if (!right) ++tally->wrong;
}

int Run(uint64_t count, uint64_t seed) {
  const std::vector<Original> originals = MakeOriginals();
  Tally tally;
  const auto start = std::chrono::steady_clock::now();
  for (uint64_t number = 0; number < count; ++number) {
    Dice dice(seed * 0x100000001B3ULL + number);
    const Original& original = originals[dice.Below(originals.size())];
    const std::string& other = originals[dice.Below(originals.size())].bytes;
    std::string bytes = original.bytes;
    bool moved = false;
    for (auto rounds = dice.Below(64) == 0 ? 0 : 1 + dice.Below(3); rounds > 0 && !bytes.empty(); --rounds) {
      switch (dice.Below(8)) {
        case 0:
          Flip(dice, &bytes);
          break;
        case 1:
          SetBytes(dice, &bytes);
          break;
        case 2:
          Cut(dice, &bytes);
          break;
        case 3:
          Splice(dice, other, &bytes), moved = true;
          break;
        case 4:
          SpliceBlock(dice, other, &bytes), moved = true;
          break;
        default:
          SetField(dice, &bytes);
          break;
      }
    }
    const bool repaired = dice.Below(2);
    if (repaired) Repair(&bytes);
    const uint64_t before = tally.wrong;
    Judge(original, bytes, repaired, moved, &tally);
    if (tally.wrong != before)
      std::printf("file_reader_fuzz: input %llu is read wrongly\n", (unsigned long long)number);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf(
      "file_reader_fuzz: %llu inputs in %.1f s: %llu errors (%llu inputs gave their first block), %llu "
      "originals, "
      "%llu others that are sound, %llu wrong\n",
      (unsigned long long)count, seconds.count(), (unsigned long long)tally.errors,
      (unsigned long long)tally.deep, (unsigned long long)tally.same, (unsigned long long)tally.sound,
      (unsigned long long)tally.wrong);
  return tally.wrong == 0 && tally.same > 0 ? 0 : 1;
}

}  // namespace
}  // namespace headrace

int main(int count, char** words) {
  return headrace::Run(count > 1 ? std::strtoull(words[1], nullptr, 10) : 20'000,
                       count > 2 ? std::strtoull(words[2], nullptr, 10) : 1);
}
