// The Python module. No policy and no error texts: `headrace/store/table.py` checks shapes and turns codes
// into errors.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "bind/packed.h"
#include "bind/score.h"
#include "bind/shared.h"
#include "bind/snapshot.h"
#include "bind/table.h"
#include "rules/kernels.h"

namespace nb = nanobind;
using namespace nb::literals;

NB_MODULE(_native, module) {
  nanobind::set_leak_warnings(false);  // a table that lives until the program ends is no error
  module.doc() = "The native embedding table; use it through headrace.store.";
  module.attr("INTERFACE") = 6;  // headrace.store.table refuses a build of another interface
  headrace::BindTable(module);
  headrace::BindPacked(module);
  headrace::BindSnapshot(module);
  headrace::BindShared(module);
  headrace::BindScore(module);
  module.def(
      "kernels", [] { return std::string(headrace::ActiveKernels().name); },
      "The instruction set in use: portable, avx2 or avx512.");
  module.def(
      "choose_kernels", [](const std::string& name) { return headrace::ChooseKernels(name.c_str()); },
      "name"_a, "Use another instruction set; false where this processor has none of that name.");
}
