#include "table/threads.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <numeric>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "table/check.h"

namespace headrace {
namespace {

// Whether every task ran once, and what it wrote is seen.
bool RunsAll(int64_t tasks, int threads) {
  std::vector<int> runs(static_cast<size_t>(tasks), 0);
  Threads::For(tasks, threads, [&](int64_t task) { ++runs[static_cast<size_t>(task)]; });
  return std::accumulate(runs.begin(), runs.end(), int64_t{0}) == tasks &&
         (tasks == 0 || *std::max_element(runs.begin(), runs.end()) == 1);
}

void EveryTaskRunsOnce(const std::vector<int>& counts) {
  for (const int threads : counts) {
    for (const int64_t tasks : {0, 1, 2, 3, 7, 64, 1000}) CHECK(RunsAll(tasks, threads));
  }
}

void ShortCallsInARow() {
  int64_t sum = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<int64_t> parts(3);
    Threads::For(3, 2 + round % 3, [&](int64_t task) { parts[static_cast<size_t>(task)] = round + task; });
    sum += parts[0] + parts[1] + parts[2];
  }
  CHECK(sum == 3 * (2999 * 3000 / 2) + 3 * 3000);
}

void CallsMayBeNested() {
  std::atomic<int> ran{0};
  Threads::For(6, 3, [&](int64_t) {
    Threads::For(5, 3, [&](int64_t) { Threads::For(2, 2, [&](int64_t) { ++ran; }); });
  });
  CHECK(ran == 60);
}

void ManyMayCall() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 6; ++caller) {
    callers.emplace_back([] {
      for (int round = 0; round < 200; ++round) CHECK(RunsAll(20, 3));
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// A child has none of its parent's threads and makes its own.
void AForkedChildHasItsOwn() {
#if (defined(__unix__) || defined(__APPLE__)) && \
    !defined(__SANITIZE_THREAD__)  // which allows no threads after a fork
  CHECK(RunsAll(100, 3));
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    std::_Exit(RunsAll(1000, 3) && RunsAll(1000, 4) ? 7 : 1);
  }
  int status = 0;
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  CHECK(RunsAll(100, 3));
#endif
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::EveryTaskRunsOnce({0, 1, 2, 3, 4});
  headrace::ShortCallsInARow();
  headrace::CallsMayBeNested();
  headrace::ManyMayCall();
  headrace::AForkedChildHasItsOwn();
  headrace::EveryTaskRunsOnce({100});
  return headrace::ReportChecks("threads_test");
}
