#pragma once

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/iscsi/logical_unit.hpp"
#include "server/iscsi/scsi_target.hpp"
#include "tests/unit/device/helpers.hpp"

namespace blockloom {

using Octets = std::vector<std::uint8_t>;

/// The end of one command as an initiator sees it.
struct Answer {
  scsi::Status status = scsi::Status::good;
  Octets data;
  Octets sense;
  Residual residual;
  bool aborted = false;

  bool good() const { return status == scsi::Status::good && !aborted; }
  /// "05/2400" of fixed sense; empty without sense data.
  std::string code() const {
    if (sense.size() < 8) return {};
    char text[16];
    if ((sense[0] & 0x7f) == 0x72)
      std::snprintf(text, sizeof text, "%02x/%02x%02x", sense[1] & 15, sense[2], sense[3]);
    else
      std::snprintf(text, sizeof text, "%02x/%02x%02x", sense[2] & 15, sense[12], sense[13]);
    return text;
  }
};

/// What a transport does with tasks, on the test's own thread: a queue of what was posted.
class Executor {
 public:
  void post(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    work_.push_back(std::move(work));
    changed_.notify_all();
  }
  /// Runs what was posted until the condition holds; false when that took a minute.
  bool run_until(const std::function<bool()>& holds) {
    std::unique_lock lock(mutex_);
    while (true) {
      if (!work_.empty()) {
        auto work = std::move(work_.front());
        work_.pop_front();
        lock.unlock();
        work();
        lock.lock();
        continue;
      }
      if (holds()) return true;
      if (changed_.wait_for(lock, std::chrono::seconds(60)) == std::cv_status::timeout)
        return false;
    }
  }
  void drain() {
    run_until([] { return true; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;
};

/// A command that can be left on its way.
struct Issued {
  ScsiTask task;
  Executor& executor;
  Octets out;
  TaskStep step = TaskStep::running;
  bool stopped = false;

  explicit Issued(Executor& e) : executor(e) {
    task.owner = this;
    task.complete = [](ScsiTask& t) noexcept {
      auto* self = static_cast<Issued*>(t.owner);
      self->executor.post([self] { self->step = TaskStep::ended; });
    };
    task.again = [](ScsiTask& t) noexcept {
      auto* self = static_cast<Issued*>(t.owner);
      self->executor.post([self] { self->took(self->task.nexus->run_again(self->task)); });
    };
    task.stop = [](ScsiTask& t) noexcept {
      auto* self = static_cast<Issued*>(t.owner);
      self->executor.post([self] {
        self->stopped = true;
        self->task.nexus->abandon(self->task);
        self->step = TaskStep::ended;
      });
    };
  }

  void took(TaskStep what) {
    // A completion may have been posted already, and says more.
    if (what != TaskStep::running) step = what;
  }
  void send_data() {
    const std::size_t size = std::min<std::size_t>(task.data_out_wanted, out.size());
    std::copy_n(reinterpret_cast<const std::byte*>(out.data()), size, task.data.data());
    step = TaskStep::running;
    took(task.nexus->proceed(task));
  }
  bool ended() const { return step == TaskStep::ended; }

  Answer answer() {
    Answer a;
    a.status = task.status;
    a.aborted = task.aborted;
    a.residual = task.residual();
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(task.data.data());
    if (task.data_in_length != 0) a.data.assign(bytes, bytes + task.data_in_length);
    a.sense.assign(task.sense.begin(), task.sense.begin() + task.sense_length);
    return a;
  }
};

/// A session of one initiator.
class Initiator : NexusListener {
 public:
  Initiator(std::shared_ptr<ScsiTarget> target, Executor& executor, const std::string& name = "a",
            std::uint8_t isid = 1)
      : executor_(executor) {
    nexus_ = target->attach({"iqn.2026-11.test:" + name, {0x80, 0, 0, 0, 0, isid}, 1}, this);
  }
  ~Initiator() override {
    if (nexus_) lose();
  }
  Initiator(const Initiator&) = delete;
  Initiator& operator=(const Initiator&) = delete;

  Nexus& nexus() { return *nexus_; }
  Executor& executor() { return executor_; }

  /// Starts a command, and leaves it where it is.
  std::unique_ptr<Issued> start(Octets cdb, Octets out = {}, std::uint32_t expected_in = 0,
                                std::uint16_t lun = 0) {
    auto command = std::make_unique<Issued>(executor_);
    ScsiTask& task = command->task;
    std::copy(cdb.begin(), cdb.end(), task.cdb.begin());
    task.lun = std::uint64_t{lun} << 48;
    task.attribute = attribute;
    task.expected_out = expected_out.value_or(static_cast<std::uint32_t>(out.size()));
    task.expected_in = expected_in;
    command->out = std::move(out);
    command->took(nexus_->begin(task));
    return command;
  }
  Answer finish(Issued& command) {
    if (command.step == TaskStep::wants_data) command.send_data();
    if (!executor_.run_until([&] { return command.ended(); })) std::abort();
    return command.answer();
  }
  /// A whole command: data to it, or room for data from it.
  Answer run(Octets cdb, Octets out = {}, std::uint32_t expected_in = 0, std::uint16_t lun = 0) {
    auto command = start(std::move(cdb), std::move(out), expected_in, lun);
    return finish(*command);
  }
  Answer read(Octets cdb, std::uint32_t expected_in, std::uint16_t lun = 0) {
    return run(std::move(cdb), {}, expected_in, lun);
  }
  /// Takes the unit attentions of a login away.
  void settle(std::uint16_t lun = 0) {
    while (run({0x00, 0, 0, 0, 0, 0}, {}, 0, lun).code().starts_with("06"))
      continue;
  }

  TaskResponse manage(TaskFunction function, ScsiTask* task = nullptr, std::uint16_t lun = 0) {
    Managing managing(*this, function, task, lun);
    managing.wait();
    return managing.management.response;
  }
  void lose() {
    manage(TaskFunction::nexus_loss);
    nexus_.reset();
  }

  /// A task management function that can be left waiting.
  struct Managing {
    TaskManagement management;
    Executor& executor;
    bool done = false;
    Managing(Initiator& from, TaskFunction function, ScsiTask* task = nullptr,
             std::uint16_t lun = 0)
        : executor(from.executor_) {
      management.function = function;
      management.task = task;
      management.lun = std::uint64_t{lun} << 48;
      management.owner = this;
      management.complete = [](TaskManagement& m) noexcept {
        auto* self = static_cast<Managing*>(m.owner);
        self->executor.post([self] { self->done = true; });
      };
      if (from.nexus_->manage(management) == Submit::done) done = true;
    }
    void wait() {
      if (!executor.run_until([&] { return done; })) std::abort();
    }
  };

  TaskAttribute attribute = TaskAttribute::simple;
  std::optional<std::uint32_t> expected_out;  ///< else what is sent
  /// Unit attentions that the session heard of: "LUN: SSSS".
  std::vector<std::string> heard() {
    const std::lock_guard lock(heard_mutex_);
    return heard_;
  }

 private:
  void unit_attention(std::uint64_t lun, std::span<const std::uint8_t> sense) noexcept override {
    char text[32];
    std::snprintf(text, sizeof text, "%u: %02x%02x", static_cast<unsigned>(lun >> 48), sense[12],
                  sense[13]);
    {
      const std::lock_guard lock(heard_mutex_);
      heard_.emplace_back(text);
    }
    executor_.post([] {});  // who waits looks again
  }

  Executor& executor_;
  std::shared_ptr<Nexus> nexus_;
  std::mutex heard_mutex_;
  std::vector<std::string> heard_;
};

/// A registry with a memory device "disk" of 1 MiB, shown as LUN 0 of a target.
struct Bench {
  TemporaryFolder folder;
  Registry registry;
  std::shared_ptr<LogicalUnits> units;
  std::shared_ptr<ScsiTarget> target;
  Executor executor;

  explicit Bench(UnitOptions options = {}, const std::string& leg = "mem:1M",
                 LogicalUnits::Options limits = {}, DeviceLimits device_limits = {})
      : registry(device_limits) {
    if (options.device.empty()) options.device = "disk";
    if (limits.folder.empty()) limits.folder = folder.path / "reservations";
    add_device(options.device, leg);
    units = LogicalUnits::create(registry, limits);
    target = ScsiTarget::create("iqn.2026-11.blockloom:t", units);
    target->set_luns({{0, unit(options)}});
  }
  ~Bench() { executor.drain(); }

  void add_device(const std::string& name, const std::string& leg = "mem:1M") {
    auto made = registry.create({name, "", "", "0 2048 linear " + leg + " 0", false});
    if (!made) throw std::runtime_error(made.error().message);
  }
  std::shared_ptr<LogicalUnit> unit(const std::string& name) {
    UnitOptions options;
    options.device = name;
    return unit(options);
  }
  std::shared_ptr<LogicalUnit> unit(const UnitOptions& options) {
    auto opened = units->open(options);
    if (!opened) throw std::runtime_error(opened.error().message);
    return opened.value();
  }
  Device& device() { return *registry.find("disk").value(); }
};

inline Octets blocks_of(std::size_t bytes, int value) {
  return Octets(bytes, static_cast<std::uint8_t>(value));
}

inline Octets operator+(Octets left, const Octets& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

}  // namespace blockloom
