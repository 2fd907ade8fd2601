#include "snapshot/file_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "snapshot/crc32c.h"
#include "table/guarded.h"

namespace headrace {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr size_t kPieceBytes = size_t{1} << 18;       // summed and copied while it is in the cache
constexpr uint64_t kWindowBytes = uint64_t{8} << 20;  // sent to the disk at once

std::atomic<uint64_t> temporaries{0};

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string TemporaryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const size_t start = slash == std::string::npos ? 0 : slash + 1;
  return path.substr(0, start) + "." + path.substr(start) + "." + std::to_string(getpid()) + "." +
         std::to_string(temporaries.fetch_add(1)) + ".tmp";
}

Status IoError() {
  return {Code::kIo, errno};
}

bool SketchFits(const Layout& layout, size_t bytes, int64_t* so_far) {
  if (layout.incremental && bytes == 0) return true;
  if (*so_far < 0) *so_far = static_cast<int64_t>(bytes);
  return *so_far == static_cast<int64_t>(bytes);
}

}  // namespace

Status TableFileWriter::Fail(Status status) {
  Abandon();
  return status;
}

void TableFileWriter::Abandon() {
  if (file_ >= 0) close(file_);
  file_ = -1;
  if (!temporary_.empty()) unlink(temporary_.c_str());
  temporary_.clear();
  stage_ = Stage::kEnded;
}

Status TableFileWriter::Open(const std::string& path, std::string_view header, const Layout& layout) {
  return Guarded([&]() -> Status {
    if (stage_ != Stage::kNone || !layout.IsSound() || header.size() > INT32_MAX) return {Code::kInvalid, 0};
    if constexpr (std::endian::native != std::endian::little) return {Code::kInvalid, 0};
    path_ = path;
    layout_ = layout;
    buffer_.resize(kBufferBytes);
    std::string temporary;
    do {  // a name may be left over from a killed process that had our number
      temporary = TemporaryOf(path);
      file_ = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (file_ < 0 && errno == EEXIST);
    if (file_ < 0) return Fail(IoError());
    temporary_ = std::move(temporary);
    stage_ = Stage::kOpen;
    std::byte prefix[kPrefixBytes];
    WritePrefix({static_cast<uint32_t>(header.size()), layout}, prefix);
    const uint32_t sum = Crc32c(header.data(), header.size(), Crc32c(prefix, sizeof prefix));
    digest_.Add(sum);
    Status status = Write(prefix, sizeof prefix);
    if (status.ok()) status = Write(header.data(), header.size());
    if (status.ok()) status = Write(&sum, sizeof sum);
    return status.ok() ? status : Fail(status);
  });
}

Status TableFileWriter::Add(const Block& block) {
  if (stage_ != Stage::kOpen) return {Code::kInvalid, block.stripe};
  if (block.stripe != stripe_ || stripe_ >= kStripes || !HasShape(layout_, block) ||
      !IsSound(layout_, block, &rows_, &removed_) ||
      !SketchFits(layout_, block.sketch.size(), &sketch_bytes_)) {
    return Fail({Code::kInvalid, block.stripe});
  }
  ++stripe_;
  const BlockHead counts{block.ids.size(),           block.pending_ids.size(), block.removed_ids.size(),
                         block.forgotten_ids.size(), block.sketch.size(),      block.stripe};
  totals_.rows += counts.rows;
  totals_.pending += counts.pending;
  totals_.removed += counts.removed;
  totals_.forgotten += counts.forgotten;
  std::byte head[kBlockHeadBytes];
  WriteBlockHead(counts, head);
  const uint32_t head_sum = Crc32c(head, sizeof head);
  Status status = Write(head, sizeof head);
  if (status.ok()) status = Write(&head_sum, sizeof head_sum);
  uint32_t sum = 0;
  if (status.ok()) {
    VisitColumns(block, [&](const void* data, size_t bytes) {
      for (size_t at = 0; at < bytes && status.ok(); at += kPieceBytes) {
        const size_t piece = bytes - at < kPieceBytes ? bytes - at : kPieceBytes;
        const auto* start = static_cast<const std::byte*>(data) + at;
        sum = Crc32c(start, piece, sum);
        status = Write(start, piece);
      }
      return status.ok();
    });
  }
  if (status.ok()) status = Write(&sum, sizeof sum);
  digest_.Add(uint64_t{head_sum} << 32 | sum);
  return status.ok() ? status : Fail(status);
}

Status TableFileWriter::Finish(const Numbers& numbers) {
  const Status status = Seal(numbers);
  return status.ok() ? Publish() : status;
}

Status TableFileWriter::Seal(const Numbers& numbers) {
  if (stage_ != Stage::kOpen) return {Code::kInvalid, 0};
  if (stripe_ != kStripes || !NumbersFit(layout_, numbers) || !MarksFit(layout_, numbers, rows_, removed_)) {
    return Fail({Code::kInvalid, stripe_});
  }
  AddNumbers(numbers, totals_, &digest_);
  std::byte footer[kTailBytes];
  WriteFooter({numbers, totals_, written_ + kTailBytes, digest_.value()}, footer);
  const uint32_t sum = Crc32c(footer, kFooterBytes);
  std::memcpy(footer + kFooterBytes, &sum, sizeof sum);
  std::memcpy(footer + kFooterBytes + kChecksumBytes, kEnd.data(), kEnd.size());
  Status status = Write(footer, sizeof footer);
  if (status.ok()) status = Flush();
  if (!status.ok()) return Fail(status);
  if (fsync(file_) != 0) return Fail(IoError());
  const int closed = close(file_);
  file_ = -1;
  if (closed != 0) return Fail(IoError());
  stage_ = Stage::kSealed;
  std::vector<std::byte>().swap(buffer_);  // many sealed files may wait for the last
  return {};
}

Status TableFileWriter::Publish() {
  if (stage_ != Stage::kSealed) return {Code::kInvalid, 0};
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return Fail(IoError());
  temporary_.clear();
  stage_ = Stage::kEnded;
  const int folder = open(FolderOf(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return IoError();
  const Status status = fsync(folder) == 0 ? Status{} : IoError();
  close(folder);
  return status;
}

Status TableFileWriter::Write(const void* data, size_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  written_ += bytes;
  while (bytes > 0) {
    const size_t room = kBufferBytes - buffered_, piece = bytes < room ? bytes : room;
    std::memcpy(buffer_.data() + buffered_, from, piece);
    buffered_ += piece;
    from += piece;
    bytes -= piece;
    if (buffered_ == kBufferBytes) {
      if (const Status status = Flush(); !status.ok()) return status;
    }
  }
  return {};
}

Status TableFileWriter::Flush() {
  const size_t bytes = buffered_;
  buffered_ = 0;
  return WriteOut(buffer_.data(), bytes);
}

Status TableFileWriter::WriteOut(const std::byte* data, size_t bytes) {
  while (bytes > 0) {
    const ssize_t count = write(file_, data, bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return count < 0 ? IoError() : Status{Code::kIo, ENOSPC};
    data += count;
    bytes -= static_cast<size_t>(count);
    on_way_ += static_cast<uint64_t>(count);
  }
#ifdef __linux__
  // The disk works while the next blocks are gathered, instead of at the end all at once.
  if (on_way_ - started_ >= kWindowBytes) {
    sync_file_range(file_, static_cast<off_t>(started_), static_cast<off_t>(on_way_ - started_),
                    SYNC_FILE_RANGE_WRITE);
    started_ = on_way_;
  }
#endif
  return {};
}

}  // namespace headrace
