// The bound of benchmarks/table.py: the training step of an embedding table without a map. Ids are already
// the numbers 0..rows-1 of an array that never grows, so nothing is hashed, admitted, dated, counted or
// evicted; what is left is the memory traffic and the arithmetic that any table has to do.
//
// It is meant to be hard to beat: one cell [row D][accumulator D] per id on huge pages, rows prefetched,
// dedupe in a small map of the batch alone, one specialisation per dimension, a pool of threads that spins
// between two calls.
//
// The arithmetic is that of the product: gradients of equal ids are added in the order of occurrence, then
// one step of Adagrad, every operation rounded once (-ffp-contract=off), so that results can be compared bit
// by bit.
//
// Thread safety: one caller at a time.
#include <sys/mman.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace {

constexpr int kAhead = 24;  // how many ids ahead a cell is prefetched

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Runs tasks 0..n-1 on a fixed number of threads, the caller among them.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { Work(i); });
  }
  ~Pool() {
    stop_ = true;
    round_.fetch_add(1);
    round_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  template <typename Task>
  void Run(int tasks, Task task) {
    if (workers_.empty()) {
      for (int i = 0; i < tasks; ++i) task(0, i);
      return;
    }
    task_ = std::ref(task);
    tasks_ = tasks;
    next_.store(0);
    busy_.store(static_cast<int>(workers_.size()));
    round_.fetch_add(1);
    round_.notify_all();
    Share(0);
    for (int spin = 0; busy_.load() != 0; ++spin) {
      if (spin < 20'000) {
        Pause();
      } else {
        std::this_thread::yield();  // another process has the core that a worker waits for
      }
    }
  }

 private:
  void Share(int thread) {
    for (int i; (i = next_.fetch_add(1)) < tasks_;) task_(thread, i);
  }
  void Work(int thread) {
    uint32_t seen = 0;
    for (;;) {
      for (int spin = 0; round_.load() == seen && spin < 20'000; ++spin) Pause();
      round_.wait(seen);
      seen = round_.load();
      if (stop_) return;
      Share(thread);
      busy_.fetch_sub(1);
    }
  }

  std::function<void(int, int)> task_;
  int tasks_ = 0;
  std::atomic<int> next_{0}, busy_{0};
  std::atomic<uint32_t> round_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

// What a thread needs to find the equal ids of one feature.
struct Scratch {
  struct Place {
    uint32_t id_plus_1;  // 0: free
    uint32_t number;     // of the distinct id
  };
  struct alignas(64) Line {
    float floats[16];
  };
  std::vector<Place> places;
  std::vector<uint32_t> distinct;
  std::vector<Line> sums;

  void Reserve(int64_t batch, int64_t dim) {
    if (distinct.size() >= static_cast<size_t>(batch)) return;
    places.resize(std::bit_ceil(2 * static_cast<size_t>(batch)));
    distinct.resize(static_cast<size_t>(batch));
    sums.resize(static_cast<size_t>(batch * dim + 15) / 16);
  }
};

struct PlainArray {
  int64_t features, rows, dim;
  float lr, eps;
  float* cells = nullptr;
  size_t bytes = 0;
  std::vector<Scratch> scratch;
  std::unique_ptr<Pool> pool;

  ~PlainArray() {
    if (cells != nullptr) munmap(cells, bytes);
  }
};

template <int D>
void Copy(const float* __restrict from, float* __restrict to) {
  for (int j = 0; j < D; ++j) to[j] = from[j];
}

template <int D>
void Prefetch(const float* cell) {
  for (int j = 0; j < 2 * D; j += 16) __builtin_prefetch(cell + j, 1, 3);
}

template <int D>
void Step(float* __restrict cell, const float* __restrict grad, float lr, float eps) {
  float* __restrict n = cell + D;
  for (int j = 0; j < D; ++j) {
    const float g = grad[j];
    const float grown = n[j] + g * g;
    n[j] = grown;
    cell[j] = cell[j] - (lr * g) / (std::sqrt(grown) + eps);
  }
}

template <int D>
void Gather(const float* cells, const int64_t* ids, int64_t batch, float* out) {
  for (int64_t i = 0; i < batch; ++i) {
    if (i + kAhead < batch) {
      for (int j = 0; j < D; j += 16) __builtin_prefetch(cells + ids[i + kAhead] * 2 * D + j, 0, 3);
    }
    Copy<D>(cells + ids[i] * 2 * D, out + i * D);
  }
}

template <int D>
void Learn(float* cells, const int64_t* ids, const float* grads, int64_t batch, float lr, float eps,
           Scratch* scratch) {
  scratch->Reserve(batch, D);
  auto* places = scratch->places.data();
  uint32_t* distinct = scratch->distinct.data();
  float* sums = scratch->sums.data()->floats;
  const auto size = static_cast<uint32_t>(scratch->places.size());
  const uint32_t mask = size - 1;
  const int shift = 32 - std::countr_zero(size);
  std::memset(places, 0, size * sizeof(*places));
  uint32_t count = 0;
  for (int64_t i = 0; i < batch; ++i) {
    const auto id = static_cast<uint32_t>(ids[i]);
    const float* __restrict grad = grads + i * D;
    for (uint32_t at = (id * 0x9E3779B1u) >> shift;; at = (at + 1) & mask) {
      auto& place = places[at];
      if (place.id_plus_1 == id + 1) {
        float* __restrict sum = sums + static_cast<size_t>(place.number) * D;
        for (int j = 0; j < D; ++j) sum[j] += grad[j];
        break;
      }
      if (place.id_plus_1 == 0) {
        place = {id + 1, count};
        distinct[count] = id;
        Copy<D>(grad, sums + static_cast<size_t>(count) * D);
        ++count;
        break;
      }
    }
  }
  for (uint32_t u = 0; u < count; ++u) {
    if (u + kAhead < count) Prefetch<D>(cells + static_cast<size_t>(distinct[u + kAhead]) * 2 * D);
    Step<D>(cells + static_cast<size_t>(distinct[u]) * 2 * D, sums + static_cast<size_t>(u) * D, lr, eps);
  }
}

template <int D>
void ForwardAll(PlainArray* table, const int64_t* ids, int64_t batch, float* out) {
  table->pool->Run(static_cast<int>(table->features), [=](int, int f) {
    Gather<D>(table->cells + f * table->rows * 2 * D, ids + f * batch, batch, out + f * batch * D);
  });
}

template <int D>
void BackwardAll(PlainArray* table, const int64_t* ids, const float* grads, int64_t batch) {
  table->pool->Run(static_cast<int>(table->features), [=](int thread, int f) {
    Learn<D>(table->cells + f * table->rows * 2 * D, ids + f * batch, grads + f * batch * D, batch, table->lr,
             table->eps, &table->scratch[static_cast<size_t>(thread)]);
  });
}

}  // namespace

extern "C" {

// Returns features x rows cells, row i of a feature filled with pattern[i % patterns], or null without
// memory.
PlainArray* plain_open(int64_t features, int64_t rows, int64_t dim, int threads, float lr, float initial,
                       float eps, const float* pattern, int64_t patterns) {
  auto table = std::make_unique<PlainArray>();
  table->features = features, table->rows = rows, table->dim = dim, table->lr = lr, table->eps = eps;
  table->bytes = static_cast<size_t>(features * rows * dim) * 8;
  void* memory = mmap(nullptr, table->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  madvise(memory, table->bytes, MADV_HUGEPAGE);
#endif
  table->cells = static_cast<float*>(memory);
  for (int64_t cell = 0; cell < features * rows; ++cell) {
    float* at = table->cells + cell * 2 * dim;
    std::memcpy(at, pattern + (cell % rows) % patterns * dim, static_cast<size_t>(dim) * 4);
    for (int64_t j = 0; j < dim; ++j) at[dim + j] = initial;
  }
  table->scratch.resize(static_cast<size_t>(threads));
  table->pool = std::make_unique<Pool>(threads);
  return table.release();
}

void plain_close(PlainArray* table) {
  delete table;
}

void plain_threads(PlainArray* table, int threads) {
  table->pool.reset();
  table->scratch.resize(static_cast<size_t>(threads));
  table->pool = std::make_unique<Pool>(threads);
}

// out[f][i] = row of ids[f][i].
void plain_forward(PlainArray* table, const int64_t* ids, int64_t batch, float* out) {
  switch (table->dim) {
    case 8:
      return ForwardAll<8>(table, ids, batch, out);
    case 16:
      return ForwardAll<16>(table, ids, batch, out);
    case 32:
      return ForwardAll<32>(table, ids, batch, out);
    case 64:
      return ForwardAll<64>(table, ids, batch, out);
  }
}

// One step of Adagrad with grads[f][i] for ids[f][i].
void plain_backward(PlainArray* table, const int64_t* ids, const float* grads, int64_t batch) {
  switch (table->dim) {
    case 8:
      return BackwardAll<8>(table, ids, grads, batch);
    case 16:
      return BackwardAll<16>(table, ids, grads, batch);
    case 32:
      return BackwardAll<32>(table, ids, grads, batch);
    case 64:
      return BackwardAll<64>(table, ids, grads, batch);
  }
}
}
