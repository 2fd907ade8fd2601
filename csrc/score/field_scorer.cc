#include "score/field_scorer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace headrace::score {
namespace {

constexpr int64_t kChunkRows = 512;  // hidden values of so many rows stay in the second cache

}  // namespace

FieldScorer::FieldScorer(FieldPlan plan)
    : plan_(std::move(plan)), factor_at_(plan_.first_order ? 1 : 0), factor_dim_(plan_.dim - factor_at_) {
  layers_.resize(plan_.deep.size());
}

// Packs the weights of a version that was not scored with yet.
void FieldScorer::Prepare(const shared::SpaceReader& reader) {
  dense_ = reinterpret_cast<const float*>(reader.dense());
  if (packed_ && packed_version_ == reader.version()) return;
  for (size_t l = 0; l + 1 < plan_.deep.size(); ++l) {
    const DenseLayer& from = plan_.deep[l];
    Packed& to = layers_[l];
    const int64_t outputs = Padded(from.outputs);
    to.weights.resize(static_cast<size_t>(from.inputs * outputs));
    to.bias.assign(static_cast<size_t>(outputs), 0.0f);
    Pack(dense_ + from.weight_at, from.inputs, from.outputs, to.weights.data());
    std::copy_n(dense_ + from.bias_at, from.outputs, to.bias.begin());
    to.layer = {to.weights.data(), from.inputs, outputs};
  }
  packed_ = true;
  packed_version_ = reader.version();
}

// Finds out what is each candidate's own; false if a value is missing.
bool FieldScorer::Divide(const RankBody& body, Split* split) const {
  const int64_t count = static_cast<int64_t>(plan_.ids.size());
  const auto add = [](std::vector<Block>& blocks, int64_t x, int64_t weight, int64_t width) {
    if (!blocks.empty() && blocks.back().x_at + blocks.back().count == x &&
        blocks.back().weight_at + blocks.back().count == weight) {
      blocks.back().count += width;
    } else {
      blocks.push_back({x, weight, width});
    }
  };
  const auto from = [&](const FieldSpec& field) {
    return field.column < 0 ? Column::From::kNowhere : body.columns[static_cast<size_t>(field.column)].from;
  };
  for (int64_t f = 0; f < count; ++f) {
    const FieldSpec& field = plan_.ids[static_cast<size_t>(f)];
    const Column::From where = from(field);
    if (where == Column::From::kNowhere && !field.constant && !field.optional) return false;
    if (where == Column::From::kOwn) {
      split->own_ids.push_back(static_cast<int>(f));
      add(split->own_blocks, split->own_width, f * factor_dim_, factor_dim_);
      split->own_width += factor_dim_;
    } else {
      add(split->shared_blocks, f * factor_dim_, f * factor_dim_, factor_dim_);
    }
  }
  for (size_t n = 0; n < plan_.numbers.size(); ++n) {
    const FieldSpec& field = plan_.numbers[n];
    const Column::From where = from(field);
    if (where == Column::From::kNowhere && !field.optional) return false;
    const int64_t at = count * factor_dim_ + static_cast<int64_t>(n);
    if (where == Column::From::kOwn) {
      split->own_numbers.push_back(static_cast<int>(n));
      add(split->own_blocks, split->own_width, at, 1);
      split->own_width += 1;
    } else {
      add(split->shared_blocks, at, at, 1);
    }
  }
  return true;
}

double FieldScorer::Number(const FieldSpec& field, double value) const {
  if (field.log1p) value = std::copysign(std::log1p(std::fabs(value)), value);
  return (value - field.mean) / field.std;
}

bool FieldScorer::IdOf(const FieldSpec& field, const RankBody& body, int64_t row, int64_t* id) const {
  if (field.column >= 0) {
    const Column& column = body.columns[static_cast<size_t>(field.column)];
    if (column.from != Column::From::kNowhere) {
      *id = column.ids[static_cast<size_t>(column.from == Column::From::kOwn ? row : 0)];
      return true;
    }
  }
  *id = field.id;
  return field.constant;
}

