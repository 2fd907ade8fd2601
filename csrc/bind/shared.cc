// The shared space for Python. Typed arrays in, (code, detail) or arrays out.
//
// Thread safety: the GIL is released around calls that wait or copy. A writer takes one call at a time, and
// so does a reader; `headrace/store/shared_memory.py` sees to it.
#include "bind/shared.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "bind/arrays.h"
#include "shared/space_reader.h"
#include "shared/space_writer.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace headrace {
namespace {

using shared::SpaceReader;
using shared::SpaceWriter;
using Flags = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void BindWriter(nb::module_& module) {
  nb::class_<SpaceWriter>(module, "SpaceWriter", "Puts versions into a shared space; see csrc/shared.")
      .def(nb::init<>())
      .def(
          "create",
          [](SpaceWriter& writer, const std::string& folder,
             const std::vector<std::pair<int64_t, int32_t>>& tables, size_t dense_bytes) {
            std::vector<shared::Shape> shapes;
            for (const auto& [dim, precision] : tables) {
              shapes.push_back({dim, static_cast<Precision>(precision)});
            }
            return Run([&] { return writer.Create(folder, std::move(shapes), dense_bytes); });
          },
          "folder"_a, "tables"_a, "dense_bytes"_a)
      .def(
          "begin",
          [](SpaceWriter& writer, bool full, int64_t wait_us) {
            return Run([&] { return writer.Begin(full, wait_us); });
          },
          "full"_a, "wait_us"_a)
      .def(
          "put",
          [](SpaceWriter& writer, int table, const IdsIn& ids, const FloatsIn& rows) {
            return Run([&] { return writer.Put(table, View(ids), View(rows)); });
          },
          "table"_a, "ids"_a, "rows"_a)
      .def(
          "remove",
          [](SpaceWriter& writer, int table, const IdsIn& ids) {
            return Run([&] { return writer.Remove(table, View(ids)); });
          },
          "table"_a, "ids"_a)
      .def(
          "put_dense",
          [](SpaceWriter& writer, size_t at, const In1<uint8_t>& bytes) {
            if (at > writer.dense_bytes() || bytes.size() > writer.dense_bytes() - at) {
              return AsAnswer({Code::kInvalid, static_cast<int64_t>(at)});
            }
            std::memcpy(writer.dense() + at, bytes.data(), bytes.size());
            return AsAnswer({});
          },
          "at"_a, "bytes"_a)
      .def(
          "commit",
          [](SpaceWriter& writer, int64_t version, int64_t parent) {
            return Run([&] { return writer.Commit(version, parent); });
          },
          "version"_a, "parent"_a)
      .def("abort", &SpaceWriter::Abort)
      .def("settle", &SpaceWriter::Settle, "wait_us"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("release", &SpaceWriter::Release, "first"_a, "last"_a)
      .def("rows", &SpaceWriter::rows, "table"_a)
      .def("bytes", &SpaceWriter::bytes, "table"_a);
}

void BindReader(nb::module_& module) {
  nb::class_<SpaceReader>(module, "SpaceReader", "Reads versions from a shared space; see csrc/shared.")
      .def(nb::init<>())
      .def(
          "open",
          [](SpaceReader& reader, const std::string& folder, int place,
             const std::vector<std::tuple<int32_t, float, uint64_t>>& initial) {
            std::vector<InitialRow> rows;
            for (const auto& [kind, value, key] : initial) {
              rows.push_back({static_cast<InitialKind>(kind), value, key});
            }
            return Run([&] { return reader.Open(folder, place, std::move(rows)); });
          },
          "folder"_a, "place"_a, "initial"_a)
      .def("enter", [](SpaceReader& reader) { return AsAnswer(reader.Enter()); })
      .def("leave", &SpaceReader::Leave)
      .def_prop_ro("inside", &SpaceReader::inside)
      .def_prop_ro("version",
                   [](const SpaceReader& reader) { return std::pair(reader.version(), reader.parent()); })
      .def_prop_ro("half", &SpaceReader::half)
      .def("newest", &SpaceReader::newest)
      .def("rows", &SpaceReader::rows, "table"_a)
      .def(
          "read",
          [](const SpaceReader& reader, int table, const IdsIn& ids, const FloatsOut& out) {
            return Run([&]() -> Status {
              if (out.shape(0) != ids.size() || static_cast<int64_t>(out.shape(1)) != reader.dim(table)) {
                return {Code::kInvalid, reader.dim(table)};
              }
              reader.Read(table, View(ids), View(out).data(), static_cast<int64_t>(out.shape(1)));
              return {};
            });
          },
          "table"_a, "ids"_a, "out"_a)
      .def(
          "contains",
          [](const SpaceReader& reader, int table, const IdsIn& ids, const Flags& out) {
            for (size_t i = 0; i < ids.size(); ++i) out.data()[i] = reader.Has(table, ids.data()[i]) ? 1 : 0;
          },
          "table"_a, "ids"_a, "out"_a)
      .def(
          "read_all",
          [](const SpaceReader& reader, int table) {
            std::vector<int64_t> ids;
            std::vector<float> rows;
            {
              const nb::gil_scoped_release release;
              reader.ReadAll(table, &ids, &rows);
            }
            const size_t n = ids.size();
            return std::pair(OwnIds(std::move(ids)), OwnFloats(std::move(rows), n, reader.dim(table)));
          },
          "table"_a)
      .def(
          "dense_half",
          [](SpaceReader& reader, int half) {
            // The reader stays as long as the array does.
            auto* bytes = const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(reader.dense_half(half)));
            return Octets(bytes, {reader.dense_bytes()}, nb::find(reader));
          },
          "half"_a);
}

}  // namespace

void BindShared(nb::module_& module) {
  BindWriter(module);
  BindReader(module);
}

}  // namespace headrace
