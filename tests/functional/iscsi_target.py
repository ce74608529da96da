"""Debian's tgtd on loopback as an iSCSI target, without a kernel's help; and a leg driven by words."""

import itertools
import os
import queue
import signal
import socket
import subprocess
import threading
import time

import harness
from harness import PATIENCE, wait_until

LEG_DRIVE = os.path.join(harness.BUILD, "tests/functional/leg-drive")
IQN = "iqn.2026-11.io.blockloom.test:disk"
CONTROL_PORTS = itertools.count(os.getpid() % 20000 + 1000)


def free_port():
    """A port that was free a moment ago: tgtd takes no socket that is open already."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Tgtd:
    """A tgtd of its own with one target; LUN 1 is a file."""

    def __init__(self, case, path, block_size=512, thin=False, digests=False, port=None):
        self.case, self.path = case, path
        self.block_size, self.thin, self.digests = block_size, thin, digests
        self.port = port or free_port()
        self.control = next(CONTROL_PORTS)
        self.log_path = case.path(f"tgtd-{self.control}.log")
        self.process = None
        case.addCleanup(self.stop)
        self.start()

    def start(self):
        os.makedirs("/run/tgtd", exist_ok=True)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                ["tgtd", "-f", "-C", str(self.control),
                 "--iscsi", f"portal=127.0.0.1:{self.port}"],
                cwd=self.case.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self.admin("--op", "show", "--mode", "sys", check=False).returncode == 0,
                   "tgtd answers its control socket")
        self.admin("--op", "new", "--mode", "target", "--tid", "1", "-T", IQN)
        self.add_lun(1, self.path)
        if self.digests:
            for name in ("HeaderDigest", "DataDigest"):
                self.admin("--op", "update", "--mode", "target", "--tid", "1",
                           "--name", name, "--value", "CRC32C,None")
        self.admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")

    def add_lun(self, lun, path):
        self.admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", str(lun),
                   "-b", path, "--blocksize", str(self.block_size))
        if self.thin:
            self.admin("--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", str(lun),
                       "--params", "thin_provisioning=1")

    def admin(self, *words, check=True):
        done = subprocess.run(["tgtadm", "-C", str(self.control), "--lld", "iscsi", *words],
                              capture_output=True, text=True, timeout=PATIENCE, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"tgtadm {' '.join(words)}: {done.stderr}\n{self.log()}")
        return done

    def account(self, user, password, outgoing=False):
        self.admin("--op", "new", "--mode", "account", "--user", user, "--password", password)
        extra = ["--outgoing"] if outgoing else []
        self.admin("--op", "bind", "--mode", "account", "--tid", "1", "--user", user, *extra)

    def sessions(self):
        """How many sessions of initiators it has."""
        return self.admin("--op", "show", "--mode", "target").stdout.count("I_T nexus: ")

    def uri(self, parameters="", lun=1, user=""):
        query = f"?{parameters}" if parameters else ""
        return f"iscsi://{user}127.0.0.1:{self.port}/{IQN}/{lun}{query}"

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def freeze(self):
        """Stops it, and comes back when it has stopped."""
        harness.freeze(self.process.pid)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        for suffix in ("", ".lock"):
            try:
                os.unlink(f"/run/tgtd/socket.{self.control}{suffix}")
            except FileNotFoundError:
                pass


class Drive:
    """A leg that is driven by words (leg_drive.cpp)."""

    def __init__(self, case, uri, mode=""):
        self.process = subprocess.Popen(
            [LEG_DRIVE], cwd=case.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="replace",
            env={**os.environ, **harness.PRELOAD})
        case.addCleanup(self.stop)
        self.lines, self.seen, self.errors = queue.Queue(), [], []
        for stream, sink in ((self.process.stdout, self.lines.put),
                             (self.process.stderr, self.errors.append)):
            threading.Thread(target=self.pump, args=(stream, sink), daemon=True).start()
        self.tags = itertools.count(1)
        self.opened = self.ask(f"open {uri} {mode}", "opened", "refused")

    @staticmethod
    def pump(stream, sink):
        for line in stream:
            sink(line.rstrip("\n"))

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def wait(self, *starts, seconds=PATIENCE):
        """The first line, seen or to come, that starts with one of these words."""
        deadline = time.monotonic() + seconds
        while True:
            for line in self.seen:
                if any(line == s or line.startswith(s + " ") for s in starts):
                    self.seen.remove(line)
                    return line
            try:
                self.seen.append(self.lines.get(timeout=max(0.01, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() < deadline:
                    continue
                raise AssertionError(f"no line starts with {starts} within {seconds} s: "
                                     f"{self.seen} {self.errors}") from None

    def none_yet(self, *starts):
        """Nothing that starts so has come."""
        while not self.lines.empty():
            self.seen.append(self.lines.get())
        return not any(line.startswith(s) for line in self.seen for s in starts)

    def ask(self, line, *starts, seconds=PATIENCE):
        self.say(line)
        return self.wait(*starts, seconds=seconds)

    def start(self, verb, *arguments):
        """Starts a request, and gives its tag."""
        tag = f"r{next(self.tags)}"
        self.say(" ".join([verb, tag, *map(str, arguments)]))
        return tag

    def end(self, tag, seconds=PATIENCE):
        """The words after "done TAG": status, and what came."""
        return self.wait(f"done {tag}", seconds=seconds).split()[2:]

    def run(self, verb, *arguments, seconds=PATIENCE):
        return self.end(self.start(verb, *arguments), seconds)

    def fence(self, epoch, scope="own", ms=20000, seconds=PATIENCE):
        """("given", reason)"""
        words = self.ask(f"fence {epoch} {scope} {ms}", f"fenced {epoch}",
                         seconds=seconds).split(" ", 3)
        return words[2], words[3] if len(words) > 3 else ""

    def session(self, epoch, ms=20000, seconds=PATIENCE):
        return self.ask(f"session {epoch} {ms}", f"session {epoch}", seconds=seconds).split(" ", 3)[2]

    def take_over(self, epoch=1):
        """Control, fence and session: as a mirror starts."""
        assert self.ask("control", "controlled", "refused") == "controlled"
        proof, reason = self.fence(epoch, "everyone")
        assert proof == "given", reason
        assert self.session(epoch) == "ok"
        self.wait(f"up {epoch}")

    def quit(self):
        self.say("quit")
        self.wait("bye")
        return self.process.wait(PATIENCE)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                stream.close()
            except OSError:
                pass
