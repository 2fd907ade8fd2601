// The calls of a table: what they do, what they refuse, and that a refusal changes nothing. That values are
// those of the Python specification is shown by tests/property.
#include "table/table.h"

#include <cmath>
#include <limits>
#include <vector>

#include "table/check.h"
#include "table/steps.h"

namespace headrace {
namespace {

constexpr int64_t kLow = std::numeric_limits<int64_t>::min();
constexpr int64_t kHigh = std::numeric_limits<int64_t>::max();

TableSpec Counting(int64_t occurrences) {
  TableSpec spec = PlainSpec(2);
  spec.admission = AfterCount(occurrences);
  return spec;
}

// An update with the same gradient everywhere.
Status Step(Table& table, const std::vector<int64_t>& ids, int64_t count = 1, int64_t time = 0,
            float grad = 1.0f) {
  const std::vector<float> grads(ids.size() * static_cast<size_t>(table.dim()), grad);
  const std::vector<int64_t> counts(ids.size(), count), times(ids.size(), time);
  return table.Update({ids, grads, counts, times}, 1.0f);
}

float Value(const Table& table, int64_t id) {
  std::vector<float> row(static_cast<size_t>(table.dim()), -9.0f);
  CHECK(table.Lookup(std::vector<int64_t>{id}, row).ok());
  return row[0];
}

void LearnsInsertsAndRemoves() {
  Table table(PlainSpec(2));
  CHECK(Step(table, {7, -7, kLow, kHigh}).ok());
  CHECK(Step(table, {7}).ok());
  CHECK(Value(table, 7) == -2.0f && Value(table, -7) == -1.0f && Value(table, 8) == 0.0f);
  CHECK(Value(table, kLow) == -1.0f && Value(table, kHigh) == -1.0f);
  std::vector<uint8_t> present(3);
  CHECK(table.Contains(std::vector<int64_t>{8, kHigh, 7}, present).ok());
  CHECK(present == (std::vector<uint8_t>{0, 1, 1}));
  const Status removed = table.Remove(std::vector<int64_t>{7, 7, 8});
  CHECK(removed.ok() && removed.detail == 1);
  CHECK(Value(table, 7) == 0.0f);
  CHECK(table.GetStats().rows == 3 && table.GetNumbers().mark == 3);
}

void TheRateOfTheCallCounts() {
  Table table(PlainSpec(1));
  const std::vector<int64_t> one{1};
  const std::vector<float> grad{1.0f};
  CHECK(table.Update({one, grad, one, one}, 0.5f).ok() && table.Update({one, grad, one, one}, 0.25f).ok());
  CHECK(Value(table, 1) == -0.75f);
}

void RefusalsChangeNothing() {
  Table table(PlainSpec(2));
  CHECK(Step(table, {1}).ok());
  const Parts before = PartsOf(table);
  const auto refused = [&](Status status, Code code, int64_t detail) {
    CHECK(status.code == code && status.detail == detail);
    CheckSameParts(before, PartsOf(table));
  };
  refused(Step(table, {5, 3, 5, 3}), Code::kDuplicateId, 3);
  refused(Step(table, {1, 2}, 0), Code::kBadCount, 0);
  refused(Step(table, {1, 2}, kLow), Code::kBadCount, 0);
  refused(Step(table, {1, 2}, 1, 0, std::nanf("")), Code::kNotFinite, 0);
  refused(Step(table, {1, 2}, 1, 0, -INFINITY), Code::kNotFinite, 0);
  const std::vector<int64_t> two{1, 2}, same{2, 2};
  const std::vector<float> four{1, 2, 3, NAN}, three{1, 2, 3};
  refused(table.Assign(two, three, {}), Code::kInvalid, 0);
  refused(table.Assign(two, four, {}), Code::kNotFinite, 1);
  refused(table.Assign(same, std::vector<float>(4), {}), Code::kDuplicateId, 2);
  refused(table.Assign(two, std::vector<float>(4), std::vector<int64_t>{1}), Code::kInvalid, 0);
  refused(table.Update({two, three, two, two}, 1.0f), Code::kInvalid, 0);
  refused(table.Forget(2), Code::kFuture, 1);
  std::vector<float> out(3);
  refused(table.Lookup(two, out), Code::kInvalid, 0);
  Changes changes;
  refused(table.ReadChanges(2, &changes), Code::kStale, 0);
  std::unique_ptr<Capture> capture;
  refused(table.Begin(2, &capture), Code::kStale, 0);
}

void AdmitsAtTheThreshold() {
  Table table(Counting(3));
  CHECK(Step(table, {1, 2}, 2).ok());
  CHECK(table.GetStats().rows == 0 && table.GetStats().pending == 2);
  CHECK(Step(table, {1}, 1).ok() && Step(table, {3}, kHigh).ok());
  const Stats stats = table.GetStats();
  CHECK(stats.rows == 2 && stats.pending == 1 && stats.admitted == 2 && stats.filtered == 2);
  CHECK(Value(table, 1) == -1.0f && Value(table, 2) == 0.0f);
}

void EvictsByTimeAndForgetsCounts() {
  Table table(Counting(2));
  CHECK(Step(table, {1}, 2, 10).ok() && Step(table, {2}, 2, 30).ok() && Step(table, {3}, 1, 10).ok());
  CHECK(Step(table, {2}, 2, 5).ok());  // a time does not go back
  const Status evicted = table.Evict(20);
  CHECK(evicted.ok() && evicted.detail == 1);
  CHECK(table.GetStats().rows == 1 && table.GetStats().pending == 0 && table.GetStats().evicted == 1);
  Changes changes;
  CHECK(table.ReadChanges(4, &changes).ok());
  CHECK(changes.ids.empty() && changes.removed == std::vector<int64_t>{1});
  CHECK(table.GetNumbers().newest == 30);
}

void TellsWhatChanged() {
  Table table(PlainSpec(2));
  CHECK(Step(table, {1, 2, 3}).ok() && Step(table, {3, 4}).ok());
  CHECK(table.Remove(std::vector<int64_t>{1, 3}).ok() && Step(table, {3}).ok());
  const auto changes = [&](uint64_t since) {
    Changes out;
    CHECK(table.ReadChanges(since, &out).ok());
    return out;
  };
  CHECK(changes(0).ids == (std::vector<int64_t>{2, 3, 4}) && changes(0).removed == std::vector<int64_t>{1});
  CHECK(changes(1).ids == (std::vector<int64_t>{3, 4}) && changes(3).ids == std::vector<int64_t>{3});
  CHECK(changes(3).removed.empty() && changes(4).ids.empty());
  CHECK(changes(3).rows == (std::vector<float>{-1, -1}));
  CHECK(table.Forget(2).ok());
  Changes out;
  const Status stale = table.ReadChanges(1, &out);
  CHECK(stale.code == Code::kStale && stale.detail == 2 && changes(2).ids == std::vector<int64_t>{3});
  CHECK(table.Clear().ok());
  CHECK(changes(4).removed == (std::vector<int64_t>{2, 3, 4}) && table.GetStats().rows == 0);
}

std::vector<TableSpec> Specs() {
  TableSpec counted = AdagradSpec(5);
  counted.rule.kind = RuleKind::kAdam;
  counted.rule.p[0] = 0.9f;
  counted.rule.p[1] = 0.99f;
  counted.rule.p[2] = 1e-8f;
  counted.rule.p[4] = 1.0f;
  counted.admission = AfterCount(2);
  TableSpec bounded = AdagradSpec(5);
  bounded.capacity = 300;
  bounded.pending_limit = 139;
  bounded.admission = AfterSketch(2);
  bounded.precision = Precision::kFloat16;
  TableSpec bare = AdagradSpec(5);
  bare.times = bare.history = false;
  bare.precision = Precision::kBfloat16;
  return {counted, bounded, bare};
}

void ExportAndImportAreInverse(const TableSpec& spec) {
  Table table(spec), copy(spec);
  Dice dice(3);
  for (int64_t step = 0; step < 40; ++step) {
    CHECK(table.Update(DrawBatch(dice, spec.dim, 900, 80, step).view(), 0.1f).ok());
    if (step % 9 == 8) CHECK(table.Remove(DrawIds(dice, 900, 50)).ok());
    if (step % 9 == 8 && spec.times) CHECK(table.Evict(step - 7).ok());
  }
  CHECK(table.Forget(12).ok() && copy.Import(PartsOf(table)).ok());
  const Parts parts = PartsOf(table);
  CheckSameParts(parts, PartsOf(copy));
  CHECK(!parts.ids.empty() && copy.GetNumbers().floor == (spec.history ? 12u : 40u + 4u + 4u * spec.times));
  for (Table* one : {&table, &copy}) {  // and they go on alike
    Dice same(4);
    for (int64_t step = 40; step < 50; ++step) {
      CHECK(one->Update(DrawBatch(same, spec.dim, 900, 80, step).view(), 0.1f).ok());
    }
  }
  CheckSameParts(PartsOf(table), PartsOf(copy));
}

void ImportRefusesWhatDoesNotFit() {
  TableSpec spec = PlainSpec(2);
  Table source(spec);
  CHECK(Step(source, {1, 2, 3}).ok());
  const Parts parts = PartsOf(source);
  spec.capacity = 2;
  spec.pending_limit = 64;
  Table small(spec);
  const Status full = small.Import(parts);
  CHECK(full.code == Code::kFull && full.detail == 2 && small.GetStats().rows == 0);
  Table other(PlainSpec(3));
  CHECK(other.Import(parts).code == Code::kInvalid);
}

// Gives fewer bytes than a row has, or an error, after some good blocks.
class BadSource final : public BlockSource {
 public:
  explicit BadSource(Status end) : end_(end) {}
  Status Next(Block* out, bool* done) override {
    *done = false;
    *out = Block();
    out->stripe = next_;
    if (++next_ < 5) return {};
    out->ids = {1};
    return end_;
  }
  Status Close(Numbers*) override { return {}; }

