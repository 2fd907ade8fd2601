#include "snapshot/crc32c.h"

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "table/check.h"
#include "table/hash.h"

namespace headrace {
namespace {

std::vector<unsigned char> Noise(size_t bytes) {
  std::vector<unsigned char> noise(bytes);
  for (size_t place = 0; place < bytes; ++place) noise[place] = static_cast<unsigned char>(Draw(7, place));
  return noise;
}

void KnownSums() {  // RFC 3720, B.4
  CHECK(Crc32c("123456789", 9) == 0xE3069283u);
  CHECK(Crc32c(nullptr, 0) == 0);
  CHECK(Crc32c(std::string(32, '\0').data(), 32) == 0x8A9136AAu);
  CHECK(Crc32c(std::string(32, '\xff').data(), 32) == 0x62A8AB43u);
}

void BothWaysAgree() {  // lengths around every threshold, at every alignment
  const auto noise = Noise(40'000);
  for (const size_t length :
       {0, 1, 7, 8, 9, 63, 767, 768, 769, 12'287, 12'288, 12'289, 13'100, 36'864, 39'000}) {
    for (size_t start = 0; start < 9; ++start) {
      CHECK(Crc32c(noise.data() + start, length) == Crc32cPortable(noise.data() + start, length));
      CHECK(Crc32c(noise.data() + start, length, 5) == Crc32cPortable(noise.data() + start, length, 5));
    }
  }
}

void CutsDoNotMatter() {
  const auto noise = Noise(30'000);
  const uint32_t whole = Crc32c(noise.data(), noise.size());
  for (const size_t cut : {1, 8, 1000, 12'288, 12'289, 29'999}) {
    CHECK(Crc32c(noise.data() + cut, noise.size() - cut, Crc32c(noise.data(), cut)) == whole);
  }
}

void Speed() {
  const auto noise = Noise(1 << 20);
  const auto start = std::chrono::steady_clock::now();
  uint32_t sum = 0;
  for (int round = 0; round < 2000; ++round) sum = Crc32c(noise.data(), noise.size(), sum);
  const std::chrono::duration<double> hardware = std::chrono::steady_clock::now() - start;
  const auto again = std::chrono::steady_clock::now();
  for (int round = 0; round < 200; ++round) sum = Crc32cPortable(noise.data(), noise.size(), sum);
  const std::chrono::duration<double> portable = std::chrono::steady_clock::now() - again;
  std::printf("crc32c: %.1f GB/s (%s), %.1f GB/s by tables, sum %08x\n",
              2000e-9 * (1 << 20) / hardware.count(), Crc32cHasHardware() ? "sse4.2" : "tables",
              200e-9 * (1 << 20) / portable.count(), sum);
}

}  // namespace
}  // namespace headrace

int main(int count, char**) {
  headrace::KnownSums();
  headrace::BothWaysAgree();
  headrace::CutsDoNotMatter();
  if (count > 1) headrace::Speed();
  return headrace::ReportChecks("crc32c_test");
}
