#include "rules/row_rule.h"

#include <algorithm>

namespace headrace {

int64_t RowRule::SlotCount(int64_t dim) const {
  switch (kind) {
    case RuleKind::kSgd:
      return 0;
    case RuleKind::kAdagrad:
    case RuleKind::kMomentum:
      return dim;
    case RuleKind::kAdam:
      return 2 * dim + (p[4] == 1.0f ? 2 : 0);
    case RuleKind::kFtrl:
    case RuleKind::kGroupFtrl:
      return 2 * dim;
    case RuleKind::kRowWiseAdagrad:
      return 1;
  }
  return 0;
}

void RowRule::FreshSlots(int64_t dim, float* slots) const {
  const bool grows = kind == RuleKind::kAdagrad || kind == RuleKind::kRowWiseAdagrad;
  const int64_t count = SlotCount(dim);
  std::fill(slots, slots + count, grows ? p[0] : 0.0f);
  if (kind == RuleKind::kAdam) std::fill(slots + 2 * dim, slots + count, 1.0f);
}

}  // namespace headrace
