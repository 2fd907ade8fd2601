#include "snapshot/file_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

#include "snapshot/crc32c.h"
#include "table/guarded.h"

namespace headrace {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 18;  // summed while it is in the cache

// The bytes of a block's content; false when they are more than `room` (counts may be anything).
bool ContentBytes(const Layout& layout, const BlockHead& head, uint64_t room, uint64_t* bytes) {
  uint64_t total = 0;
  const auto add = [&](uint64_t count, uint64_t each) {
    if (count > (room - total) / each) return false;
    total += count * each;
    return true;
  };
  const bool fits = add(head.rows, static_cast<uint64_t>(layout.BytesPerRow())) && add(head.pending, 24) &&
                    add(head.removed, 16) && add(head.forgotten, 8) && add(head.sketch, 1);
  *bytes = total;
  return fits;
}

// Never takes more memory than the values need, so that all of a block fits in the length of its file.
template <typename T>
void Fit(uint64_t count, std::vector<T>* column) {
  if (column->capacity() < count) std::vector<T>().swap(*column);
  column->resize(static_cast<size_t>(count));
}

void Shape(const Layout& layout, const BlockHead& head, Block* block) {
  block->stripe = head.stripe;
  Fit(head.rows, &block->ids);
  Fit(layout.has_times ? head.rows : 0, &block->times);
  Fit(layout.has_marks ? head.rows : 0, &block->marks);
  Fit(layout.has_frequencies ? head.rows : 0, &block->frequencies);
  Fit(head.rows * static_cast<uint64_t>(layout.row_bytes), &block->rows);
  Fit(head.rows * static_cast<uint64_t>(layout.slots), &block->slots);
  for (auto* column : {&block->pending_ids, &block->pending_counts, &block->pending_times})
    Fit(head.pending, column);
  Fit(head.removed, &block->removed_ids);
  Fit(head.removed, &block->removed_marks);
  Fit(head.forgotten, &block->forgotten_ids);
  Fit(head.sketch, &block->sketch);
}

}  // namespace

TableFileReader::~TableFileReader() {
  if (file_ >= 0) close(file_);
}

Status TableFileReader::Open(const std::string& path) {
  if (opened_) return {Code::kInvalid, 0};
  opened_ = true;
  file_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not hold us up
  struct stat facts{};
  if (file_ < 0 || fstat(file_, &facts) != 0) return {Code::kIo, errno};
  if (!S_ISREG(facts.st_mode)) return {Code::kIo, S_ISDIR(facts.st_mode) ? EISDIR : EINVAL};
  length_ = static_cast<uint64_t>(facts.st_size);
#ifdef __linux__
  posix_fadvise(file_, 0, 0, POSIX_FADV_SEQUENTIAL);
#endif
  return ReadEnds();
}

Status TableFileReader::Open(std::span<const std::byte> bytes) {
  if (opened_) return {Code::kInvalid, 0};
  opened_ = true;
  memory_ = bytes.data();
  length_ = bytes.size();
  return ReadEnds();
}

Status TableFileReader::ReadEnds() {
  const Status status = Guarded([&]() -> Status {
    if constexpr (std::endian::native != std::endian::little) return {Code::kInvalid, 0};
    if (length_ < kPrefixBytes + kChecksumBytes + kTailBytes) return Corrupt(length_);
    std::byte prefix_bytes[kPrefixBytes], tail[kTailBytes];
    Prefix prefix;
    if (const Status read = Read(0, prefix_bytes, sizeof prefix_bytes); !read.ok()) return read;
    if (!ReadPrefix(prefix_bytes, &prefix)) return Corrupt(0);
    end_ = length_ - kTailBytes;
    if (prefix.header_bytes > end_ - kPrefixBytes - kChecksumBytes) return Corrupt(16);
    header_.resize(prefix.header_bytes);
    uint32_t sum = 0;
    if (const Status read = Read(kPrefixBytes, header_.data(), header_.size()); !read.ok()) return read;
    at_ = kPrefixBytes + header_.size() + kChecksumBytes;
    if (const Status read = Read(at_ - kChecksumBytes, &sum, sizeof sum); !read.ok()) return read;
    if (sum != Crc32c(header_.data(), header_.size(), Crc32c(prefix_bytes, sizeof prefix_bytes))) {
      return Corrupt(at_ - kChecksumBytes);
    }
    digest_.Add(sum);
    layout_ = prefix.layout;
    if (const Status read = Read(end_, tail, sizeof tail); !read.ok()) return read;
    if (std::memcmp(tail + kFooterBytes + kChecksumBytes, kEnd.data(), kEnd.size()) != 0) {
      return Corrupt(length_ - kEndBytes);
    }
    std::memcpy(&sum, tail + kFooterBytes, sizeof sum);
    if (sum != Crc32c(tail, kFooterBytes)) return Corrupt(end_ + kFooterBytes);
    footer_ = ReadFooter(tail);
    if (footer_.length != length_ || !NumbersFit(layout_, footer_.numbers)) return Corrupt(end_);
    return {};
  });
  failed_ = !status.ok();
  return status;
}

