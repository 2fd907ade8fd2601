// Removals against a list of everything that ever went.
#include "table/removals.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "snapshot/samples.h"
#include "table/check.h"

namespace headrace {
namespace {

class Model {
 public:
  explicit Model(uint64_t seed) : dice_(seed) {}

  Removals::Present Here() const {
    return [this](std::span<const int64_t> ids, uint8_t* out) {
      for (size_t i = 0; i < ids.size(); ++i) out[i] = present_.count(ids[i]) != 0 ? 1 : 0;
    };
  }

  // Some ids come, some go.
  void Step(int64_t range, int64_t many) {
    ++mark_;
    std::vector<int64_t> going;
    for (int64_t i = 0; i < many; ++i) {
      const int64_t id = dice_.Between(-range, range);
      if (present_.insert(id).second) continue;
      if (std::find(going.begin(), going.end(), id) == going.end()) going.push_back(id);
    }
    list_.Reserve(going.size(), Here());
    for (const int64_t id : going) {
      present_.erase(id);
      list_.Add(mark_, id);
      last_[id] = mark_;
    }
  }

  std::vector<int64_t> Since(uint64_t since) const {
    std::vector<int64_t> ids;
    for (const auto& [id, mark] : last_) {
      if (mark > since && present_.count(id) == 0) ids.push_back(id);
    }
    return ids;
  }

  void Check() {
    const uint64_t since = list_.floor() + dice_.Below(mark_ - list_.floor() + 1);
    CHECK(list_.Since(since, Here()) == Since(since));
    const auto all = list_.All(Here());
    const std::vector<int64_t> wanted = Since(list_.floor());
    CHECK(all.size() == wanted.size());
    for (size_t i = 0; i < std::min(all.size(), wanted.size()); ++i) {
      CHECK(all[i].id == wanted[i] && all[i].mark == last_.at(wanted[i]));
    }
    CHECK(list_.entries() <= 2 * static_cast<int64_t>(Counting()) + 1024 + slack_);
  }

  void Forget() { list_.Forget(list_.floor() + dice_.Below(mark_ - list_.floor() + 1)); }

  size_t Counting() const { return Since(list_.floor()).size(); }
  Removals& list() { return list_; }
  uint64_t mark() const { return mark_; }
  void Allow(int64_t slack) { slack_ = slack; }

 private:
  Dice dice_;
  Removals list_;
  std::set<int64_t> present_;
  std::map<int64_t, uint64_t> last_;
  uint64_t mark_ = 0;
  int64_t slack_ = 0;
};

void TellsWhatWentSince() {
  Model model(1);
  model.Allow(4000);  // entries that counted at the last compaction and do not any more
  for (int step = 0; step < 400; ++step) {
    model.Step(400, step % 7 == 0 ? 300 : 20);
    if (step % 5 == 0) model.Check();
    if (step % 60 == 59) model.Forget();
  }
}

void ForgetsAllUpToAMark() {
  Model model(2);
  for (int step = 0; step < 50; ++step) model.Step(50, 30);
  model.list().Forget(20);
  CHECK(model.list().floor() == 20);
  model.list().Forget(10);
  CHECK(model.list().floor() == 20);
  model.Check();
  model.list().Forget(model.mark());
  CHECK(model.list().entries() == 0 && model.list().All(model.Here()).empty());
  model.Step(50, 60);
  model.Check();
}

// The list stays short when the same ids come and go for ever.
void StaysWithinItsBound() {
  Model model(3);
  int64_t most = 0;
  for (int step = 0; step < 3000; ++step) {
    model.Step(20, 40);
    most = std::max(most, model.list().entries());
  }
  CHECK(most <= 2 * 41 + 1024 + 40);
  CHECK(model.list().bytes() < 64 << 10);
  model.Check();
}

void ALimitKeepsTheNewestWholeMarks() {
  for (const int64_t limit : {int64_t{0}, int64_t{1}, int64_t{10}, int64_t{100}}) {
    Model model(4);
    for (int step = 0; step < 120; ++step) {
      model.Step(500, 60);
      const auto before = model.list().All(model.Here());
      const uint64_t floor = model.list().floor();
      model.list().Limit(limit, model.Here());
      const auto counting = static_cast<int64_t>(model.Counting());
      if (static_cast<int64_t>(before.size()) <= limit) {
        CHECK(model.list().floor() == floor);
      } else {
        CHECK(counting <= limit / 2 && model.list().entries() <= limit);
        int64_t one_more = 0;  // a mark less would have been too much
        for (const Removals::Entry& entry : before) one_more += entry.mark >= model.list().floor();
        CHECK(one_more > limit / 2);
      }
      model.Check();
    }
  }
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::TellsWhatWentSince();
  headrace::ForgetsAllUpToAMark();
  headrace::StaysWithinItsBound();
  headrace::ALimitKeepsTheNewestWholeMarks();
  return headrace::ReportChecks("removals_test");
}
