// What is done with blocks as they stand: rows copied from one to another, and an increment folded into what
// it continues.
//
// Thread safety: pure functions. They may throw std::bad_alloc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "snapshot/file_format.h"

namespace headrace {

// Empties a block and makes it one of `stripe`; its memory is kept.
void ClearBlock(int32_t stripe, Block* block);

// Appends row or waiting id number `place` of a block to another.
void AppendRow(const Layout& layout, const Block& from, size_t place, Block* to);
void AppendWaiting(const Block& from, size_t place, Block* to);

// Writes to *out the block that `older`, of a full file, becomes by an increment.
// `halvings`: how often frequencies were halved in between. `floor`: of the increment; removals up to it go,
// and marks of rows below it rise to it (to 1 at least), as no change up to it is told apart any more. False
// when the two cannot be of one table. REQUIRES: both are sound, of one stripe; out is neither of them. Cost:
// O(rows of both); about 20 ns a row.
bool Fold(const Layout& layout, const Block& older, const Block& increment, bool whole_pending,
          int64_t halvings, uint64_t floor, Block* out);

}  // namespace headrace
