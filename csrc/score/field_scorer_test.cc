#include "score/field_scorer.h"

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "shared/space_writer.h"
#include "snapshot/test_folder.h"
#include "table/check.h"

using namespace headrace;
using namespace headrace::score;

namespace {

constexpr int64_t kDim = 4, kFactor = 3, kFields = 3, kInputs = kFields * kFactor + 1, kHidden = 5,
                  kSecond = 2;
// Places of dense floats: layers 10 -> 5 -> 2 -> 1, then the number's weight and factor.
constexpr int64_t kW0 = 0, kB0 = kW0 + kInputs * kHidden, kW1 = kB0 + kHidden, kB1 = kW1 + kHidden * kSecond,
                  kW2 = kB1 + kSecond, kB2 = kW2 + kSecond, kNumber = kB2 + 1, kNumberFactor = kNumber + 1,
                  kDense = kNumberFactor + kFactor;

FieldPlan Plan(bool deep) {
  FieldPlan plan;
  for (int field = 0; field < kFields; ++field) {
    FieldSpec spec;
    spec.table = field == 2 ? 0 : field;  // the last one shares a table
    spec.column = field;
    plan.ids.push_back(spec);
  }
  plan.ids[2].optional = true;
  FieldSpec number;
  number.column = 3;
  number.optional = true;
  number.absent = 0.5;
  number.mean = 1.0;
  number.std = 2.0;
  plan.numbers.push_back(number);
  plan.dim = kDim;
  plan.number_weights_at = kNumber;
  plan.number_factors_at = kNumberFactor;
  if (deep) plan.deep = {{kW0, kB0, kInputs, kHidden}, {kW1, kB1, kHidden, kSecond}, {kW2, kB2, kSecond, 1}};
  return plan;
}

struct World {
  World() {
    std::mt19937 draw(3);
    std::normal_distribution<float> normal(0.0f, 0.5f);
    CHECK(writer
              .Create(folder.At(""), {{kDim, Precision::kFloat32}, {kDim, Precision::kFloat32}},
                      kDense * sizeof(float))
              .ok());
    CHECK(writer.Begin(true, 0).ok());
    for (int table = 0; table < 2; ++table) {
      for (int64_t id = 0; id < 20; ++id) {
        float row[kDim];
        for (float& value : row) value = normal(draw);
        rows[table].insert(rows[table].end(), row, row + kDim);
        CHECK(writer.Put(table, {&id, 1}, row).ok());
      }
    }
    for (int64_t i = 0; i < kDense; ++i) dense.push_back(normal(draw));
    std::memcpy(writer.dense(), dense.data(), kDense * sizeof(float));
    CHECK(writer.Commit(3, 2).ok());
    CHECK(reader.Open(folder.At(""), 0, std::vector<InitialRow>(2)).ok());
  }

  const float* Row(int table, int64_t id) const { return rows[table].data() + id * kDim; }

  // The definition, in float64.
  double Logit(const std::vector<const float*>& embedded, double number, bool deep) const {
    std::vector<std::vector<double>> factors;
    std::vector<double> input;
    double logit = 0;
    for (const float* row : embedded) {
      std::vector<double> factor(kFactor, 0.0);
      if (row != nullptr) {
        logit += row[0];
        factor.assign(row + 1, row + kDim);
      }
      input.insert(input.end(), factor.begin(), factor.end());
      factors.push_back(factor);
    }
    logit += number * dense[kNumber];
    input.push_back(number);
    std::vector<double> last;
    for (int64_t j = 0; j < kFactor; ++j)
      last.push_back(number * dense[static_cast<size_t>(kNumberFactor + j)]);
    factors.push_back(last);
    for (size_t a = 0; a < factors.size(); ++a) {
      for (size_t b = a + 1; b < factors.size(); ++b) {
        for (int64_t j = 0; j < kFactor; ++j)
          logit += factors[a][static_cast<size_t>(j)] * factors[b][static_cast<size_t>(j)];
      }
    }
    if (!deep) return logit;
    const auto layer = [&](const std::vector<double>& x, int64_t w, int64_t b, int64_t outputs, bool cut) {
      std::vector<double> out;
      for (int64_t o = 0; o < outputs; ++o) {
        double sum = dense[static_cast<size_t>(b + o)];
        for (size_t k = 0; k < x.size(); ++k)
          sum += x[k] * dense[static_cast<size_t>(w + o * static_cast<int64_t>(x.size())) + k];
        out.push_back(cut && sum < 0 ? 0.0 : sum);
      }
      return out;
    };
    return logit + layer(layer(layer(input, kW0, kB0, kHidden, true), kW1, kB1, kSecond, true), kW2, kB2, 1,
                         false)[0];
  }

