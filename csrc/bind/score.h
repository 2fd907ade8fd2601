// Binds the scorer of rank requests.
//
// Thread safety: to be called once, while the module is made.
#pragma once

#include <nanobind/nanobind.h>

namespace headrace {

void BindScore(nanobind::module_& module);

}  // namespace headrace
