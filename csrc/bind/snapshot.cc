// Table files for Python: typed arrays and tuples in and out, (code, detail) for how it went; no policy and
// no error texts, which are those of `headrace/store/table_files.py`.
//
// Thread safety: as the classes bound; the GIL is released while files are read and written.
#include "bind/snapshot.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bind/arrays.h"
#include "snapshot/chain.h"
#include "snapshot/crc32c.h"
#include "snapshot/file_reader.h"
#include "snapshot/file_writer.h"
#include "snapshot/reshard.h"
#include "snapshot/saver.h"
#include "table/guarded.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace headrace {
namespace {

template <typename T>
using Out1 = nb::ndarray<nb::numpy, T, nb::ndim<1>>;
template <typename T>
using Out2 = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

// Fields of Layout, Numbers, Totals and Block in their order; Python gives them names.
using LayoutTuple =
    std::tuple<int64_t, int64_t, bool, bool, bool, bool, bool, int32_t, int32_t, uint64_t, uint64_t>;
using NumbersTuple = std::tuple<uint64_t, uint64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
using TotalsTuple = std::tuple<uint64_t, uint64_t, uint64_t, uint64_t>;
using BlockOut = std::tuple<int32_t, Out1<int64_t>, Out1<int64_t>, Out1<int64_t>, Out1<uint8_t>,
                            Out2<uint8_t>, Out2<float>, Out1<int64_t>, Out1<int64_t>, Out1<int64_t>,
                            Out1<int64_t>, Out1<int64_t>, Out1<int64_t>, Out1<uint8_t>>;
// Header, layout, numbers, totals, digest, bytes.
using Facts = std::tuple<nb::bytes, LayoutTuple, NumbersTuple, TotalsTuple, uint64_t, uint64_t>;

template <typename T>
Out1<T> Own1(std::vector<T>&& values) {
  const size_t n = values.size();
  return Own<Out1<T>>(std::move(values), {n});
}

template <typename T>
void Copy(const In1<T>& from, std::vector<T>* to) {
  to->assign(from.data(), from.data() + from.size());
}

Layout AsLayout(const LayoutTuple& fields) {
  Layout layout;
  std::tie(layout.row_bytes, layout.slots, layout.has_times, layout.has_marks, layout.has_frequencies,
           layout.incremental, layout.whole_pending, layout.shard, layout.shards, layout.since,
           layout.parent) = fields;
  return layout;
}

LayoutTuple AsTuple(const Layout& layout) {
  return {layout.row_bytes,       layout.slots,       layout.has_times,     layout.has_marks,
          layout.has_frequencies, layout.incremental, layout.whole_pending, layout.shard,
          layout.shards,          layout.since,       layout.parent};
}

NumbersTuple AsTuple(const Numbers& numbers) {
  return {numbers.mark,    numbers.floor,  numbers.admitted, numbers.filtered,
          numbers.evicted, numbers.newest, numbers.halvings};
}

Facts FactsOf(const TableFileReader& file) {
  const Totals& totals = file.totals();
  return {nb::bytes(file.header().data(), file.header().size()),
          AsTuple(file.layout()),
          AsTuple(file.numbers()),
          {totals.rows, totals.pending, totals.removed, totals.forgotten},
          file.digest(),
          file.bytes()};
}

BlockOut AsTuple(const Layout& layout, Block&& block) {
  const size_t n = block.ids.size();
  return {block.stripe,
          Own1(std::move(block.ids)),
          Own1(std::move(block.times)),
          Own1(std::move(block.marks)),
          Own1(std::move(block.frequencies)),
          Own<Out2<uint8_t>>(std::move(block.rows), {n, static_cast<size_t>(layout.row_bytes)}),
          Own<Out2<float>>(std::move(block.slots), {n, static_cast<size_t>(layout.slots)}),
          Own1(std::move(block.pending_ids)),
          Own1(std::move(block.pending_counts)),
          Own1(std::move(block.pending_times)),
          Own1(std::move(block.removed_ids)),
          Own1(std::move(block.removed_marks)),
          Own1(std::move(block.forgotten_ids)),
          [&] {
            const size_t bytes = block.sketch.size();
            return Own<Out1<uint8_t>>(std::move(block.sketch), {bytes});
          }()};
}

// The next block, or None at the end or when something went wrong.
template <typename Source>
std::pair<Answer, std::optional<BlockOut>> Next(Source& source) {
  Block block;
  bool done = false;
  const Answer answer = Run([&] { return source.Next(&block, &done); });
  if (answer.first != 0 || done) return {answer, std::nullopt};
  return {answer, AsTuple(source.layout(), std::move(block))};
}

void BindReaders(nb::module_& module) {
  nb::class_<TableFileReader>(module, "TableFileReader")
      .def(nb::init<>())
      .def(
          "open",
          [](TableFileReader& self, const std::string& path) { return Run([&] { return self.Open(path); }); },
          "path"_a)
      .def("facts", &FactsOf)
      .def("next", &Next<TableFileReader>);
  nb::class_<ChainReader>(module, "TableChain")
      .def(nb::init<>())
      .def(
          "open",
          [](ChainReader& self, const std::vector<std::string>& paths) {
            return Run([&] { return self.Open(paths); });
          },
          "paths"_a)
      .def("give", &ChainReader::Give, "times"_a, "marks"_a, "frequencies"_a)
      .def("where", &ChainReader::where)
      .def("numbers", [](const ChainReader& self) { return AsTuple(self.numbers()); })
      .def("facts",
           [](const ChainReader& self) {
             std::vector<Facts> facts;
             for (const auto& file : self.files()) facts.push_back(FactsOf(*file));
             return facts;
           })
      .def("next", &Next<ChainReader>);
}

Answer Add(TableFileWriter& self, int32_t stripe, const In1<int64_t>& ids, const In1<int64_t>& times,
           const In1<int64_t>& marks, const In1<uint8_t>& frequencies, const In2<uint8_t>& rows,
           const In2<float>& slots, const In1<int64_t>& pending_ids, const In1<int64_t>& pending_counts,
           const In1<int64_t>& pending_times, const In1<int64_t>& removed_ids,
           const In1<int64_t>& removed_marks, const In1<int64_t>& forgotten_ids, const In1<uint8_t>& sketch) {
  return Run([&] {
    return Guarded([&] {
      Block block;
      block.stripe = stripe;
      Copy(ids, &block.ids);
      Copy(times, &block.times);
      Copy(marks, &block.marks);
      Copy(frequencies, &block.frequencies);
      block.rows.resize(rows.size());
      if (rows.size() > 0) std::memcpy(block.rows.data(), rows.data(), rows.size());
      block.slots.assign(slots.data(), slots.data() + slots.size());
      Copy(pending_ids, &block.pending_ids);
      Copy(pending_counts, &block.pending_counts);
      Copy(pending_times, &block.pending_times);
      Copy(removed_ids, &block.removed_ids);
      Copy(removed_marks, &block.removed_marks);
      Copy(forgotten_ids, &block.forgotten_ids);
      block.sketch.resize(sketch.size());
      if (sketch.size() > 0) std::memcpy(block.sketch.data(), sketch.data(), sketch.size());
      return self.Add(block);
    });
  });
}

std::tuple<Answer, uint64_t, uint64_t> Finish(TableFileWriter& self, const NumbersTuple& fields) {
  Numbers numbers;
  std::tie(numbers.mark, numbers.floor, numbers.admitted, numbers.filtered, numbers.evicted, numbers.newest,
           numbers.halvings) = fields;
  const Answer answer = Run([&] { return self.Finish(numbers); });
  return {answer, self.bytes(), self.digest()};
}

void BindWriters(nb::module_& module) {
  nb::class_<TableFileWriter>(module, "TableFileWriter")
      .def(nb::init<>())
      .def(
          "open",
          [](TableFileWriter& self, const std::string& path, const nb::bytes& header,
             const LayoutTuple& layout) {
            const std::string_view text(header.c_str(), header.size());
            return Run([&] { return self.Open(path, text, AsLayout(layout)); });
          },
          "path"_a, "header"_a, "layout"_a)
      .def("add", &Add, "stripe"_a, "ids"_a, "times"_a, "marks"_a, "frequencies"_a, "rows"_a, "slots"_a,
           "pending_ids"_a, "pending_counts"_a, "pending_times"_a, "removed_ids"_a, "removed_marks"_a,
           "forgotten_ids"_a, "sketch"_a)
      .def("finish", &Finish, "numbers"_a)
      .def("abandon", &TableFileWriter::Abandon, nb::call_guard<nb::gil_scoped_release>());
  // Made by Table.begin_save. wait: answer, bytes, digest, mark, rows.
  nb::class_<TableSaver>(module, "TableSaver")
      .def("done", &TableSaver::done)
      .def("wait", [](TableSaver& self) {
        TableSaver::Result result;
        const Answer answer = Run([&] { return (result = self.Wait()).status; });
        return std::tuple(answer, result.bytes, result.digest, result.numbers.mark, result.totals.rows);
      });
}

// Answer; the source, file and target it speaks of (-1: none); bytes, digest, mark and rows of each target.
using Resharded = std::tuple<Answer, std::tuple<int64_t, int64_t, int64_t>,
                             std::vector<std::tuple<uint64_t, uint64_t, uint64_t, uint64_t>>>;

Resharded ReshardFiles(const std::vector<std::vector<std::string>>& sources,
                       const std::vector<std::tuple<std::string, int32_t, int32_t>>& targets) {
  std::vector<ReshardTarget> wanted;
  for (const auto& [path, shard, shards] : targets) wanted.push_back({path, shard, shards});
  std::vector<ReshardedFile> files;
  ReshardProblem problem;
  const Answer answer = Run([&] { return Reshard(sources, wanted, &files, &problem); });
  Resharded result{answer, {problem.source, problem.file, problem.target}, {}};
  for (const ReshardedFile& file : files)
    std::get<2>(result).emplace_back(file.bytes, file.digest, file.mark, file.rows);
  return result;
}

}  // namespace

void BindSnapshot(nb::module_& module) {
  BindReaders(module);
  BindWriters(module);
  module.def("reshard", &ReshardFiles, "sources"_a, "targets"_a);
  module.def(
      "crc32c", [](const nb::bytes& data, uint32_t sum) { return Crc32c(data.c_str(), data.size(), sum); },
      "data"_a, "sum"_a = 0);
}

}  // namespace headrace
