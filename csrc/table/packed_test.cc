// A packed step against what its calls mean, one table and one id at a time.
#include "table/packed.h"

#include <cmath>
#include <map>
#include <memory>
#include <vector>

#include "table/check.h"
#include "table/packed_step.h"
#include "table/steps.h"

namespace headrace {
namespace {

// Tables, and others that learn the same one by one.
struct Model {
  explicit Model(const std::vector<TableSpec>& specs, std::vector<Feature> wanted)
      : features(std::move(wanted)) {
    for (const TableSpec& spec : specs) {
      tables.push_back(std::make_unique<Table>(spec));
      oracles.push_back(std::make_unique<Table>(spec));
      pointers.push_back(tables.back().get());
    }
    packed = std::make_unique<Packed>(pointers, features);
  }
  int64_t DimOf(size_t f) const { return pointers[static_cast<size_t>(features[f].table)]->dim(); }

  std::vector<Feature> features;
  std::vector<std::unique_ptr<Table>> tables, oracles;
  std::vector<Table*> pointers;
  std::unique_ptr<Packed> packed;
};

// One feature of a batch.
struct Column {
  std::vector<int64_t> values, offsets;
  std::vector<float> out, wanted, grads;
};

enum class Lengths { kOne, kJagged };

struct Request {
  int64_t bags = 0;
  std::vector<int64_t> times;
  std::vector<Column> columns;

