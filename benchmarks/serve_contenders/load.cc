// load: sends HTTP requests from one thread and tells how long the answers took.
//
//   load PORT BODIES CONNECTIONS SECONDS RATE [WARM_SECONDS] [PATH]
//
// BODIES is a file of [uint32 length][bytes] one behind another; they are sent in turn. RATE 0: every connection
// sends its next request when its answer is there (closed loop). RATE > 0: requests are due at even distances and
// wait for a free connection; their time counts from when they were due (open loop), so that a server that stops is
// not measured kindly. Prints one JSON object; latencies in microseconds are in the file BODIES.latencies as
// [double due time since the start in seconds][float latency in us].
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <string>
#include <vector>

namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Wire {
  int socket = -1;
  bool busy = false;
  double due = 0;
  size_t sent = 0;
  const std::string* request = nullptr;
  std::string answer;
  size_t needed = 0;  // 0: the head is not there yet
};

struct Taken {
  double due;
  float micros;
};

int Connect(int port) {
  const int made = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (made < 0 || ::connect(made, reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) return -1;
  const int one = 1;
  ::setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  ::fcntl(made, F_SETFL, O_NONBLOCK);
  return made;
}

std::vector<std::string> Requests(const char* path, const char* target) {
  std::ifstream file(path, std::ios::binary);
  std::vector<std::string> found;
  uint32_t size = 0;
  while (file.read(reinterpret_cast<char*>(&size), sizeof(size))) {
    std::string body(size, '\0');
    file.read(body.data(), size);
    found.push_back("POST " + std::string(target) +
                    " HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: " +
                    std::to_string(size) + "\r\n\r\n" + body);
  }
  return found;
}

// How many bytes an answer has, its head included; 0: not known yet.
size_t Needed(const std::string& answer) {
  const size_t end = answer.find("\r\n\r\n");
  if (end == std::string::npos) return 0;
  static const char kName[] = "content-length:";
  for (size_t at = 0; at < end; ++at) {
    if (strncasecmp(answer.data() + at, kName, sizeof(kName) - 1) == 0) {
      return end + 4 + std::strtoull(answer.data() + at + sizeof(kName) - 1, nullptr, 10);
    }
  }
  return end + 4;
}

}  // namespace

