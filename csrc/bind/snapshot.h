// What of csrc/snapshot Python sees: reader, chain, writer, saver and re-sharding.
//
// Thread safety: called once, when the module is made.
#pragma once

#include <nanobind/nanobind.h>

namespace headrace {

void BindSnapshot(nanobind::module_& module);

}  // namespace headrace
