// Capacity: what a table does when it is full. The order of everything here is the specification's
// (`headrace/store/capacity.py`), so that a replay evicts the same rows.
#include <algorithm>
#include <array>
#include <cstring>

#include "table/capture.h"
#include "table/table.h"

namespace headrace {
namespace {

using Wide = unsigned __int128;

constexpr int64_t kBuckets = 1 << 14;
constexpr int64_t kFew = 1 << 14;  // candidates that are sorted rather than counted again

// How many of `others` go when there are `excess` too many for `limit`: a few more, to be quiet for long.
int64_t Going(int64_t excess, int64_t limit, int64_t others) {
  return excess <= 0 ? 0 : std::min(std::max(excess, limit / 64), others);
}

// (time, id) as one number in the same order.
Wide KeyOf(int64_t time, int64_t id) {
  constexpr uint64_t kSign = uint64_t{1} << 63;
  return Wide{static_cast<uint64_t>(time) ^ kSign} << 64 | (static_cast<uint64_t>(id) ^ kSign);
}

// The `count` smallest keys among candidates that `each(visit)` visits as visit(key, cell), without holding
// them all: ranges of keys are counted and narrowed until few are left in the range that the count ends in.
template <typename Each>
std::vector<Cell> Smallest(Each each, int64_t count) {
  Wide low = 0, high = ~Wide{0};
  for (;;) {
    const Wide width = (high - low) / kBuckets + 1;
    std::vector<int64_t> sizes(kBuckets, 0);
    int64_t below = 0;
    each([&](Wide key, Cell) {
      if (key < low) ++below;
      if (key >= low && key <= high) ++sizes[static_cast<size_t>((key - low) / width)];
    });
    size_t bucket = 0;
    int64_t seen = below;
    while (seen + sizes[bucket] < count) seen += sizes[bucket++];
    const Wide first = low + width * bucket;
    const Wide last = high - first < width - 1 ? high : first + (width - 1);
    low = first;
    high = last;
    if (sizes[bucket] <= kFew || first == last) break;
  }
  std::vector<Cell> chosen;
  std::vector<std::pair<Wide, Cell>> edge;
  each([&](Wide key, Cell cell) {
    if (key < low) chosen.push_back(cell);
    if (key >= low && key <= high) edge.emplace_back(key, cell);
  });
  std::sort(edge.begin(), edge.end());
  for (size_t i = 0; static_cast<int64_t>(chosen.size()) < count && i < edge.size(); ++i) {
    chosen.push_back(edge[i].second);
  }
  return chosen;
}

}  // namespace

std::vector<Cell> Table::ChooseVictims(int64_t count, int64_t newest, const std::vector<Cell>& spared) const {
  const RowStore& store = content_->rows;
  const bool expiry = spec_.ttl_us >= 0 && newest >= kNever + spec_.ttl_us;
  const int64_t oldest = expiry ? newest - spec_.ttl_us : kNever;
  const auto class_of = [&](Cell cell) {  // expired rows first, then by frequency
    const bool alive = store.Time(cell) >= oldest;
    return static_cast<size_t>(store.Frequency(cell)) + (alive ? 256 : 0);
  };
  const auto is_spared = [&](Cell cell) { return std::binary_search(spared.begin(), spared.end(), cell); };
  std::array<int64_t, 512> sizes{};
  store.ForEach([&](Cell cell) { ++sizes[class_of(cell)]; });
  for (const Cell cell : spared) --sizes[class_of(cell)];
  size_t last = 0;
  int64_t below = 0;
  while (below + sizes[last] < count) below += sizes[last++];
  std::vector<Cell> chosen;
  store.ForEach([&](Cell cell) {
    if (class_of(cell) < last && !is_spared(cell)) chosen.push_back(cell);
  });
  const auto each = [&](auto visit) {
    store.ForEach([&](Cell cell) {
      if (class_of(cell) == last && !is_spared(cell)) visit(KeyOf(store.Time(cell), store.IdOf(cell)), cell);
    });
  };
  const std::vector<Cell> rest = Smallest(each, count - below);
  chosen.insert(chosen.end(), rest.begin(), rest.end());
  return chosen;
}

std::vector<Cell> Table::OldestCounters(int64_t count, const std::vector<Cell>& spared) const {
  const RowStore& pending = content_->pending;
  const auto each = [&](auto visit) {
    pending.ForEach([&](Cell cell) {
      if (std::binary_search(spared.begin(), spared.end(), cell)) return;
      visit(KeyOf(pending.Time(cell), pending.IdOf(cell)), cell);
    });
  };
  return Smallest(each, count);
}

// Drops all but the `room` ids with most occurrences in this step (ties: the smaller id) from `fresh` or
// `waiting`.
void Table::KeepMostFrequent(std::vector<StepPart>* parts, int64_t room, bool fresh) {
  struct Place {
    int64_t count, id;
    size_t part, at;
  };
  std::vector<Place> places;
  for (size_t p = 0; p < parts->size(); ++p) {
    StepPart& part = (*parts)[p];
    const auto& list = fresh ? part.fresh : part.waiting;
    for (size_t at = 0; at < list.size(); ++at) {
      places.push_back({part.counts[list[at].index], part.ids[list[at].index], p, at});
    }
  }
  std::sort(places.begin(), places.end(), [](const Place& x, const Place& y) {
    return x.count != y.count ? x.count > y.count : x.id < y.id;
  });
  std::vector<std::vector<uint8_t>> kept(parts->size());
  for (size_t p = 0; p < parts->size(); ++p) {
    kept[p].assign(fresh ? (*parts)[p].fresh.size() : (*parts)[p].waiting.size(), 0);
  }
  for (int64_t i = 0; i < room; ++i) {
    const Place& place = places[static_cast<size_t>(i)];
    kept[place.part][place.at] = 1;
  }
  for (size_t p = 0; p < parts->size(); ++p) {
    StepPart& part = (*parts)[p];
    auto& list = fresh ? part.fresh : part.waiting;
    size_t stay = 0;
    for (size_t at = 0; at < list.size(); ++at) {
      if (kept[p][at]) {
        list[stay++] = list[at];
        continue;
      }
      if (fresh) ++part.filtered;
      if (list[at].counter != kNoCell) part.dropped.push_back(list[at]);
    }
    list.resize(stay);
  }
}

void Table::Decide(TableStep* step) const {
  const Content& content = *content_;
  step->victims.clear();
  step->counter_victims.clear();
  step->leaving.fill(0);
  step->counters_leaving.fill(0);
  if (spec_.capacity < 0) return;
  int64_t newest = content.numbers.newest;
  int64_t fresh = 0;
  std::vector<Cell> spared;
  for (StepPart& part : step->parts) {
    newest = std::max(newest, part.newest);
    fresh += static_cast<int64_t>(part.fresh.size());
    for (const Cell cell : part.cells) {
      if (cell != kNoCell) spared.push_back(cell);
    }
  }
  const int64_t rows = content.rows.size();
  const int64_t others = rows - static_cast<int64_t>(spared.size());
  const int64_t going = Going(rows + fresh - spec_.capacity, spec_.capacity, others);
  if (going > 0) {
    std::sort(spared.begin(), spared.end());
    step->victims = ChooseVictims(going, newest, spared);
    for (const Cell cell : step->victims) {
      ++step->leaving[static_cast<size_t>(StripeOf(IdMap::Hash(content.rows.IdOf(cell))))];
    }
  }
  const int64_t room = spec_.capacity - (rows - going);
  if (fresh > room) KeepMostFrequent(&step->parts, room, true);
  if (spec_.admission.kind == AdmissionKind::kCount) {
    DecideCounters(step);
  } else {
    for (StepPart& part : step->parts)
      part.dropped.clear();  // counts that another admission left stay as they are
  }
}

void Table::DecideCounters(TableStep* step) const {
  const RowStore& pending = content_->pending;
  int64_t after = pending.size();
  std::vector<Cell> spared;
  for (const StepPart& part : step->parts) {
    for (const auto* list : {&part.fresh, &part.dropped}) {  // counts that end with this step
      for (const StepPart::Absent& one : *list) {
        if (one.counter == kNoCell) continue;
        --after;
        spared.push_back(one.counter);
      }
    }
    for (const StepPart::Absent& one : part.waiting) {
      if (one.counter == kNoCell) {
        ++after;
      } else {
        spared.push_back(one.counter);
      }
    }
  }
  int64_t waiting = 0, others = pending.size() - static_cast<int64_t>(spared.size());
  for (const StepPart& part : step->parts) waiting += static_cast<int64_t>(part.waiting.size());
  const int64_t going = Going(after - spec_.pending_limit, spec_.pending_limit, others);
  if (going > 0) {
    std::sort(spared.begin(), spared.end());
    step->counter_victims = OldestCounters(going, spared);
    for (const Cell cell : step->counter_victims) {
      ++step->counters_leaving[static_cast<size_t>(StripeOf(IdMap::Hash(pending.IdOf(cell))))];
    }
  }
  if (waiting > spec_.pending_limit) KeepMostFrequent(&step->parts, spec_.pending_limit, false);
}

void Table::EvictForRoom(const TableStep& step, uint64_t mark) {
  Content& content = *content_;
  for (const Cell cell : step.victims) DropRow(content.rows.IdOf(cell), cell, mark);
  for (const Cell cell : step.counter_victims) DropCount(content.pending.IdOf(cell), cell, mark);
  content.numbers.evicted += static_cast<int64_t>(step.victims.size());
  if (step.victims.empty() || !content.rows.keeps_frequencies()) return;
  ++content.numbers.halvings;
  if (capture_ != nullptr) capture_->KeepFrequencies();
  content.rows.ForEach([&](Cell cell) {  // ageing: what was frequent long ago must not stay for ever
    content.rows.SetFrequency(cell, static_cast<uint8_t>(content.rows.Frequency(cell) >> 1));
  });
}

}  // namespace headrace
