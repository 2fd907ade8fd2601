// Blocks of the file keep what is written to them, and nothing of the file stays behind.
#include "cache/cold_file.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cache/disk_failure.h"
#include "snapshot/test_folder.h"
#include "table/check.h"

namespace headrace {
namespace {

void Fill(std::byte* block, int64_t bytes, uint8_t with) {
  std::memset(block, with, static_cast<size_t>(bytes));
}

bool Holds(const std::byte* block, int64_t bytes, uint8_t wanted) {
  for (int64_t i = 0; i < bytes; ++i) {
    if (block[i] != std::byte{wanted}) return false;
  }
  return true;
}

void BlocksKeepWhatIsWritten() {
  const TestFolder folder;
  ColdFile file(folder.At(""));
  CHECK(file.bytes() == 0);
  const std::vector<int64_t> sizes{20, 64, 4096, 5000, 300'000, 3 << 20};
  std::vector<std::byte*> blocks;
  for (size_t i = 0; i < 4 * sizes.size(); ++i) {
    const int64_t bytes = sizes[i % sizes.size()];
    blocks.push_back(file.Take(bytes));
    CHECK(reinterpret_cast<uintptr_t>(blocks[i]) % 64 == 0);
    CHECK(bytes < ColdFile::kPage || reinterpret_cast<uintptr_t>(blocks[i]) % 4096 == 0);
    Fill(blocks[i], bytes, static_cast<uint8_t>(i + 1));
  }
  CHECK(folder.Files() == 0);  // it has no name
  CHECK(file.Release().ok());
  std::vector<uintptr_t> pages;
  for (const std::byte* block : blocks) pages.push_back(reinterpret_cast<uintptr_t>(block) / ColdFile::kPage);
  ColdFile::Fetch(&pages);
  for (size_t i = 0; i < blocks.size(); ++i) {
    CHECK(Holds(blocks[i], sizes[i % sizes.size()], static_cast<uint8_t>(i + 1)));
  }
}

void ABlockThatCameBackIsGivenOutAgain() {
  const TestFolder folder;
  ColdFile file(folder.At(""));
  std::byte* one = file.Take(5000);
  std::byte* other = file.Take(5000);
  file.GiveBack(one, 5000);
  CHECK(file.Take(4999) != one);
  CHECK(file.Take(5000) == one);
  CHECK(file.Take(5000) != other);
}

void AFolderThatIsNotThereIsAnError() {
  const TestFolder folder;
  ColdFile file(folder.At("nowhere"));
  Status status;
  try {
    file.Take(64);
  } catch (const DiskFailure& failure) {
    status = failure.status;
  }
  CHECK(status.code == Code::kIo && status.detail == ENOENT);
  CHECK(file.Release().ok());
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::BlocksKeepWhatIsWritten();
  headrace::ABlockThatCameBackIsGivenOutAgain();
  headrace::AFolderThatIsNotThereIsAnError();
  return headrace::ReportChecks("cold_file_test");
}
