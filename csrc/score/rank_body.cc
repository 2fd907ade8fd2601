#include "score/rank_body.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numeric>

namespace headrace::score {
namespace {

constexpr size_t kLongestName = 1024;         // MAX_NAME_BYTES of serve/requests.py
constexpr int64_t kExact = int64_t{1} << 53;  // integers up to here are exact as float64

bool IsUtf8(std::string_view text) {
  const auto* at = reinterpret_cast<const uint8_t*>(text.data());
  const uint8_t* end = at + text.size();
  while (at < end) {
    const uint8_t first = *at;
    if (first < 0x80) {
      ++at;
      continue;
    }
    const int more = first >= 0xC2 && first < 0xE0   ? 1
                     : (first & 0xF0) == 0xE0        ? 2
                     : first >= 0xF0 && first < 0xF5 ? 3
                                                     : 0;
    if (more == 0 || end - at <= more) return false;
    for (int i = 1; i <= more; ++i) {
      if ((at[i] & 0xC0) != 0x80) return false;
    }
    if ((first == 0xE0 && at[1] < 0xA0) || (first == 0xED && at[1] > 0x9F) ||
        (first == 0xF0 && at[1] < 0x90) || (first == 0xF4 && at[1] > 0x8F)) {
      return false;
    }
    at += more + 1;
  }
  return true;
}

bool IsAscii(std::string_view text) {
  uint64_t any = 0;
  size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    any |= word;
  }
  for (; at < text.size(); ++at) any |= static_cast<uint8_t>(text[at]);
  return (any & 0x8080808080808080ULL) == 0;
}

}  // namespace

// Every method returns false where the body is not plain; then `at` means nothing.
class RankReader::Parser {
 public:
  Parser(RankReader& reader, RankBody& out)
      : reader_(reader), out_(out), at_(out.body.data()), end_(at_ + out.body.size()) {}

  bool Body() {
    std::string_view name;
    bool seen[8] = {};
    static constexpr std::string_view kFields[] = {
        "key", "user", "context", "candidates", "event_time", "log_impressions", "min_version"};
    if (!Eat('{')) return false;
    do {
      if (!Text(&name) || !Eat(':')) return false;
      const auto* known = std::find(std::begin(kFields), std::end(kFields), name);
      if (known == std::end(kFields)) return false;
      const auto field = static_cast<size_t>(known - std::begin(kFields));
      if (seen[field]) return false;
      seen[field] = true;
      if (!Field(field)) return false;
    } while (Eat(','));
    return Eat('}') && AtEnd() && seen[3] && Check();
  }

 private:
  bool Field(size_t field) {
    std::string_view text;
    switch (field) {
      case 0:
        if (!Text(&text) || text.empty() || text.size() > kLongestName) return false;
        out_.key = text;
        return true;
      case 1:
        return Shared(false);
      case 2:
        return Shared(true);
      case 3:
        return Candidates();
      case 5:
        Space();
        if (Word("true")) {
          out_.log = 1;
        } else if (Word("false")) {
          out_.log = 0;
        } else {
          return false;
        }
        return true;
      default: {
        int64_t value = 0;
        bool whole = false;
        double number = 0;
        if (!Number(&whole, &value, &number) || !whole || value < 0) return false;
        (field == 4 ? out_.event_time : out_.min_version) = value;
        return true;
      }
    }
  }

  // User and context: what the context says goes before what the user says.
  bool Shared(bool context) {
    std::vector<char>& first = context ? of_context_ : of_user_;
    first.assign(out_.columns.size(), 0);
    if (!Eat('{')) return false;
    if (Eat('}')) return true;
    do {
      std::string_view name;
      if (!Text(&name) || !Eat(':')) return false;
      const int column = Find(name);
      if (column < 0 || first[static_cast<size_t>(column)]) return false;
      first[static_cast<size_t>(column)] = 1;
      Column& into = out_.columns[static_cast<size_t>(column)];
      const bool hidden = into.from == Column::From::kOwn ||
                          (!context && into.from == Column::From::kShared && !of_context_.empty() &&
                           of_context_[static_cast<size_t>(column)]);
      if (hidden) return false;  // rare: the general way knows what goes first
      into = {};
      into.from = Column::From::kShared;
      if (!Value(column, into)) return false;
    } while (Eat(','));
    return Eat('}');
  }

