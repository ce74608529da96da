// A load generator for iSCSI targets, on libiscsi: Debian's fio has no such engine, and iscsi-perf
// only reads. One thread, so that the target has the other core.
//
//   iscsi_load [OPTIONS] iscsi://HOST[:PORT]/TARGET/LUN
//
//   --op read|write     --sequential          default: random reads
//   --block BYTES       --depth N             4096, 1; the depth is one session's
//   --sessions N        --seconds S           1, 3
//   --span BYTES        of the LUN that are used; default: all
//   --digest            header digest (libiscsi 1.19 has no data digest)
//   --idle              logs in, says so on standard output, and waits for standard input's end
//
// Prints one line of JSON: operations, bytes, seconds, iops, mb_s, microseconds of a request (mean,
// p50, p99, largest), and the CPU seconds that this client took.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <poll.h>
#include <sys/resource.h>

namespace {

using Clock = std::chrono::steady_clock;

struct Settings {
  std::string url;
  bool write = false, sequential = false, digest = false, idle = false;
  std::uint32_t block = 4096;
  unsigned depth = 1, sessions = 1;
  double seconds = 3;
  std::uint64_t span = 0;
};

[[noreturn]] void die(const std::string& what) {
  fmt::print(stderr, "iscsi_load: {}\n", what);
  std::exit(1);
}

struct Load;

/// One request, sent again and again.
struct Slot {
  struct Session* session = nullptr;
  std::vector<unsigned char> data;
  scsi_iovec iov{};
  Clock::time_point started;
};

struct Session {
  Load* load = nullptr;
  iscsi_context* context = nullptr;
  int lun = 0;
  std::uint32_t sector = 512;
  std::vector<std::unique_ptr<Slot>> slots;
  unsigned out = 0;
};

struct Load {
  Settings settings;
  std::uint64_t blocks = 0;  // of settings.block
  std::vector<std::unique_ptr<Session>> sessions;
  std::uint64_t random = 0x9e3779b97f4a7c15ULL, next = 0;
  std::uint64_t done = 0, errors = 0;
  std::vector<std::uint32_t> micros;
  Clock::time_point start, end;
  bool measuring = true;

