// Packed for Python: all features of a model in one call.
//
// Thread safety: the GIL is released around the work. Arrays that are passed in must not be changed by other
// threads meanwhile.
#include "bind/packed.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "bind/arrays.h"
#include "table/packed.h"
#include "table/packed_step.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace headrace {
namespace {

// Rows that may stand apart, as those of one feature do in a tensor of all.
using RowsIn = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using RowsOut = nb::ndarray<float, nb::ndim<2>, nb::device::cpu>;

// Whether every row is in one piece and none reaches into the next.
template <typename Rows>
bool InRows(const Rows& rows) {
  const auto dim = static_cast<int64_t>(rows.shape(1));
  if (rows.shape(0) == 0) return true;  // strides of nothing are arbitrary
  return (dim <= 1 || rows.stride(1) == 1) && (rows.shape(0) <= 1 || rows.stride(0) >= dim);
}

template <typename Rows>
int64_t StrideOf(const Rows& rows) {
  return rows.shape(0) > 1 ? rows.stride(0) : static_cast<int64_t>(rows.shape(1));
}

// A forward pass; its memory goes back to where it came from.
struct Step {
  std::shared_ptr<Packed> packed;
  std::unique_ptr<PackedStep> step;
  Step(std::shared_ptr<Packed> from, std::unique_ptr<PackedStep> got)
      : packed(std::move(from)), step(std::move(got)) {}
  Step(Step&&) = default;
  Step& operator=(Step&&) = default;
  ~Step() {
    if (step) packed->GiveBack(std::move(step));
  }
};

std::shared_ptr<Packed> MakePacked(const std::vector<Table*>& tables,
                                   const std::vector<std::pair<int32_t, int32_t>>& features) {
  std::vector<Feature> list;
  for (const auto& [table, pooling] : features) list.push_back({table, static_cast<Pooling>(pooling)});
  return std::make_shared<Packed>(tables, std::move(list));
}

std::vector<FeatureIds> Inputs(const std::vector<IdsIn>& values, const std::vector<IdsIn>& offsets,
                               const std::vector<RowsOut>& outs) {
  std::vector<FeatureIds> inputs(values.size());
  for (size_t f = 0; f < values.size(); ++f) {
    inputs[f] = {values[f].data(), static_cast<int64_t>(values[f].size()), offsets[f].data(), outs[f].data(),
                 StrideOf(outs[f])};
  }
  return inputs;
}

// Whether arrays fit each other: one entry a feature, bags + 1 offsets, room for what is written.
bool Fit(const Packed& packed, const std::vector<IdsIn>& values, const std::vector<IdsIn>& offsets,
         const std::vector<RowsOut>& outs, size_t bags) {
  const size_t n = packed.features().size();
  if (values.size() != n || offsets.size() != n || outs.size() != n) return false;
  for (size_t f = 0; f < n; ++f) {
    const Feature& feature = packed.features()[f];
    const auto dim = static_cast<size_t>(packed.tables()[static_cast<size_t>(feature.table)]->dim());
    const size_t rows = feature.pooling == Pooling::kNone ? values[f].size() : bags;
    if (offsets[f].size() != bags + 1 || outs[f].shape(0) != rows || outs[f].shape(1) != dim ||
        !InRows(outs[f])) {
      return false;
    }
  }
  return true;
}

Answer Read(const Packed& packed, const std::vector<IdsIn>& values, const std::vector<IdsIn>& offsets,
            const std::vector<RowsOut>& outs, int64_t bags, int threads) {
  if (!Fit(packed, values, offsets, outs, static_cast<size_t>(bags)))
    return {static_cast<int32_t>(Code::kInvalid), -1};
  const std::vector<FeatureIds> inputs = Inputs(values, offsets, outs);
  return Run([&] { return packed.Read(inputs, bags, threads); });
}

std::pair<Answer, std::unique_ptr<Step>> Forward(const std::shared_ptr<Packed>& packed,
                                                 const std::vector<IdsIn>& values,
                                                 const std::vector<IdsIn>& offsets,
                                                 const std::vector<RowsOut>& outs, const IdsIn& times,
                                                 int threads) {
  if (!Fit(*packed, values, offsets, outs, times.size()))
    return {Answer{static_cast<int32_t>(Code::kInvalid), -1}, std::unique_ptr<Step>()};
  const std::vector<FeatureIds> inputs = Inputs(values, offsets, outs);
  std::unique_ptr<PackedStep> step;
  const Answer answer = Run([&] { return packed->Forward(inputs, View(times), threads, &step); });
  if (!step) return {answer, std::unique_ptr<Step>()};
  return {answer, std::make_unique<Step>(packed, std::move(step))};
}

Answer Accumulate(Step& self, const std::vector<std::optional<RowsIn>>& grads, int threads) {
  if (!self.step || grads.size() != self.packed->features().size())
    return {static_cast<int32_t>(Code::kInvalid), -1};
  std::vector<const float*> pointers;
  std::vector<int64_t> strides;
  for (size_t f = 0; f < grads.size(); ++f) {
    const auto& grad = grads[f];
    if (grad && (!self.step->Fits(f, grad->shape(0), grad->shape(1)) || !InRows(*grad))) {
      return {static_cast<int32_t>(Code::kInvalid), static_cast<int64_t>(f)};
    }
    pointers.push_back(grad ? grad->data() : nullptr);
    strides.push_back(grad ? StrideOf(*grad) : 0);
  }
  return Run([&] { return self.step->Accumulate(pointers, threads, strides); });
}

Answer Fetch(const Packed& packed, const std::vector<IdsIn>& values) {
  if (values.size() != packed.features().size()) return {static_cast<int32_t>(Code::kInvalid), -1};
  std::vector<FeatureIds> inputs(values.size());
  for (size_t f = 0; f < values.size(); ++f)
    inputs[f] = {values[f].data(), static_cast<int64_t>(values[f].size()), nullptr, nullptr};
  return Run([&] { return packed.Fetch(inputs); });
}

// The answer, and the table that it is about.
std::tuple<Answer, int32_t> Apply(Step& self, const std::vector<float>& lrs, int threads) {
  int32_t table = -1;
  if (!self.step || lrs.size() != self.packed->tables().size()) {
    return {Answer{static_cast<int32_t>(Code::kInvalid), -1}, -1};
  }
  const Answer answer = Run([&] { return self.step->Apply(lrs, threads, &table); });
  return {answer, table};
}

std::tuple<Answer, Ids, Floats> Take(const Step& self, int32_t table) {
  PackedStep::Sums sums;
  const Answer answer = Run([&] { return self.step->Take(table, &sums); });
  const size_t n = sums.grads.empty() ? 0 : sums.ids.size();
  return {answer, OwnIds(std::move(sums.ids)),
          OwnFloats(std::move(sums.grads), n, self.packed->tables()[static_cast<size_t>(table)]->dim())};
}

}  // namespace

void BindPacked(nb::module_& module) {
  nb::class_<Step>(module, "Step", "A forward pass that waits for its gradients.")
      .def("accumulate", &Accumulate, "grads"_a.noconvert(), "threads"_a)
      .def("apply", &Apply, "lrs"_a, "threads"_a)
      .def("take", &Take, "table"_a)
      .def("flowed", [](const Step& self, int32_t table) { return self.step->Flowed(table); }, "table"_a);
  nb::class_<Packed>(module, "Packed", "All features against all tables; see csrc/table/packed.h.")
      .def(nb::new_(&MakePacked), "tables"_a, "features"_a, nb::keep_alive<0, 1>())
      .def("read", &Read, "values"_a, "offsets"_a, "outs"_a.noconvert(), "bags"_a, "threads"_a)
      .def("fetch", &Fetch, "values"_a)
      .def("forward", &Forward, "values"_a, "offsets"_a, "outs"_a.noconvert(), "times"_a, "threads"_a);
}

}  // namespace headrace
