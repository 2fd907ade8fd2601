#include "snapshot/reshard.h"

#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "snapshot/file_reader.h"
#include "snapshot/test_folder.h"
#include "table/check.h"

namespace headrace {
namespace {

Layout Rows() {
  Layout layout;
  layout.row_bytes = 5;
  layout.slots = 1;
  layout.has_times = layout.has_marks = layout.has_frequencies = true;
  return layout;
}

using Paths = std::vector<std::string>;

Paths Names(const TestFolder& folder, const std::string& set, int32_t shards) {
  Paths paths;
  for (int32_t shard = 0; shard < shards; ++shard)
    paths.push_back(folder.At(set + "." + std::to_string(shard)));
  return paths;
}

Status Move(const Paths& from, const Paths& to, std::vector<ReshardedFile>* files = nullptr,
            ReshardProblem* problem = nullptr) {
  std::vector<std::vector<std::string>> sources;
  for (const std::string& path : from) sources.push_back({path});
  std::vector<ReshardTarget> targets;
  for (const std::string& path : to) {
    targets.push_back({path, static_cast<int32_t>(targets.size()), static_cast<int32_t>(to.size())});
  }
  std::vector<ReshardedFile> some_files;
  ReshardProblem some_problem;
  return Reshard(sources, targets, files ? files : &some_files, problem ? problem : &some_problem);
}

// Everything of a table that moves, by id and bucket.
struct Content {
  std::map<int64_t, std::string> rows, pending;
  std::map<int32_t, std::string> sketch;
  int64_t admitted = 0, filtered = 0, evicted = 0, newest = INT64_MIN;
  bool operator==(const Content&) const = default;
};

template <typename T>
void Append(std::string* text, const T* values, size_t count = 1) {
  text->append(reinterpret_cast<const char*>(values), count * sizeof *values);
}

void Collect(const std::string& path, Content* content) {
  TableFileReader reader;
  CHECK(reader.Open(path).ok());
  Block block;
  bool done = false;
  while (reader.Next(&block, &done).ok() && !done) {
    for (size_t place = 0; place < block.ids.size(); ++place) {
      std::string& row = content->rows[block.ids[place]];
      CHECK(row.empty());
      Append(&row, &block.times[place]);
      Append(&row, &block.frequencies[place]);
      Append(&row, &block.rows[5 * place], 5);
      Append(&row, &block.slots[place]);
    }
    for (size_t place = 0; place < block.pending_ids.size(); ++place) {
      std::string& waiting = content->pending[block.pending_ids[place]];
      CHECK(waiting.empty());
      Append(&waiting, &block.pending_counts[place]);
      Append(&waiting, &block.pending_times[place]);
    }
    const size_t each = block.sketch.size() / kBucketsPerStripe;
    for (int32_t place = 0; place < kBucketsPerStripe; ++place) {
      const int32_t bucket = block.stripe * kBucketsPerStripe + place;
      std::string part;
      Append(&part, block.sketch.data() + each * static_cast<size_t>(place), each);
      if (ShardOf(bucket, reader.layout().shards) == reader.layout().shard) {
        content->sketch[bucket] = part;
      } else {
        CHECK(part == std::string(each, '\0'));
      }
    }
  }
  CHECK(done);
  content->admitted += reader.numbers().admitted;
  content->filtered += reader.numbers().filtered;
  content->evicted += reader.numbers().evicted;
  content->newest = std::max(content->newest, reader.numbers().newest);
}

Content ContentOf(const Paths& paths) {
  Content content;
  for (const std::string& path : paths) Collect(path, &content);
  return content;
}

Paths WriteShards(const TestFolder& folder, int32_t shards, int count, uint64_t seed) {
  const Paths paths = Names(folder, "source", shards);
  for (int32_t shard = 0; shard < shards; ++shard) {
    Layout layout = Rows();
    layout.shard = shard;
    layout.shards = shards;
    CHECK(WriteSample(MakeSample(seed + static_cast<uint64_t>(shard), layout, count, 48), paths[shard]).ok());
  }
  return paths;
}

void NothingIsLostAndBackIsTheSame() {
  for (const auto& [n, m] : {std::pair{1, 2}, {2, 1}, {3, 5}, {5, 3}, {4, 300}, {7, 1}, {1, 700}}) {
    const TestFolder folder;
    const Paths source = WriteShards(folder, n, 4000, static_cast<uint64_t>(100 * n));
    const Paths first = Names(folder, "first", n), away = Names(folder, "away", m),
                back = Names(folder, "back", n);
    std::vector<ReshardedFile> files;
    CHECK(Move(source, first).ok() && Move(first, away, &files).ok() && Move(away, back).ok());
    const Content content = ContentOf(source);
    CHECK(content.rows.size() > 1000 && !content.pending.empty());
    CHECK(ContentOf(away) == content);
    for (int32_t shard = 0; shard < n; ++shard) CHECK(BytesOf(first[shard]) == BytesOf(back[shard]));
    CHECK(ContentOf(back) == content);
    TableFileReader last;
    CHECK(last.Open(away.back()).ok());
    CHECK(last.digest() == files.back().digest && last.bytes() == files.back().bytes);
    CHECK(last.numbers().mark == files[0].mark && last.numbers().floor == files[0].mark);
    CHECK(last.totals().rows == files.back().rows && last.totals().removed == 0);
  }
}

void SourcesMustHoldEveryBucketOnce() {
  const TestFolder folder;
  const Paths three = WriteShards(folder, 3, 100, 1);
  const Paths target = Names(folder, "target", 2);
  const size_t before = folder.Files();
  ReshardProblem problem;
  CHECK(Move({three[0], three[1]}, target).code == Code::kInvalid);
  CHECK(Move({three[0], three[2]}, target).detail == 1366);  // the first bucket of shard 1
  CHECK(Move({three[0], three[1], three[2], three[1]}, target).detail == 1366);
  CHECK(Move({}, target).code == Code::kInvalid);
  CHECK(Move(three, {}).code == Code::kInvalid);
  Layout other = Rows();
  other.shards = 3;
  other.slots = 0;
  CHECK(WriteSample(MakeSample(1, other, 10, 48), folder.At("other")).ok());
  CHECK(Move({three[1], three[2], folder.At("other")}, target, nullptr, &problem).code == Code::kInvalid);
  CHECK(problem.source == 2);
  other.slots = 1;
  CHECK(WriteSample(MakeSample(1, other, 10, 16), folder.At("other")).ok());
  CHECK(Move({three[1], three[2], folder.At("other")}, target, nullptr, &problem).code == Code::kInvalid);
  CHECK(problem.source == 2);
  CHECK(folder.Files() == before + 1);
  // Shards of different counts fit together where no bucket is held twice.
  CHECK(Move(three, Names(folder, "six", 6)).ok());
  const Paths six = Names(folder, "six", 6);
  CHECK(Move({six[0], six[1], three[1], three[2]}, target).ok());
}

void DamageLeavesEarlierTargets() {
  const TestFolder folder;
  const Paths source = WriteShards(folder, 2, 500, 1), target = Names(folder, "target", 3);
  CHECK(Move(source, target).ok());
  const std::string before = BytesOf(target[0]);
  const size_t files = folder.Files();
  std::string bytes = BytesOf(source[1]);
  bytes[bytes.size() - kTailBytes - 3] ^= 1;
  std::ofstream(source[1], std::ios::binary) << bytes;
  std::string changed = BytesOf(source[0]);
  ReshardProblem problem;
  const Status status = Move(source, target, nullptr, &problem);
  CHECK(status.code == Code::kCorrupt && problem.source == 1 && problem.target == -1);
  CHECK(BytesOf(target[0]) == before && folder.Files() == files);
}

void TargetsMayBeSomeOfTheShards() {
  const TestFolder folder;
  const Paths source = WriteShards(folder, 2, 500, 1), all = Names(folder, "all", 3);
  CHECK(Move(source, all).ok());
  std::vector<ReshardedFile> files;
  ReshardProblem problem;
  const std::vector<std::vector<std::string>> sources = {{source[0]}, {source[1]}};
  CHECK(Reshard(sources, {{folder.At("b"), 2, 3}, {folder.At("a"), 1, 3}}, &files, &problem).ok());
  CHECK(BytesOf(folder.At("a")) == BytesOf(all[1]) && BytesOf(folder.At("b")) == BytesOf(all[2]));
  CHECK(Reshard(sources, {{folder.At("a"), 1, 3}, {folder.At("b"), 1, 3}}, &files, &problem).code ==
        Code::kInvalid);
  CHECK(problem.target == 1);
  CHECK(Reshard(sources, {{folder.At("a"), 3, 3}}, &files, &problem).code == Code::kInvalid);
  CHECK(Reshard(sources, {{folder.At("a"), 0, 3}, {folder.At("b"), 1, 2}}, &files, &problem).code ==
        Code::kInvalid);
  CHECK(Reshard(sources, {{folder.At("x/a"), 0, 3}}, &files, &problem).code == Code::kIo &&
        problem.target == 0);
}

}  // namespace
}  // namespace headrace

int main() {
  headrace::NothingIsLostAndBackIsTheSame();
  headrace::SourcesMustHoldEveryBucketOnce();
  headrace::DamageLeavesEarlierTargets();
  headrace::TargetsMayBeSomeOfTheShards();
  return headrace::ReportChecks("reshard_test");
}