  bool Candidates() {
    if (!Eat('[')) return false;
    order_.clear();
    do {
      if (++out_.rows > reader_.max_rows_ || !Eat('{')) return false;
      const bool first = out_.rows == 1;
      size_t field = 0;
      do {
        const int column = first ? FirstName() : NextName(field);
        if (column < 0) return false;
        Column& into = out_.columns[static_cast<size_t>(column)];
        if (!first && (into.from != Column::From::kOwn || Size(into) != out_.rows - 1)) return false;
        if (!Value(column, into)) return false;
        if (first) Reserve(into);
        ++field;
      } while (Eat(','));
      if (field != order_.size() || !Eat('}')) return false;
    } while (Eat(','));
    return Eat(']');
  }

  // The column that a name of the first candidate says, up to its colon; -1: none.
  int FirstName() {
    Space();
    const char* from = at_;
    std::string_view name;
    if (!Text(&name) || !Eat(':')) return -1;
    const int column = Find(name);
    if (column < 0) return -1;
    Column& into = out_.columns[static_cast<size_t>(column)];
    if (into.from == Column::From::kOwn) return -1;
    into = {};
    into.from = Column::From::kOwn;
    order_.push_back({column, {from, static_cast<size_t>(at_ - from)}});
    return column;
  }

  // The same of a later candidate: mostly the same bytes at the same place.
  int NextName(size_t field) {
    Space();
    if (field < order_.size() && Word(order_[field].written)) return order_[field].column;
    std::string_view name;
    return Text(&name) && Eat(':') ? Find(name) : -1;
  }

  // Makes room for as many values as the last body had.
  void Reserve(Column& into) const {
    const size_t rows = reader_.rows_before_;
    if (into.is == Column::Is::kNumber) {
      into.numbers.reserve(rows);
      return;
    }
    into.ids.reserve(rows);
    if (into.is == Column::Is::kText) into.texts.reserve(rows);
    if (!into.raw.empty()) into.raw.reserve(rows);
  }

  // What the general way checks of whole requests: an item for every candidate, each once.
  bool Check() {
    Column& item = out_.columns[static_cast<size_t>(reader_.item_)];
    if (item.from != Column::From::kOwn || item.is == Column::Is::kNumber) return false;
    for (const std::string_view text : item.texts) {
      if (text.empty() || text.size() > kLongestName) return false;
    }
    std::vector<int64_t>& sorted = reader_.sorted_;
    sorted = item.ids;
    std::sort(sorted.begin(), sorted.end());
    return std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
  }

  static int64_t Size(const Column& column) {
    return static_cast<int64_t>(column.is == Column::Is::kNumber ? column.numbers.size() : column.ids.size());
  }

  bool Value(int number, Column& into) {
    const ColumnSpec& spec = reader_.columns_[static_cast<size_t>(number)];
    if (spec.refused) return false;
    Space();
    const char* from = at_;
    const bool first = Size(into) == 0;
    if (at_ < end_ && *at_ == '"') {
      std::string_view text;
      if (spec.kind == ColumnKind::kInteger || spec.kind == ColumnKind::kNumber || !Text(&text)) return false;
      if (first) {
        into.is = Column::Is::kText;
      } else if (into.is != Column::Is::kText) {
        return false;
      }
      into.ids.push_back(spec.looked_up ? reader_.ids_.Of(text) : static_cast<int64_t>(MixText(text)));
      into.texts.push_back(text);
      if (number == reader_.item_) into.raw.emplace_back(from, static_cast<size_t>(at_ - from));
      return true;
    }
    bool whole = false;
    int64_t value = 0;
    double decimal = 0;
    if (spec.kind == ColumnKind::kText || !Number(&whole, &value, &decimal)) return false;
    if (spec.kind == ColumnKind::kNumber) {
      if (whole && (value > kExact || value < -kExact)) return false;
      into.is = Column::Is::kNumber;
      into.numbers.push_back(whole ? static_cast<double>(value) : decimal);
      return true;
    }
    if (!whole || (!first && into.is != Column::Is::kInteger)) return false;
    into.is = Column::Is::kInteger;
    into.ids.push_back(value);
    if (number == reader_.item_) into.raw.emplace_back(from, static_cast<size_t>(at_ - from));
    return true;
  }

  int Find(std::string_view name) const {
    const auto& columns = reader_.columns_;
    for (size_t i = 0; i < columns.size(); ++i) {
      if (columns[i].name == name) return static_cast<int>(i);
    }
    return -1;
  }

