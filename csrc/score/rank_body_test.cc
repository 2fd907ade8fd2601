#include "score/rank_body.h"

#include <string>
#include <string_view>

#include "score/blake2b.h"
#include "table/check.h"

using namespace headrace::score;

namespace {

RankReader Made() {
  return RankReader({{"item", ColumnKind::kTextOrInteger},
                     {"user", ColumnKind::kText},
                     {"age", ColumnKind::kInteger},
                     {"price", ColumnKind::kNumber},
                     {"position", ColumnKind::kInteger, true}},
                    0, 4);
}

void ReadsAPlainBody() {
  RankReader reader = Made();
  RankBody body;
  // Names count, not the order of fields.
  CHECK(reader.Read(" {\"candidates\" : [ {\"item\":\"a\",\"price\":1.5e1} ,\n{\"price\":2,\"item\":\"b\"}]}",
                    &body));
  CHECK(body.columns[3].numbers[1] == 2.0 && body.log == -1 && !body.key && !body.event_time);
  CHECK(
      reader.Read("{\"key\":\"r1\",\"user\":{\"user\":\"u\xC3\xA9\"},\"context\":{\"age\":-3},"
                  "\"candidates\":[{\"item\":\"a\",\"price\":1.5e1},{\"item\":\"b\",\"price\":2}],"
                  "\"event_time\":7,\"log_impressions\":false,\"min_version\":3}",
                  &body));
  CHECK(body.rows == 2 && *body.key == "r1" && *body.event_time == 7 && *body.min_version == 3 &&
        body.log == 0);
  CHECK(body.columns[0].ids[1] == HashText("b") && body.columns[0].from == Column::From::kOwn);
  CHECK(body.columns[1].ids[0] == HashText("u\xC3\xA9") && body.columns[1].from == Column::From::kShared);
  CHECK(body.columns[2].ids[0] == -3);
  CHECK(body.columns[3].numbers[0] == 15.0 && body.columns[3].numbers[1] == 2.0);
  CHECK(body.columns[4].from == Column::From::kNowhere);
}

void RefusesWhatIsNotPlain() {
  RankReader reader = Made();
  RankBody body;
  const std::string_view bodies[] = {
      "",
      "{",
      "[]",
      "null",
      "{}",
      "{\"candidates\":[]}",
      "{\"candidates\":[{}]}",
      "{\"candidates\":[{\"item\":\"a\"}]} x",
      "{\"candidates\":[{\"item\":\"a\"},]}",
      "{\"candidates\":[{\"item\":\"a\"}],\"other\":1}",
      "{\"candidates\":[{\"item\":\"a\",\"other\":1}]}",
      "{\"candidates\":[{\"item\":\"a\"},{\"item\":\"a\"}]}",
      "{\"candidates\":[{\"item\":\"a\"},{\"item\":1}]}",
      "{\"candidates\":[{\"item\":\"a\",\"item\":\"b\"}]}",
      "{\"candidates\":[{\"item\":\"a\"},{\"item\":\"b\",\"item\":\"c\"}]}",
      "{\"candidates\":[{\"item\":\"a\",\"age\":1},{\"item\":\"b\"}]}",
      "{\"candidates\":[{\"item\":\"\"}]}",
      "{\"candidates\":[{\"item\":\"a\\n\"}]}",
      "{\"candidates\":[{\"item\":\"a\tb\"}]}",
      "{\"candidates\":[{\"item\":\"\xFF\"}]}",
      "{\"candidates\":[{\"item\":\"\xED\xA0\x80\"}]}",
      "{\"candidates\":[{\"item\":\"a\",\"age\":01}]}",
      "{\"candidates\":[{\"item\":\"a\",\"age\":1.0}]}",
      "{\"candidates\":[{\"item\":\"a\",\"age\":\"1\"}]}",
      "{\"candidates\":[{\"item\":\"a\",\"age\":1234567890123456789}]}",
      "{\"candidates\":[{\"item\":\"a\",\"price\":1.}]}",
      "{\"candidates\":[{\"item\":\"a\",\"price\":1e999}]}",
      "{\"candidates\":[{\"item\":\"a\",\"price\":9007199254740993}]}",
      "{\"candidates\":[{\"item\":\"a\",\"price\":null}]}",
      "{\"candidates\":[{\"item\":\"a\",\"price\":NaN}]}",
      "{\"candidates\":[{\"item\":\"a\",\"user\":[\"x\"]}]}",
      "{\"candidates\":[{\"item\":\"a\",\"position\":1}]}",
      "{\"candidates\":[{\"item\":1},{\"item\":2},{\"item\":3},{\"item\":4},{\"item\":5}]}",
      "{\"context\":{\"age\":1},\"user\":{\"age\":2},\"candidates\":[{\"item\":1}]}",
      "{\"candidates\":[{\"item\":1}],\"candidates\":[{\"item\":1}]}",
      "{\"key\":\"\",\"candidates\":[{\"item\":1}]}",
      "{\"event_time\":-1,\"candidates\":[{\"item\":1}]}",
      "{\"log_impressions\":1,\"candidates\":[{\"item\":1}]}",
      "{\"user\":{\"item\":1},\"candidates\":[{\"age\":1}]}",
  };
  for (const std::string_view text : bodies) CHECK(!reader.Read(text, &body));
  // Cut anywhere, a body is refused.
  const std::string whole =
      "{\"key\":\"r\",\"user\":{\"user\":\"u\"},\"candidates\":[{\"item\":1,\"price\":2.5}]}";
  CHECK(reader.Read(whole, &body));
  for (size_t size = 0; size < whole.size(); ++size) CHECK(!reader.Read(whole.substr(0, size), &body));
}

void KnowsWhatGoesFirst() {
  RankReader reader = Made();
  RankBody body;
  CHECK(reader.Read(
      "{\"user\":{\"age\":1,\"user\":\"u\"},\"context\":{\"age\":2},\"candidates\":[{\"item\":1}]}", &body));
  CHECK(body.columns[2].ids.size() == 1 && body.columns[2].ids[0] == 2);
  CHECK(reader.Read("{\"user\":{\"age\":1},\"candidates\":[{\"item\":1,\"age\":5},{\"item\":2,\"age\":6}]}",
                    &body));
  CHECK(body.columns[2].from == Column::From::kOwn && body.columns[2].ids[1] == 6);
}

void WritesTheAnswer() {
  RankReader reader = Made();
  RankBody body;
  CHECK(reader.Read("{\"candidates\":[{\"item\":\"a\"},{\"item\":\"b\"},{\"item\":\"c\"}]}", &body));
  body.scores = {0.25f, 0.5f, 0.5f};
  CHECK(WriteRanked(body, 0, "k", 12, ",\"arm\":\"main\"") ==
        "{\"key\":\"k\",\"version\":12,\"arm\":\"main\",\"scores\":[0.25,0.5,0.5],\"order\":[1,2,0],"
        "\"items\":[\"b\",\"c\",\"a\"]}");
}

void LooksUpWhatIsAskedForAlone() {
  RankReader reader({{"item", ColumnKind::kText, false, false}, {"user", ColumnKind::kText}}, 0, 4);
  RankBody body;
  CHECK(reader.Read("{\"user\":{\"user\":\"u\"},\"candidates\":[{\"item\":\"a\"},{\"item\":\"b\"}]}", &body));
  CHECK(body.columns[1].ids[0] == HashText("u"));
  CHECK(body.columns[0].ids[0] != body.columns[0].ids[1] && body.columns[0].texts[1] == "b");
  CHECK(!reader.Read("{\"candidates\":[{\"item\":\"a\"},{\"item\":\"a\"}]}", &body));  // still: each once
  CHECK(body.rows == 2);
}

}  // namespace

int main() {
  ReadsAPlainBody();
  RefusesWhatIsNotPlain();
  KnowsWhatGoesFirst();
  WritesTheAnswer();
  LooksUpWhatIsAskedForAlone();
  return headrace::ReportChecks("rank_body_test");
}