  TestFolder folder;
  shared::SpaceWriter writer;
  shared::SpaceReader reader;
  std::vector<float> rows[2], dense;
};

RankReader Bodies() {
  return RankReader({{"item", ColumnKind::kInteger},
                     {"user", ColumnKind::kInteger},
                     {"other", ColumnKind::kInteger},
                     {"price", ColumnKind::kNumber}},
                    0, 100);
}

std::vector<float> Scores(World& world, FieldScorer& scorer, RankReader& reader,
                          const std::vector<std::string>& texts) {
  std::vector<RankBody> bodies(texts.size());
  std::vector<RankBody*> asked;
  for (size_t b = 0; b < texts.size(); ++b) {
    CHECK(reader.Read(texts[b], &bodies[b]));
    asked.push_back(&bodies[b]);
  }
  int64_t version = -1;
  CHECK(scorer.Score(world.reader, asked, &version).ok() && version == 3);
  std::vector<float> scores;
  for (const RankBody& body : bodies) scores.insert(scores.end(), body.scores.begin(), body.scores.end());
  return scores;
}

double Probability(double logit) {
  return 1.0 / (1.0 + std::exp(-logit));
}

void ScoresAsTheDefinitionDoes() {
  World world;
  for (const bool deep : {true, false}) {
    FieldScorer scorer(Plan(deep));
    RankReader reader = Bodies();
    const auto scores =
        Scores(world, scorer, reader,
               {"{\"user\":{\"user\":4,\"price\":7},\"candidates\":[{\"item\":1,\"other\":2},{\"item\":3,"
                "\"other\":4}]}",
                "{\"user\":{\"other\":9},\"candidates\":[{\"item\":5,\"user\":6,\"price\":-2.5}]}",
                "{\"context\":{\"user\":1},\"candidates\":[{\"item\":8}]}"});
    const double wanted[] = {world.Logit({world.Row(0, 1), world.Row(1, 4), world.Row(0, 2)}, 3.0, deep),
                             world.Logit({world.Row(0, 3), world.Row(1, 4), world.Row(0, 4)}, 3.0, deep),
                             world.Logit({world.Row(0, 5), world.Row(1, 6), world.Row(0, 9)}, -1.75, deep),
                             world.Logit({world.Row(0, 8), world.Row(1, 1), nullptr}, -0.25, deep)};
    for (size_t i = 0; i < 4; ++i) CHECK(std::fabs(scores[i] - Probability(wanted[i])) < 1e-5);
  }
}

void DoesNotDependOnOtherRequests() {
  World world;
  FieldScorer scorer(Plan(true));
  RankReader reader = Bodies();
  std::vector<std::string> texts;
  for (int request = 0; request < 30; ++request) {
    std::string text = "{\"user\":{\"user\":" + std::to_string(request % 20) + "},\"candidates\":[";
    for (int item = 0; item <= request; ++item) {
      text += (item ? ",{\"item\":" : "{\"item\":") + std::to_string(item) + ",\"other\":3}";
    }
    texts.push_back(text + "]}");
  }
  const auto together = Scores(world, scorer, reader, texts);
  size_t at = 0;
  for (const std::string& text : texts) {
    for (const float score : Scores(world, scorer, reader, {text})) CHECK(score == together[at++]);
  }
}

void RefusesWhatItCannotScore() {
  World world;
  FieldScorer scorer(Plan(true));
  RankReader reader = Bodies();
  RankBody body;
  RankBody* asked[] = {&body};
  int64_t version = -1;
  CHECK(reader.Read("{\"candidates\":[{\"item\":1}]}", &body));  // no user
  CHECK(scorer.Score(world.reader, asked, &version).code == Code::kInvalid);
  CHECK(!world.reader.inside());
  CHECK(world.writer.Begin(false, 0).ok());
  const float nan = std::nanf("");
  std::memcpy(world.writer.dense() + kB2 * sizeof(float), &nan, sizeof(nan));
  CHECK(world.writer.Commit(4, 3).ok());
  CHECK(reader.Read("{\"user\":{\"user\":1},\"candidates\":[{\"item\":1}]}", &body));
  CHECK(scorer.Score(world.reader, asked, &version).code == Code::kNotFinite);
}

void CorrectsForSampling() {
  World world;
  FieldPlan plan = Plan(true);
  FieldScorer plain(plan);
  plan.negative_rate = 0.25;
  FieldScorer corrected(plan);
  RankReader reader = Bodies();
  const std::vector<std::string> text = {
      "{\"user\":{\"user\":1},\"candidates\":[{\"item\":1},{\"item\":2}]}"};
  const auto p = Scores(world, plain, reader, text), q = Scores(world, corrected, reader, text);
  for (size_t i = 0; i < 2; ++i) CHECK(std::fabs(q[i] - p[i] * 0.25 / (p[i] * 0.25 + 1 - p[i])) < 1e-6);
}

}  // namespace

int main() {
  ScoresAsTheDefinitionDoes();
  DoesNotDependOnOtherRequests();
  RefusesWhatItCannotScore();
  CorrectsForSampling();
  return ReportChecks("field_scorer_test");
}
