// What of csrc/table/packed.h Python sees.
//
// Thread safety: called once, when the module is made.
#pragma once

#include <nanobind/nanobind.h>

namespace headrace {

void BindPacked(nanobind::module_& module);

}  // namespace headrace
