#include "table/initial.h"

#include <bit>
#include <vector>

#include "table/check.h"
#include "table/hash.h"

namespace headrace {
namespace {

uint32_t Bits(float value) {
  return std::bit_cast<uint32_t>(value);
}

void BitsAreFixedForEver() {  // the same numbers as in tests/unit/store/test_initial.py
  float row[1];
  InitialRow{InitialKind::kUniform, 1.0f, 0}.Fill(0, 1, row);
  CHECK(Bits(row[0]) == 1061437776u);
  InitialRow{InitialKind::kUniform, 1.0f, 0}.Fill(-1, 1, row);
  CHECK(Bits(row[0]) == 3211489558u);
  InitialRow{InitialKind::kNormal, 1.0f, 0}.Fill(0, 1, row);
  CHECK(Bits(row[0]) == 1032286208u);
  InitialRow{InitialKind::kNormal, 1.0f, 0}.Fill(-1, 1, row);
  CHECK(Bits(row[0]) == 1052338176u);
}

void AShorterRowIsTheBeginningOfALongerOne() {
  for (const auto kind : {InitialKind::kConstant, InitialKind::kUniform, InitialKind::kNormal}) {
    std::vector<float> full(32), part(7);
    const InitialRow init{kind, 0.5f, 77};
    init.Fill(123, 32, full.data());
    init.Fill(123, 7, part.data());
    for (size_t j = 0; j < part.size(); ++j) CHECK(Bits(full[j]) == Bits(part[j]));
  }
}

void MixIsThePublishedFunction() {
  CHECK(Draw(1234567, 0) == 6457827717110365317ULL);
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::BitsAreFixedForEver();
  headrace::AShorterRowIsTheBeginningOfALongerOne();
  headrace::MixIsThePublishedFunction();
  return headrace::ReportChecks("initial_test");
}
