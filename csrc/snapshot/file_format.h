// The table file: a table, or what changed in it since another file, as 256 blocks. All numbers are
// little-endian; nothing is padded; every byte is under a CRC32C.
//
//   prefix   56 | "HDRTABLE", u32 version, u32 flags, u32 header bytes, u32 shard, u32 shards, u32 slots,
//               | u64 row bytes, u64 since, u64 parent digest
//   header    H | opaque here: JSON that says which table this is
//             4 | checksum of prefix and header
//   block    48 | "BLCK", u32 stripe, u64 rows n, u64 waiting P, u64 removals T, u64 forgotten G, u64 sketch
//   bytes
//    (256     4 | checksum of the 48 bytes
//   times)    … | ids 8n, [times 8n], [marks 8n], [frequencies n], rows n·row bytes, slots 4n·S,
//               | waiting: ids 8P, counts 8P, times 8P; removals: ids 8T, marks 8T; forgotten ids 8G; sketch
//             4 | checksum of that
//   footer  104 | mark, floor, admitted, filtered, evicted, newest, halvings; all rows, waiting, removals,
//               | forgotten (8 each); u64 file length, u64 digest
//             4 | checksum of the 104 bytes
//             8 | "ELBATRDH"
//
// The digest is made from all checksums and numbers before it; it names the file, and an increment holds the
// digest of the file it continues. A file of one shard of several has the same 256 blocks, most of them
// empty.
//
// Thread safety: pure functions and plain data.
// Invariants (what a writer refuses to write and a reader to give):
//   1. Ids of a list ascend, hash to the block's stripe and to a bucket of the file's shard.
//   2. No id has a row and also a count, a removal or a forgotten count; none waits and is forgotten at once.
//   3. Counts are at least 1. Marks of rows lie in [1, mark], in increments in (since, mark]; of removals in
//      (floor, mark], in increments in (since, mark].
//   4. Only increments forget counts; only tables with marks have removals and increments.
//   5. Sketch parts of a file are equally long, and 16 equal parts by bucket; an increment may leave some
//   out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "snapshot/block.h"
#include "table/hash.h"

namespace headrace {

inline constexpr uint32_t kFileVersion = 1;
inline constexpr int32_t kBuckets = 4096;
inline constexpr int32_t kBucketsPerStripe = kBuckets / kStripes;

inline int32_t BucketOf(int64_t id) {
  return static_cast<int32_t>(Mix64(static_cast<uint64_t>(id)) >> 52);
}
inline int32_t StripeOf(int64_t id) {
  return static_cast<int32_t>(Mix64(static_cast<uint64_t>(id)) >> 56);
}
// REQUIRES: 1 <= shards <= kBuckets.
inline int32_t ShardOf(int32_t bucket, int32_t shards) {
  return bucket * shards / kBuckets;
}

// What the rows of a file look like and what part of which table it holds.
struct Layout {
  int64_t row_bytes = 0;  // of an embedding, in the table's precision
  int64_t slots = 0;      // float32 values beside it
  bool has_times = false;
  bool has_marks = false;
  bool has_frequencies = false;
  bool incremental = false;    // holds what changed after `since`
  bool whole_pending = false;  // an increment that lists all waiting ids: a count not in it is forgotten
  int32_t shard = 0;
  int32_t shards = 1;
  uint64_t since = 0;   // increments: the mark of the file it continues
  uint64_t parent = 0;  // increments: the digest of that file

  bool operator==(const Layout&) const = default;

  // Bytes a row takes in a file.
  int64_t BytesPerRow() const {
    return 8 + 8 * has_times + 8 * has_marks + has_frequencies + row_bytes + 4 * slots;
  }
  // Whether the two hold rows of one kind of table, of one shard.
  bool SameRows(const Layout& other) const;
  // Whether this can be written at all.
  bool IsSound() const;
};

// How many of each a file holds.
struct Totals {
  uint64_t rows = 0, pending = 0, removed = 0, forgotten = 0;
  bool operator==(const Totals&) const = default;
};

// Largest and smallest marks of a block; low > high when it has none.
struct MarkRange {
  int64_t low = INT64_MAX, high = INT64_MIN;
  void Add(int64_t mark) {
    low = mark < low ? mark : low;
    high = mark > high ? mark : high;
  }
};

// Whether the columns of a block have the lengths that the layout says.
bool HasShape(const Layout& layout, const Block& block);

// Whether a block keeps invariants 1 to 4 but for the marks, whose ranges are returned. REQUIRES: HasShape.
// Cost: about 2 ns a row.
bool IsSound(const Layout& layout, const Block& block, MarkRange* rows, MarkRange* removed);

// Whether marks of blocks and the numbers themselves fit together. `rows` and `removed`: over all blocks.
bool MarksFit(const Layout& layout, const Numbers& numbers, MarkRange rows, MarkRange removed);
bool NumbersFit(const Layout& layout, const Numbers& numbers);

// The running digest of a file.
class Digest {
 public:
  void Add(uint64_t word) { value_ = Mix64((value_ + kGamma) ^ word); }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0;
};

// --- The fixed parts as bytes.
// -----------------------------------------------------------------------------------

inline constexpr size_t kPrefixBytes = 56, kChecksumBytes = 4;
inline constexpr size_t kBlockHeadBytes = 48, kFooterBytes = 104, kEndBytes = 8;
inline constexpr size_t kTailBytes = kFooterBytes + kChecksumBytes + kEndBytes;
inline constexpr std::string_view kMagic = "HDRTABLE", kEnd = "ELBATRDH";

struct Prefix {
  uint32_t header_bytes = 0;
  Layout layout;
};
struct BlockHead {
  uint64_t rows = 0, pending = 0, removed = 0, forgotten = 0, sketch = 0;
  int32_t stripe = 0;
};
struct Footer {
  Numbers numbers;
  Totals totals;
  uint64_t length = 0;
  uint64_t digest = 0;
};

void WritePrefix(const Prefix& prefix, std::byte* out);
bool ReadPrefix(const std::byte* in, Prefix* prefix);  // false: not ours, another version or unsound
void WriteBlockHead(const BlockHead& head, std::byte* out);
bool ReadBlockHead(const std::byte* in, BlockHead* head);
void WriteFooter(const Footer& footer, std::byte* out);
Footer ReadFooter(const std::byte* in);

// Adds the numbers of a footer to a digest.
void AddNumbers(const Numbers& numbers, const Totals& totals, Digest* digest);

// Calls visit(pointer, bytes) for each column of a block, in the order of the file.
template <typename AnyBlock, typename Visit>
bool VisitColumns(AnyBlock& block, Visit visit) {
  const auto one = [&visit](auto& column) {
    return column.empty() || visit(column.data(), column.size() * sizeof column[0]);
  };
  return one(block.ids) && one(block.times) && one(block.marks) && one(block.frequencies) &&
         one(block.rows) && one(block.slots) && one(block.pending_ids) && one(block.pending_counts) &&
         one(block.pending_times) && one(block.removed_ids) && one(block.removed_marks) &&
         one(block.forgotten_ids) && one(block.sketch);
}

}  // namespace headrace