int main(int count, char** words) {
  if (count < 6) return 2;
  const int port = std::atoi(words[1]), connections = std::atoi(words[3]);
  const double seconds = std::atof(words[4]), rate = std::atof(words[5]);
  const double warm = count > 6 ? std::atof(words[6]) : 0.0;
  const std::vector<std::string> requests = Requests(words[2], count > 7 ? words[7] : "/v1/rank");
  if (requests.empty()) return 2;
  const int poll = ::epoll_create1(0);
  std::vector<Wire> wires(static_cast<size_t>(connections));
  size_t next = 0;
  std::vector<Taken> taken;
  taken.reserve(1 << 20);
  int64_t failed = 0;

  const auto push = [&](Wire& wire) {
    while (wire.sent < wire.request->size()) {
      const ssize_t wrote = ::send(wire.socket, wire.request->data() + wire.sent, wire.request->size() - wire.sent,
                                   MSG_NOSIGNAL);
      if (wrote <= 0) return;
      wire.sent += static_cast<size_t>(wrote);
    }
  };
  const auto begin = [&](Wire& wire, double due) {
    wire.busy = true;
    wire.due = due;
    wire.sent = wire.needed = 0;
    wire.answer.clear();
    wire.request = &requests[next++ % requests.size()];
    push(wire);
  };
  for (Wire& wire : wires) {
    wire.socket = Connect(port);
    if (wire.socket < 0) return 3;
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.ptr = &wire;
    ::epoll_ctl(poll, EPOLL_CTL_ADD, wire.socket, &event);
    ::usleep(3000);  // workers that share a socket take connections in turn
  }
  const double start = Now() + warm, end = start + seconds;
  double due = Now();
  std::deque<double> waiting;
  std::vector<Wire*> idle;
  for (Wire& wire : wires) {
    if (rate == 0) {
      begin(wire, Now());
    } else {
      idle.push_back(&wire);
    }
  }
  rusage before = {};
  bool measuring = false;
  std::vector<epoll_event> events(256);
  char buffer[1 << 16];
  for (double now = Now(); now < end; now = Now()) {
    if (!measuring && now >= start) {
      ::getrusage(RUSAGE_SELF, &before);
      measuring = true;
    }
    if (rate > 0) {
      for (; due <= now; due += 1.0 / rate) waiting.push_back(due);
      while (!waiting.empty() && !idle.empty()) {
        Wire* wire = idle.back();
        idle.pop_back();
        begin(*wire, waiting.front());
        waiting.pop_front();
      }
    }
    const double pause = rate > 0 ? std::max(0.0, due - now) : 0.01;
    timespec limit = {0, static_cast<long>(std::min(pause, 0.01) * 1e9)};
    const int ready = ::epoll_pwait2(poll, events.data(), static_cast<int>(events.size()), &limit, nullptr);
    for (int i = 0; i < ready; ++i) {
      Wire& wire = *static_cast<Wire*>(events[static_cast<size_t>(i)].data.ptr);
      const ssize_t got = ::recv(wire.socket, buffer, sizeof(buffer), 0);
      if (got <= 0) {
        if (got < 0 && errno == EAGAIN) continue;
        ++failed;
        ::close(wire.socket);
        wire.socket = Connect(port);
        if (wire.socket < 0) return 4;
        epoll_event event = {};
        event.events = EPOLLIN;
        event.data.ptr = &wire;
        ::epoll_ctl(poll, EPOLL_CTL_ADD, wire.socket, &event);
        begin(wire, wire.due);
        continue;
      }
      wire.answer.append(buffer, static_cast<size_t>(got));
      if (wire.needed == 0) wire.needed = Needed(wire.answer);
      if (wire.needed == 0 || wire.answer.size() < wire.needed) continue;
      const double done = Now();
      if (wire.answer.compare(0, 12, "HTTP/1.1 200") != 0) {
        if (failed++ == 0) std::fprintf(stderr, "%.400s\n", wire.answer.c_str());
      } else if (wire.due >= start) {
        taken.push_back({wire.due - start, static_cast<float>((done - wire.due) * 1e6)});
      }
      wire.busy = false;
      if (rate == 0) {
        begin(wire, Now());
      } else {
        idle.push_back(&wire);
      }
    }
  }
  rusage after = {};
  ::getrusage(RUSAGE_SELF, &after);
  const auto cpu = [](const rusage& use) {
    return static_cast<double>(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
           1e-6 * static_cast<double>(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
  };
  std::vector<float> sorted;
  for (const Taken& one : taken) sorted.push_back(one.micros);
  std::sort(sorted.begin(), sorted.end());
  const auto at = [&](double share) {
    return sorted.empty() ? 0.0f : sorted[std::min(sorted.size() - 1, static_cast<size_t>(share * static_cast<double>(sorted.size())))];
  };
  std::ofstream out(std::string(words[2]) + ".latencies", std::ios::binary);
  for (const Taken& one : taken) {
    out.write(reinterpret_cast<const char*>(&one.due), sizeof(one.due));
    out.write(reinterpret_cast<const char*>(&one.micros), sizeof(one.micros));
  }
  std::printf("{\"requests\": %zu, \"seconds\": %.3f, \"failed\": %ld, \"cpu_s\": %.4f, \"p50_ms\": %.3f, "
              "\"p90_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, \"unsent\": %zu}\n",
              taken.size(), seconds, static_cast<long>(failed), cpu(after) - cpu(before), at(0.5) / 1e3, at(0.9) / 1e3,
              at(0.99) / 1e3, at(1.0) / 1e3, waiting.size());
  return 0;
}
