#include "table/table.h"

#include <cmath>
#include <limits>
#include <vector>

#include "table/check.h"

namespace headrace {
namespace {

TableSpec Spec(Admission admission = {}) {
  TableSpec spec;
  spec.dim = 2;
  spec.rule = {RuleKind::kSgd, 1.0f, 0, 0, 0};
  spec.admission = admission;
  return spec;
}

Admission Count(int64_t occurrences) {
  return {AdmissionKind::kCount, occurrences, 0.0, 0};
}

// An update with gradient 1 everywhere.
Status Step(Table& table, const std::vector<int64_t>& ids, int64_t count = 1, int64_t time = 0,
            float grad = 1.0f) {
  const std::vector<float> grads(ids.size() * 2, grad);
  const std::vector<int64_t> counts(ids.size(), count), times(ids.size(), time);
  return table.Update({ids, grads, counts, times});
}

float Value(const Table& table, int64_t id) {
  float row[2] = {-9.0f, -9.0f};
  CHECK(table.Lookup(std::vector<int64_t>{id}, row).ok());
  return row[0];
}

void LearnsInsertsAndRemoves() {
  Table table(Spec());
  CHECK(Step(table, {7, -7, std::numeric_limits<int64_t>::min()}).ok());
  CHECK(Step(table, {7}).ok());
  CHECK(Value(table, 7) == -2.0f && Value(table, -7) == -1.0f && Value(table, 8) == 0.0f);
  const Status removed = table.Remove(std::vector<int64_t>{7, 7, 8});
  CHECK(removed.ok() && removed.detail == 1);
  CHECK(Value(table, 7) == 0.0f);
  CHECK(table.GetStats().rows == 2 && table.GetCounters().mark == 3);
}

void RefusalsChangeNothing() {
  Table table(Spec());
  CHECK(Step(table, {1}).ok());
  const auto refused = [&](Status status, Code code, int64_t detail) {
    CHECK(status.code == code && status.detail == detail);
    CHECK(table.GetCounters().mark == 1 && table.GetStats().rows == 1 && Value(table, 1) == -1.0f);
  };
  refused(Step(table, {5, 3, 5, 3}), Code::kDuplicateId, 3);
  refused(Step(table, {1, 2}, 0), Code::kBadCount, 0);
  refused(Step(table, {1, 2}, 1, 0, std::nanf("")), Code::kNotFinite, 0);
  refused(Step(table, {1, 2}, 1, 0, -INFINITY), Code::kNotFinite, 0);
  refused(table.Assign(std::vector<int64_t>{1}, std::vector<float>{1.0f}, {}), Code::kInvalid, 0);
  refused(table.Forget(2), Code::kFuture, 1);
  Changes changes;
  refused(table.ReadChanges(2, &changes), Code::kStale, 0);
}

void AdmitsAtTheThreshold() {
  Table table(Spec(Count(3)));
  CHECK(Step(table, {1, 2}, 2).ok());
  CHECK(table.GetStats().rows == 0 && table.GetStats().pending == 2);
  CHECK(Step(table, {1}, 1).ok());
  const Stats stats = table.GetStats();
  CHECK(stats.rows == 1 && stats.pending == 1 && stats.admitted == 1 && stats.filtered == 2);
  CHECK(Value(table, 1) == -1.0f);
}

void EvictsByTimeAndForgetsCounts() {
  Table table(Spec(Count(2)));
  CHECK(Step(table, {1}, 2, 10).ok() && Step(table, {2}, 2, 30).ok() && Step(table, {3}, 1, 10).ok());
  const Status evicted = table.Evict(20);
  CHECK(evicted.ok() && evicted.detail == 1);
  CHECK(table.GetStats().rows == 1 && table.GetStats().pending == 0 && table.GetStats().evicted == 1);
  Changes changes;
  CHECK(table.ReadChanges(3, &changes).ok());
  CHECK(changes.ids.empty() && changes.removed == std::vector<int64_t>{1});
}

void ExportAndImportAreInverse() {
  TableSpec spec = Spec(Count(2));
  spec.rule = {RuleKind::kAdam, 0.1f, 0.9f, 0.99f, 1e-8f};
  spec.init = {InitialKind::kNormal, 0.1f, 5};
  Table table(spec), copy(spec);
  for (int64_t step = 0; step < 40; ++step) {
    std::vector<int64_t> ids;
    for (int64_t id = step; id < 40 + 3 * step; id += 2) ids.push_back(id * 1'000'003);
    CHECK(Step(table, ids, 1, step, 0.1f * static_cast<float>(step)).ok());
    if (step % 9 == 8) CHECK(table.Evict(step - 3).ok());
  }
  CHECK(table.Forget(12).ok());
  Parts parts, again;
  CHECK(table.Export(&parts).ok() && copy.Import(parts).ok() && copy.Export(&again).ok());
  CHECK(parts.ids == again.ids && parts.rows == again.rows && parts.slots == again.slots);
  CHECK(parts.times == again.times && parts.marks == again.marks);
  CHECK(parts.pending_ids == again.pending_ids && parts.pending_counts == again.pending_counts);
  CHECK(parts.removed_ids == again.removed_ids && parts.removed_marks == again.removed_marks);
  CHECK(!parts.ids.empty() && !parts.pending_ids.empty() && !parts.removed_ids.empty());
  CHECK(copy.GetCounters().floor == 12 && copy.GetCounters().mark == table.GetCounters().mark);
}

void AServingTableTakesRowsOnly() {
  TableSpec spec = Spec();
  spec.serving = true;
  spec.rule.kind = RuleKind::kAdam;
  Table table(spec);
  CHECK(Step(table, {1}).code == Code::kServing);
  CHECK(table.slots() == 0);
  CHECK(table.Assign(std::vector<int64_t>{4, 2}, std::vector<float>{1, 2, 3, 4}, {}).ok());
  CHECK(Value(table, 2) == 3.0f);
  Changes changes;
  CHECK(table.ReadChanges(0, &changes).ok() && changes.ids == (std::vector<int64_t>{2, 4}));
  CHECK(table.GetStats().entries == 0);
}

void GrowsShrinksAndReusesMemory() {
  Table table(Spec());
  int64_t most = 0;
  for (int64_t round = 0; round < 30; ++round) {
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < 3000; ++i) ids.push_back(round * 3000 + i);
    CHECK(Step(table, ids, 1, round).ok());
    CHECK(table.Evict(round).ok());
    CHECK(table.Forget(table.GetCounters().mark).ok());
    CHECK(table.GetStats().rows == 3000);
    if (round == 3) most = table.GetStats().bytes;
    if (round > 3) CHECK(table.GetStats().bytes <= most + most / 2);  // single stripes may still double
  }
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::LearnsInsertsAndRemoves();
  headrace::RefusalsChangeNothing();
  headrace::AdmitsAtTheThreshold();
  headrace::EvictsByTimeAndForgetsCounts();
  headrace::ExportAndImportAreInverse();
  headrace::AServingTableTakesRowsOnly();
  headrace::GrowsShrinksAndReusesMemory();
  return headrace::ReportChecks("table_test");
}
