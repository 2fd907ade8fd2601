#include "score/text_ids.h"

#include <cstring>

#include "score/blake2b.h"
#include "table/hash.h"

namespace headrace::score {

uint64_t MixText(std::string_view text) {
  uint64_t mixed = text.size();
  size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    mixed = Mix64(mixed ^ word);
  }
  if (at < text.size()) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + at, text.size() - at);
    mixed = Mix64(mixed ^ word);
  }
  return mixed;
}

TextIds::TextIds() : places_(kPlaces) {}

int64_t TextIds::Of(std::string_view text) {
  if (text.size() > kLongest || text.empty()) return HashText(text);
  Place& place = places_[MixText(text) % kPlaces];
  if (place.size == text.size() && std::memcmp(place.text, text.data(), text.size()) == 0) return place.id;
  place.id = HashText(text);
  place.size = static_cast<uint8_t>(text.size());
  std::memcpy(place.text, text.data(), text.size());
  return place.id;
}

}  // namespace headrace::score
