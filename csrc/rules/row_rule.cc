#include "rules/row_rule.h"

#include <algorithm>
#include <cmath>

namespace headrace {
namespace {

void StepSgd(const RowRule& rule, int64_t dim, float* __restrict row, const float* __restrict grad) {
  const float lr = rule.a;
  for (int64_t j = 0; j < dim; ++j) row[j] = row[j] - lr * grad[j];
}

void StepAdagrad(const RowRule& rule, int64_t dim, float* __restrict row, float* __restrict n,
                 const float* __restrict grad) {
  const float lr = rule.a, eps = rule.c;
  for (int64_t j = 0; j < dim; ++j) {
    const float g = grad[j];
    const float grown = n[j] + g * g;
    n[j] = grown;
    row[j] = row[j] - (lr * g) / (std::sqrt(grown) + eps);
  }
}

void StepAdam(const RowRule& rule, int64_t dim, float* __restrict row, float* __restrict slots,
              const float* __restrict grad) {
  const float lr = rule.a, beta1 = rule.b, beta2 = rule.c, eps = rule.d;
  float* __restrict m = slots;
  float* __restrict v = slots + dim;
  float* __restrict powers = slots + 2 * dim;
  powers[0] = powers[0] * beta1;
  powers[1] = powers[1] * beta2;
  const float size = lr / (1.0f - powers[0]);
  const float root = std::sqrt(1.0f - powers[1]);
  const float rest1 = 1.0f - beta1, rest2 = 1.0f - beta2;
  for (int64_t j = 0; j < dim; ++j) {
    const float g = grad[j];
    const float mean = beta1 * m[j] + rest1 * g;
    const float square = beta2 * v[j] + (rest2 * g) * g;
    m[j] = mean;
    v[j] = square;
    row[j] = row[j] - (size * mean) / (std::sqrt(square) / root + eps);
  }
}

void StepFtrl(const RowRule& rule, int64_t dim, float* __restrict row, float* __restrict slots,
              const float* __restrict grad) {
  const float lr = rule.a, l1 = rule.b, l2 = rule.c, beta = rule.d;
  float* __restrict z = slots;
  float* __restrict n = slots + dim;
  for (int64_t j = 0; j < dim; ++j) {
    const float g = grad[j];
    const float grown = n[j] + g * g;
    const float root = std::sqrt(grown);
    const float sigma = (root - std::sqrt(n[j])) / lr;
    const float moved = z[j] + (g - sigma * row[j]);
    z[j] = moved;
    n[j] = grown;
    const float learned = (std::copysign(l1, moved) - moved) / ((beta + root) / lr + l2);
    row[j] = std::fabs(moved) <= l1 ? 0.0f : learned;
  }
}

}  // namespace

int64_t RowRule::SlotCount(int64_t dim) const {
  switch (kind) {
    case RuleKind::kSgd:
      return 0;
    case RuleKind::kAdagrad:
      return dim;
    case RuleKind::kAdam:
      return 2 * dim + 2;
    case RuleKind::kFtrl:
      return 2 * dim;
  }
  return 0;
}

void RowRule::FreshSlots(int64_t dim, float* slots) const {
  std::fill(slots, slots + SlotCount(dim), kind == RuleKind::kAdagrad ? b : 0.0f);
  if (kind == RuleKind::kAdam) slots[2 * dim] = slots[2 * dim + 1] = 1.0f;
}

void RowRule::Step(int64_t dim, float* row, float* slots, const float* grad) const {
  switch (kind) {
    case RuleKind::kSgd:
      return StepSgd(*this, dim, row, grad);
    case RuleKind::kAdagrad:
      return StepAdagrad(*this, dim, row, slots, grad);
    case RuleKind::kAdam:
      return StepAdam(*this, dim, row, slots, grad);
    case RuleKind::kFtrl:
      return StepFtrl(*this, dim, row, slots, grad);
  }
}

}  // namespace headrace
