// The only file that knows Python. Typed arrays in, (code, detail) or arrays out; no policy, no error texts:
// `headrace/store/table.py` checks shapes and turns codes into errors.
//
// Thread safety: the GIL is released around every call of the table, whose own lock does the rest. Arrays
// that are passed in must not be changed by other threads meanwhile.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "table/table.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace headrace {
namespace {

using IdsIn = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatsIn = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using BytesOut = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<nb::numpy, int64_t, nb::ndim<1>>;
using Floats = nb::ndarray<nb::numpy, float, nb::ndim<2>>;
using Answer = std::pair<int32_t, int64_t>;

std::span<const int64_t> View(const IdsIn& array) {
  return {array.data(), array.size()};
}
std::span<const float> View(const FloatsIn& array) {
  return {array.data(), array.size()};
}
std::span<float> View(const FloatsOut& array) {
  return {array.data(), array.size()};
}

Answer AsAnswer(Status status) {
  return {static_cast<int32_t>(status.code), status.detail};
}

// Runs `call` without the GIL.
template <typename Call>
Answer Run(Call call) {
  Status status;
  {
    const nb::gil_scoped_release release;
    status = call();
  }
  return AsAnswer(status);
}

// Gives a vector to Python without a copy.
template <typename Array, typename T>
Array Own(std::vector<T>&& values, std::initializer_list<size_t> shape) {
  auto* owned = new std::vector<T>(std::move(values));
  const nb::capsule owner(owned,
                          [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  return Array(owned->data(), shape, owner);
}

Ids OwnIds(std::vector<int64_t>&& values) {
  const size_t n = values.size();
  return Own<Ids>(std::move(values), {n});
}

Floats OwnFloats(std::vector<float>&& values, size_t rows, int64_t width) {
  return Own<Floats>(std::move(values), {rows, static_cast<size_t>(width)});
}

std::vector<int64_t> Copy(const IdsIn& array) {
  return {array.data(), array.data() + array.size()};
}
std::vector<float> Copy(const FloatsIn& array) {
  return {array.data(), array.data() + array.size()};
}

// Kind and parameters of a row rule, an initial row, an admission.
using RuleIn = std::tuple<int32_t, float, float, float, float>;
using InitialIn = std::tuple<int32_t, float, uint64_t>;
using AdmissionIn = std::tuple<int32_t, int64_t, double, uint64_t>;

std::unique_ptr<Table> MakeTable(int64_t dim, const RuleIn& rule, const InitialIn& init,
                                 const AdmissionIn& admission, bool serving) {
  TableSpec spec;
  spec.dim = dim;
  const auto [kind, a, b, c, d] = rule;
  spec.rule = {static_cast<RuleKind>(kind), a, b, c, d};
  const auto [init_kind, value, init_key] = init;
  spec.init = {static_cast<InitialKind>(init_kind), value, init_key};
  const auto [admission_kind, occurrences, refusal, admission_key] = admission;
  spec.admission = {static_cast<AdmissionKind>(admission_kind), occurrences, refusal, admission_key};
  spec.serving = serving;
  return std::make_unique<Table>(spec);
}

Answer Update(Table& table, const IdsIn& ids, const FloatsIn& grads, const IdsIn& counts,
              const IdsIn& times) {
  return Run([&] { return table.Update({View(ids), View(grads), View(counts), View(times)}); });
}

Answer Assign(Table& table, const IdsIn& ids, const FloatsIn& rows, const std::optional<IdsIn>& times) {
  return Run(
      [&] { return table.Assign(View(ids), View(rows), times ? View(*times) : std::span<const int64_t>()); });
}

using ChangesOut = std::tuple<Answer, Ids, Floats, Ids>;

template <typename Read>
ChangesOut ReadInto(const Table& table, Read read) {
  Changes changes;
  const Answer answer = Run([&] { return read(&changes); });
  const size_t n = changes.ids.size();
  return {answer, OwnIds(std::move(changes.ids)), OwnFloats(std::move(changes.rows), n, table.dim()),
          OwnIds(std::move(changes.removed))};
}

// The fields of Parts in their order; `headrace/store/table.py` gives them names again.
using CountersTuple = std::tuple<uint64_t, uint64_t, int64_t, int64_t, int64_t>;
using PartsOut = std::tuple<Answer, Ids, Floats, Floats, Ids, Ids, Ids, Ids, Ids, Ids, Ids, CountersTuple>;

PartsOut Export(const Table& table) {
  Parts parts;
  const Answer answer = Run([&] { return table.Export(&parts); });
  const size_t n = parts.ids.size();
  const Counters& counters = parts.counters;
  return {answer,
          OwnIds(std::move(parts.ids)),
          OwnFloats(std::move(parts.rows), n, table.dim()),
          OwnFloats(std::move(parts.slots), n, table.slots()),
          OwnIds(std::move(parts.times)),
          OwnIds(std::move(parts.marks)),
          OwnIds(std::move(parts.pending_ids)),
          OwnIds(std::move(parts.pending_counts)),
          OwnIds(std::move(parts.pending_times)),
          OwnIds(std::move(parts.removed_ids)),
          OwnIds(std::move(parts.removed_marks)),
          {counters.mark, counters.floor, counters.admitted, counters.filtered, counters.evicted}};
}

Answer Import(Table& table, const IdsIn& ids, const FloatsIn& rows, const FloatsIn& slots, const IdsIn& times,
              const IdsIn& marks, const std::tuple<IdsIn, IdsIn, IdsIn>& pending,
              const std::tuple<IdsIn, IdsIn>& removed, const CountersTuple& counters) {
  Parts parts;
  const auto [mark, floor, admitted, filtered, evicted] = counters;
  parts.counters = {mark, floor, admitted, filtered, evicted};
  return Run([&] {
    parts.ids = Copy(ids);
    parts.rows = Copy(rows);
    parts.slots = Copy(slots);
    parts.times = Copy(times);
    parts.marks = Copy(marks);
    parts.pending_ids = Copy(std::get<0>(pending));
    parts.pending_counts = Copy(std::get<1>(pending));
    parts.pending_times = Copy(std::get<2>(pending));
    parts.removed_ids = Copy(std::get<0>(removed));
    parts.removed_marks = Copy(std::get<1>(removed));
    return table.Import(parts);
  });
}

using StatsOut = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, double, int64_t, int64_t>;

StatsOut GetStats(const Table& table) {
  Stats stats;
  {
    const nb::gil_scoped_release release;
    stats = table.GetStats();
  }
  return {stats.rows,    stats.bytes, stats.admitted, stats.filtered,
          stats.evicted, stats.load,  stats.pending,  stats.entries};
}

uint64_t GetMark(const Table& table) {
  const nb::gil_scoped_release release;
  return table.GetCounters().mark;
}

}  // namespace
}  // namespace headrace

NB_MODULE(_native, module) {
  using namespace headrace;
  module.doc() = "The native embedding table; use it through headrace.store.";
  module.attr("INTERFACE") = 1;  // headrace.store.table refuses a build of another interface
  nb::class_<Table>(module, "Table", "An embedding table; see csrc/table/table.h.")
      .def(nb::new_(&MakeTable), "dim"_a, "rule"_a, "init"_a, "admission"_a, "serving"_a)
      .def(
          "lookup",
          [](const Table& table, const IdsIn& ids, const FloatsOut& out) {
            return Run([&] { return table.Lookup(View(ids), View(out)); });
          },
          "ids"_a, "out"_a.noconvert())
      .def(
          "initial",
          [](const Table& table, const IdsIn& ids, const FloatsOut& out) {
            return Run([&] { return table.Initial(View(ids), View(out)); });
          },
          "ids"_a, "out"_a.noconvert())
      .def(
          "contains",
          [](const Table& table, const IdsIn& ids, const BytesOut& out) {
            return Run([&] { return table.Contains(View(ids), {out.data(), out.size()}); });
          },
          "ids"_a, "out"_a.noconvert())
      .def("update", &Update, "ids"_a, "grads"_a, "counts"_a, "times"_a)
      .def("assign", &Assign, "ids"_a, "rows"_a, "times"_a.none())
      .def(
          "remove",
          [](Table& table, const IdsIn& ids) { return Run([&] { return table.Remove(View(ids)); }); },
          "ids"_a)
      .def(
          "evict", [](Table& table, int64_t before) { return Run([&] { return table.Evict(before); }); },
          "before"_a)
      .def("clear", [](Table& table) { return Run([&] { return table.Clear(); }); })
      .def(
          "changes",
          [](const Table& table, uint64_t since) {
            return ReadInto(table, [&](Changes* out) { return table.ReadChanges(since, out); });
          },
          "since"_a)
      .def("rows",
           [](const Table& table) {
             return ReadInto(table, [&](Changes* out) { return table.ReadRows(out); });
           })
      .def(
          "forget", [](Table& table, uint64_t mark) { return Run([&] { return table.Forget(mark); }); },
          "mark"_a)
      .def("mark", &GetMark)
      .def("stats", &GetStats)
      .def("export_parts", &Export)
      .def("import_parts", &Import, "ids"_a, "rows"_a, "slots"_a, "times"_a, "marks"_a, "pending"_a,
           "removed"_a, "counters"_a);
}
