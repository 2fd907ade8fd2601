#include "rules/row_rule.h"

#include <cmath>
#include <vector>

#include "rules/kernels.h"
#include "table/check.h"

namespace headrace {
namespace {

constexpr RowRule kSgd{RuleKind::kSgd, 0.5f, {}};
constexpr RowRule kMomentum{RuleKind::kMomentum, 0.5f, {0.5f}};
constexpr RowRule kNesterov{RuleKind::kMomentum, 0.5f, {0.5f, 1.0f}};
constexpr RowRule kAdagrad{RuleKind::kAdagrad, 0.5f, {0.1f, 1e-10f}};
constexpr RowRule kRowWiseAdagrad{RuleKind::kRowWiseAdagrad, 0.5f, {0.1f, 1e-10f}};
constexpr RowRule kAdam{RuleKind::kAdam, 0.01f, {0.9f, 0.999f, 1e-8f, 0.0f, 1.0f}};
constexpr RowRule kLazyAdam{RuleKind::kAdam, 0.01f, {0.9f, 0.999f, 1e-8f}};
constexpr RowRule kAdamW{RuleKind::kAdam, 0.01f, {0.9f, 0.999f, 1e-8f, 0.5f, 1.0f}};
constexpr RowRule kFtrl{RuleKind::kFtrl, 0.5f, {0.4f, 0.0f, 1.0f}};
constexpr RowRule kGroupFtrl{RuleKind::kGroupFtrl, 0.5f, {0.4f, 0.0f, 1.0f}};

// Runs `steps` steps with the same gradient on a row that starts at `start`.
std::vector<float> Run(const RowRule& rule, float start, float grad, int steps, int64_t dim) {
  std::vector<float> row(static_cast<size_t>(dim), start), slots(static_cast<size_t>(rule.SlotCount(dim)));
  const std::vector<float> grads(static_cast<size_t>(dim), grad);
  rule.FreshSlots(dim, slots.data());
  for (int step = 0; step < steps; ++step) {
    ActiveKernels().step(rule, rule.lr, {}, dim, row.data(), slots.data(), grads.data());
  }
  return row;
}

bool Near(float x, double y, double tolerance) {
  return std::fabs(x - y) <= tolerance * std::fabs(y) + 1e-7;
}

void SgdMovesByTheGradient() {
  CHECK(Run(kSgd, 1.0f, 0.5f, 4, 3)[2] == 0.0f);
}

void MomentumGathersSpeed() {  // steps of 1 and 1.5 halves; with a look ahead of 1.5 and 1.75
  CHECK(Run(kMomentum, 0.0f, 1.0f, 2, 3)[0] == -1.25f);
  CHECK(Run(kNesterov, 0.0f, 1.0f, 2, 3)[2] == -1.625f);
}

void AdagradShrinksItsSteps() {
  const double first = 1.0 - 0.5 / std::sqrt(1.1), second = first - 0.5 / std::sqrt(2.1);
  CHECK(Near(Run(kAdagrad, 1.0f, 1.0f, 1, 5)[4], first, 1e-6));
  CHECK(Near(Run(kAdagrad, 1.0f, 1.0f, 2, 5)[0], second, 1e-6));
}

void RowWiseAdagradTakesTheMean() {  // of equal gradients, so that it is Adagrad
  for (const int64_t dim : {1, 5, 8, 19}) {
    CHECK(Near(Run(kRowWiseAdagrad, 1.0f, 1.0f, 2, dim)[0], Run(kAdagrad, 1.0f, 1.0f, 2, dim)[0], 1e-6));
  }
  CHECK(kRowWiseAdagrad.SlotCount(64) == 1);
}

void AdamTakesFullStepsFromTheFirst() {
  CHECK(Near(Run(kAdam, 0.0f, 0.003f, 1, 2)[0], -0.01, 1e-3));
  CHECK(Near(Run(kAdam, 0.0f, -7.0f, 10, 2)[1], 0.1, 1e-3));
}

void AdamWithoutCorrectionStartsFromItsZeros() {
  CHECK(Near(Run(kLazyAdam, 0.0f, 1.0f, 1, 2)[0], -0.01 * 0.1 / std::sqrt(0.001), 1e-4));
  CHECK(kLazyAdam.SlotCount(4) == 8 && kAdam.SlotCount(4) == 10);
}

void AdamWShrinksTheRowFirst() {
  CHECK(Near(Run(kAdamW, 2.0f, 1.0f, 1, 3)[1], 2.0 * (1.0 - 0.01 * 0.5) - 0.01, 1e-6));
}

void GroupFtrlZeroesWholeRows() {
  const float alone = Run(kGroupFtrl, 0.0f, -1.0f, 1, 1)[0];
  CHECK(Near(alone, Run(kFtrl, 0.0f, -1.0f, 1, 1)[0], 1e-6));
  for (const float value : Run(kGroupFtrl, 0.0f, 0.1f, 1, 9)) CHECK(value == 0.0f);  // a norm of 0.3
  for (const float value : Run(kGroupFtrl, 0.0f, 0.2f, 1, 9)) CHECK(value < 0.0f);   // of 0.6
}

void ARateOfZeroLeavesRowsOfFtrl() {
  for (RowRule rule : {kFtrl, kGroupFtrl}) {
    rule.lr = 0.0f;
    CHECK(Run(rule, 0.3f, 1.0f, 2, 5)[4] == 0.3f);
  }
}

void FtrlHasTheSignOfZ() {
  const float up = Run(kFtrl, 0.0f, -1.0f, 1, 1)[0], down = Run(kFtrl, 0.0f, 1.0f, 1, 1)[0];
  CHECK(Near(up, (1.0 - 0.4) / (2.0 / 0.5), 1e-6));
  CHECK(up == -down);
  CHECK(Run(kFtrl, 0.0f, 0.3f, 1, 1)[0] == 0.0f);
}

void ResultsDoNotDependOnTheWidth() {  // vectors and scalar rests of a loop agree
  for (const RowRule& rule : {kSgd, kMomentum, kNesterov, kAdagrad, kAdam, kLazyAdam, kAdamW, kFtrl}) {
    const float alone = Run(rule, 0.3f, 0.7f, 5, 1)[0];
    for (int64_t dim = 2; dim < 40; ++dim) {
      for (const float value : Run(rule, 0.3f, 0.7f, 5, dim)) CHECK(value == alone);
    }
  }
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::SgdMovesByTheGradient();
  headrace::MomentumGathersSpeed();
  headrace::AdagradShrinksItsSteps();
  headrace::RowWiseAdagradTakesTheMean();
  headrace::AdamTakesFullStepsFromTheFirst();
  headrace::AdamWithoutCorrectionStartsFromItsZeros();
  headrace::AdamWShrinksTheRowFirst();
  headrace::FtrlHasTheSignOfZ();
  headrace::GroupFtrlZeroesWholeRows();
  headrace::ARateOfZeroLeavesRowsOfFtrl();
  headrace::ResultsDoNotDependOnTheWidth();
  return headrace::ReportChecks("row_rule_test");
}
