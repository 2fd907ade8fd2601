// The layers for x86 with AVX-512 and FMA; without these flags there are none.
#include "score/layers.h"

#if defined(__GNUC__) && defined(__AVX512F__) && defined(__FMA__)
#define HEADRACE_LAYERS_NAME "avx512"
#define HEADRACE_VECTOR 16
#define HEADRACE_ROWS 8
#include "score/layers.inc"
#endif

namespace headrace::score {

#ifdef HEADRACE_LAYERS_NAME
const Layers* const kAvx512Layers = &kLayers;
#else
const Layers* const kAvx512Layers = nullptr;
#endif

}  // namespace headrace::score