  std::vector<FeatureIds> inputs() {
    std::vector<FeatureIds> all;
    for (Column& column : columns) {
      all.push_back({column.values.data(), static_cast<int64_t>(column.values.size()), column.offsets.data(),
                     column.out.data()});
    }
    return all;
  }
  std::vector<const float*> grads() const {
    std::vector<const float*> all;
    for (const Column& column : columns) all.push_back(column.grads.empty() ? nullptr : column.grads.data());
    return all;
  }
};

Request Draw(Dice& dice, const Model& model, int64_t bags, int64_t range, Lengths lengths, uint64_t ids = 0) {
  Request batch;
  batch.bags = bags;
  for (int64_t b = 0; b < bags; ++b) batch.times.push_back(dice.Between(0, 1000));
  batch.columns.resize(model.features.size());
  for (size_t f = 0; f < batch.columns.size(); ++f) {
    Column& column = batch.columns[f];
    column.offsets.push_back(0);
    for (int64_t b = 0; b < bags; ++b) {
      const int64_t length = lengths == Lengths::kOne || f % 3 == 2 ? 1 : dice.Between(0, 4);
      for (int64_t i = 0; i < length; ++i) {
        const int64_t id = dice.Between(0, dice.Between(1, range) - 1) + static_cast<int64_t>(ids);
        column.values.push_back(id * 77 - 5);
      }
      column.offsets.push_back(static_cast<int64_t>(column.values.size()));
    }
    const auto n = static_cast<int64_t>(column.values.size());
    const int64_t rows = model.features[f].pooling == Pooling::kNone ? n : bags;
    const auto floats = static_cast<size_t>(rows * model.DimOf(f));
    column.out.assign(floats, std::nanf(""));
    column.wanted.assign(floats, 0.0f);
    column.grads.resize(floats);
    for (float& grad : column.grads) grad = static_cast<float>(dice.Between(-1000, 1000)) / 977.0f;
  }
  return batch;
}

// What the outputs should be: rows are added in the order of their occurrence, from the first one on.
void WantOutputs(const Model& model, Request* batch) {
  for (size_t f = 0; f < batch->columns.size(); ++f) {
    Column& column = batch->columns[f];
    const auto dim = static_cast<size_t>(model.DimOf(f));
    std::vector<float> rows(column.values.size() * dim);
    CHECK(model.oracles[static_cast<size_t>(model.features[f].table)]->Lookup(column.values, rows).ok());
    if (model.features[f].pooling == Pooling::kNone) {
      column.wanted = rows;
      continue;
    }
    for (size_t b = 0; b + 1 < column.offsets.size(); ++b) {
      const auto start = static_cast<size_t>(column.offsets[b]),
                 stop = static_cast<size_t>(column.offsets[b + 1]);
      for (size_t j = 0; j < dim && start < stop; ++j) {
        float sum = rows[start * dim + j];
        for (size_t i = start + 1; i < stop; ++i) sum = sum + rows[i * dim + j];
        if (model.features[f].pooling == Pooling::kMean) sum = sum / static_cast<float>(stop - start);
        column.wanted[b * dim + j] = sum;
      }
    }
  }
}

void CheckOutputs(const Request& batch) {
  for (const Column& column : batch.columns) CHECK(SameFloats(column.out, column.wanted));
}

// Sums gradients in the order of occurrence, feature after feature, and updates every table with them.
void LearnOneByOne(Model& model, const Request& batch, const std::vector<float>& rates) {
  for (size_t t = 0; t < model.oracles.size(); ++t) {
    const auto dim = static_cast<size_t>(model.oracles[t]->dim());
    Batch step;
    std::map<int64_t, size_t> places;
    bool flowed = false;
    for (size_t f = 0; f < batch.columns.size(); ++f) {
      if (static_cast<size_t>(model.features[f].table) != t) continue;
      const Column& column = batch.columns[f];
      flowed |= !column.grads.empty();
      for (size_t b = 0; b + 1 < column.offsets.size(); ++b) {
        const int64_t length = column.offsets[b + 1] - column.offsets[b];
        for (auto i = static_cast<size_t>(column.offsets[b]); i < static_cast<size_t>(column.offsets[b + 1]);
             ++i) {
          const auto [found, fresh] = places.try_emplace(column.values[i], step.ids.size());
          const size_t place = found->second;
          if (fresh) {
            step.ids.push_back(column.values[i]);
            step.counts.push_back(0);
            step.times.push_back(batch.times[b]);
            step.grads.resize(step.grads.size() + dim, 0.0f);
          }
          ++step.counts[place];
          step.times[place] = std::max(step.times[place], batch.times[b]);
          if (column.grads.empty()) continue;
          const bool none = model.features[f].pooling == Pooling::kNone;
          for (size_t j = 0; j < dim; ++j) {
            float grad = column.grads[(none ? i : b) * dim + j];
            if (model.features[f].pooling == Pooling::kMean) grad = grad / static_cast<float>(length);
            step.grads[place * dim + j] = step.grads[place * dim + j] + grad;
          }
        }
      }
    }
    if (flowed && !step.ids.empty()) CHECK(model.oracles[t]->Update(step.view(), rates[t]).ok());
  }
}

Status Learn(Model& model, Request& batch, int threads, const std::vector<float>& rates, int32_t* failed) {
  std::unique_ptr<PackedStep> step;
  CHECK(model.packed->Forward(batch.inputs(), batch.times, threads, &step).ok());
  CHECK(step->Accumulate(batch.grads(), threads).ok());
  const Status status = step->Apply(rates, threads, failed);
  model.packed->GiveBack(std::move(step));
  return status;
}

void CheckTables(const Model& model) {
  for (size_t t = 0; t < model.tables.size(); ++t)
    CheckSameParts(PartsOf(*model.oracles[t]), PartsOf(*model.tables[t]));
}

std::vector<TableSpec> Specs() {
  TableSpec wide = AdagradSpec(16);
  TableSpec counted = AdagradSpec(3);
  counted.capacity = 700;
  counted.pending_limit = 200;
  counted.admission = AfterCount(2);
  TableSpec half = AdagradSpec(8);
  half.precision = Precision::kBfloat16;
  half.clips = {Clip{1, {0.5f}}};
  half.admission = AfterSketch(2);
  TableSpec bare = PlainSpec(32);
  bare.times = bare.history = false;
  return {wide, counted, half, bare};
}

const std::vector<Feature> kFeatures{{0, Pooling::kSum},  {1, Pooling::kMean}, {2, Pooling::kSum},
                                     {0, Pooling::kMean}, {3, Pooling::kNone}, {1, Pooling::kSum},
                                     {0, Pooling::kNone}};

void EqualsOneByOne(int threads, Lengths lengths, int64_t bags, uint64_t seed) {
  Model model(Specs(), kFeatures);
  Dice dice(seed);
  const std::vector<float> rates{0.1f, 0.05f, 0.2f, 0.01f};
  for (int step = 0; step < 5; ++step) {
    Request batch = Draw(dice, model, bags, 3000, lengths);
    if (step == 3) batch.columns[1].grads.clear(), batch.columns[5].grads.clear();
    WantOutputs(model, &batch);
    if (step % 2 == 0) {
      CHECK(model.packed->Read(batch.inputs(), bags, threads).ok());
      CheckOutputs(batch);
      for (Column& column : batch.columns) std::fill(column.out.begin(), column.out.end(), -1.0f);
    }
    int32_t failed = -1;
    CHECK(Learn(model, batch, threads, rates, &failed).ok() && failed == -1);
    CheckOutputs(batch);
    LearnOneByOne(model, batch, rates);
  }
  CheckTables(model);
}

// One table has nearly all the work, so its ids are split over the threads.
void ASplitTableEqualsOneByOne(int threads, Lengths lengths) {
  std::vector<TableSpec> specs{AdagradSpec(16), AdagradSpec(8)};
  specs[0].capacity = 3000;
  specs[0].pending_limit = 500;
  Model model(specs, {{0, Pooling::kSum}, {1, Pooling::kSum}, {0, Pooling::kMean}, {0, Pooling::kNone}});
  Dice dice(17);
  const std::vector<float> rates{0.1f, 0.1f};
  for (int step = 0; step < 4; ++step) {
    Request batch = Draw(dice, model, 2600, 2500 + 400 * step, lengths);
    WantOutputs(model, &batch);
    int32_t failed = -1;
    CHECK(Learn(model, batch, threads, rates, &failed).ok());
    CheckOutputs(batch);
    LearnOneByOne(model, batch, rates);
  }
  CheckTables(model);
}

// All ids of one table are of a few stripes, as they are in a shard of many.
void AShardsIdsInOnePart(int threads) {
  Model model({AdagradSpec(8)}, {{0, Pooling::kSum}});
  Dice dice(23);
  Request batch = Draw(dice, model, 6000, 10, Lengths::kOne);
  int64_t next = 0;
  for (int64_t& id : batch.columns[0].values) {
    while (StripeOf(IdMap::Hash(next)) >= 16) ++next;
    id = next++;
  }
  WantOutputs(model, &batch);
  const std::vector<float> rates{0.1f};
  int32_t failed = -1;
  CHECK(Learn(model, batch, threads, rates, &failed).ok());
  CheckOutputs(batch);
  LearnOneByOne(model, batch, rates);
  CheckTables(model);
}

// A gradient that is not finite anywhere leaves every table as it was.
void ARefusedGradientChangesNothing(int threads, size_t feature) {
  Model model(Specs(), kFeatures);
  Dice dice(5);
  const std::vector<float> rates{0.1f, 0.05f, 0.2f, 0.01f};
  int32_t failed = -1;
  Request first = Draw(dice, model, 300, 500, Lengths::kJagged);
  CHECK(Learn(model, first, threads, rates, &failed).ok());
  LearnOneByOne(model, first, rates);
  CheckTables(model);
  Request batch = Draw(dice, model, 300, 500, Lengths::kOne);
  batch.columns[feature].grads.back() = INFINITY;
  const Status status = Learn(model, batch, threads, rates, &failed);
  CHECK(status.code == Code::kNotFinite && failed == model.features[feature].table);
  CheckTables(model);
}

void BrokenOffsetsAreRefused() {
  Model model({PlainSpec(4)}, {{0, Pooling::kSum}});
  Dice dice(6);
  for (const std::vector<int64_t>& offsets :
       {std::vector<int64_t>{0, 2, 1, 4}, {1, 2, 3, 4}, {0, 1, 2, 3}, {0, 1, 2, 5}, {0, -1, 2, 4}}) {
    Request batch = Draw(dice, model, 3, 10, Lengths::kOne);
    batch.columns[0].values = {1, 2, 3, 4};
    batch.columns[0].offsets = offsets;
    std::unique_ptr<PackedStep> step;
    CHECK(model.packed->Read(batch.inputs(), 3, 1).code == Code::kInvalid);
    CHECK(model.packed->Forward(batch.inputs(), batch.times, 1, &step).code == Code::kInvalid && !step);
  }
}

void EmptyBatchesDoNothing(int threads) {
  Model model(Specs(), kFeatures);
  Dice dice(7);
  for (const int64_t bags : {int64_t{0}, int64_t{3}}) {
    Request batch = Draw(dice, model, bags, 10, Lengths::kOne);
    for (size_t f = 0; f < batch.columns.size(); ++f) {
      Column& column = batch.columns[f];
      column.values.clear();
      std::fill(column.offsets.begin(), column.offsets.end(), 0);
      if (model.features[f].pooling == Pooling::kNone)
        column.out.clear(), column.grads.clear(), column.wanted.clear();
    }
    int32_t failed = -1;
    CHECK(Learn(model, batch, threads, {0.1f, 0.1f, 0.1f, 0.1f}, &failed).ok());
    CheckOutputs(batch);
  }
  for (const auto& table : model.tables) CHECK(table->GetNumbers().mark == 0 && table->GetStats().rows == 0);
}

// Rows come, go and move between the two passes: gradients still reach the rows of their ids.
void AStepOutlivesOtherWrites() {
  Model model({AdagradSpec(8)}, {{0, Pooling::kSum}});
  Table &table = *model.tables[0], &oracle = *model.oracles[0];
  Dice dice(8);
  const std::vector<float> rates{0.1f};
  for (int round = 0; round < 12; ++round) {
    Request batch = Draw(dice, model, 200, 300, Lengths::kOne);
    std::unique_ptr<PackedStep> step;
    CHECK(model.packed->Forward(batch.inputs(), batch.times, 1, &step).ok());
    for (Table* one : {&table, &oracle}) {
      Dice same(static_cast<uint64_t>(round));
      const Batch between = DrawBatch(same, 8, 300, 100, 5);
      std::vector<int64_t> gone(batch.columns[0].values.begin(), batch.columns[0].values.begin() + 100);
      if (round % 3 != 1) CHECK(one->Remove(gone).ok());
      if (round % 3 != 0) CHECK(one->Update(between.view(), 0.1f).ok());
    }
    CHECK(step->Accumulate(batch.grads(), 1).ok());
    int32_t failed = -1;
    CHECK(step->Apply(rates, 1, &failed).ok());
    LearnOneByOne(model, batch, rates);
    CheckTables(model);
  }
}

// As many rows of other ids take the cells of those that the step found.
void AStepOutlivesClearAndImport() {
  for (const bool import : {false, true}) {
    Model model({AdagradSpec(8)}, {{0, Pooling::kSum}});
    std::vector<int64_t> ids, others, times(100, 1);
    for (int64_t id = 0; id < 100; ++id) ids.push_back(id), others.push_back(1000 + id);
    const std::vector<float> rows(800, 1.0f), rates{0.1f};
    Table source(AdagradSpec(8));
    CHECK(source.Assign(others, rows, times).ok());
    const Parts parts = PartsOf(source);
    for (Table* one : {model.tables[0].get(), model.oracles[0].get()})
      CHECK(one->Assign(ids, rows, times).ok());
    Dice dice(9);
    Request batch = Draw(dice, model, 100, 100, Lengths::kOne);
    for (size_t i = 0; i < 100; ++i) batch.columns[0].values[i] = ids[i];
    std::unique_ptr<PackedStep> step;
    CHECK(model.packed->Forward(batch.inputs(), batch.times, 1, &step).ok());
    for (Table* one : {model.tables[0].get(), model.oracles[0].get()}) {
      if (import) {
        CHECK(one->Import(parts).ok());
      } else {
        CHECK(one->Clear().ok() && one->Assign(others, rows, times).ok());
      }
    }
    CHECK(step->Accumulate(batch.grads(), 1).ok());
    int32_t failed = -1;
    CHECK(step->Apply(rates, 1, &failed).ok());
    LearnOneByOne(model, batch, rates);
    CheckTables(model);
  }
}

// Two passes wait at once, and gradients come in pieces.
void PassesAreIndependent() {
  Model model({AdagradSpec(16)}, {{0, Pooling::kSum}, {0, Pooling::kMean}});
  Dice dice(10);
  Request first = Draw(dice, model, 50, 60, Lengths::kJagged),
          second = Draw(dice, model, 70, 60, Lengths::kJagged);
  std::unique_ptr<PackedStep> one, two;
  CHECK(model.packed->Forward(first.inputs(), first.times, 2, &one).ok());
  CHECK(model.packed->Forward(second.inputs(), second.times, 2, &two).ok());
  CHECK(one->Fits(0, 50, 16) && !one->Fits(0, 70, 16) && !one->Fits(0, 50, 8) && two->Fits(1, 70, 16));
  const std::vector<const float*> left{first.columns[0].grads.data(), nullptr};
  const std::vector<const float*> right{nullptr, first.columns[1].grads.data()};
  CHECK(!one->Flowed(0));
  CHECK(one->Accumulate(left, 1).ok() && one->Flowed(0) && one->Accumulate(right, 1).ok());
  CHECK(two->Accumulate(second.grads(), 1).ok());
  const std::vector<float> rates{0.1f};
  int32_t failed = -1;
  CHECK(two->Apply(rates, 1, &failed).ok() && one->Apply(rates, 1, &failed).ok());
  LearnOneByOne(model, second, rates);
  LearnOneByOne(model, first, rates);
  CheckTables(model);
}

}  // namespace
}  // namespace headrace

int main() {
  using headrace::Lengths;
  for (const int threads : {1, 2, 4}) {
    headrace::EqualsOneByOne(threads, Lengths::kOne, 700, 1);
    headrace::EqualsOneByOne(threads, Lengths::kJagged, 700, 2);
    headrace::EqualsOneByOne(threads, Lengths::kJagged, 1500, 3);
    headrace::ASplitTableEqualsOneByOne(threads, Lengths::kOne);
    headrace::ASplitTableEqualsOneByOne(threads, Lengths::kJagged);
    for (const size_t feature : {0, 1, 2, 4}) headrace::ARefusedGradientChangesNothing(threads, feature);
    headrace::EmptyBatchesDoNothing(threads);
  }
  headrace::BrokenOffsetsAreRefused();
  headrace::AStepOutlivesOtherWrites();
  headrace::PassesAreIndependent();
  headrace::AStepOutlivesClearAndImport();
  for (const int threads : {2, 4, 8, 16}) headrace::AShardsIdsInOnePart(threads);
  return headrace::ReportChecks("packed_test");
}
