#include "score/text_ids.h"

#include <set>
#include <string>

#include "score/blake2b.h"
#include "table/check.h"

using namespace headrace::score;

namespace {

void RemembersTexts() {
  TextIds ids;
  for (int round = 0; round < 2; ++round) {
    for (int n = 0; n < 100000; n += 7) {
      const std::string text = "text " + std::to_string(n);
      CHECK(ids.Of(text) == HashText(text));
    }
  }
  const std::string longer(100, 'x');
  CHECK(ids.Of(longer) == HashText(longer) && ids.Of("") == HashText(""));
}

void TellsTextsApart() {
  std::set<uint64_t> seen;
  std::string text;
  for (int n = 0; n < 200; ++n) {  // lengths before, at and behind whole words, and zeros among the bytes
    CHECK(seen.insert(MixText(text)).second);
    CHECK(MixText(text) == MixText(std::string(text)));
    text.push_back(static_cast<char>(n % 3));
  }
  for (int n = 0; n < 100000; ++n) CHECK(seen.insert(MixText("item-" + std::to_string(n))).second);
}

}  // namespace

int main() {
  RemembersTexts();
  TellsTextsApart();
  return headrace::ReportChecks("text_ids_test");
}
