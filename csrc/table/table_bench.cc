// Microbenchmarks of the table; prints nanoseconds an id. Build with -DHEADRACE_TESTS=ON, run by hand:
//   build/native/table_bench [rows] [batch] [dim]
// Every line is the median of 9 rounds; ids are uniform, which is the worst case for every cache.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "table/table.h"

namespace headrace {
namespace {

using Clock = std::chrono::steady_clock;

double Nanoseconds(Clock::time_point start, size_t ids) {
  const std::chrono::duration<double, std::nano> spent = Clock::now() - start;
  return spent.count() / static_cast<double>(ids);
}

template <typename Call>
void Measure(const char* name, size_t ids, Call call) {
  std::vector<double> rounds;
  for (int round = 0; round < 9; ++round) {
    const auto start = Clock::now();
    call(round);
    rounds.push_back(Nanoseconds(start, ids));
  }
  std::sort(rounds.begin(), rounds.end());
  std::printf("%-28s %8.1f ns/id   %8.2f M ids/s\n", name, rounds[4], 1e3 / rounds[4]);
}

void Run(int64_t rows, int64_t batch, int64_t dim) {
  TableSpec spec;
  spec.dim = dim;
  spec.rule = {RuleKind::kAdagrad, 0.05f, 0.1f, 1e-10f, 0};
  spec.init = {InitialKind::kUniform, 0.05f, 7};
  Table table(spec);
  const auto n = static_cast<size_t>(batch);
  std::vector<float> floats(n * static_cast<size_t>(dim), 0.01f);
  const std::vector<int64_t> ones(n, 1);
  std::vector<int64_t> ids(n);
  double slowest = 0.0;
  const auto filling = Clock::now();
  for (int64_t at = 0; at < rows; at += batch) {
    for (size_t i = 0; i < n; ++i) ids[i] = at + static_cast<int64_t>(i);
    const auto start = Clock::now();
    if (!table.Update({ids, floats, ones, ones}).ok()) std::abort();
    slowest = std::max(slowest, Nanoseconds(start, 1) / 1e6);
  }
  std::printf("%-28s %8.1f ns/id   slowest batch %.2f ms\n", "insert",
              Nanoseconds(filling, static_cast<size_t>(rows)), slowest);

  std::mt19937_64 random(1);
  std::vector<std::vector<int64_t>> draws(9, std::vector<int64_t>(n));
  for (auto& draw : draws) {
    for (int64_t& id : draw) id = static_cast<int64_t>(random() % static_cast<uint64_t>(rows));
    std::sort(draw.begin(), draw.end());
    draw.erase(std::unique(draw.begin(), draw.end()), draw.end());
    draw.resize(n, rows + 1);
    std::shuffle(draw.begin(), draw.end(), random);
    for (size_t i = 0; i < n; ++i) {
      if (draw[i] > rows)
        draw[i] = rows + 1 + static_cast<int64_t>(i);  // a few absent ones instead of repetitions
    }
  }
  const auto at = [&](int round) -> const std::vector<int64_t>& { return draws[static_cast<size_t>(round)]; };
  Measure("lookup", n, [&](int round) { (void)table.Lookup(at(round), floats); });
  std::fill(floats.begin(), floats.end(), 0.01f);
  Measure("update", n, [&](int round) { (void)table.Update({at(round), floats, ones, ones}); });
  Changes changes;
  const uint64_t mark = table.GetCounters().mark;
  Measure("changes since one update", n, [&](int) { (void)table.ReadChanges(mark - 1, &changes); });
  Measure("evict nothing (per row)", static_cast<size_t>(rows), [&](int) { (void)table.Evict(0); });
  const Stats stats = table.GetStats();
  const double floats_bytes = 8.0 * static_cast<double>(dim);
  std::printf("%-28s %8.1f bytes beside row and slots, load %.2f\n", "memory per id",
              static_cast<double>(stats.bytes) / static_cast<double>(stats.rows) - floats_bytes, stats.load);
}

}  // namespace
}  // namespace headrace

int main(int argc, char** argv) {
  const auto number = [&](int place, int64_t standard) {
    return argc > place ? std::atoll(argv[place]) : standard;
  };
  headrace::Run(number(1, 2'000'000), number(2, 65'536), number(3, 16));
  return 0;
}
