#include "snapshot/chain.h"

#include <algorithm>
#include <utility>

#include "snapshot/merge.h"
#include "table/guarded.h"

namespace headrace {
namespace {

bool Continues(const TableFileReader& file, const TableFileReader& before) {
  return file.layout().incremental && file.layout().SameRows(before.layout()) &&
         file.layout().since == before.numbers().mark && file.layout().parent == before.digest();
}

}  // namespace

Status ChainReader::Open(const std::vector<std::string>& paths) {
  return Guarded([&]() -> Status {
    if (!files_.empty() || paths.empty()) return {Code::kInvalid, 0};
    for (where_ = 0; where_ < paths.size(); ++where_) {
      files_.push_back(std::make_unique<TableFileReader>());
      TableFileReader& file = *files_.back();
      if (const Status status = file.Open(paths[where_]); !status.ok()) return status;
      const bool fits = where_ == 0 ? !file.layout().incremental : Continues(file, *files_[where_ - 1]);
      if (!fits) return {Code::kInvalid, static_cast<int64_t>(where_)};
    }
    where_ = 0;
    layout_ = files_.front()->layout();
    numbers_ = files_.back()->numbers();
    return {};
  });
}

void ChainReader::Give(bool times, bool marks, bool frequencies) {
  if (!marks || !layout_.has_marks) numbers_.floor = numbers_.mark;
  layout_.has_times = times;
  layout_.has_marks = marks;
  layout_.has_frequencies = frequencies;
}

void ChainReader::FitColumns(Block* out) const {
  const size_t rows = out->ids.size();
  if (out->times.size() != rows || !layout_.has_times) out->times.assign(layout_.has_times ? rows : 0, 0);
  if (out->frequencies.size() != rows || !layout_.has_frequencies) {
    out->frequencies.assign(layout_.has_frequencies ? rows : 0, 0);
  }
  if (out->marks.size() != rows || !layout_.has_marks) {
    out->marks.assign(layout_.has_marks ? rows : 0,
                      std::max<int64_t>(static_cast<int64_t>(numbers_.mark), 1));
    out->removed_ids.clear();
    out->removed_marks.clear();
  }
}

Status ChainReader::Next(Block* out, bool* done) {
  *done = false;
  if (files_.empty()) return {Code::kInvalid, 0};
  return Guarded([&] { return NextMerged(out, done); });
}

Status ChainReader::NextMerged(Block* out, bool* done) {
  where_ = 0;
  Status status = files_[0]->Next(out, done);
  if (!status.ok()) return status;
  for (where_ = 1; status.ok() && where_ < files_.size(); ++where_) {
    bool ended = false;
    TableFileReader& file = *files_[where_];
    status = file.Next(&increment_, &ended);
    if (!status.ok()) return status;
    if (ended) continue;
    const int64_t halvings = file.numbers().halvings - files_[where_ - 1]->numbers().halvings;
    if (!Fold(files_[0]->layout(), *out, increment_, file.layout().whole_pending, halvings,
              file.numbers().floor, &folded_)) {
      *done = false;
      return {Code::kCorrupt, 0};
    }
    std::swap(*out, folded_);
  }
  if (!status.ok()) return status;
  where_ = 0;
  if (!*done) FitColumns(out);
  return {};
}

Status ChainReader::Close(Numbers* out) {
  if (files_.empty()) return {Code::kInvalid, 0};
  for (const auto& file : files_) {
    if (const Status status = file->Close(out); !status.ok()) return status;
  }
  *out = numbers_;
  return {};
}

}  // namespace headrace
