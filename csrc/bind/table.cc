// Table for Python. Typed arrays in, (code, detail) or arrays out.
//
// Thread safety: the GIL is released around every call of the table, whose own lock does the rest. Arrays
// that are passed in must not be changed by other threads meanwhile.
#include "bind/table.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bind/arrays.h"
#include "snapshot/chain.h"
#include "snapshot/saver.h"
#include "table/capture.h"
#include "table/table.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace headrace {
namespace {

void SetRule(TableSpec& spec, int32_t kind, float lr, const std::vector<float>& parameters) {
  spec.rule = {};
  spec.rule.kind = static_cast<RuleKind>(kind);
  spec.rule.lr = lr;
  std::copy_n(parameters.begin(), std::min(parameters.size(), std::size(spec.rule.p)), spec.rule.p);
}

void SetInitial(TableSpec& spec, int32_t kind, float value, uint64_t key) {
  spec.init = {static_cast<InitialKind>(kind), value, key};
}

void AddClip(TableSpec& spec, int32_t kind, const std::vector<float>& parameters) {
  Clip clip;
  clip.kind = kind;
  std::copy_n(parameters.begin(), std::min(parameters.size(), std::size(clip.p)), clip.p);
  spec.clips.push_back(clip);
}

template <typename Part, typename Value>
auto Setter(Part TableSpec::* part, Value Part::* value) {
  return [part, value](TableSpec& spec, Value to) { spec.*part.*value = to; };
}

void BindSpec(nb::module_& module) {
  nb::class_<TableSpec>(module, "Spec", "What a table is made of; see csrc/table/spec.h.")
      .def(nb::init<>())
      .def("set_rule", &SetRule, "kind"_a, "lr"_a, "parameters"_a)
      .def("set_initial", &SetInitial, "kind"_a, "value"_a, "key"_a)
      .def("add_clip", &AddClip, "kind"_a, "parameters"_a)
      .def(
          "admit_count",
          [](TableSpec& spec, int64_t occurrences) {
            spec.admission.kind = AdmissionKind::kCount;
            spec.admission.occurrences = occurrences;
          },
          "occurrences"_a)
      .def(
          "admit_probability",
          [](TableSpec& spec, double refusal, uint64_t key) {
            spec.admission.kind = AdmissionKind::kProbability;
            spec.admission.refusal = refusal;
            spec.admission.key = key;
          },
          "refusal"_a, "key"_a)
      .def(
          "admit_sketch",
          [](TableSpec& spec, int64_t occurrences, int64_t cells_per_bucket, int64_t depth,
             int64_t age_after) {
            spec.admission.kind = AdmissionKind::kSketch;
            spec.admission.occurrences = occurrences;
            spec.admission.cells_per_bucket = cells_per_bucket;
            spec.admission.depth = depth;
            spec.admission.age_after = age_after;
          },
          "occurrences"_a, "cells_per_bucket"_a, "depth"_a, "age_after"_a)
      .def(
          "set_precision",
          [](TableSpec& spec, int32_t precision) { spec.precision = static_cast<Precision>(precision); },
          "precision"_a)
      .def(
          "set_victims", [](TableSpec& spec, int32_t kind) { spec.victims = static_cast<Victims>(kind); },
          "kind"_a)
      .def(
          "set_tier",
          [](TableSpec& spec, const std::string& folder, int64_t memory_bytes, int64_t hot_rows) {
            spec.tier = {folder, memory_bytes, hot_rows};
          },
          "folder"_a, "memory_bytes"_a, "hot_rows"_a)
      .def_rw("dim", &TableSpec::dim)
      .def_rw("lost", &TableSpec::lost)
      .def_rw("serving", &TableSpec::serving)
      .def_rw("times", &TableSpec::times)
      .def_rw("history", &TableSpec::history)
      .def_rw("ttl_us", &TableSpec::ttl_us)
      .def_rw("capacity", &TableSpec::capacity)
      .def_rw("pending_limit", &TableSpec::pending_limit)
      .def_rw("removal_limit", &TableSpec::removal_limit)
      .def_rw("capture_limit", &TableSpec::capture_limit);
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

// The fields of Numbers and Parts in their order; `headrace/store/table.py` gives them names again.
using NumbersTuple = std::tuple<uint64_t, uint64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
using PartsOut =
    std::tuple<Answer, Ids, Floats, Floats, Ids, Ids, Octets, Ids, Ids, Ids, Ids, Ids, Octets, NumbersTuple>;

NumbersTuple AsTuple(const Numbers& numbers) {
  return {numbers.mark,    numbers.floor,    numbers.admitted, numbers.filtered,
          numbers.evicted, numbers.halvings, numbers.newest};
}

Numbers AsNumbers(const NumbersTuple& tuple) {
  Numbers numbers;
  std::tie(numbers.mark, numbers.floor, numbers.admitted, numbers.filtered, numbers.evicted, numbers.halvings,
           numbers.newest) = tuple;
  return numbers;
}

PartsOut Export(const Table& table) {
  Parts parts;
  const Answer answer = Run([&] { return table.Export(&parts); });
  const size_t n = parts.ids.size();
  return {answer,
          OwnIds(std::move(parts.ids)),
          OwnFloats(std::move(parts.rows), n, table.dim()),
          OwnFloats(std::move(parts.slots), n, table.slots()),
          OwnIds(std::move(parts.times)),
          OwnIds(std::move(parts.marks)),
          OwnOctets(std::move(parts.frequencies)),
          OwnIds(std::move(parts.pending_ids)),
          OwnIds(std::move(parts.pending_counts)),
          OwnIds(std::move(parts.pending_times)),
          OwnIds(std::move(parts.removed_ids)),
          OwnIds(std::move(parts.removed_marks)),
          OwnOctets(std::move(parts.sketch)),
          AsTuple(parts.numbers)};
}

Answer Import(Table& table, const IdsIn& ids, const FloatsIn& rows, const FloatsIn& slots, const IdsIn& times,
              const IdsIn& marks, const In1<uint8_t>& frequencies,
              const std::tuple<IdsIn, IdsIn, IdsIn>& pending, const std::tuple<IdsIn, IdsIn>& removed,
              const In1<uint8_t>& sketch, const NumbersTuple& numbers) {
  Parts parts;
  parts.numbers = AsNumbers(numbers);
  return Run([&] {
    parts.ids = Copy(ids);
    parts.rows = Copy(rows);
    parts.slots = Copy(slots);
    parts.times = Copy(times);
    parts.marks = Copy(marks);
    parts.frequencies = Copy(frequencies);
    parts.pending_ids = Copy(std::get<0>(pending));
    parts.pending_counts = Copy(std::get<1>(pending));
    parts.pending_times = Copy(std::get<2>(pending));
    parts.removed_ids = Copy(std::get<0>(removed));
    parts.removed_marks = Copy(std::get<1>(removed));
    parts.sketch = Copy(sketch);
    return table.Import(parts);
  });
}

using StatsOut = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, double, int64_t>;

StatsOut GetStats(const Table& table) {
  Stats stats;
  {
    const nb::gil_scoped_release release;
    stats = table.GetStats();
  }
  return {stats.rows, stats.bytes, stats.admitted, stats.filtered, stats.evicted, stats.load, stats.pending};
}

// The fields of TierStats in their order.
using TierOut = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;

TierOut GetTier(const Table& table) {
  TierStats tier;
  {
    const nb::gil_scoped_release release;
    tier = table.GetTier();
  }
  return {tier.hot_rows, tier.cold_rows, tier.memory_bytes, tier.disk_bytes,
          tier.hits,     tier.misses,    tier.promoted};
}

// A snapshot that is being written. The table lives as long as this does.
struct Save {
  std::unique_ptr<TableSaver> saver;
};
// Answer, bytes, digest, mark, rows.
using SaveOut = std::tuple<Answer, uint64_t, uint64_t, uint64_t, uint64_t>;

std::pair<Answer, std::unique_ptr<Save>> BeginSave(Table& table, const std::string& path,
                                                   const nb::bytes& header, int64_t since, uint64_t parent,
                                                   int32_t shard, int32_t shards) {
  const std::string text(header.c_str(), header.size());
  auto save = std::make_unique<Save>();
  const Answer answer = Run([&]() -> Status {
    std::unique_ptr<Capture> capture;
    if (const Status status = table.Begin(since, &capture); !status.ok()) return status;
    Layout layout = capture->layout();
    layout.parent = parent;
    layout.shard = shard;
    layout.shards = shards;
    save->saver = std::make_unique<TableSaver>(std::move(capture), path, text, layout);
    return {};
  });
  return {answer, std::move(save)};
}

SaveOut Wait(Save& save) {
  TableSaver::Result result;
  {
    const nb::gil_scoped_release release;
    result = save.saver->Wait();
  }
  return {AsAnswer(result.status), result.bytes, result.digest, result.numbers.mark, result.totals.rows};
}

void BindWrites(nb::class_<Table>& table) {
  table
      .def(
          "update",
          [](Table& self, const IdsIn& ids, const FloatsIn& grads, const IdsIn& counts, const IdsIn& times,
             float lr) {
            return Run([&] { return self.Update({View(ids), View(grads), View(counts), View(times)}, lr); });
          },
          "ids"_a, "grads"_a, "counts"_a, "times"_a, "lr"_a)
      .def(
          "assign",
          [](Table& self, const IdsIn& ids, const FloatsIn& rows, const std::optional<IdsIn>& times) {
            const auto moments = times ? View(*times) : std::span<const int64_t>();
            return Run([&] { return self.Assign(View(ids), View(rows), moments); });
          },
          "ids"_a, "rows"_a, "times"_a.none())
      .def(
          "remove", [](Table& self, const IdsIn& ids) { return Run([&] { return self.Remove(View(ids)); }); },
          "ids"_a)
      .def(
          "evict", [](Table& self, int64_t before) { return Run([&] { return self.Evict(before); }); },
          "before"_a)
      .def("clear", [](Table& self) { return Run([&] { return self.Clear(); }); })
      .def(
          "forget", [](Table& self, uint64_t mark) { return Run([&] { return self.Forget(mark); }); },
          "mark"_a)
      .def(
          "warm",
          [](Table& self, const IdsIn& ids, const IdsIn& counts) {
            return Run([&] { return self.Warm(View(ids), View(counts)); });
          },
          "ids"_a, "counts"_a)
      .def("release_pages", [](Table& self) { return Run([&] { return self.ReleasePages(); }); })
      .def("import_parts", &Import, "ids"_a, "rows"_a, "slots"_a, "times"_a, "marks"_a, "frequencies"_a,
           "pending"_a, "removed"_a, "sketch"_a, "numbers"_a)
      .def("begin_save", &BeginSave, "path"_a, "header"_a, "since"_a, "parent"_a, "shard"_a, "shards"_a)
      .def(
          "load_chain",
          [](Table& self, ChainReader& chain) {
            return Run([&] { return self.Load(&chain, chain.numbers()); });
          },
          "chain"_a);
}

}  // namespace

void BindTable(nb::module_& module) {
  BindSpec(module);
  nb::class_<Save>(module, "Save", "A snapshot that is being written.")
      .def("wait", &Wait)
      .def("done", [](const Save& save) { return save.saver->done(); });
  nb::class_<Table> table(module, "Table", "An embedding table; see csrc/table/table.h.");
  table.def(nb::init<const TableSpec&>(), "spec"_a)
      .def(
          "lookup",
          [](const Table& self, const IdsIn& ids, const FloatsOut& out) {
            return Run([&] { return self.Lookup(View(ids), View(out)); });
          },
          "ids"_a, "out"_a.noconvert())
      .def(
          "initial",
          [](const Table& self, const IdsIn& ids, const FloatsOut& out) {
            return Run([&] { return self.Initial(View(ids), View(out)); });
          },
          "ids"_a, "out"_a.noconvert())
      .def(
          "contains",
          [](const Table& self, const IdsIn& ids, const BytesOut& out) {
            return Run([&] { return self.Contains(View(ids), {out.data(), out.size()}); });
          },
          "ids"_a, "out"_a.noconvert())
      .def(
          "changes",
          [](const Table& self, uint64_t since) {
            return ReadInto(self, [&](Changes* out) { return self.ReadChanges(since, out); });
          },
          "since"_a)
      .def("rows",
           [](const Table& self) { return ReadInto(self, [&](Changes* out) { return self.ReadRows(out); }); })
      .def("mark",
           [](const Table& self) {
             const nb::gil_scoped_release release;
             return self.GetNumbers().mark;
           })
      .def("stats", &GetStats)
      .def("tier", &GetTier)
      .def("clipping",
           [](const Table& self) {
             const Table::Clipping clipping = self.GetClipping();
             return std::pair(clipping.learned, clipping.clipped);
           })
      .def("export_parts", &Export);
  BindWrites(table);
}

}  // namespace headrace
