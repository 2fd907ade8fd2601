#include "table/pages.h"

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "table/check.h"

namespace headrace {
namespace {

void BlocksAreAlignedAndWritable() {
  for (const int64_t bytes : {int64_t{1}, int64_t{63}, int64_t{64}, int64_t{4097}, Pages::kLarge - 1,
                              Pages::kLarge, Pages::kLarge + 1, int64_t{5} << 20}) {
    const Pages pages(bytes);
    CHECK(pages.bytes() >= bytes && pages.bytes() < bytes + 4096 + 64);
    CHECK(reinterpret_cast<uintptr_t>(pages.data()) % 64 == 0);
    std::memset(pages.data(), 0x5A, static_cast<size_t>(pages.bytes()));
    CHECK(pages.data()[0] == std::byte{0x5A} && pages.data()[pages.bytes() - 1] == std::byte{0x5A});
  }
}

void NothingIsNothing() {
  const Pages none, empty(0);
  CHECK(none.data() == nullptr && none.bytes() == 0 && empty.data() == nullptr && empty.bytes() == 0);
}

void MovingTakesTheBlock() {
  for (const int64_t bytes : {int64_t{100}, 2 * Pages::kLarge}) {
    Pages from(bytes);
    std::byte* const data = from.data();
    const int64_t size = from.bytes();
    Pages to(std::move(from));
    CHECK(to.data() == data && to.bytes() == size && from.data() == nullptr && from.bytes() == 0);
    Pages other(10);
    other = std::move(to);
    CHECK(other.data() == data && other.bytes() == size);
    other = Pages();
    CHECK(other.data() == nullptr);
  }
}

void WhatTheSystemDoesNotHaveThrows() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they end the program instead
  bool thrown = false;
  try {
    const Pages pages(int64_t{1} << 60);
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  CHECK(thrown);
#endif
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::BlocksAreAlignedAndWritable();
  headrace::NothingIsNothing();
  headrace::MovingTakesTheBlock();
  headrace::WhatTheSystemDoesNotHaveThrows();
  return headrace::ReportChecks("pages_test");
}
