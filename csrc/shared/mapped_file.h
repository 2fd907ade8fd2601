// MappedFile: a file that several processes have in their memory, usually of a folder that is itself in
// memory.
//
// Thread safety: none; whoever shares one takes care.
// Invariants:
//   1. While it is open, [data, data + size) is mapped; a file cut short by others is not defended against.
//   2. Reserve gives memory now or says that there is none, so that no later write ends the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "table/status.h"

namespace headrace {

class MappedFile {
 public:
  MappedFile() = default;
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Makes a new file of `bytes` zeros, of which none takes memory yet; kIo (errno) if it is there already.
  Status Create(const std::string& path, size_t bytes);

  // Maps a file that is there, all of it.
  Status Open(const std::string& path);

  // Gives memory to bytes [from, to). REQUIRES: made by Create; to <= size().
  Status Reserve(size_t from, size_t to);

  void Close();

  bool is_open() const { return data_ != nullptr; }
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  Status Map(size_t bytes);

  int file_ = -1;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace headrace
