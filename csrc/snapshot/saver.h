// TableSaver: writes a source of blocks to a table file on a thread of its own, while training goes on.
//
// The source is released as soon as its last block is taken, before the disk is flushed; when writing fails
// it is released at once, so that no writer of the table waits for a disk that is full.
//
// Thread safety: every member may be called from any thread; destruction needs the saver alone.
// Invariants:
//   1. After Wait the file is in its place and on the disk, or nothing is left of it.
//   2. Destroying a saver that is not done cancels it: its thread ends after the block at hand.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "snapshot/block_source.h"
#include "snapshot/file_writer.h"

namespace headrace {

class TableSaver {
 public:
  struct Result {
    Status status;
    uint64_t bytes = 0;
    uint64_t digest = 0;
    Numbers numbers;
    Totals totals;
  };

  // Starts at once. What goes wrong, already here or later, is told by Wait.
  TableSaver(std::unique_ptr<BlockSource> source, std::string path, std::string header,
             const Layout& layout) noexcept;
  TableSaver(const TableSaver&) = delete;
  TableSaver& operator=(const TableSaver&) = delete;
  ~TableSaver();

  // Waits for the end. May be called again, and by several threads.
  Result Wait() noexcept;

  // Whether Wait would return at once.
  bool done() const { return done_.load(std::memory_order_acquire); }

 private:
  void Run() noexcept;
  Status Save();

  std::unique_ptr<BlockSource> source_;
  const std::string path_, header_;
  const Layout layout_;
  Result result_;  // written by the thread, read after done_
  std::atomic<bool> cancelled_{false}, done_{false};
  std::mutex joining_;
  std::thread thread_;
};

}  // namespace headrace
