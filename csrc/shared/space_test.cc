#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "shared/space_reader.h"
#include "shared/space_writer.h"
#include "snapshot/test_folder.h"
#include "table/check.h"

using namespace headrace;
using namespace headrace::shared;

namespace {

using Rows = std::map<int64_t, float>;

constexpr int64_t kDim = 3;

std::vector<InitialRow> Initial(size_t tables) {
  return std::vector<InitialRow>(tables, InitialRow{InitialKind::kConstant, -1.0f, 0});
}

SpaceWriter Opened(const TestFolder& folder, size_t tables = 1, Precision precision = Precision::kFloat32) {
  SpaceWriter writer;
  CHECK(writer.Create(folder.At(""), std::vector<Shape>(tables, Shape{kDim, precision}), 8).ok());
  return writer;
}

Status PutOne(SpaceWriter& writer, int table, int64_t id, float value) {
  const float row[kDim] = {value, value + 1, value + 2};
  return writer.Put(table, {&id, 1}, row);
}

float First(const SpaceReader& reader, int table, int64_t id) {
  float row[kDim] = {};
  reader.Read(table, {&id, 1}, row, kDim);
  return row[0];
}

void Version(SpaceWriter& writer, int64_t number) {
  const int64_t bytes = number;
  std::memcpy(writer.dense(), &bytes, sizeof(bytes));
  CHECK(writer.Commit(number, number - 1).ok());
}

void ReadsWhatWasCommitted() {
  const TestFolder folder;
  SpaceWriter writer = Opened(folder, 2);
  SpaceReader reader;
  CHECK(reader.Open(folder.At(""), 0, Initial(2)).ok());
  CHECK(reader.Enter().code == Code::kStale && reader.newest() == -1);
  CHECK(writer.Begin(true, 0).ok());
  CHECK(PutOne(writer, 0, 7, 1.0f).ok() && PutOne(writer, 1, -7, 2.0f).ok());
  CHECK(reader.Enter().code == Code::kStale);
  Version(writer, 5);
  CHECK(reader.newest() == 5);
  CHECK(reader.Enter().ok() && reader.version() == 5 && reader.parent() == 4);
  CHECK(First(reader, 0, 7) == 1.0f && First(reader, 1, -7) == 2.0f && First(reader, 0, -7) == -1.0f);
  CHECK(reader.Has(0, 7) && !reader.Has(1, 7) && reader.rows(0) == 1);
  reader.Leave();
}

void KeepsAVersionForItsReader() {
  const TestFolder folder;
  SpaceWriter writer = Opened(folder);
  CHECK(writer.Begin(true, 0).ok());
  for (int64_t id = 0; id < 100; ++id) CHECK(PutOne(writer, 0, id, 0.0f).ok());
  Version(writer, 0);
  SpaceReader old, fresh;
  CHECK(old.Open(folder.At(""), 0, Initial(1)).ok() && fresh.Open(folder.At(""), 1, Initial(1)).ok());
  CHECK(old.Enter().ok());
  CHECK(writer.Begin(false, 0).ok());
  for (int64_t id = 0; id < 300; id += 2)
    CHECK(PutOne(writer, 0, id, 10.0f).ok());  // it moves into a larger file
  const int64_t gone = 3;
  CHECK(writer.Remove(0, {&gone, 1}).ok());
  CHECK(First(old, 0, 2) == 0.0f && First(old, 0, 3) == 0.0f);
  Version(writer, 1);
  CHECK(fresh.Enter().ok() && fresh.version() == 1);
  CHECK(First(fresh, 0, 2) == 10.0f && First(fresh, 0, 3) == -1.0f && First(fresh, 0, 298) == 10.0f);
  CHECK(First(old, 0, 2) == 0.0f && First(old, 0, 3) == 0.0f && First(old, 0, 298) == -1.0f);
  int64_t was = -1;
  std::memcpy(&was, old.dense(), sizeof(was));
  CHECK(was == 0 && old.version() == 0);
  CHECK(writer.Begin(false, 1000).code == Code::kBusy);
  old.Leave();
  fresh.Leave();
  CHECK(writer.Begin(false, 0).ok());
  writer.Abort();
}

void AbortLeavesNothing() {
  const TestFolder folder;
  SpaceWriter writer = Opened(folder);
  CHECK(writer.Begin(true, 0).ok());
  CHECK(PutOne(writer, 0, 1, 1.0f).ok() && PutOne(writer, 0, 2, 2.0f).ok());
  writer.Abort();
  SpaceReader reader;
  CHECK(reader.Open(folder.At(""), 0, Initial(1)).ok());
  CHECK(reader.Enter().code == Code::kStale);
  CHECK(writer.Begin(true, 0).ok());
  CHECK(PutOne(writer, 0, 1, 1.0f).ok() && PutOne(writer, 0, 2, 2.0f).ok());
  Version(writer, 0);
  for (int round = 0; round < 3; ++round) {
    CHECK(writer.Begin(round == 2, 0).ok());
    const int64_t two = 2;
    CHECK(writer.Remove(0, {&two, 1}).ok());
    for (int64_t id = 0; id < (round == 1 ? 500 : 5); ++id) CHECK(PutOne(writer, 0, id, 9.0f).ok());
    writer.Abort();
    CHECK(writer.rows(0) == 2);
    CHECK(reader.Enter().ok());
    CHECK(First(reader, 0, 1) == 1.0f && First(reader, 0, 2) == 2.0f && !reader.Has(0, 0) &&
          !reader.Has(0, 3));
    reader.Leave();
  }
}

// The space against a map, over many versions of every kind.
void FollowsAMap() {
  const TestFolder folder;
  SpaceWriter writer = Opened(folder);
  SpaceReader reader, behind;
  CHECK(reader.Open(folder.At(""), 0, Initial(1)).ok() && behind.Open(folder.At(""), 1, Initial(1)).ok());
  std::mt19937 draw(5);
  Rows model, before;
  for (int64_t number = 0; number < 250; ++number) {
    if (behind.inside()) behind.Leave();
    const bool full = number == 0 || draw() % 29 == 0;
    const Rows kept = model;
    CHECK(writer.Begin(full, 0).ok());
    if (full) model.clear();
    const int changes = static_cast<int>(draw() % 40);
    for (int i = 0; i < changes; ++i) {
      const auto id = static_cast<int64_t>(draw() % 200) - 100;
      if (draw() % 3 == 0) {
        CHECK(writer.Remove(0, {&id, 1}).ok());
        model.erase(id);
      } else {
        const auto value = static_cast<float>(draw() % 1000);
        CHECK(PutOne(writer, 0, id, value).ok());
        model[id] = value;
      }
    }
    if (number > 0 && draw() % 5 == 0) {
      writer.Abort();
      model = kept;
    } else {
      if (number > 0) {
        CHECK(behind.Enter().ok());
        before = kept;
      }
      Version(writer, number);
    }
    CHECK(writer.rows(0) == static_cast<int64_t>(model.size()));
    CHECK(reader.Enter().ok());
    for (int64_t id = -101; id <= 101; ++id) {
      const auto found = model.find(id);
      CHECK(First(reader, 0, id) == (found == model.end() ? -1.0f : found->second));
      if (!behind.inside()) continue;
      const auto then = before.find(id);
      CHECK(First(behind, 0, id) == (then == before.end() ? -1.0f : then->second));
    }
    std::vector<int64_t> ids;
    std::vector<float> rows;
    reader.ReadAll(0, &ids, &rows);
    CHECK(ids.size() == model.size());
    reader.Leave();
  }
}

// Readers in threads see one version whole: every row and the dense number say the same.
void NeverMixesVersions() {
  const TestFolder folder;
  SpaceWriter writer = Opened(folder, 2);
  constexpr int64_t kIds = 64;
  std::atomic<bool> ended{false};
  std::atomic<int64_t> reads{0};
  const auto make = [&](int64_t number) {
    CHECK(writer.Begin(number % 17 == 0, 10'000'000).ok());
    for (int64_t id = 0; id < kIds; ++id) {
      for (int table = 0; table < 2; ++table)
        CHECK(PutOne(writer, table, id, static_cast<float>(number)).ok());
    }
    for (int64_t id = 1000 + number % 7; id < 1040; id += 7) {
      if (number % 2 == 0) {
        CHECK(PutOne(writer, 0, id, 0.0f).ok());
      } else {
        CHECK(writer.Remove(0, {&id, 1}).ok());
      }
    }
    Version(writer, number);
  };
  make(0);
  std::vector<std::thread> threads;
  for (int place = 0; place < 3; ++place) {
    threads.emplace_back([&, place] {
      SpaceReader reader;
      CHECK(reader.Open(folder.At(""), place, Initial(2)).ok());
      int64_t last = -1;
      while (!ended.load()) {
        CHECK(reader.Enter().ok());
        const int64_t version = reader.version();
        CHECK(version >= last);
        last = version;
        int64_t dense = -1;
        std::memcpy(&dense, reader.dense(), sizeof(dense));
        CHECK(dense == version);
        for (int64_t id = 0; id < kIds; ++id) {
          CHECK(First(reader, 0, id) == static_cast<float>(version));
          CHECK(First(reader, 1, id) == static_cast<float>(version));
        }
        reader.Leave();
        reads.fetch_add(1);
      }
    });
  }
  for (int64_t number = 1; number < 150; ++number) make(number);
  while (reads.load() < 50) std::this_thread::yield();
  ended.store(true);
  for (std::thread& thread : threads) thread.join();
}

void KeepsShortRows() {
  for (const Precision precision : {Precision::kFloat16, Precision::kInt8}) {
    const TestFolder folder;
    SpaceWriter writer = Opened(folder, 1, precision);
    CHECK(writer.Begin(true, 0).ok());
    for (int64_t id = 0; id < 50; ++id) CHECK(PutOne(writer, 0, id, static_cast<float>(id)).ok());
    Version(writer, 0);
    SpaceReader reader;
    CHECK(reader.Open(folder.At(""), 0, Initial(1)).ok() && reader.Enter().ok());
    for (int64_t id = 0; id < 50; ++id) {
      const float error = First(reader, 0, id) - static_cast<float>(id);
      CHECK(error < 0.3f && error > -0.3f);
    }
    reader.Leave();
  }
}

void RefusesOtherFiles() {
  const TestFolder folder;
  SpaceReader reader;
  CHECK(reader.Open(folder.At(""), 0, Initial(1)).code == Code::kIo);
  SpaceWriter writer = Opened(folder, 2);
  CHECK(reader.Open(folder.At(""), 0, Initial(1)).code == Code::kCorrupt);
  CHECK(reader.Open(folder.At(""), kMaxReaders, Initial(2)).code == Code::kInvalid);
  SpaceWriter other;
  CHECK(other.Create(folder.At(""), {{kDim, Precision::kFloat32}}, 8).code == Code::kIo);
}

void ForgetsReadersThatAreGone() {
  const TestFolder folder;
  SpaceWriter writer = Opened(folder);
  CHECK(writer.Begin(true, 0).ok());
  Version(writer, 0);
  SpaceReader killed;
  CHECK(killed.Open(folder.At(""), 9, Initial(1)).ok() && killed.Enter().ok());
  CHECK(writer.Begin(false, 0).ok());
  Version(writer, 1);
  CHECK(writer.Begin(false, 0).code == Code::kBusy);
  writer.Release(9, 10);
  CHECK(writer.Begin(false, 0).ok());
  writer.Abort();
}

}  // namespace

int main() {
  ReadsWhatWasCommitted();
  KeepsAVersionForItsReader();
  AbortLeavesNothing();
  FollowsAMap();
  NeverMixesVersions();
  KeepsShortRows();
  RefusesOtherFiles();
  ForgetsReadersThatAreGone();
  return ReportChecks("space_test");
}
