#include "table/journal.h"

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "table/check.h"

namespace headrace {
namespace {

// A journal beside a plain map of what it should say.
struct Oracle {
  Journal journal;
  std::map<int64_t, uint64_t> live, removed;  // id -> mark of the last change
  uint64_t mark = 0;

  Journal::LiveMarks LiveMarks() const {
    return [this](std::span<const int64_t> ids, uint64_t* marks) {
      for (size_t i = 0; i < ids.size(); ++i) {
        const auto at = live.find(ids[i]);
        marks[i] = at == live.end() ? 0 : at->second;
      }
    };
  }
  void Put(const std::vector<int64_t>& ids) {
    ++mark;
    journal.Reserve(ids.size(), LiveMarks());
    for (const int64_t id : ids) {
      live[id] = mark;
      removed.erase(id);
      journal.Add(mark, id);
    }
  }
  void Remove(const std::vector<int64_t>& ids) {
    ++mark;
    journal.Reserve(ids.size(), LiveMarks());
    for (const int64_t id : ids) {
      if (live.erase(id) == 0) continue;
      removed[id] = mark;
      journal.Add(mark, id);
    }
  }
  void Forget(uint64_t before) {
    journal.Forget(before);
    std::erase_if(removed, [&](const auto& item) { return item.second <= before; });
  }
  void Check(uint64_t since) const {
    Journal::Since found = journal.Read(since, LiveMarks());
    std::sort(found.put.begin(), found.put.end());
    std::vector<int64_t> put, gone;
    for (const auto& [id, at] : live) {
      if (at > since) put.push_back(id);
    }
    for (const auto& [id, at] : removed) {
      if (at > since) gone.push_back(id);
    }
    CHECK(found.put == put);
    CHECK(found.removed == gone);
  }
};

void SaysWhatChangedSinceEveryMark() {
  Oracle oracle;
  std::mt19937_64 random(3);
  const auto some = [&] {
    std::vector<int64_t> ids;
    for (int64_t id = -20; id < 20; ++id) {
      if (random() % 4 == 0) ids.push_back(id);
    }
    return ids;
  };
  for (int step = 0; step < 2000; ++step) {
    random() % 3 == 0 ? oracle.Remove(some()) : oracle.Put(some());
    if (step % 400 == 399) oracle.Forget(oracle.mark - random() % 30);
    if (step % 50 == 0) {
      for (uint64_t since = std::max(oracle.journal.floor(), oracle.mark > 40 ? oracle.mark - 40 : 0);
           since <= oracle.mark; ++since) {
        oracle.Check(since);
      }
    }
  }
  oracle.Check(oracle.journal.floor());
  CHECK(oracle.journal.floor() > 0);
}

void StaysBoundedByRowsAndRemovals() {
  Oracle oracle;
  std::vector<int64_t> ids(3000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i);
  for (int step = 0; step < 200; ++step) {
    step % 2 == 0 ? oracle.Put(ids) : oracle.Remove(std::vector<int64_t>(ids.begin(), ids.begin() + 1500));
    CHECK(oracle.journal.entries() <= 2 * 3000 + 1024 + 3000);
  }
  oracle.Check(0);
}

void ForgettingGivesEntriesBack() {
  Oracle oracle;
  std::vector<int64_t> ids(5000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i);
  oracle.Put(ids);
  oracle.Remove(ids);
  oracle.Forget(oracle.mark);
  CHECK(oracle.journal.entries() == 0);
  oracle.Put({1, 2});
  oracle.Check(2);
  std::vector<int64_t> gone, marks;
  oracle.journal.Removals(oracle.LiveMarks(), &gone, &marks);
  CHECK(gone.empty() && marks.empty());
}

void RemovalsCarryTheirLastMark() {
  Oracle oracle;
  oracle.Put({1, 2});
  oracle.Remove({1});
  oracle.Put({1});
  oracle.Remove({2, 1});
  std::vector<int64_t> gone, marks;
  oracle.journal.Removals(oracle.LiveMarks(), &gone, &marks);
  CHECK((gone == std::vector<int64_t>{1, 2}));
  CHECK((marks == std::vector<int64_t>{4, 4}));
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::SaysWhatChangedSinceEveryMark();
  headrace::StaysBoundedByRowsAndRemovals();
  headrace::ForgettingGivesEntriesBack();
  headrace::RemovalsCarryTheirLastMark();
  return headrace::ReportChecks("journal_test");
}
