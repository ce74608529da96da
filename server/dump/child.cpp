#include "server/dump/child.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/dump/fd.hpp"

namespace blockloom::dump {
namespace {

constexpr std::size_t output_max = 65536;

std::vector<char*> pointers(const std::vector<std::string>& words) {
  std::vector<char*> all;
  for (const std::string& word : words)
    all.push_back(const_cast<char*>(word.c_str()));
  all.push_back(nullptr);
  return all;
}

void bound(int what, std::uint64_t value) {
  const rlimit limit{value, value};
  ::setrlimit(static_cast<__rlimit_resource_t>(what), &limit);
}

/// Between fork and exec: only what a signal handler might call.
[[noreturn]] void become_child(const ChildSpec& spec, char* const* argv, char* const* envp,
                               int output, pid_t parent) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);  // tidy: a child that is not the engine
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (spec.no_network) ::unshare(CLONE_NEWUSER | CLONE_NEWNET);
  if (spec.memory != 0) bound(RLIMIT_AS, spec.memory);
  if (spec.file_size != 0) bound(RLIMIT_FSIZE, spec.file_size);
  bound(RLIMIT_CORE, 0);
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < 32; ++number)
    ::sigaction(number, &standard, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = ::open("/dev/null", O_RDWR);
  if (null < 0 || ::dup2(null, 0) < 0 || ::dup2(output, 1) < 0 || ::dup2(output, 2) < 0 ||
      ::chdir(spec.folder.c_str()) != 0)
    ::_exit(127);  // tidy: a child that is not the engine
  ::syscall(SYS_close_range, 3u, ~0u, 0u);
  ::execve(argv[0], argv, envp);
  ::_exit(127);  // tidy: a child that is not the engine
}

/// Reads what it says until it ends or the deadline passes. False: the latter.
bool listen(int output, int process, TimePoint deadline, std::string& text) {
  bool talks = true;
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd fds[2] = {{process, POLLIN, 0}, {talks ? output : -1, POLLIN, 0}};
    const int n = ::poll(fds, 2, static_cast<int>(std::min<long long>(left, 1000)));
    if (n < 0 && errno != EINTR) return false;
    if (n <= 0) continue;
    if (fds[1].revents != 0) {
      char bytes[4096];
      const ssize_t got = ::read(output, bytes, sizeof bytes);
      if (got <= 0)
        talks = false;
      else if (text.size() < output_max)
        text.append(bytes, std::min(static_cast<std::size_t>(got), output_max - text.size()));
    } else if (fds[0].revents != 0) {
      return true;
    }
  }
}

}  // namespace

Result<ChildResult> run_child(const ChildSpec& spec) {
  const auto argv = pointers(spec.command), envp = pointers(spec.environment);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return system_error(spec.command[0], errno);
  UniqueFd reader(ends[0]), writer(ends[1]);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) return system_error(spec.command[0], errno);
  if (child == 0) become_child(spec, argv.data(), envp.data(), writer.get(), parent);
  writer = UniqueFd();
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  ChildResult result;
  const bool ended =
      process && listen(reader.get(), process.get(), Clock::now() + spec.timeout, result.output);
  if (!ended) ::kill(-child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  ::kill(-child, SIGKILL);  // what it left behind
  if (!ended)
    return Error{Errc::timed_out,
                 fmt::format("'{}' did not end in time and was killed", spec.command[0])};
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace blockloom::dump
