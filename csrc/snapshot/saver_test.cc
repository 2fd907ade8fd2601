#include "snapshot/saver.h"

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <string>
#include <vector>

#include "snapshot/file_reader.h"
#include "snapshot/samples.h"
#include "snapshot/test_folder.h"
#include "table/check.h"

namespace headrace {
namespace {

Layout Plain() {
  Layout layout;
  layout.row_bytes = 4;
  layout.has_marks = true;
  return layout;
}

// Gives a sample's blocks when it is let, and tells when it was destroyed.
class Gate {
 public:
  void Open(int blocks) {
    const std::lock_guard<std::mutex> lock(mutex_);
    left_ += blocks;
    changed_.notify_all();
  }
  bool Take(std::chrono::milliseconds patience) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!changed_.wait_for(lock, patience, [this] { return left_ > 0; })) return false;
    --left_;
    return true;
  }
  void Release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  bool WaitReleased() {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [this] { return released_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int left_ = 0;
  bool released_ = false;
};

class GatedSource final : public BlockSource {
 public:
  GatedSource(const Sample& sample, Gate& gate, Status end = {}) : source_(sample), gate_(gate), end_(end) {}
  ~GatedSource() override { gate_.Release(); }
  Status Next(Block* out, bool* done) override {
    while (!gate_.Take(std::chrono::milliseconds(5))) return source_.Next(out, done);
    if (!end_.ok()) return end_;
    return source_.Next(out, done);
  }
  Status Close(Numbers* out) override { return source_.Close(out); }

 private:
  SampleSource source_;
  Gate& gate_;
  Status end_;
};

void ASaverWritesTheFile() {
  const TestFolder folder;
  const Sample sample = MakeSample(1, Plain(), 500, 16);
  TableSaver saver(std::make_unique<SampleSource>(sample), folder.At("file"), "{}", sample.layout);
  const auto result = saver.Wait();
  CHECK(result.status.ok() && saver.done());
  CHECK(result.bytes == std::filesystem::file_size(folder.At("file")) &&
        SameNumbers(result.numbers, sample.numbers));
  CHECK(saver.Wait().digest == result.digest);
  TableFileReader reader;
  CHECK(reader.Open(folder.At("file")).ok() && reader.digest() == result.digest);
  CHECK(reader.totals() == result.totals);
}

void ADestroyedSaverLeavesNothing() {
  const TestFolder folder;
  const Sample sample = MakeSample(1, Plain(), 500, 16);
  Gate gate;
  {
    const TableSaver saver(std::make_unique<GatedSource>(sample, gate), folder.At("file"), "{}",
                           sample.layout);
  }
  CHECK(gate.WaitReleased());
  CHECK(folder.Files() == 0);
}

void AFailedWriteReleasesTheSource() {
  const TestFolder folder;
  const Sample sample = MakeSample(1, Plain(), 500, 16);
  Gate gate;
  TableSaver saver(std::make_unique<GatedSource>(sample, gate), folder.At("none/file"), "{}", sample.layout);
  CHECK(gate.WaitReleased());
  const auto result = saver.Wait();
  CHECK(result.status.code == Code::kIo && result.status.detail == ENOENT);
}

void AFailedSourceIsTold() {
  const TestFolder folder;
  const Sample sample = MakeSample(1, Plain(), 500, 16);
  Gate gate;
  gate.Open(1);
  TableSaver saver(std::make_unique<GatedSource>(sample, gate, Status{Code::kNoMemory, 0}), folder.At("file"),
                   "{}", sample.layout);
  CHECK(saver.Wait().status.code == Code::kNoMemory);
  CHECK(gate.WaitReleased());
  CHECK(folder.Files() == 0);
}

void SeveralMayWait() {
  const TestFolder folder;
  const Sample sample = MakeSample(1, Plain(), 50, 16);
  TableSaver saver(std::make_unique<SampleSource>(sample), folder.At("file"), "{}", sample.layout);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 3; ++thread) threads.emplace_back([&] { CHECK(saver.Wait().status.ok()); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::ASaverWritesTheFile();
  headrace::ADestroyedSaverLeavesNothing();
  headrace::AFailedWriteReleasesTheSource();
  headrace::AFailedSourceIsTold();
  headrace::SeveralMayWait();
  return headrace::ReportChecks("saver_test");
}