// The request's part: shared_sum_, shared_first_, shared_square_, and shared_out_, the first layer's start.
void FieldScorer::Shared(const shared::SpaceReader& reader, const RankBody& body, const Split& split) {
  const auto k = static_cast<size_t>(factor_dim_);
  const size_t inputs = plan_.ids.size() * k + plan_.numbers.size();
  shared_x_.assign(inputs, 0.0f);
  shared_sum_.assign(k, 0.0f);
  row_.resize(static_cast<size_t>(plan_.dim));
  shared_first_ = plan_.bias_at >= 0 ? dense_[plan_.bias_at] : 0.0f;
  shared_square_ = 0.0f;
  const auto square = [&](const float* factor, float value) {
    if (!plan_.interactions) return;
    for (size_t j = 0; j < k; ++j) {
      const float part = factor[j] * value;
      shared_sum_[j] += part;
      shared_square_ += part * part;
    }
  };
  for (const FieldSpec& field : plan_.ids) {
    int64_t id = 0;
    if (IdOf(field, body, 0, &id)) reader.Prefetch(field.table, id);
  }
  for (size_t f = 0; f < plan_.ids.size(); ++f) {
    const FieldSpec& field = plan_.ids[f];
    if (field.column >= 0 && body.columns[static_cast<size_t>(field.column)].from == Column::From::kOwn)
      continue;
    int64_t id = 0;
    if (!IdOf(field, body, 0, &id)) continue;
    reader.Read(field.table, {&id, 1}, row_.data(), plan_.dim);
    if (plan_.first_order) shared_first_ += row_[0];
    std::memcpy(shared_x_.data() + f * k, row_.data() + factor_at_, k * sizeof(float));
    square(row_.data() + factor_at_, 1.0f);
  }
  for (size_t n = 0; n < plan_.numbers.size(); ++n) {
    const FieldSpec& field = plan_.numbers[n];
    const Column* column = field.column >= 0 ? &body.columns[static_cast<size_t>(field.column)] : nullptr;
    if (column != nullptr && column->from == Column::From::kOwn) continue;
    const bool there = column != nullptr && column->from == Column::From::kShared;
    const auto value = static_cast<float>(Number(field, there ? column->numbers[0] : field.absent));
    if (plan_.number_weights_at >= 0)
      shared_first_ += value * dense_[plan_.number_weights_at + static_cast<int64_t>(n)];
    if (plan_.number_factors_at >= 0)
      square(dense_ + plan_.number_factors_at + static_cast<int64_t>(n * k), value);
    shared_x_[plan_.ids.size() * k + n] = value;
  }
  if (plan_.deep.size() > 1) {
    shared_out_.resize(static_cast<size_t>(layers_[0].layer.outputs));
    ActiveLayers().run(layers_[0].layer, split.shared_blocks.data(),
                       static_cast<int>(split.shared_blocks.size()), shared_x_.data(),
                       static_cast<int64_t>(inputs), 1, layers_[0].bias.data(), false, shared_out_.data());
  }
}

// The candidates' part: logits_ without the deep network, and x_, what of the first layer's input is theirs.
void FieldScorer::Own(const shared::SpaceReader& reader, const RankBody& body, const Split& split,
                      int64_t rows_before) {
  const auto k = static_cast<size_t>(factor_dim_), dim = static_cast<size_t>(plan_.dim);
  const auto width = static_cast<size_t>(split.own_width), rows = static_cast<size_t>(body.rows);
  x_.resize(rows * width);
  own_sum_.assign(rows * (k + 2), 0.0f);  // for every row: sums of factors, their squares, first order
  rows_.resize(rows * dim);
  size_t at = 0;
  const auto square = [&](size_t row, const float* factor, float value) {
    if (!plan_.interactions) return;
    float* sums = own_sum_.data() + row * (k + 2);
    float squares = sums[k];
    for (size_t j = 0; j < k; ++j) {
      const float part = factor[j] * value;
      sums[j] += part;
      squares += part * part;
    }
    sums[k] = squares;
  };
  for (const int f : split.own_ids) {
    const FieldSpec& field = plan_.ids[static_cast<size_t>(f)];
    const std::vector<int64_t>& ids = body.columns[static_cast<size_t>(field.column)].ids;
    reader.Read(field.table, ids, rows_.data(), plan_.dim);
    for (size_t row = 0; row < rows; ++row) {
      const float* from = rows_.data() + row * dim;
      std::memcpy(x_.data() + row * width + at, from + factor_at_, k * sizeof(float));
      if (plan_.first_order) own_sum_[row * (k + 2) + k + 1] += from[0];
      square(row, from + factor_at_, 1.0f);
    }
    at += k;
  }
  for (const int n : split.own_numbers) {
    const FieldSpec& field = plan_.numbers[static_cast<size_t>(n)];
    const std::vector<double>& values = body.columns[static_cast<size_t>(field.column)].numbers;
    for (size_t row = 0; row < rows; ++row) {
      const auto value = static_cast<float>(Number(field, values[row]));
      x_[row * width + at] = value;
      if (plan_.number_weights_at >= 0)
        own_sum_[row * (k + 2) + k + 1] += value * dense_[plan_.number_weights_at + n];
      if (plan_.number_factors_at >= 0)
        square(row, dense_ + plan_.number_factors_at + n * factor_dim_, value);
    }
    ++at;
  }
  for (size_t row = 0; row < rows; ++row) {
    const float* sums = own_sum_.data() + row * (k + 2);
    float logit = shared_first_ + sums[k + 1];
    if (plan_.interactions) {
      float all = 0.0f;
      for (size_t j = 0; j < k; ++j) {
        const float sum = shared_sum_[j] + sums[j];
        all += sum * sum;
      }
      logit += 0.5f * (all - (shared_square_ + sums[k]));
    }
    logits_[static_cast<size_t>(rows_before) + row] = logit;
  }
}

