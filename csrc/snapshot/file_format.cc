#include "snapshot/file_format.h"

#include <cstring>
#include <span>

namespace headrace {
namespace {

constexpr uint32_t kBlockMagic = 0x4B434C42u;  // "BLCK"
constexpr uint32_t kTimes = 1, kMarks = 2, kFrequencies = 4, kIncremental = 8, kWholePending = 16,
                   kAllFlags = 31;

// Writes and reads fixed numbers one behind the other. Little-endian machines only, as the columns are.
class Cursor {
 public:
  explicit Cursor(std::byte* out) : out_(out) {}
  template <typename T>
  void Put(T value) {
    std::memcpy(out_, &value, sizeof value);
    out_ += sizeof value;
  }

 private:
  std::byte* out_;
};

class Reading {
 public:
  explicit Reading(const std::byte* in) : in_(in) {}
  template <typename T>
  T Take() {
    T value;
    std::memcpy(&value, in_, sizeof value);
    in_ += sizeof value;
    return value;
  }

 private:
  const std::byte* in_;
};

bool Ascends(const Layout& layout, int32_t stripe, std::span<const int64_t> ids) {
  for (size_t place = 0; place < ids.size(); ++place) {
    if (place > 0 && ids[place - 1] >= ids[place]) return false;
    const int32_t bucket = BucketOf(ids[place]);
    if (bucket / kBucketsPerStripe != stripe) return false;
    if (layout.shards != 1 && ShardOf(bucket, layout.shards) != layout.shard) return false;
  }
  return true;
}

// REQUIRES: both ascend.
bool Disjoint(std::span<const int64_t> a, std::span<const int64_t> b) {
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    if (a[i] == b[j]) return false;
    a[i] < b[j] ? ++i : ++j;
  }
  return true;
}

uint64_t FlagsOf(const Layout& layout) {
  return (layout.has_times ? kTimes : 0) | (layout.has_marks ? kMarks : 0) |
         (layout.has_frequencies ? kFrequencies : 0) | (layout.incremental ? kIncremental : 0) |
         (layout.whole_pending ? kWholePending : 0);
}

}  // namespace

bool Layout::SameRows(const Layout& other) const {
  return row_bytes == other.row_bytes && slots == other.slots && has_times == other.has_times &&
         has_marks == other.has_marks && has_frequencies == other.has_frequencies && shard == other.shard &&
         shards == other.shards;
}

bool Layout::IsSound() const {
  constexpr int64_t kMost = int64_t{1} << 31;
  if (row_bytes < 1 || row_bytes > kMost || slots < 0 || slots > kMost) return false;
  if (shards < 1 || shards > kBuckets || shard < 0 || shard >= shards) return false;
  return incremental ? has_marks : !whole_pending && since == 0 && parent == 0;
}

bool HasShape(const Layout& layout, const Block& block) {
  const size_t n = block.ids.size(), waiting = block.pending_ids.size();
  return block.stripe >= 0 && block.stripe < kStripes && block.times.size() == (layout.has_times ? n : 0) &&
         block.marks.size() == (layout.has_marks ? n : 0) &&
         block.frequencies.size() == (layout.has_frequencies ? n : 0) &&
         block.rows.size() == n * static_cast<size_t>(layout.row_bytes) &&
         block.slots.size() == n * static_cast<size_t>(layout.slots) &&
         block.pending_counts.size() == waiting && block.pending_times.size() == waiting &&
         block.removed_marks.size() == block.removed_ids.size() &&
         block.sketch.size() % kBucketsPerStripe == 0;
}

bool IsSound(const Layout& layout, const Block& block, MarkRange* rows, MarkRange* removed) {
  for (const auto* ids : {&block.ids, &block.pending_ids, &block.removed_ids, &block.forgotten_ids}) {
    if (!Ascends(layout, block.stripe, *ids)) return false;
  }
  for (const auto* other : {&block.pending_ids, &block.removed_ids, &block.forgotten_ids}) {
    if (!Disjoint(block.ids, *other)) return false;
  }
  if (!Disjoint(block.pending_ids, block.forgotten_ids)) return false;
  if (!layout.incremental && !block.forgotten_ids.empty()) return false;
  if (!layout.has_marks && !block.removed_ids.empty()) return false;
  for (const int64_t count : block.pending_counts) {
    if (count < 1) return false;
  }
  for (const int64_t mark : block.marks) rows->Add(mark);
  for (const int64_t mark : block.removed_marks) removed->Add(mark);
  return true;
}

bool MarksFit(const Layout& layout, const Numbers& numbers, MarkRange rows, MarkRange removed) {
  const auto high = static_cast<int64_t>(numbers.mark), since = static_cast<int64_t>(layout.since);
  const auto floor = static_cast<int64_t>(numbers.floor);
  const bool rows_fit = rows.low > rows.high || (rows.low > since && rows.high <= high);
  const bool removed_fit =
      removed.low > removed.high || (removed.low > since && removed.low > floor && removed.high <= high);
  return rows_fit && removed_fit;
}

