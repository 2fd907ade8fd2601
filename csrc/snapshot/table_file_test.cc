// The writer and the reader together.
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <string>

#include "snapshot/crc32c.h"
#include "snapshot/file_reader.h"
#include "snapshot/file_writer.h"
#include "snapshot/samples.h"
#include "snapshot/test_folder.h"
#include "table/check.h"

namespace headrace {
namespace {

Layout Full(int64_t row_bytes, int64_t slots) {
  Layout layout;
  layout.row_bytes = row_bytes;
  layout.slots = slots;
  layout.has_times = layout.has_marks = true;
  return layout;
}

bool ReadsAs(TableFileReader& reader, const Sample& sample) {
  Block block;
  bool done = false;
  for (const Block& expected : sample.blocks) {
    if (!reader.Next(&block, &done).ok() || done || !SameBlock(block, expected)) return false;
  }
  Numbers numbers;
  return reader.Next(&block, &done).ok() && done && reader.Close(&numbers).ok() &&
         SameNumbers(numbers, sample.numbers) && reader.layout() == sample.layout;
}

void WhatIsWrittenIsRead() {
  const TestFolder folder;
  Layout increment = Full(16, 3);
  increment.incremental = true;
  increment.since = 40;
  increment.parent = 0xFEEDFACEFEEDFACEu;
  Layout plain;
  plain.row_bytes = 7;
  Layout all = Full(8, 2);
  all.has_frequencies = true;
  all.shard = 2;
  all.shards = 3;
  uint64_t seed = 0;
  for (const Layout& layout : {Full(64, 16), increment, plain, all}) {
    for (const int count : {0, 3, 5000}) {
      const Sample sample = MakeSample(++seed, layout, count, count == 3 ? 0 : 32);
      CHECK(WriteSample(sample, folder.At("file"), "{\"name\": \"t\"}").ok());
      TableFileReader reader, memory;
      CHECK(reader.Open(folder.At("file")).ok());
      CHECK(reader.header() == "{\"name\": \"t\"}");
      CHECK(ReadsAs(reader, sample));
      const std::string bytes = BytesOf(folder.At("file"));
      CHECK(memory.Open(std::as_bytes(std::span(bytes))).ok());
      CHECK(ReadsAs(memory, sample));
      CHECK(memory.digest() == reader.digest() && reader.bytes() == bytes.size());
    }
  }
  CHECK(folder.Files() == 1);
}

void EqualTablesGiveEqualFiles() {
  const TestFolder folder;
  const Sample sample = MakeSample(5, Full(16, 1), 300, 16), other = MakeSample(6, Full(16, 1), 300, 16);
  for (const char* name : {"a", "b"}) CHECK(WriteSample(sample, folder.At(name)).ok());
  CHECK(WriteSample(other, folder.At("c")).ok());
  CHECK(BytesOf(folder.At("a")) == BytesOf(folder.At("b")));
  CHECK(BytesOf(folder.At("a")) != BytesOf(folder.At("c")));
}

void EveryByteCounts() {  // each byte of a file, changed or cut off, is found
  const TestFolder folder;
  const Sample sample = MakeSample(7, Full(4, 1), 60, 16);
  CHECK(WriteSample(sample, folder.At("file")).ok());
  const std::string good = BytesOf(folder.At("file"));
  for (size_t place = 0; place < good.size(); ++place) {
    std::string bad = good;
    bad[place] = static_cast<char>(bad[place] ^ (1 << (place % 8)));
    TableFileReader reader, cut;
    const bool opened = reader.Open(std::as_bytes(std::span(bad))).ok();
    CHECK(!opened || !ReadsAs(reader, sample));
    CHECK(cut.Open(std::as_bytes(std::span(good.data(), place))).code == Code::kCorrupt);
  }
}

// Damages a block, and expects that the writer refuses it.
template <typename Damage>
void Refused(const Layout& layout, Damage damage) {
  const TestFolder folder;
  Sample sample = MakeSample(9, layout, 20'000, 16);
  damage(sample);
  CHECK(WriteSample(sample, folder.At("file")).code == Code::kInvalid);
  CHECK(folder.Files() == 0);
}

void TheWriterRefusesWhatIsUnsound() {
  Layout increment = Full(4, 1);
  increment.incremental = true;
  increment.since = 40;
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].stripe = 4; });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].ids[0] = s.blocks[4].ids[0]; });
  Refused(Full(4, 1), [](Sample& s) { std::swap(s.blocks[3].ids[0], s.blocks[3].ids[1]); });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].pending_ids[0] = s.blocks[3].ids[0]; });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].removed_ids[0] = s.blocks[3].ids[0]; });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].pending_counts[0] = 0; });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].marks[0] = 0; });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].marks[0] = static_cast<int64_t>(s.numbers.mark) + 1; });
  Refused(Full(4, 1),
          [](Sample& s) { s.blocks[3].removed_marks[0] = static_cast<int64_t>(s.numbers.floor); });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].times.pop_back(); });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].rows.pop_back(); });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].slots.push_back(0); });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].sketch.resize(32); });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[0].sketch.resize(8); });
  Refused(Full(4, 1), [](Sample& s) { s.blocks[3].forgotten_ids = s.blocks[3].removed_ids; });
  Refused(Full(4, 1), [](Sample& s) { s.blocks.pop_back(); });
  Refused(Full(4, 1), [](Sample& s) { s.numbers.floor = s.numbers.mark + 1; });
  Refused(Full(4, 1), [](Sample& s) { s.layout.shards = 2; });
  Refused(Full(4, 1), [](Sample& s) { s.layout.row_bytes = 0; });
  Refused(increment, [](Sample& s) { s.blocks[3].forgotten_ids[0] = s.blocks[3].ids[0]; });
  Refused(increment, [](Sample& s) { s.blocks[3].marks[0] = 40; });
  Refused(increment, [](Sample& s) { s.layout.has_marks = false; });
  Refused(increment, [](Sample& s) { s.numbers.floor = 41; });
}