Status FieldScorer::Score(shared::SpaceReader& reader, std::span<RankBody* const> bodies, int64_t* version) {
  if (const Status entered = reader.Enter(); !entered.ok()) return entered;
  struct Exit {
    shared::SpaceReader& reader;
    ~Exit() { reader.Leave(); }
  } exit{reader};
  *version = reader.version();
  for (const FieldSpec& field : plan_.ids) {
    if (reader.dim(field.table) != plan_.dim) return {Code::kInvalid, -1};
  }
  Prepare(reader);
  const Layers& layers = ActiveLayers();
  for (size_t first = 0; first < bodies.size();) {
    size_t last = first;
    int64_t rows = 0;
    do {
      rows += bodies[last++]->rows;
    } while (last < bodies.size() && rows + bodies[last]->rows <= kChunkRows);
    logits_.resize(static_cast<size_t>(rows));
    const int64_t outputs = plan_.deep.size() > 1 ? layers_[0].layer.outputs : 0;
    hidden_.resize(static_cast<size_t>(rows * outputs));
    int64_t before = 0;
    for (size_t b = first; b < last; ++b) {
      Split split;
      if (!Divide(*bodies[b], &split)) return {Code::kInvalid, static_cast<int64_t>(b)};
      Shared(reader, *bodies[b], split);
      Own(reader, *bodies[b], split, before);
      if (outputs != 0) {
        layers.run(layers_[0].layer, split.own_blocks.data(), static_cast<int>(split.own_blocks.size()),
                   x_.data(), split.own_width, bodies[b]->rows, shared_out_.data(), true,
                   hidden_.data() + before * outputs);
      }
      before += bodies[b]->rows;
    }
    int64_t width = outputs;
    for (size_t l = 1; l + 1 < plan_.deep.size(); ++l) {
      const Layer& layer = layers_[l].layer;
      const Block block = {0, 0, plan_.deep[l].inputs};
      next_.resize(static_cast<size_t>(rows * layer.outputs));
      layers.run(layer, &block, 1, hidden_.data(), width, rows, layers_[l].bias.data(), true, next_.data());
      hidden_.swap(next_);
      width = layer.outputs;
    }
    if (!plan_.deep.empty()) {
      const DenseLayer& output = plan_.deep.back();
      const float* weights = dense_ + output.weight_at;
      const float bias = dense_[output.bias_at];
      for (int64_t row = 0; row < rows; ++row) {
        const float* values = hidden_.data() + row * width;
        float sums[8] = {};
        int64_t j = 0;
        for (; j + 8 <= output.inputs; j += 8) {
          for (int lane = 0; lane < 8; ++lane) sums[lane] += values[j + lane] * weights[j + lane];
        }
        for (; j < output.inputs; ++j) sums[0] += values[j] * weights[j];
        const float total =
            ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
        logits_[static_cast<size_t>(row)] += bias + total;
      }
    }
    int64_t row = 0;
    for (size_t b = first; b < last; ++b) {
      RankBody& body = *bodies[b];
      body.scores.resize(static_cast<size_t>(body.rows));
      for (float& score : body.scores) {
        const double logit = logits_[static_cast<size_t>(row++)];
        if (!std::isfinite(logit)) return {Code::kNotFinite, static_cast<int64_t>(b)};
        const double raw = 1.0 / (1.0 + std::exp(-logit));
        const double kept = raw * plan_.negative_rate;
        score = static_cast<float>(plan_.negative_rate == 1.0 ? raw : kept / (kept + (1.0 - raw)));
      }
    }
    first = last;
  }
  return {};
}

}  // namespace headrace::score
