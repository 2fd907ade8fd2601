#include "shared/space_writer.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>
#include <thread>

namespace headrace::shared {

Status SpaceWriter::Create(const std::string& folder, std::vector<Shape> tables, size_t dense_bytes) {
  if (tables.size() > kMaxTables) return {Code::kFull, kMaxTables};
  folder_ = folder;
  dense_bytes_ = dense_bytes;
  dense_stride_ = (std::max<size_t>(dense_bytes, 1) + kPage - 1) / kPage * kPage;
  if (const Status made = dense_file_.Create(folder + "/dense", 2 * dense_stride_); !made.ok()) return made;
  if (const Status there = dense_file_.Reserve(0, 2 * dense_stride_); !there.ok()) return there;
  if (const Status made = control_file_.Create(folder + "/control", sizeof(Control)); !made.ok()) return made;
  if (const Status there = control_file_.Reserve(0, sizeof(Control)); !there.ok()) return there;
  control_ = new (control_file_.data()) Control;
  control_->tables = static_cast<uint32_t>(tables.size());
  control_->dense_bytes = dense_bytes;
  parts_.clear();
  for (const Shape& shape : tables) parts_.push_back({shape, {}, {}, 0, 0});
  return {};
}

std::string SpaceWriter::Path(int table, uint64_t generation) const {
  return folder_ + "/table-" + std::to_string(table) + "-" + std::to_string(generation);
}

uint64_t SpaceWriter::bytes(int table) const {
  const Part& part = parts_[static_cast<size_t>(table)];
  uint64_t total = part.table.is_open() ? part.table.used_bytes() : 0;
  if (part.previous.is_open()) total += part.previous.used_bytes();
  return total;
}

int SpaceWriter::Waiting(uint64_t before) const {
  for (int place = 0; place < kMaxReaders; ++place) {
    const uint64_t reads = control_->readers[place].epoch.load(std::memory_order_seq_cst);
    if (reads != 0 && reads < before) return place;
  }
  return -1;
}

bool SpaceWriter::Settle(int64_t wait_us) {
  if (settled_) return true;
  const uint64_t epoch = control_->epoch.load();
  const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(wait_us);
  for (int spins = 0; Waiting(epoch) >= 0; ++spins) {
    if (std::chrono::steady_clock::now() >= until) return false;
    if (spins < 64) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
  for (size_t table = 0; table < parts_.size(); ++table) {
    Part& part = parts_[table];
    part.table.Settle();
    if (!part.previous.is_open()) continue;
    part.previous = SharedTable();
    ::unlink(Path(static_cast<int>(table), part.previous_generation).c_str());
  }
  settled_ = true;
  return true;
}

Status SpaceWriter::Begin(bool full, int64_t wait_us) {
  if (next_ != 0) return {Code::kInvalid, 0};
  if (!Settle(wait_us)) return {Code::kBusy, Waiting(control_->epoch.load())};
  const uint64_t now = control_->epoch.load();
  next_ = now + 1;
  Side& side = this->side(next_);
  if (now == 0) {
    std::fill(std::begin(side.generation), std::end(side.generation), 0);
    std::memset(dense(), 0, dense_bytes_);
  } else {
    std::memcpy(&side, &this->side(now), sizeof(Side));
    std::memcpy(dense(), dense_file_.data() + (now & 1) * dense_stride_, dense_bytes_);
  }
  for (int table = 0; table < tables(); ++table) {
    if (!full && parts_[static_cast<size_t>(table)].table.is_open()) continue;
    if (const Status moved = Move(table, 0, false); !moved.ok()) {
      Abort();
      return moved;
    }
  }
  return {};
}

// Lets a table go on in a file of its own, with room for so many more rows; `copy`: with the rows it has.
Status SpaceWriter::Move(int table, int64_t rows, bool copy) {
  Part& part = parts_[static_cast<size_t>(table)];
  const int64_t held = copy ? part.table.rows() : 0;
  SharedTable fresh;
  const uint64_t generation = ++generations_;
  const std::string path = Path(table, generation);
  const int64_t room = std::max<int64_t>((held + rows) * 5 / 4 + 64, copy ? held * 3 / 2 : 0);
  Status status = fresh.Create(path, part.shape, room);
  if (status.ok() && copy) {
    part.table.Each(next_, [&](int64_t id, const std::byte* row) {
      if (status.ok()) status = fresh.Fill(id, row);
    });
  }
  if (!status.ok()) {
    ::unlink(path.c_str());
    return status;
  }
  if (!part.table.is_open() || part.previous.is_open()) {
    // Nobody has read the file that is left: it was made for this epoch.
    if (part.table.is_open()) ::unlink(Path(table, part.generation).c_str());
  } else {
    part.previous = std::move(part.table);
    part.previous_generation = part.generation;
  }
  part.table = std::move(fresh);
  part.generation = generation;
  return {};
}

Status SpaceWriter::Put(int table, std::span<const int64_t> ids, std::span<const float> rows) {
  if (next_ == 0 || table < 0 || table >= tables()) return {Code::kInvalid, table};
  Part& part = parts_[static_cast<size_t>(table)];
  const auto count = static_cast<int64_t>(ids.size());
  if (!part.table.HasRoom(count)) {
    if (const Status moved = Move(table, count, true); !moved.ok()) return moved;
  }
  const auto dim = static_cast<size_t>(part.shape.dim);
  for (size_t i = 0; i < ids.size(); ++i) {
    const Status put = part.table.Put(ids[i], rows.data() + i * dim, next_);
    if (!put.ok()) return put;
  }
  return {};
}

Status SpaceWriter::Remove(int table, std::span<const int64_t> ids) {
  if (next_ == 0 || table < 0 || table >= tables()) return {Code::kInvalid, table};
  for (const int64_t id : ids) parts_[static_cast<size_t>(table)].table.Remove(id, next_);
  return {};
}

std::byte* SpaceWriter::dense() {
  return dense_file_.data() + (next_ & 1) * dense_stride_;
}

Status SpaceWriter::Commit(int64_t version, int64_t parent) {
  if (next_ == 0) return {Code::kInvalid, 0};
  Side& side = this->side(next_);
  side.version = version;
  side.parent = parent;
  for (size_t table = 0; table < parts_.size(); ++table) {
    side.generation[table] = parts_[table].generation;
    side.rows[table] = parts_[table].table.rows();
  }
  control_->epoch.store(next_, std::memory_order_seq_cst);
  next_ = 0;
  settled_ = false;
  return {};
}

void SpaceWriter::Abort() {
  if (next_ == 0) return;
  for (int table = 0; table < tables(); ++table) {
    Part& part = parts_[static_cast<size_t>(table)];
    if (part.previous.is_open() || next_ == 1) {
      if (part.table.is_open()) ::unlink(Path(table, part.generation).c_str());
      part.table = std::move(part.previous);
      part.generation = part.previous_generation;
      part.previous = SharedTable();
    }
    if (part.table.is_open()) part.table.Undo();
  }
  next_ = 0;
}

void SpaceWriter::Release(int first, int last) {
  for (int place = std::max(first, 0); place < std::min(last, kMaxReaders); ++place) {
    control_->readers[place].epoch.store(0, std::memory_order_seq_cst);
  }
}

}  // namespace headrace::shared
