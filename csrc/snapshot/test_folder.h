// A folder for the files of a test, which goes away with them.
//
// Thread safety: one thread at a time.
#pragma once

#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "snapshot/file_writer.h"
#include "snapshot/samples.h"

namespace headrace {

class TestFolder {
 public:
  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "headrace_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  ~TestFolder() { std::filesystem::remove_all(path_); }

  std::string At(const std::string& name) const { return (path_ / name).string(); }
  size_t Files() const {
    const std::filesystem::directory_iterator files(path_);
    return static_cast<size_t>(std::distance(begin(files), end(files)));
  }

 private:
  std::filesystem::path path_;
};

inline std::string BytesOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline Status WriteSample(const Sample& sample, const std::string& path, const std::string& header = "{}",
                          uint64_t* digest = nullptr) {
  TableFileWriter writer;
  Status status = writer.Open(path, header, sample.layout);
  for (const Block& block : sample.blocks) {
    if (status.ok()) status = writer.Add(block);
  }
  if (status.ok()) status = writer.Finish(sample.numbers);
  if (digest != nullptr) *digest = writer.digest();
  return status;
}

}  // namespace headrace
