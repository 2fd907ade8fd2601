// BlockSource: whatever gives a table's content stripe by stripe: a table at one mark, or files.
//
// Thread safety: used by one thread at a time, not always the one that made it.
// Invariants:
//   1. All blocks and the numbers are of one mark, that of the moment the source was made.
//   2. Destroying a source at any time releases what it holds (a table's writers may wait for it).
#pragma once

#include "snapshot/block.h"
#include "table/status.h"

namespace headrace {

class BlockSource {
 public:
  virtual ~BlockSource() = default;

  // Overwrites *out with the next stripe (0, 1, ... 255), or sets *done, leaving *out empty or as it was. May
  // be given the same block again and again, so that its memory is reused. After a status that is not ok only
  // destruction may follow.
  virtual Status Next(Block* out, bool* done) = 0;

  // Writes the numbers, and releases the table. REQUIRES: Next has set *done.
  virtual Status Close(Numbers* out) = 0;
};

}  // namespace headrace
