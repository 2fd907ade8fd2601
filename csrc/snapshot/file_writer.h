// TableFileWriter: writes a table file (file_format.h), whole or not at all: beside its place, flushed to the
// disk, then renamed. Whatever fails, the temporary goes away and an earlier file at the path is untouched;
// only a killed process leaves its temporary (".NAME.PID.NUMBER.tmp") behind.
//
// Thread safety: one thread at a time.
// Invariants:
//   1. After a status that is not ok nothing is left of the file, and every later call answers kInvalid.
//   2. Equal calls write equal bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot/file_format.h"
#include "table/status.h"

namespace headrace {

class TableFileWriter {
 public:
  TableFileWriter() = default;
  TableFileWriter(const TableFileWriter&) = delete;
  TableFileWriter& operator=(const TableFileWriter&) = delete;
  ~TableFileWriter() { Abandon(); }

  // Starts the file. kInvalid: unsound layout, a header of 2^31 bytes, a second call; kIo: errno.
  Status Open(const std::string& path, std::string_view header, const Layout& layout);

  // Writes the next block (stripe 0, 1, ... 255). kInvalid: not a block of this layout (detail: the stripe).
  // Cost: two passes over the block, one of them the copy into the kernel's cache.
  Status Add(const Block& block);

  // Ends the file: Seal and Publish. REQUIRES: 256 blocks were added (else kInvalid).
  Status Finish(const Numbers& numbers);

  // Writes the footer and flushes to the disk; the file is not in its place yet.
  Status Seal(const Numbers& numbers);
  // Puts the sealed file in its place, durably. When flushing the folder fails, the file is there all the
  // same.
  Status Publish();
  // Removes the temporary, if there is one.
  void Abandon();

  uint64_t bytes() const { return written_; }
  const Totals& totals() const { return totals_; }
  uint64_t digest() const { return digest_.value(); }  // of the whole file once it is sealed

 private:
  enum class Stage { kNone, kOpen, kSealed, kEnded };

  Status Fail(Status status);
  Status Write(const void* data, size_t bytes);  // through the buffer, or past it if large
  Status WriteOut(const std::byte* data, size_t bytes);
  Status Flush();

  std::string path_, temporary_;
  Layout layout_;
  std::vector<std::byte> buffer_;
  size_t buffered_ = 0;
  uint64_t written_ = 0;  // bytes given to Write
  uint64_t on_way_ = 0;   // bytes given to the kernel
  uint64_t started_ = 0;  // bytes whose way to the disk has begun
  int file_ = -1;
  int32_t stripe_ = 0;
  int64_t sketch_bytes_ = -1;  // of the parts so far; -1: none yet
  Stage stage_ = Stage::kNone;
  Totals totals_;
  MarkRange rows_, removed_;
  Digest digest_;
};

}  // namespace headrace
