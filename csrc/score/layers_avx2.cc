// The layers for x86 with AVX2 and FMA; without these flags there are none.
#include "score/layers.h"

#if defined(__GNUC__) && defined(__AVX2__) && defined(__FMA__)
#define HEADRACE_LAYERS_NAME "avx2"
#define HEADRACE_VECTOR 8
#define HEADRACE_ROWS 6
#include "score/layers.inc"
#endif

namespace headrace::score {

#ifdef HEADRACE_LAYERS_NAME
const Layers* const kAvx2Layers = &kLayers;
#else
const Layers* const kAvx2Layers = nullptr;
#endif

}  // namespace headrace::score
