// TableFileReader: reads a table file (file_format.h) from the disk or from memory, one block at a time.
// Nothing is given before it was checked: magic, version, lengths against the length of the file (before
// memory is taken for them), checksums, and the invariants of the format.
//
// Thread safety: one thread at a time.
// Invariants:
//   1. On any input whatever: no crash, and never more memory than the file is long.
//   2. Next says done only after the totals and the digest of the whole file were found right; a consumer
//   that wants
//      all or nothing waits for it.
// Errors: kCorrupt (detail: the byte where what is wrong begins), kIo (detail: errno), kNoMemory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "snapshot/block_source.h"
#include "snapshot/file_format.h"
#include "table/status.h"

namespace headrace {

class TableFileReader final : public BlockSource {
 public:
  TableFileReader() = default;
  TableFileReader(const TableFileReader&) = delete;
  TableFileReader& operator=(const TableFileReader&) = delete;
  ~TableFileReader() override;

  // Opens a file, or bytes that outlive the reader, and checks prefix, header and footer. May be called once.
  Status Open(const std::string& path);
  Status Open(std::span<const std::byte> bytes);

  // What the file says of itself. REQUIRES: Open was ok.
  const std::string& header() const { return header_; }
  const Layout& layout() const { return layout_; }
  const Numbers& numbers() const { return footer_.numbers; }
  const Totals& totals() const { return footer_.totals; }
  uint64_t digest() const { return footer_.digest; }
  uint64_t bytes() const { return length_; }

  // BlockSource: the 256 blocks in order. Cost: one pass of reading, one of sums, about 2 ns a row of checks.
  Status Next(Block* out, bool* done) override;
  Status Close(Numbers* out) override;

 private:
  Status ReadEnds();
  Status ReadBlock(Block* out);
  Status CheckEnd() const;
  Status Read(uint64_t at, void* out, size_t bytes) const;
  Status Corrupt(uint64_t at) const { return {Code::kCorrupt, static_cast<int64_t>(at)}; }

  int file_ = -1;
  const std::byte* memory_ = nullptr;
  uint64_t length_ = 0;
  uint64_t at_ = 0;   // where the next block begins
  uint64_t end_ = 0;  // where the footer begins
  bool opened_ = false, failed_ = false;
  std::string header_;
  Layout layout_;
  Footer footer_;
  int32_t stripe_ = 0;
  int64_t sketch_bytes_ = -1;
  Totals totals_;
  Digest digest_;
};

}  // namespace headrace
