// Texts as ids: those that tables have, and cheaper numbers where nothing is looked up.
//
// Thread safety: TextIds is for one thread; MixText may be called by any.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace headrace::score {

// A number that tells texts apart, no more.
uint64_t MixText(std::string_view text);

// Remembers the ids of short texts, so that a text is hashed once.
class TextIds {
 public:
  TextIds();
  int64_t Of(std::string_view text);

 private:
  static constexpr size_t kPlaces = 1 << 16, kLongest = 39;
  struct Place {
    int64_t id;
    uint8_t size;  // 0: free
    char text[kLongest];
  };
  std::vector<Place> places_;
};

}  // namespace headrace::score
