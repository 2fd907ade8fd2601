// TableSpec: what a table is made of. Made by `headrace/store/table.py` from a TableConfig.
//
// Thread safety: plain data.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/tier.h"
#include "rules/kernels.h"
#include "rules/row_rule.h"
#include "table/admission.h"
#include "table/initial.h"

namespace headrace {

enum class Victims : int32_t { kOldest = 0, kRarest = 1 };  // LRU and LFU

struct TableSpec {
  int64_t dim = 0;
  RowRule rule;
  InitialRow init;
  Admission admission;
  std::vector<Clip> clips;  // row transforms with a native form, in order
  float lost = 0.0f;        // part of a row, times the rate, that each update takes which the row misses
  Precision precision = Precision::kFloat32;
  bool serving = false;  // no slots, no admission, no change history, no Update
  bool times = true;     // event times are kept
  bool history = true;   // changes are kept
  Victims victims = Victims::kRarest;
  int64_t ttl_us = -1;         // rows untouched for longer are evicted first; -1: none expires
  int64_t capacity = -1;       // rows at most; -1: as many as come
  int64_t pending_limit = -1;  // ids that may wait for admission; -1: all
  int64_t removal_limit = -1;  // removals kept; -1: all
  int64_t capture_limit = -1;  // bytes a capture may keep; -1: as many as it takes
  TierSpec tier;               // where rows go that memory has no room for

  // Whether a row has one slot more, the last: the update in which it last learned, modulo 2^24 and from 1; 0
  // before the first.
  bool Paced() const { return rule.Paced() || lost != 0.0f; }
};

}  // namespace headrace
