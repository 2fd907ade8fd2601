#include "cache/cold_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "cache/disk_failure.h"

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#define HEADRACE_MMAP 1
#endif

namespace headrace {
namespace {

constexpr int64_t kFirst = int64_t{1} << 20;  // segments double from here
constexpr int64_t kLargest = int64_t{256} << 20;
constexpr int64_t kUnit = int64_t{64} << 10;  // a multiple of every system's pages

[[noreturn]] void Fail(int why) {
  throw DiskFailure({Code::kIo, why});
}

}  // namespace

#ifdef HEADRACE_MMAP

ColdFile::~ColdFile() {
  for (const Segment& segment : segments_) munmap(segment.data, static_cast<size_t>(segment.bytes));
  if (fd_ >= 0) close(fd_);
}

void ColdFile::Open() {
#ifdef O_TMPFILE
  fd_ = open(folder_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd_ >= 0) return;
#endif
  std::string path = folder_ + "/cold-rows-XXXXXX";
  fd_ = mkstemp(path.data());
  if (fd_ < 0) Fail(errno);
  unlink(path.c_str());
}

// Adds a segment of at least so many bytes.
void ColdFile::Extend(int64_t least) {
  if (fd_ < 0) Open();
  int64_t wanted = segments_.empty() ? kFirst : std::min(2 * segments_.back().bytes, kLargest);
  wanted = std::max(wanted, (least + kUnit - 1) / kUnit * kUnit);
  segments_.reserve(segments_.size() + 1);
#ifdef __linux__
  const int why = posix_fallocate(fd_, bytes_, wanted);
#else
  const int why = ftruncate(fd_, bytes_ + wanted) == 0 ? 0 : errno;
#endif
  if (why != 0) Fail(why);
  void* got = mmap(nullptr, static_cast<size_t>(wanted), PROT_READ | PROT_WRITE, MAP_SHARED, fd_,
                   static_cast<off_t>(bytes_));
  if (got == MAP_FAILED) Fail(errno);
#ifdef MADV_RANDOM
  madvise(got, static_cast<size_t>(wanted),
          MADV_RANDOM);  // rows beside a cold row are no likelier than others
#endif
  segments_.push_back({static_cast<std::byte*>(got), wanted});
  bytes_ += wanted;
  used_ = 0;
}

Status ColdFile::Release() {
  if (fd_ < 0) return {};
  if (fsync(fd_) != 0) return {Code::kIo, errno};
  for (const Segment& segment : segments_)
    madvise(segment.data, static_cast<size_t>(segment.bytes), MADV_DONTNEED);
#ifdef POSIX_FADV_DONTNEED
  posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
#endif
  return {};
}

void ColdFile::Fetch(std::vector<uintptr_t>* pages) {
  std::sort(pages->begin(), pages->end());
  for (size_t first = 0; first < pages->size();) {
    size_t last = first;
    while (last + 1 < pages->size() && (*pages)[last + 1] - (*pages)[last] <= 1) ++last;
    const uintptr_t count = (*pages)[last] - (*pages)[first] + 1;
    madvise(reinterpret_cast<void*>((*pages)[first] * kPage), count * kPage, MADV_WILLNEED);
    first = last + 1;
  }
}

#else

ColdFile::~ColdFile() = default;
void ColdFile::Open() {}
void ColdFile::Extend(int64_t) {
  Fail(ENOSYS);
}
Status ColdFile::Release() {
  return {};
}
void ColdFile::Fetch(std::vector<uintptr_t>*) {}

#endif

std::byte* ColdFile::Take(int64_t bytes) {
  if (const auto spare = spare_.find(bytes); spare != spare_.end() && !spare->second.empty()) {
    std::byte* block = spare->second.back();
    spare->second.pop_back();
    return block;
  }
  const int64_t unit = bytes >= kPage ? kPage : 64;
  const auto start = [&] { return (used_ + unit - 1) / unit * unit; };
  if (segments_.empty() || start() + bytes > segments_.back().bytes) Extend(bytes);
  std::byte* block = segments_.back().data + start();
  used_ = start() + bytes;
  return block;
}

void ColdFile::GiveBack(std::byte* block, int64_t bytes) {
  try {
    spare_[bytes].push_back(block);
  } catch (const std::bad_alloc&) {  // then its room stays unused
  }
}

}  // namespace headrace
