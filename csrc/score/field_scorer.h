// FieldScorer: probabilities of the candidates of rank requests by a field model: a bias, first-order
// weights, a factorization machine and a deep network, each where the model has it, over embedded ids and
// numbers.
//
// A request is computed in two parts. What its candidates share (the user, the context) is looked up, summed
// and multiplied with its rows of the first layer once; a candidate adds its own fields to that.
//
// Thread safety: none; one scorer for each thread, with a reader of its own.
// Invariants:
//   1. All of a call is scored with one epoch of the space.
//   2. A candidate's probability depends on its request's shared values and its own: not on other candidates,
//      and not on the requests that are scored with it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "score/layers.h"
#include "score/rank_body.h"
#include "shared/space_reader.h"
#include "table/status.h"

namespace headrace::score {

struct FieldSpec {
  int table = -1;   // of ids; -1: a number
  int column = -1;  // of the body; -1: none
  bool constant = false;
  int64_t id = 0;         // of a field that is constant, or absent in a body
  bool optional = false;  // absent without a constant: no id, which embeds as zeros
  // Of numbers: value = (f(x) - mean) / std, in float64; f is sign(x) log(1 + |x|) if `log1p`.
  double absent = 0.0, mean = 0.0, std = 1.0;
  bool log1p = false;
};

struct DenseLayer {
  int64_t weight_at, bias_at;  // floats from the start of the dense bytes
  int64_t inputs, outputs;
};

struct FieldPlan {
  std::vector<FieldSpec> ids, numbers;
  int64_t dim = 0;           // width of table rows
  bool first_order = true;   // column 0 of a row is its weight, the others its factor
  bool interactions = true;  // the second-order term
  int64_t bias_at = -1;      // one float, -1: none
  int64_t number_weights_at = -1, number_factors_at = -1;
  std::vector<DenseLayer> deep;  // cut off below 0 but for the last one, which has one output
  double negative_rate = 1.0;
};

class FieldScorer {
 public:
  explicit FieldScorer(FieldPlan plan);

  // Writes `scores` of every body. kInvalid: a body lacks a value (detail: its place) or tables have another
  // width. kNotFinite: a score is not; detail: the place of the body. kStale: no version yet.
  Status Score(shared::SpaceReader& reader, std::span<RankBody* const> bodies, int64_t* version);

 private:
  struct Packed {
    std::vector<float> weights, bias;
    Layer layer;
  };
  struct Split {  // which fields a request's candidates have of their own
    std::vector<int> own_ids, own_numbers;
    std::vector<Block> own_blocks, shared_blocks;
    int64_t own_width = 0;
  };
  void Prepare(const shared::SpaceReader& reader);
  bool Divide(const RankBody& body, Split* split) const;
  void Shared(const shared::SpaceReader& reader, const RankBody& body, const Split& split);
  void Own(const shared::SpaceReader& reader, const RankBody& body, const Split& split, int64_t rows_before);
  double Number(const FieldSpec& field, double value) const;
  bool IdOf(const FieldSpec& field, const RankBody& body, int64_t row, int64_t* id) const;

  FieldPlan plan_;
  int64_t factor_at_, factor_dim_;
  bool packed_ = false;
  int64_t packed_version_ = -1;
  std::vector<Packed> layers_;
  const float* dense_ = nullptr;
  // Of one request.
  std::vector<float> row_, shared_x_, shared_sum_, shared_out_, own_sum_;
  float shared_first_ = 0.0f, shared_square_ = 0.0f;
  std::vector<int64_t> wanted_;
  std::vector<float> rows_;
  // Of one call.
  std::vector<float> x_, hidden_, next_, logits_;
};

}  // namespace headrace::score
