#include "score/blake2b.h"

#include <string>

#include "table/check.h"

using headrace::score::HashText;

int main() {
  // Numbers of Python's hashlib.blake2b(text, digest_size=8), little-endian and signed.
  CHECK(HashText("user-1") == -8583321985082544998LL);
  CHECK(HashText("") == -5426141060434712860LL);
  CHECK(HashText(std::string(128, 'a')) == -2731293961254377744LL);
  CHECK(HashText(std::string(129, 'a')) == -7376115878442343708LL);
  CHECK(HashText(std::string(1000, 'b')) == 5375237383292684116LL);
  return headrace::ReportChecks("blake2b_test");
}
