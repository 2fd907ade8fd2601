// Readers and writers together; meant for the thread sanitizer as much as for its own checks.
#include <atomic>
#include <thread>
#include <vector>

#include "table/check.h"
#include "table/table.h"

namespace headrace {
namespace {

constexpr int64_t kIds = 200;

// Every write puts one value everywhere; a lookup that sees two values has seen half a write.
void ReadersSeeEachWriteWhole() {
  TableSpec spec;
  spec.dim = 4;
  spec.serving = true;
  Table table(spec);
  std::vector<int64_t> ids(kIds);
  for (int64_t i = 0; i < kIds; ++i) ids[static_cast<size_t>(i)] = i * 77;
  CHECK(table.Assign(ids, std::vector<float>(kIds * 4, 0.0f), {}).ok());
  std::atomic<bool> stop{false};
  std::atomic<int> reads{0};
  const auto read = [&] {
    std::vector<float> rows(kIds * 4);
    while (!stop) {
      CHECK(table.Lookup(ids, rows).ok());
      for (const float value : rows) CHECK(value == rows[0]);
      ++reads;
    }
  };
  std::thread first(read), second(read);
  for (int generation = 1; generation < 300 || reads < 100; ++generation) {
    CHECK(table.Assign(ids, std::vector<float>(kIds * 4, static_cast<float>(generation)), {}).ok());
  }
  stop = true;
  first.join();
  second.join();
}

// Every operation at once; the checks are that nothing is lost and the counts add up.
void EverythingTogether() {
  TableSpec spec;
  spec.dim = 3;
  spec.rule = {RuleKind::kAdagrad, 0.1f, 0.1f, 1e-10f, 0};
  spec.admission = {AdmissionKind::kCount, 2, 0.0, 0};
  Table table(spec);
  std::atomic<bool> stop{false};
  const auto write = [&](int64_t writer) {
    for (int64_t step = 0; step < 100; ++step) {
      std::vector<int64_t> ids;
      for (int64_t i = 0; i < 60; ++i) ids.push_back((step % 10 * 30 + i) * 2 + writer);
      const std::vector<float> grads(ids.size() * 3, 0.5f);
      const std::vector<int64_t> ones(ids.size(), 1), times(ids.size(), step);
      CHECK(table.Update({ids, grads, ones, times}).ok());
    }
  };
  const auto read = [&] {
    std::vector<int64_t> ids(500);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i);
    std::vector<float> rows(ids.size() * 3);
    std::vector<uint8_t> present(ids.size());
    while (!stop) {
      Changes changes, all;
      Parts parts;
      CHECK(table.Lookup(ids, rows).ok() && table.Contains(ids, present).ok());
      CHECK(table.ReadChanges(0, &changes).ok() && table.ReadRows(&all).ok() && table.Export(&parts).ok());
      CHECK(changes.ids.size() <= all.ids.size());
    }
  };
  const auto evict = [&] {
    while (!stop) CHECK(table.Evict(-1).ok());
  };
  std::vector<std::thread> others;
  others.emplace_back(read);
  others.emplace_back(evict);
  std::thread first(write, 0), second(write, 1);
  first.join();
  second.join();
  stop = true;
  for (std::thread& other : others) other.join();
  const Stats stats = table.GetStats();
  CHECK(stats.admitted == stats.rows && stats.pending == 0 && stats.evicted == 0);
  CHECK(stats.filtered == stats.rows);  // each id was turned away exactly once
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::ReadersSeeEachWriteWhole();
  headrace::EverythingTogether();
  return headrace::ReportChecks("table_threads_test");
}
