// ChainReader: a full table file and the increments that continue it, read as one table. A stripe at a time
// of each file is in memory, so nobody who loads a table needs to know what an increment is.
//
// Thread safety: one thread at a time.
// Invariants:
//   1. What TableFileReader promises, for every file.
//   2. Each increment continues the file before it: its mark and its digest.
// Errors: as TableFileReader; kInvalid from Open when a file does not continue the one before it. where()
// tells which file a status that is not ok speaks of.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "snapshot/block_source.h"
#include "snapshot/file_reader.h"

namespace headrace {

class ChainReader final : public BlockSource {
 public:
  ChainReader() = default;
  ChainReader(const ChainReader&) = delete;
  ChainReader& operator=(const ChainReader&) = delete;

  // Opens all files, the full one first. May be called once.
  Status Open(const std::vector<std::string>& paths);

  // From now on gives exactly these columns, whatever the files hold: what they lack is filled in (event
  // times 0, frequencies 0, marks as of a table that forgot its history at its last mark), what is too much
  // is left out. REQUIRES: Open was ok, Next was not called.
  void Give(bool times, bool marks, bool frequencies);

  // REQUIRES: Open was ok. The layout is that of a full file with the columns that are
  // given; header, numbers and digest are those of the last file.
  const Layout& layout() const { return layout_; }
  const std::string& header() const { return files_.back()->header(); }
  const Numbers& numbers() const { return numbers_; }
  uint64_t digest() const { return files_.back()->digest(); }
  const std::vector<std::unique_ptr<TableFileReader>>& files() const { return files_; }
  size_t where() const { return where_; }

  // BlockSource.
  Status Next(Block* out, bool* done) override;
  Status Close(Numbers* out) override;

 private:
  Status NextMerged(Block* out, bool* done);
  void FitColumns(Block* out) const;

  std::vector<std::unique_ptr<TableFileReader>> files_;
  Layout layout_;
  Numbers numbers_;
  Block increment_, folded_;
  size_t where_ = 0;
};

}  // namespace headrace
