#include "table/pages.h"

#include <new>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#define HEADRACE_MMAP 1
#endif

namespace headrace {
namespace {

constexpr std::align_val_t kLine{64};

#ifdef HEADRACE_MMAP
constexpr int64_t kHuge = int64_t{2} << 20;

// Maps `bytes`, aligned to 2 MiB: more is mapped and the ends are given back.
std::byte* Map(int64_t bytes) {
  const auto wanted = static_cast<size_t>(bytes + kHuge);
  void* got = mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got == MAP_FAILED) throw std::bad_alloc();
  const auto start = reinterpret_cast<uintptr_t>(got);
  const uintptr_t aligned = (start + kHuge - 1) / kHuge * kHuge;
  const size_t before = aligned - start, after = wanted - before - static_cast<size_t>(bytes);
  if (before > 0) munmap(got, before);
  if (after > 0) munmap(reinterpret_cast<void*>(aligned + static_cast<uintptr_t>(bytes)), after);
#ifdef MADV_HUGEPAGE
  madvise(reinterpret_cast<void*>(aligned), static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a wish; may fail
#endif
  return reinterpret_cast<std::byte*>(aligned);
}
#endif

constexpr int64_t kPage = 4096;

}  // namespace

Pages::Pages(int64_t bytes) {
  if (bytes <= 0) return;
#ifdef HEADRACE_MMAP
  if (bytes >= kLarge) {
    bytes_ = (bytes + kPage - 1) / kPage * kPage;
    data_ = Map(bytes_);
    return;
  }
#endif
  bytes_ = (bytes + 63) / 64 * 64;
  data_ = static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes_), kLine));
}

Pages::~Pages() {
  if (data_ == nullptr) return;
#ifdef HEADRACE_MMAP
  if (bytes_ >= kLarge) {
    munmap(data_, static_cast<size_t>(bytes_));
    return;
  }
#endif
  ::operator delete(data_, kLine);
}

}  // namespace headrace
