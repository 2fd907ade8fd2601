// Binds the shared space.
//
// Thread safety: to be called once, while the module is made.
#pragma once

#include <nanobind/nanobind.h>

namespace headrace {

void BindShared(nanobind::module_& module);

}  // namespace headrace