Status TableFileReader::Next(Block* out, bool* done) {
  *done = false;
  if (!opened_ || failed_) return {Code::kInvalid, 0};
  if (stripe_ == kStripes) {
    const Status status = CheckEnd();
    failed_ = !status.ok();
    *done = status.ok();
    return status;
  }
  const Status status = Guarded([&] { return ReadBlock(out); });
  failed_ = !status.ok();
  return status;
}

Status TableFileReader::ReadBlock(Block* out) {
  constexpr uint64_t kLeast = kBlockHeadBytes + 2 * kChecksumBytes;
  const uint64_t start = at_;
  if (end_ - at_ < kLeast) return Corrupt(start);
  std::byte head_bytes[kBlockHeadBytes + kChecksumBytes];
  if (const Status read = Read(at_, head_bytes, sizeof head_bytes); !read.ok()) return read;
  uint32_t head_sum = 0, sum = 0, said = 0;
  std::memcpy(&head_sum, head_bytes + kBlockHeadBytes, sizeof head_sum);
  BlockHead head;
  if (head_sum != Crc32c(head_bytes, kBlockHeadBytes) || !ReadBlockHead(head_bytes, &head))
    return Corrupt(start);
  uint64_t content = 0;
  if (head.stripe != stripe_ || !ContentBytes(layout_, head, end_ - at_ - kLeast, &content))
    return Corrupt(start);
  at_ += sizeof head_bytes;
  Shape(layout_, head, out);
  Status status;
  VisitColumns(*out, [&](void* data, size_t bytes) {
    for (size_t done = 0; done < bytes && status.ok(); done += kPieceBytes) {
      const size_t piece = bytes - done < kPieceBytes ? bytes - done : kPieceBytes;
      auto* place = static_cast<std::byte*>(data) + done;
      status = Read(at_, place, piece);
      if (status.ok()) sum = Crc32c(place, piece, sum);
      at_ += piece;
    }
    return status.ok();
  });
  if (status.ok()) status = Read(at_, &said, sizeof said);
  if (!status.ok()) return status;
  if (sum != said) return Corrupt(at_);
  at_ += sizeof said;
  MarkRange rows, removed;
  if (!HasShape(layout_, *out) || !IsSound(layout_, *out, &rows, &removed) ||
      !MarksFit(layout_, footer_.numbers, rows, removed)) {
    return Corrupt(start);
  }
  if (!layout_.incremental || head.sketch > 0) {
    if (sketch_bytes_ >= 0 && static_cast<uint64_t>(sketch_bytes_) != head.sketch) return Corrupt(start);
    sketch_bytes_ = static_cast<int64_t>(head.sketch);
  }
  totals_.rows += head.rows;
  totals_.pending += head.pending;
  totals_.removed += head.removed;
  totals_.forgotten += head.forgotten;
  digest_.Add(uint64_t{head_sum} << 32 | sum);
  ++stripe_;
  return {};
}

Status TableFileReader::CheckEnd() const {
  if (at_ != end_) return Corrupt(at_);
  Digest digest = digest_;
  AddNumbers(footer_.numbers, footer_.totals, &digest);
  if (totals_ != footer_.totals || digest.value() != footer_.digest) return Corrupt(end_);
  return {};
}

Status TableFileReader::Close(Numbers* out) {
  if (stripe_ != kStripes || failed_) return {Code::kInvalid, 0};
  *out = footer_.numbers;
  if (file_ >= 0) close(file_);
  file_ = -1;
  return {};
}

Status TableFileReader::Read(uint64_t at, void* out, size_t bytes) const {
  if (at > length_ || bytes > length_ - at) return Corrupt(at);
  if (file_ < 0) {
    if (bytes > 0) std::memcpy(out, memory_ + at, bytes);
    return {};
  }
  auto* place = static_cast<std::byte*>(out);
  while (bytes > 0) {
    const ssize_t count = pread(file_, place, bytes, static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return {Code::kIo, errno};
    if (count == 0) return Corrupt(at);  // somebody cut the file while it was read
    place += count;
    at += static_cast<uint64_t>(count);
    bytes -= static_cast<size_t>(count);
  }
  return {};
}

}  // namespace headrace
