// RankBody: the JSON body of one rank request, read in one pass into columns of ids, as far as it is a plain
// one. Whatever is unusual (escapes, nulls, lists, a value missing in one candidate, anything wrong) is not
// read here: the caller takes its general way, which has all the rules and all the error texts.
//
// Thread safety: a RankReader is for one thread. A RankBody may be read by any.
// Invariants:
//   1. What Read accepts means the same as `headrace.serve.requests.RequestReader.rank_json` says it does.
//   2. Nothing outside the body is read, whatever is in it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "score/text_ids.h"

namespace headrace::score {

enum class ColumnKind : int32_t { kText = 0, kInteger = 1, kTextOrInteger = 2, kNumber = 3 };

struct ColumnSpec {
  std::string name;  // in the body
  ColumnKind kind = ColumnKind::kText;
  bool refused = false;   // a body that has it is unusual
  bool looked_up = true;  // texts get the ids that tables have; without it any number that tells them apart
};

struct Column {
  enum class From : int8_t { kNowhere, kShared, kOwn };
  enum class Is : int8_t { kText, kInteger, kNumber };
  From from = From::kNowhere;
  Is is = Is::kText;
  // One value if shared, else one per candidate.
  std::vector<int64_t> ids;                  // of texts and integers
  std::vector<double> numbers;               // of numbers
  std::vector<std::string_view> texts, raw;  // of texts; raw: as in the body, quotes included
};

struct RankBody {
  std::string body;
  int64_t rows = 0;
  std::optional<std::string_view> key;  // without quotes
  std::optional<int64_t> event_time, min_version;
  int log = -1;  // 0: do not, 1: do, -1: not said
  std::vector<Column> columns;
  std::vector<float> scores;
};

class RankReader {
 public:
  // `item` is the column that names candidates.
  RankReader(std::vector<ColumnSpec> columns, int item, int64_t max_rows);

  // False: the body is not a plain one.
  bool Read(std::string_view body, RankBody* out);

  const std::vector<ColumnSpec>& columns() const { return columns_; }

 private:
  class Parser;
  std::vector<ColumnSpec> columns_;
  int item_;
  int64_t max_rows_;
  TextIds ids_;
  std::vector<int64_t> sorted_;
  size_t rows_before_ = 0;  // of the last body: the next one will have about as many
};

// The answer to a scored body: {"key", "version", "scores", "order", "items"}; `more` stands behind the
// version as it is.
std::string WriteRanked(const RankBody& body, int item, std::string_view key, int64_t version,
                        std::string_view more);

}  // namespace headrace::score
