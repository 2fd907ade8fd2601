// Pages: blocks of memory for cells and places. Large ones come from the system in pages of 2 MiB where it
// gives them (random access to gigabytes is bound by address translation otherwise) and go back to it when
// they are freed; small ones come from the heap.
//
// Thread safety: functions may be called from any thread; a block belongs to its owner.
// Invariants:
//   1. A block is aligned to 64 bytes.
//   2. A freed large block is returned to the system at once, so memory held is memory in use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

// A function that only fetches ahead has no effect that the compiler can see: unless it is inlined, calls of
// it vanish.
#if defined(__GNUC__)
#define HEADRACE_FETCH __attribute__((always_inline)) inline
#else
#define HEADRACE_FETCH inline
#endif

namespace headrace {

class Pages {
 public:
  static constexpr int64_t kLarge = int64_t{1} << 20;

  Pages() = default;
  // Throws std::bad_alloc. The content is arbitrary.
  explicit Pages(int64_t bytes);
  Pages(Pages&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Pages();

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace headrace