  std::uint64_t next_block() {
    if (settings.sequential) return next++ % blocks;
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return ((random >> 32) * blocks) >> 32;
  }
};

void ended(iscsi_context*, int status, void* command, void* owner);

void send(Slot& slot) {
  Session& s = *slot.session;
  Load& load = *s.load;
  const std::uint32_t bytes = load.settings.block;
  const std::uint64_t lba = load.next_block() * (bytes / s.sector);
  const int sector = static_cast<int>(s.sector);
  slot.started = Clock::now();
  slot.iov = {slot.data.data(), bytes};
  scsi_task* const task =
      load.settings.write ? iscsi_write16_iov_task(s.context, s.lun, lba, nullptr, bytes, sector, 0,
                                                   0, 0, 0, 0, ended, &slot, &slot.iov, 1)
                          : iscsi_read16_iov_task(s.context, s.lun, lba, bytes, sector, 0, 0, 0, 0,
                                                  0, ended, &slot, &slot.iov, 1);
  if (task == nullptr) die(fmt::format("cannot send: {}", iscsi_get_error(s.context)));
  ++s.out;
}

void ended(iscsi_context* context, int status, void* command, void* owner) {
  Slot& slot = *static_cast<Slot*>(owner);
  Load& load = *slot.session->load;
  scsi_free_scsi_task(static_cast<scsi_task*>(command));
  --slot.session->out;
  const auto now = Clock::now();
  if (status != SCSI_STATUS_GOOD && load.errors++ == 0)
    fmt::print(stderr, "iscsi_load: status {}: {}\n", status, iscsi_get_error(context));
  if (status == SCSI_STATUS_CANCELLED || load.errors > 100) {
    load.end = now;
    return;
  }
  ++load.done;
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(now - slot.started);
  load.micros.push_back(static_cast<std::uint32_t>(took.count()));
  if (now < load.end) send(slot);
}

void log_in(Session& s, unsigned number) {
  const Settings& settings = s.load->settings;
  s.context = iscsi_create_context(fmt::format("iqn.2026-01.org.blockloom:load{}", number).c_str());
  if (s.context == nullptr) die("no memory");
  iscsi_url* const url = iscsi_parse_full_url(s.context, settings.url.c_str());
  if (url == nullptr) die(iscsi_get_error(s.context));
  iscsi_set_session_type(s.context, ISCSI_SESSION_NORMAL);
  iscsi_set_targetname(s.context, url->target);
  iscsi_set_header_digest(s.context,
                          settings.digest ? ISCSI_HEADER_DIGEST_CRC32C : ISCSI_HEADER_DIGEST_NONE);
  iscsi_set_noautoreconnect(s.context, 1);
  if (url->user[0] != '\0') iscsi_set_initiator_username_pwd(s.context, url->user, url->passwd);
  s.lun = url->lun;
  if (iscsi_full_connect_sync(s.context, url->portal, url->lun) != 0)
    die(fmt::format("{}: {}", settings.url, iscsi_get_error(s.context)));
  iscsi_destroy_url(url);
}

std::uint64_t bytes_of(Session& s) {
  scsi_task* const task = iscsi_readcapacity16_sync(s.context, s.lun);
  if (task == nullptr || task->status != SCSI_STATUS_GOOD)
    die(fmt::format("READ CAPACITY(16): {}", iscsi_get_error(s.context)));
  const auto* const capacity = static_cast<scsi_readcapacity16*>(scsi_datain_unmarshall(task));
  if (capacity == nullptr) die("READ CAPACITY(16) is malformed");
  s.sector = capacity->block_length;
  const std::uint64_t bytes = (capacity->returned_lba + 1) * capacity->block_length;
  scsi_free_scsi_task(task);
  return bytes;
}

void turn(Load& load, std::vector<pollfd>& polls) {
  polls.clear();
  for (const auto& s : load.sessions)
    polls.push_back(
        {iscsi_get_fd(s->context), static_cast<short>(iscsi_which_events(s->context)), 0});
  if (::poll(polls.data(), polls.size(), 100) < 0) return;
  for (std::size_t i = 0; i < polls.size(); ++i)
    if (polls[i].revents != 0 && iscsi_service(load.sessions[i]->context, polls[i].revents) < 0)
      die(fmt::format("the connection failed: {}", iscsi_get_error(load.sessions[i]->context)));
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void run(Load& load) {
  for (const auto& s : load.sessions) {
    for (unsigned i = 0; i < load.settings.depth; ++i) {
      s->slots.push_back(std::make_unique<Slot>());
      s->slots.back()->session = s.get();
      s->slots.back()->data.assign(load.settings.block, static_cast<unsigned char>(i + 1));
    }
  }
  const double cpu = cpu_seconds();
  load.micros.reserve(1 << 20);
  load.start = Clock::now();
  load.end = load.start +
             std::chrono::microseconds(static_cast<std::int64_t>(load.settings.seconds * 1e6));
  for (const auto& s : load.sessions)
    for (const auto& slot : s->slots)
      send(*slot);
  std::vector<pollfd> polls;
  const auto busy = [&] {
    return std::any_of(load.sessions.begin(), load.sessions.end(),
                       [](const auto& s) { return s->out > 0; });
  };
  const auto patience = load.end + std::chrono::seconds(30);
  while (busy()) {
    turn(load, polls);
    if (Clock::now() > patience) die("requests were not answered within 30 seconds");
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - load.start).count();
  std::sort(load.micros.begin(), load.micros.end());
  const auto at = [&](double part) {
    if (load.micros.empty()) return std::uint32_t{0};
    const auto last = static_cast<double>(load.micros.size() - 1);
    return load.micros[static_cast<std::size_t>(last * part)];
  };
  double sum = 0;
  for (const std::uint32_t micros : load.micros)
    sum += micros;
  const double count = static_cast<double>(load.done);
  fmt::print(
      "{{\"operations\": {}, \"errors\": {}, \"seconds\": {:.3f}, \"iops\": {:.0f}, \"mb_s\": "
      "{:.1f}, \"mean_us\": {:.1f}, \"p50_us\": {}, \"p99_us\": {}, \"max_us\": {}, "
      "\"client_cpu_s\": {:.3f}}}\n",
      load.done, load.errors, seconds, count / seconds, count * load.settings.block / seconds / 1e6,
      load.done > 0 ? sum / count : 0, at(0.5), at(0.99), at(1), cpu_seconds() - cpu);
}

Settings parse(int argc, char** argv) {
  Settings settings;
  const auto number = [&](int& i) {
    if (++i >= argc) die(fmt::format("{} needs a value", argv[i - 1]));
    char* end = nullptr;
    const double value = std::strtod(argv[i], &end);
    if (end == argv[i] || *end != '\0' || value < 0) die(fmt::format("'{}' is no number", argv[i]));
    return value;
  };
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--op") {
      if (++i >= argc) die("--op needs read or write");
      settings.write = std::string_view(argv[i]) == "write";
    } else if (word == "--sequential") {
      settings.sequential = true;
    } else if (word == "--digest") {
      settings.digest = true;
    } else if (word == "--idle") {
      settings.idle = true;
    } else if (word == "--block") {
      settings.block = static_cast<std::uint32_t>(number(i));
    } else if (word == "--depth") {
      settings.depth = static_cast<unsigned>(number(i));
    } else if (word == "--sessions") {
      settings.sessions = static_cast<unsigned>(number(i));
    } else if (word == "--seconds") {
      settings.seconds = number(i);
    } else if (word == "--span") {
      settings.span = static_cast<std::uint64_t>(number(i));
    } else if (word.starts_with("--") || !settings.url.empty()) {
      die(fmt::format("'{}' is unknown", word));
    } else {
      settings.url = word;
    }
  }
  if (settings.url.empty()) die("which LUN? iscsi://HOST[:PORT]/TARGET/LUN");
  return settings;
}

}  // namespace

int main(int argc, char** argv) {
  Load load;
  load.settings = parse(argc, argv);
  for (unsigned i = 0; i < load.settings.sessions; ++i) {
    load.sessions.push_back(std::make_unique<Session>());
    load.sessions.back()->load = &load;
    log_in(*load.sessions.back(), i);
  }
  if (load.settings.idle) {
    fmt::print("ready\n");
    std::fflush(stdout);
    while (std::getchar() != EOF) {
    }
  } else {
    std::uint64_t bytes = 0;
    for (const auto& s : load.sessions)
      bytes = bytes_of(*s);
    if (load.settings.span != 0) bytes = std::min(bytes, load.settings.span);
    load.blocks = bytes / load.settings.block;
    if (load.blocks == 0) die("the LUN is smaller than a block");
    run(load);
  }
  for (const auto& s : load.sessions) {
    iscsi_logout_sync(s->context);
    iscsi_destroy_context(s->context);
  }
  return load.errors == 0 ? 0 : 1;
}