 private:
  Status end_;
  int32_t next_ = 0;
};

void ARefusedLoadChangesNothing() {
  Table table(PlainSpec(2));
  CHECK(Step(table, {1, 2, 3}).ok());
  const Parts before = PartsOf(table);
  for (const Status end : {Status{}, Status{Code::kCorrupt, 77}, Status{Code::kIo, 5}}) {
    BadSource source(end);
    const Status status = table.Load(&source, Numbers());
    CHECK(status.code == (end.ok() ? Code::kInvalid : end.code) && (end.ok() || status.detail == end.detail));
    CheckSameParts(before, PartsOf(table));
  }
}

void AServingTableTakesRowsOnly() {
  TableSpec spec = PlainSpec(2);
  spec.serving = true;
  spec.rule.kind = RuleKind::kAdam;
  Table table(spec);
  CHECK(Step(table, {1}).code == Code::kServing);
  CHECK(table.slots() == 0);
  CHECK(table.Assign(std::vector<int64_t>{4, 2}, std::vector<float>{1, 2, 3, 4}, {}).ok());
  CHECK(Value(table, 2) == 3.0f);
  Changes changes;
  CHECK(table.ReadChanges(0, &changes).ok() && changes.ids == (std::vector<int64_t>{2, 4}));
  std::unique_ptr<Capture> capture;
  CHECK(table.Begin(0, &capture).code == Code::kNoHistory);
}

void APlainTableKeepsNoTimes() {
  TableSpec spec = PlainSpec(2);
  spec.times = spec.history = false;
  Table table(spec);
  CHECK(Step(table, {1, 2}, 1, 99).ok());
  CHECK(table.Evict(100).code == Code::kNoTimes && table.GetNumbers().mark == 1);
  Changes changes;
  CHECK(table.ReadChanges(1, &changes).ok() && changes.ids.empty());
  CHECK(PartsOf(table).times == (std::vector<int64_t>{0, 0}) && table.GetNumbers().newest == kNever);
}

void RoundsToThePrecisionOfTheTable() {
  for (const auto& [precision, wanted] :
       {std::pair{Precision::kFloat16, 0.0999755859375f}, std::pair{Precision::kBfloat16, 0.10009765625f},
        std::pair{Precision::kFloat32, 0.1f}}) {
    TableSpec spec = PlainSpec(3);
    spec.precision = precision;
    Table table(spec);
    CHECK(table.Assign(std::vector<int64_t>{1}, std::vector<float>(3, 0.1f), {}).ok() &&
          Value(table, 1) == wanted);
  }
}

void GrowsShrinksAndReusesMemory() {
  Table table(PlainSpec(2));
  int64_t most = 0;
  for (int64_t round = 0; round < 30; ++round) {
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < 3000; ++i) ids.push_back(round * 3000 + i);
    CHECK(Step(table, ids, 1, round).ok());
    CHECK(table.Evict(round).ok());
    CHECK(table.Forget(table.GetNumbers().mark).ok());
    CHECK(table.GetStats().rows == 3000);
    if (round == 3) most = table.GetStats().bytes;
    if (round > 3) CHECK(table.GetStats().bytes <= most + most / 2);
  }
  CHECK(table.Clear().ok() && table.Forget(table.GetNumbers().mark).ok());
  CHECK(table.GetStats().bytes < 64 << 10);
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::LearnsInsertsAndRemoves();
  headrace::TheRateOfTheCallCounts();
  headrace::RefusalsChangeNothing();
  headrace::AdmitsAtTheThreshold();
  headrace::EvictsByTimeAndForgetsCounts();
  headrace::TellsWhatChanged();
  for (const headrace::TableSpec& spec : headrace::Specs()) headrace::ExportAndImportAreInverse(spec);
  headrace::ImportRefusesWhatDoesNotFit();
  headrace::ARefusedLoadChangesNothing();
  headrace::AServingTableTakesRowsOnly();
  headrace::APlainTableKeepsNoTimes();
  headrace::RoundsToThePrecisionOfTheTable();
  headrace::GrowsShrinksAndReusesMemory();
  return headrace::ReportChecks("table_test");
}
