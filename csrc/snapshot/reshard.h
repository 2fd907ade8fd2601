// Reshard: the table files of some shards become those of others: N -> M, for any numbers of shards.
//
// Ids belong to 4096 buckets, and bucket b to shard b * N / 4096 of N. What belongs to an id or a bucket
// moves as it is: rows, slots, event times, frequencies, waiting counts, sketch parts. What belongs to a
// shard's own clock cannot: the targets begin at the largest mark of the sources with no history before it
// (floor = mark, rows' marks = mark, no removals), so whoever follows changes starts from a full read.
// Counters (admitted, filtered, evicted) are summed and go to shard 0; newest and halvings are the largest.
//
// Thread safety: any number of calls, on different targets.
// Invariants:
//   1. Files that Reshard wrote for N shards are, byte for byte, written again by N -> M -> N.
//   2. All targets are whole and flushed before the first takes its place, and all sources were read to their
//   end and
//      found right. A failure before that leaves every earlier file; only one during the renames themselves
//      (or a kill there) can leave some targets in place and others not.
// Cost: one pass over the sources, one over the targets; memory for one stripe of all sources twice.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "snapshot/file_format.h"
#include "table/status.h"

namespace headrace {

struct ReshardTarget {
  std::string path;
  int32_t shard = 0;
  int32_t shards = 1;
};

struct ReshardedFile {
  uint64_t bytes = 0;
  uint64_t digest = 0;
  uint64_t mark = 0;
  uint64_t rows = 0;
};

// Why a re-sharding was refused, and by which file. source: place among the sources, or -1; file: place in
// its chain.
struct ReshardProblem {
  int64_t source = -1;
  int64_t file = 0;
  int64_t target = -1;
};

// Each source is a full file and the increments that continue it. Targets may be some of the shards or all;
// they have the header of the first source. kInvalid: sources that do not hold every bucket exactly once
// (detail: the first bucket that none or several hold), or rows of another layout (problem->source), or a
// target that is no shard (problem->target). Else the codes of ChainReader and TableFileWriter. REQUIRES: the
// sources are of one table (their headers say so to who wrote them).
Status Reshard(const std::vector<std::vector<std::string>>& sources,
               const std::vector<ReshardTarget>& targets, std::vector<ReshardedFile>* files,
               ReshardProblem* problem);

}  // namespace headrace