bool NumbersFit(const Layout& layout, const Numbers& numbers) {
  if (numbers.mark > INT64_MAX || numbers.floor > numbers.mark) return false;
  if (layout.since > numbers.mark || (layout.incremental && numbers.floor > layout.since)) return false;
  return numbers.admitted >= 0 && numbers.filtered >= 0 && numbers.evicted >= 0 && numbers.halvings >= 0;
}

void WritePrefix(const Prefix& prefix, std::byte* out) {
  const Layout& layout = prefix.layout;
  std::memcpy(out, kMagic.data(), kMagic.size());
  Cursor cursor(out + kMagic.size());
  cursor.Put(kFileVersion);
  cursor.Put(static_cast<uint32_t>(FlagsOf(layout)));
  cursor.Put(prefix.header_bytes);
  cursor.Put(static_cast<uint32_t>(layout.shard));
  cursor.Put(static_cast<uint32_t>(layout.shards));
  cursor.Put(static_cast<uint32_t>(layout.slots));
  cursor.Put(static_cast<uint64_t>(layout.row_bytes));
  cursor.Put(layout.since);
  cursor.Put(layout.parent);
}

bool ReadPrefix(const std::byte* in, Prefix* prefix) {
  if (std::memcmp(in, kMagic.data(), kMagic.size()) != 0) return false;
  Reading reading(in + kMagic.size());
  if (reading.Take<uint32_t>() != kFileVersion) return false;
  const auto flags = reading.Take<uint32_t>();
  if (flags > kAllFlags) return false;
  Layout& layout = prefix->layout;
  layout.has_times = flags & kTimes;
  layout.has_marks = flags & kMarks;
  layout.has_frequencies = flags & kFrequencies;
  layout.incremental = flags & kIncremental;
  layout.whole_pending = flags & kWholePending;
  prefix->header_bytes = reading.Take<uint32_t>();
  const auto shard = reading.Take<uint32_t>(), shards = reading.Take<uint32_t>();
  if (shards > kBuckets || shard >= shards) return false;
  layout.shard = static_cast<int32_t>(shard);
  layout.shards = static_cast<int32_t>(shards);
  layout.slots = reading.Take<uint32_t>();
  const auto row_bytes = reading.Take<uint64_t>();
  if (row_bytes > INT64_MAX) return false;
  layout.row_bytes = static_cast<int64_t>(row_bytes);
  layout.since = reading.Take<uint64_t>();
  layout.parent = reading.Take<uint64_t>();
  return layout.IsSound();
}

void WriteBlockHead(const BlockHead& head, std::byte* out) {
  Cursor cursor(out);
  cursor.Put(kBlockMagic);
  cursor.Put(static_cast<uint32_t>(head.stripe));
  for (const uint64_t count : {head.rows, head.pending, head.removed, head.forgotten, head.sketch})
    cursor.Put(count);
}

bool ReadBlockHead(const std::byte* in, BlockHead* head) {
  Reading reading(in);
  const bool ours = reading.Take<uint32_t>() == kBlockMagic;
  head->stripe = static_cast<int32_t>(reading.Take<uint32_t>());
  for (uint64_t* count : {&head->rows, &head->pending, &head->removed, &head->forgotten, &head->sketch}) {
    *count = reading.Take<uint64_t>();
  }
  return ours;
}

void WriteFooter(const Footer& footer, std::byte* out) {
  const Numbers& numbers = footer.numbers;
  Cursor cursor(out);
  cursor.Put(numbers.mark);
  cursor.Put(numbers.floor);
  for (const int64_t number :
       {numbers.admitted, numbers.filtered, numbers.evicted, numbers.newest, numbers.halvings}) {
    cursor.Put(number);
  }
  const Totals& totals = footer.totals;
  for (const uint64_t number :
       {totals.rows, totals.pending, totals.removed, totals.forgotten, footer.length, footer.digest}) {
    cursor.Put(number);
  }
}

Footer ReadFooter(const std::byte* in) {
  Footer footer;
  Reading reading(in);
  Numbers& numbers = footer.numbers;
  numbers.mark = reading.Take<uint64_t>();
  numbers.floor = reading.Take<uint64_t>();
  for (int64_t* number :
       {&numbers.admitted, &numbers.filtered, &numbers.evicted, &numbers.newest, &numbers.halvings}) {
    *number = reading.Take<int64_t>();
  }
  Totals& totals = footer.totals;
  for (uint64_t* number :
       {&totals.rows, &totals.pending, &totals.removed, &totals.forgotten, &footer.length, &footer.digest}) {
    *number = reading.Take<uint64_t>();
  }
  return footer;
}

void AddNumbers(const Numbers& numbers, const Totals& totals, Digest* digest) {
  digest->Add(numbers.mark);
  digest->Add(numbers.floor);
  for (const int64_t number :
       {numbers.admitted, numbers.filtered, numbers.evicted, numbers.newest, numbers.halvings}) {
    digest->Add(static_cast<uint64_t>(number));
  }
  for (const uint64_t number : {totals.rows, totals.pending, totals.removed, totals.forgotten})
    digest->Add(number);
}

}  // namespace headrace