  void Space() {
    while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
  }
  bool AtEnd() {
    Space();
    return at_ == end_;
  }
  bool Eat(char wanted) {
    Space();
    if (at_ == end_ || *at_ != wanted) return false;
    ++at_;
    return true;
  }
  bool Word(std::string_view word) {
    if (static_cast<size_t>(end_ - at_) < word.size() || std::memcmp(at_, word.data(), word.size()) != 0)
      return false;
    at_ += word.size();
    return true;
  }
  // A string without escapes.
  bool Text(std::string_view* text) {
    if (!Eat('"')) return false;
    const char* from = at_;
    for (; at_ < end_; ++at_) {
      const auto byte = static_cast<uint8_t>(*at_);
      if (byte == '"') {
        *text = {from, static_cast<size_t>(at_ - from)};
        ++at_;
        return true;
      }
      if (byte < 0x20 || byte == '\\') return false;
    }
    return false;
  }
  bool Number(bool* whole, int64_t* value, double* number) {
    Space();
    const char* from = at_;
    if (at_ < end_ && *at_ == '-') ++at_;
    const char* digits = at_;
    while (at_ < end_ && *at_ >= '0' && *at_ <= '9') ++at_;
    const auto count = at_ - digits;
    if (count == 0 || (count > 1 && *digits == '0')) return false;
    *whole = true;
    if (at_ < end_ && *at_ == '.') {
      *whole = false;
      const char* after = ++at_;
      while (at_ < end_ && *at_ >= '0' && *at_ <= '9') ++at_;
      if (at_ == after) return false;
    }
    if (at_ < end_ && (*at_ == 'e' || *at_ == 'E')) {
      *whole = false;
      ++at_;
      if (at_ < end_ && (*at_ == '-' || *at_ == '+')) ++at_;
      const char* after = at_;
      while (at_ < end_ && *at_ >= '0' && *at_ <= '9') ++at_;
      if (at_ == after) return false;
    }
    if (*whole) {
      if (count > 18 || (*from == '-' && *digits == '0')) return false;
      int64_t sum = 0;
      for (const char* digit = digits; digit != at_; ++digit) sum = sum * 10 + (*digit - '0');
      *value = *from == '-' ? -sum : sum;
      return true;
    }
    return std::from_chars(from, at_, *number).ec == std::errc() && std::isfinite(*number);
  }

  RankReader& reader_;
  RankBody& out_;
  const char* at_;
  const char* end_;
  std::vector<char> of_user_, of_context_;
  struct Named {
    int column;
    std::string_view written;  // from its quotation mark to its colon
  };
  std::vector<Named> order_;  // the fields of the first candidate; most bodies repeat it
};

RankReader::RankReader(std::vector<ColumnSpec> columns, int item, int64_t max_rows)
    : columns_(std::move(columns)), item_(item), max_rows_(max_rows) {}

bool RankReader::Read(std::string_view body, RankBody* out) {
  *out = {};
  out->body.assign(body);
  out->columns.resize(columns_.size());
  if (!IsAscii(out->body) && !IsUtf8(out->body)) return false;
  const bool plain = Parser(*this, *out).Body();
  rows_before_ = static_cast<size_t>(out->rows);
  return plain;
}

std::string WriteRanked(const RankBody& body, int item, std::string_view key, int64_t version,
                        std::string_view more) {
  const Column& items = body.columns[static_cast<size_t>(item)];
  const size_t rows = body.scores.size();
  std::vector<uint32_t> order(rows);
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return body.scores[a] != body.scores[b] ? body.scores[a] > body.scores[b] : a < b;
  });
  size_t room = 96 + key.size() + more.size() + rows * 24;
  for (const std::string_view text : items.raw) room += text.size() + 1;
  std::string out;
  out.resize(room);
  char* at = out.data();
  char* end = at + room;
  const auto put = [&](std::string_view text) {
    std::memcpy(at, text.data(), text.size());
    at += text.size();
  };
  put("{\"key\":\"");
  put(key);
  put("\",\"version\":");
  at = std::to_chars(at, end, version).ptr;
  put(more);
  put(",\"scores\":[");
  for (size_t i = 0; i < rows; ++i) {
    if (i != 0) *at++ = ',';
    at = std::to_chars(at, end, body.scores[i]).ptr;
  }
  put("],\"order\":[");
  for (size_t i = 0; i < rows; ++i) {
    if (i != 0) *at++ = ',';
    at = std::to_chars(at, end, order[i]).ptr;
  }
  put("],\"items\":[");
  for (size_t i = 0; i < rows; ++i) {
    if (i != 0) *at++ = ',';
    put(items.raw[order[i]]);
  }
  put("]}");
  out.resize(static_cast<size_t>(at - out.data()));
  return out;
}

}  // namespace headrace::score
