// The kernels for any processor.
#include "rules/kernels.h"

#define HEADRACE_KERNELS_NAME "portable"
#include "rules/kernels.inc"

namespace headrace {

const Kernels* const kPortableKernels = &kKernels;

}  // namespace headrace
