// The scorer of rank requests for Python.
//
// Thread safety: readers of bodies and scorers take one call at a time; `headrace/store/field_scores.py` sees
// to it.
#include "bind/score.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "bind/arrays.h"
#include "score/field_scorer.h"
#include "score/layers.h"
#include "score/rank_body.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace headrace {
namespace {

using score::Column;
using score::FieldPlan;
using score::FieldScorer;
using score::RankBody;
using score::RankReader;

// A column as Arrow keeps it, one value for every candidate: kind, offsets (texts only), values as bytes.
using Written = std::tuple<int32_t, Octets, Octets>;

// So many numbers: one of them again and again if it is shared, else all.
template <typename T>
std::vector<uint8_t> Spread(const std::vector<T>& values, bool shared, size_t rows) {
  std::vector<uint8_t> bytes(rows * sizeof(T));
  auto* to = reinterpret_cast<T*>(bytes.data());
  if (shared) {
    std::fill_n(to, rows, values[0]);
  } else {
    std::copy_n(values.data(), rows, to);
  }
  return bytes;
}

Written WriteTexts(const Column& column, bool shared, size_t rows) {
  size_t total = 0;
  for (size_t row = 0; row < rows; ++row) total += column.texts[shared ? 0 : row].size();
  std::vector<uint8_t> offsets((rows + 1) * sizeof(int32_t)), values(total);
  auto* ends = reinterpret_cast<int32_t*>(offsets.data());
  ends[0] = 0;
  for (size_t row = 0; row < rows; ++row) {
    const std::string_view text = column.texts[shared ? 0 : row];
    std::copy(text.begin(), text.end(), reinterpret_cast<char*>(values.data()) + ends[row]);
    ends[row + 1] = ends[row] + static_cast<int32_t>(text.size());
  }
  return {static_cast<int32_t>(column.is), OwnOctets(std::move(offsets)), OwnOctets(std::move(values))};
}

// REQUIRES: the body has the column.
Written WriteColumn(const RankBody& body, int number) {
  const Column& column = body.columns[static_cast<size_t>(number)];
  const auto rows = static_cast<size_t>(body.rows);
  const bool shared = column.from == Column::From::kShared;
  if (column.is == Column::Is::kText) return WriteTexts(column, shared, rows);
  auto values = column.is == Column::Is::kInteger ? Spread(column.ids, shared, rows)
                                                  : Spread(column.numbers, shared, rows);
  return {static_cast<int32_t>(column.is), OwnOctets({}), OwnOctets(std::move(values))};
}

void BindBody(nb::module_& module) {
  nb::class_<RankBody>(module, "RankBody", "The body of a rank request; see csrc/score/rank_body.h.")
      .def_ro("rows", &RankBody::rows)
      .def_ro("log", &RankBody::log)
      .def_ro("event_time", &RankBody::event_time)
      .def_ro("min_version", &RankBody::min_version)
      .def_prop_ro("key",
                   [](const RankBody& body) -> nb::object {
                     if (!body.key) return nb::none();
                     return nb::str(body.key->data(), body.key->size());
                   })
      .def("present",
           [](const RankBody& body) {
             std::vector<bool> there;
             for (const Column& column : body.columns) there.push_back(column.from != Column::From::kNowhere);
             return there;
           })
      .def("column", &WriteColumn, "number"_a)
      .def("scores",
           [](const RankBody& body) {
             std::vector<float> scores = body.scores;
             const size_t n = scores.size();
             return Own<nb::ndarray<nb::numpy, float, nb::ndim<1>>>(std::move(scores), {n});
           })
      .def(
          "answer",
          [](const RankBody& body, int item, const std::string& key, int64_t version,
             const std::string& more) {
            const std::string text = WriteRanked(body, item, key, version, more);
            return nb::bytes(text.data(), text.size());
          },
          "item"_a, "key"_a, "version"_a, "more"_a);
  nb::class_<RankReader>(module, "RankReader", "Reads rank requests; see csrc/score/rank_body.h.")
      .def(
          "__init__",
          [](RankReader* self, const std::vector<std::tuple<std::string, int32_t, bool, bool>>& columns,
             int item, int64_t max_rows) {
            std::vector<score::ColumnSpec> specs;
            for (const auto& [name, kind, refused, looked_up] : columns) {
              specs.push_back({name, static_cast<score::ColumnKind>(kind), refused, looked_up});
            }
            new (self) RankReader(std::move(specs), item, max_rows);
          },
          "columns"_a, "item"_a, "max_rows"_a)
      .def(
          "read",
          [](RankReader& reader, const nb::bytes& body) -> std::unique_ptr<RankBody> {
            auto out = std::make_unique<RankBody>();
            if (!reader.Read({body.c_str(), body.size()}, out.get())) return nullptr;
            return out;
          },
          "body"_a);
}

void BindScorer(nb::module_& module) {
  nb::class_<FieldPlan>(module, "FieldPlan", "What a field scorer computes; see csrc/score/field_scorer.h.")
      .def(nb::init<>())
      .def(
          "add_id",
          [](FieldPlan& plan, int table, int column, const std::optional<int64_t>& constant, bool optional) {
            score::FieldSpec field;
            field.table = table;
            field.column = column;
            field.constant = constant.has_value();
            field.id = constant.value_or(0);
            field.optional = optional;
            plan.ids.push_back(field);
          },
          "table"_a, "column"_a, "constant"_a.none(), "optional"_a)
      .def(
          "add_number",
          [](FieldPlan& plan, int column, double absent, bool optional, double mean, double std, bool log1p) {
            score::FieldSpec field;
            field.column = column;
            field.absent = absent;
            field.optional = optional;
            field.mean = mean;
            field.std = std;
            field.log1p = log1p;
            plan.numbers.push_back(field);
          },
          "column"_a, "absent"_a, "optional"_a, "mean"_a, "std"_a, "log1p"_a)
      .def(
          "add_layer",
          [](FieldPlan& plan, int64_t weight_at, int64_t bias_at, int64_t inputs, int64_t outputs) {
            plan.deep.push_back({weight_at, bias_at, inputs, outputs});
          },
          "weight_at"_a, "bias_at"_a, "inputs"_a, "outputs"_a)
      .def_rw("dim", &FieldPlan::dim)
      .def_rw("first_order", &FieldPlan::first_order)
      .def_rw("interactions", &FieldPlan::interactions)
      .def_rw("bias_at", &FieldPlan::bias_at)
      .def_rw("number_weights_at", &FieldPlan::number_weights_at)
      .def_rw("number_factors_at", &FieldPlan::number_factors_at)
      .def_rw("negative_rate", &FieldPlan::negative_rate);
  nb::class_<FieldScorer>(module, "FieldScorer", "Scores rank requests; see csrc/score/field_scorer.h.")
      .def(nb::init<FieldPlan>(), "plan"_a)
      .def(
          "score",
          [](FieldScorer& scorer, shared::SpaceReader& reader, const std::vector<RankBody*>& bodies) {
            int64_t version = -1;
            const Answer answer = Run([&] { return scorer.Score(reader, bodies, &version); });
            return std::pair(answer, version);
          },
          "reader"_a, "bodies"_a);
  module.def(
      "layers", [] { return std::string(score::ActiveLayers().name); },
      "The instruction set that scores: portable, avx2 or avx512.");
}

}  // namespace

void BindScore(nb::module_& module) {
  BindBody(module);
  BindScorer(module);
}

}  // namespace headrace