void NothingIsLeftOfAFileThatDidNotEnd() {
  const TestFolder folder;
  const Sample old = MakeSample(1, Full(4, 1), 50, 0), sample = MakeSample(2, Full(4, 1), 50, 0);
  CHECK(WriteSample(old, folder.At("file")).ok());
  const std::string before = BytesOf(folder.At("file"));
  {
    TableFileWriter writer;
    CHECK(writer.Open(folder.At("file"), "", sample.layout).ok());
    CHECK(writer.Add(sample.blocks[0]).ok());
    CHECK(folder.Files() == 2);
  }
  CHECK(folder.Files() == 1 && BytesOf(folder.At("file")) == before);
  TableFileWriter nowhere;
  const Status status = nowhere.Open(folder.At("no/such/folder"), "", sample.layout);
  CHECK(status.code == Code::kIo && status.detail == ENOENT);
  CHECK(nowhere.Add(sample.blocks[0]).code == Code::kInvalid);
}

void AFullDiskLeavesTheOldFile() {
  const TestFolder folder;
  const Sample small = MakeSample(1, Full(4, 1), 5, 0), large = MakeSample(2, Full(256, 64), 8000, 0);
  CHECK(WriteSample(small, folder.At("file")).ok());
  const std::string before = BytesOf(folder.At("file"));
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  const rlimit tight{rlim_t{1} << 20, limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  const Status status = WriteSample(large, folder.At("file"));
  setrlimit(RLIMIT_FSIZE, &limit);
  CHECK(status.code == Code::kIo && status.detail == EFBIG);
  CHECK(folder.Files() == 1 && BytesOf(folder.At("file")) == before);
}

void LengthsAreCheckedBeforeMemoryIsTaken() {
  const TestFolder folder;
  CHECK(WriteSample(MakeSample(3, Full(4, 1), 5, 0), folder.At("file"), "").ok());
  std::string bytes = BytesOf(folder.At("file"));
  for (const uint64_t rows : {uint64_t{1} << 20, uint64_t{1} << 40, uint64_t{1} << 61, ~uint64_t{0}}) {
    const size_t head = kPrefixBytes + kChecksumBytes;
    std::memcpy(bytes.data() + head + 8, &rows, 8);
    const uint32_t sum = Crc32c(bytes.data() + head, kBlockHeadBytes);
    std::memcpy(bytes.data() + head + kBlockHeadBytes, &sum, 4);
    TableFileReader reader;
    CHECK(reader.Open(std::as_bytes(std::span(bytes))).ok());
    Block block;
    bool done = false;
    const Status status = reader.Next(&block, &done);
    CHECK(status.code == Code::kCorrupt && status.detail == static_cast<int64_t>(head));
    CHECK(block.ids.capacity() == 0);
    CHECK(reader.Next(&block, &done).code == Code::kInvalid);
  }
}

void WhatIsNoFileIsAnError() {
  const TestFolder folder;
  TableFileReader absent, folder_itself, empty;
  CHECK(absent.Open(folder.At("absent")).detail == ENOENT);
  CHECK(folder_itself.Open(folder.At("")).code == Code::kIo);
  std::ofstream(folder.At("empty")).close();
  CHECK(empty.Open(folder.At("empty")).code == Code::kCorrupt);
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::WhatIsWrittenIsRead();
  headrace::EqualTablesGiveEqualFiles();
  headrace::EveryByteCounts();
  headrace::TheWriterRefusesWhatIsUnsound();
  headrace::NothingIsLeftOfAFileThatDidNotEnd();
  headrace::AFullDiskLeavesTheOldFile();
  headrace::LengthsAreCheckedBeforeMemoryIsTaken();
  headrace::WhatIsNoFileIsAnError();
  return headrace::ReportChecks("table_file_test");
}
