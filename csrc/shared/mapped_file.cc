#include "shared/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace headrace {
namespace {

Status Failed(int error) {
  return {Code::kIo, error};
}

}  // namespace

MappedFile::~MappedFile() {
  Close();
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : file_(std::exchange(other.file_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    Close();
    file_ = std::exchange(other.file_, -1);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Status MappedFile::Create(const std::string& path, size_t bytes) {
  Close();
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file_ < 0) return Failed(errno);
  if (::ftruncate(file_, static_cast<off_t>(bytes)) != 0) {
    const int error = errno;
    Close();
    ::unlink(path.c_str());
    return Failed(error);
  }
  return Map(bytes);
}

Status MappedFile::Open(const std::string& path) {
  Close();
  file_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file_ < 0) return Failed(errno);
  struct stat facts = {};
  if (::fstat(file_, &facts) != 0) {
    const int error = errno;
    Close();
    return Failed(error);
  }
  return Map(static_cast<size_t>(facts.st_size));
}

Status MappedFile::Map(size_t bytes) {
  if (bytes == 0) {
    Close();
    return {Code::kCorrupt, 0};
  }
  void* place = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
  if (place == MAP_FAILED) {
    const int error = errno;
    Close();
    return Failed(error);
  }
  data_ = static_cast<std::byte*>(place);
  size_ = bytes;
  return {};
}

Status MappedFile::Reserve(size_t from, size_t to) {
  if (to <= from) return {};
#ifdef __linux__
  int error = 0;
  do {
    error = ::posix_fallocate(file_, static_cast<off_t>(from), static_cast<off_t>(to - from));
  } while (error == EINTR);
  if (error == ENOSPC || error == EFBIG) return {Code::kNoMemory, error};
  if (error != 0 && error != EOPNOTSUPP && error != EINVAL) return Failed(error);
#endif
  return {};
}

void MappedFile::Close() {
  if (data_ != nullptr) ::munmap(data_, size_);
  if (file_ >= 0) ::close(file_);
  data_ = nullptr;
  size_ = 0;
  file_ = -1;
}

}  // namespace headrace
