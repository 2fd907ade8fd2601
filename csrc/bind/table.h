// What of csrc/table/table.h Python sees.
//
// Thread safety: called once, when the module is made.
#pragma once

#include <nanobind/nanobind.h>

namespace headrace {

void BindTable(nanobind::module_& module);

}  // namespace headrace
