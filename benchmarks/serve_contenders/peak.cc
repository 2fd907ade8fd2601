// peak: prints how many fused multiplications and additions of float32 one core does in a second, at most: twelve
// running sums of full vectors, nothing read or written. Compiled with -march=native.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#if defined(__AVX512F__)
constexpr int kFloats = 16;
#elif defined(__AVX__)
constexpr int kFloats = 8;
#else
constexpr int kFloats = 4;
#endif
typedef float Vector __attribute__((vector_size(kFloats * 4)));

int main(int, char** words) {
  const double seconds = std::atof(words[1]);
  constexpr int kSums = 12, kSteps = 1 << 20;
  Vector sums[kSums], factor = Vector{} + 1.0000001f, more = Vector{} + 1e-9f;
  for (Vector& sum : sums) sum = Vector{} + 1.0f;
  double done = 0, passed = 0;
  const auto began = std::chrono::steady_clock::now();
  while (passed < seconds) {
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
      for (int i = 0; i < kSums; ++i) sums[i] = sums[i] * factor + more;
      asm volatile("" : "+x"(factor), "+x"(more));
    }
    done += double(kSteps) * kSums * kFloats;
    passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  }
  Vector total = {};
  for (const Vector& sum : sums) total += sum;
  if (total[0] == 12345.0f) std::printf("#");
  std::printf("%.0f\n", done / passed);
}
