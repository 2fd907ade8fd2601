// ColdFile: memory that lies in a file, in blocks. What is read and written often stays in the system's page
// cache; what is not, on the disk.
//
// The file has no name: it is gone when the process is, however it ends, and no later run can take it for
// something whole. It is made when the first block is asked for. Room for a block is set aside on the disk
// before the block is given out, so a full disk is an error here and no crash at a later write.
//
// A child process made by fork shares the file: it may read rows, but what it writes is seen by both.
//
// Thread safety: Fetch may be called from any thread; anything else needs the file alone. Invariants:
//   1. A block's address and content stay until it is given back.
//   2. A block is aligned to 64 bytes, one of a page or more to pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "table/status.h"

namespace headrace {

class ColdFile {
 public:
  static constexpr int64_t kPage = 4096;

  // Does nothing yet; `folder` is where the file will be.
  explicit ColdFile(std::string folder) : folder_(std::move(folder)) {}
  ColdFile(const ColdFile&) = delete;
  ColdFile& operator=(const ColdFile&) = delete;
  ~ColdFile();

  // Returns a block; its content is arbitrary. Throws DiskFailure.
  std::byte* Take(int64_t bytes);
  // Takes a block of so many bytes back, to be given out again.
  void GiveBack(std::byte* block, int64_t bytes);

  // Asks the system to read these pages soon; sorts `pages`. Pages are addresses divided by kPage.
  static void Fetch(std::vector<uintptr_t>* pages);

  // Writes what was changed to the disk and gives all of the system's memory for the file back: from now on
  // every first touch of a page reads the disk. Cost: as much writing as was changed.
  Status Release();

  // Bytes of the file on disk.
  int64_t bytes() const { return bytes_; }

 private:
  struct Segment {
    std::byte* data;
    int64_t bytes;
  };

  void Open();
  void Extend(int64_t least);

  std::string folder_;
  int fd_ = -1;
  int64_t bytes_ = 0;
  int64_t used_ = 0;  // of the last segment
  std::vector<Segment> segments_;
  std::map<int64_t, std::vector<std::byte*>> spare_;  // blocks that came back, by size
};

}  // namespace headrace
