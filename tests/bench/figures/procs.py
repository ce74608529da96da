"""Processes: started and always ended, and what they cost by /proc."""

import atexit
import os
import re
import signal
import socket
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """Something that must work did not; the message names it."""


class Process:
    """A server under test with all its children. Ended with the bench, whatever happens."""

    _live = []

    def __init__(self, argv, log_path, env=None, pid_file=None):
        self.argv = argv
        self.daemon = False
        self.log_path = log_path
        with open(log_path, "ab") as log:
            self.popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,
            )
        self.pid = self.popen.pid
        Process._live.append(self)
        if pid_file:
            self._adopt(pid_file)

    def _adopt(self, pid_file, seconds=10):
        """The program made itself a daemon and wrote its process id."""
        if self.popen.wait(seconds) != 0:
            self.check_alive()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                with open(pid_file, encoding="ascii") as f:
                    self.pid = int(f.read())
                self.daemon = True
                return
            except (OSError, ValueError):
                time.sleep(0.01)
        raise BenchError(f"{self.argv[0]}: no process id in {pid_file}: {self.log_tail()}")

    def alive(self):
        if self.daemon:
            try:
                return _stat(self.pid)[1] != b"Z"
            except OSError:
                return False
        return self.popen.poll() is None

    def log_tail(self):
        with open(self.log_path, "rb") as log:
            return log.read()[-2000:].decode(errors="replace").strip()

    def check_alive(self):
        if not self.alive():
            raise BenchError(
                f"{' '.join(self.argv)}: ended with {self.popen.returncode}: {self.log_tail()}"
            )

    def wait_ready(self, address, seconds=20):
        """Until something accepts at the address: a path, or (host, port)."""
        end = time.monotonic() + seconds
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        while True:
            self.check_alive()
            with socket.socket(family) as probe:
                probe.settimeout(1)
                try:
                    probe.connect(address)
                    return
                except OSError:
                    pass
            if time.monotonic() > end:
                raise BenchError(f"{self.argv[0]}: not listening at {address} after {seconds} s")
            time.sleep(0.01)

    def stop(self, seconds=10):
        """SIGTERM, then after `seconds` SIGKILL; gives back whether SIGTERM was enough."""
        if self in Process._live:
            Process._live.remove(self)
        clean = True
        if self.alive():
            os.kill(self.pid, signal.SIGTERM)
            end = time.monotonic() + seconds
            while self.alive() and time.monotonic() < end:
                time.sleep(0.01)
            clean = not self.alive()
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if not self.daemon:
            self.popen.wait()
        return clean

    @staticmethod
    def stop_all():
        for process in list(Process._live):
            process.stop(3)


atexit.register(Process.stop_all)


def _stat(pid):
    """(parent, state, ticks used by it and by the children it has waited for)"""
    with open(f"/proc/{pid}/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    return int(fields[1]), fields[0], sum(int(x) for x in fields[11:15])


def tree(root):
    """The process and all that descend from it."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = _stat(name)[0]
            except (OSError, ValueError):
                continue  # it ended while we looked
    found = [root]
    for pid in found:
        found.extend(p for p, parent in parents.items() if parent == pid)
    return found


def cpu_seconds(root):
    """User and system time of the tree, of all threads, dead ones and waited-for children too."""
    ticks = 0
    for pid in tree(root):
        try:
            ticks += _stat(pid)[2]
        except OSError:
            continue
    return ticks / TICKS


def settle(root, size, seconds=1.0):
    """Waits until the tree is back to `size` processes: a server that forks a child for a
    connection has then waited for it, and its time is in the parent's."""
    end = time.monotonic() + seconds
    while len(tree(root)) > size and time.monotonic() < end:
        time.sleep(0.01)


def memory_kib(root):
    """(RSS, PSS) of the tree. PSS counts a page shared by n processes as 1/n."""
    rss = pss = 0
    for pid in tree(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
                text = f.read()
        except OSError:
            continue
        rss += int(re.search(r"^Rss:\s+(\d+)", text, re.M)[1])
        pss += int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1])
    return rss, pss


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(argv, seconds, **kwargs):
    """Runs a tool to its end; raises BenchError with its output if it fails."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=seconds, check=False, **kwargs
        )
    except subprocess.TimeoutExpired as e:
        raise BenchError(f"{' '.join(argv)}: not done after {seconds} s") from e
    except FileNotFoundError as e:
        raise BenchError(f"{argv[0]}: not installed") from e
    if done.returncode != 0:
        said = (done.stderr or done.stdout)[-800:].strip()
        raise BenchError(f"{' '.join(argv)}: exit {done.returncode}: {said}")
    return done.stdout
