#include "snapshot/saver.h"

#include <cerrno>
#include <system_error>
#include <utility>

#include "table/guarded.h"

namespace headrace {

TableSaver::TableSaver(std::unique_ptr<BlockSource> source, std::string path, std::string header,
                       const Layout& layout) noexcept
    : source_(std::move(source)), path_(std::move(path)), header_(std::move(header)), layout_(layout) {
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error&) {
    source_.reset();
    result_.status = {Code::kIo, EAGAIN};
    done_.store(true, std::memory_order_release);
  }
}

TableSaver::~TableSaver() {
  cancelled_.store(true, std::memory_order_relaxed);
  Wait();
}

TableSaver::Result TableSaver::Wait() noexcept {
  const std::lock_guard<std::mutex> lock(joining_);
  if (thread_.joinable()) thread_.join();
  return result_;
}

void TableSaver::Run() noexcept {
  result_.status = Guarded([this] { return Save(); });
  source_.reset();
  done_.store(true, std::memory_order_release);
}

Status TableSaver::Save() {
  TableFileWriter writer;
  Status status = writer.Open(path_, header_, layout_);
  Block block;
  for (bool done = false; status.ok() && !done;) {
    if (cancelled_.load(std::memory_order_relaxed)) return {Code::kIo, ECANCELED};
    status = source_->Next(&block, &done);
    if (status.ok() && !done) status = writer.Add(block);
  }
  if (status.ok()) status = source_->Close(&result_.numbers);
  source_.reset();
  if (!status.ok() || cancelled_.load(std::memory_order_relaxed)) {
    return status.ok() ? Status{Code::kIo, ECANCELED} : status;
  }
  status = writer.Finish(result_.numbers);
  result_.bytes = writer.bytes();
  result_.digest = writer.digest();
  result_.totals = writer.totals();
  return status;
}

}  // namespace headrace
