#include "rules/row_rule.h"

#include <cmath>
#include <vector>

#include "table/check.h"

namespace headrace {
namespace {

constexpr RowRule kSgd{RuleKind::kSgd, 0.5f, 0, 0, 0};
constexpr RowRule kAdagrad{RuleKind::kAdagrad, 0.5f, 0.1f, 1e-10f, 0};
constexpr RowRule kAdam{RuleKind::kAdam, 0.01f, 0.9f, 0.999f, 1e-8f};
constexpr RowRule kFtrl{RuleKind::kFtrl, 0.5f, 0.4f, 0.0f, 1.0f};

// Runs `steps` steps with the same gradient on a row that starts at `start`.
std::vector<float> Run(const RowRule& rule, float start, float grad, int steps, int64_t dim) {
  std::vector<float> row(static_cast<size_t>(dim), start), slots(static_cast<size_t>(rule.SlotCount(dim)));
  const std::vector<float> grads(static_cast<size_t>(dim), grad);
  rule.FreshSlots(dim, slots.data());
  for (int step = 0; step < steps; ++step) rule.Step(dim, row.data(), slots.data(), grads.data());
  return row;
}

bool Near(float x, double y, double tolerance) {
  return std::fabs(x - y) <= tolerance * std::fabs(y) + 1e-7;
}

void SgdMovesByTheGradient() {
  CHECK(Run(kSgd, 1.0f, 0.5f, 4, 3)[2] == 0.0f);
}

void AdagradShrinksItsSteps() {
  const double first = 1.0 - 0.5 / std::sqrt(1.1), second = first - 0.5 / std::sqrt(2.1);
  CHECK(Near(Run(kAdagrad, 1.0f, 1.0f, 1, 5)[4], first, 1e-6));
  CHECK(Near(Run(kAdagrad, 1.0f, 1.0f, 2, 5)[0], second, 1e-6));
}

void AdamTakesFullStepsFromTheFirst() {
  CHECK(Near(Run(kAdam, 0.0f, 0.003f, 1, 2)[0], -0.01, 1e-3));
  CHECK(Near(Run(kAdam, 0.0f, -7.0f, 10, 2)[1], 0.1, 1e-3));
}

void FtrlHasTheSignOfZ() {
  const float up = Run(kFtrl, 0.0f, -1.0f, 1, 1)[0], down = Run(kFtrl, 0.0f, 1.0f, 1, 1)[0];
  CHECK(Near(up, (1.0 - 0.4) / (2.0 / 0.5), 1e-6));
  CHECK(up == -down);
  CHECK(Run(kFtrl, 0.0f, 0.3f, 1, 1)[0] == 0.0f);
}

void ResultsDoNotDependOnTheWidth() {  // vectors and scalar rests of a loop agree
  for (const RowRule& rule : {kSgd, kAdagrad, kAdam, kFtrl}) {
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
  headrace::AdagradShrinksItsSteps();
  headrace::AdamTakesFullStepsFromTheFirst();
  headrace::FtrlHasTheSignOfZ();
  headrace::ResultsDoNotDependOnTheWidth();
  return headrace::ReportChecks("row_rule_test");
}
