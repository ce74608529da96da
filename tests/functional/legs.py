"""Servers that legs stand on, of every kind, and the driver of one leg.

    memory = legs.nbdkit(case, "memory", "64M")
    driver = legs.Driver(case, memory.uri())
    driver.control(); driver.fence(1); driver.session(1)
    driver.write("w", 0, 4096, 7); driver.expect("end w ok")
"""

import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

import harness

DRIVER = os.path.join(harness.BUILD, "tests/functional/leg-drive")


class LegServer:
    """A process that serves NBD on a Unix socket, or on a port of 127.0.0.1. It can be stopped,
    continued, killed and started again on the same place."""

    def __init__(self, case, command, path=None, port=None, environment=None):
        self.case, self.command, self.path, self.port = case, command, path, port
        self.environment = environment
        self.process = None
        self.log = case.path(f"leg-{id(self)}.log")
        case.addCleanup(self.kill)
        self.start()

    def start(self):
        if self.path and os.path.exists(self.path):
            os.unlink(self.path)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.case.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "LC_ALL": "C", **(self.environment or {})})
        harness.wait_until(self.answers, f"{self.command[0]} listens: {self.said()}")
        return self

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.command} ended: {self.said()}")
        family = socket.AF_UNIX if self.path else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as client:
            try:
                client.connect(self.path or ("127.0.0.1", self.port))
            except OSError:
                return False
        return True

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def stop(self):
        harness.freeze(self.process.pid)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def restart(self):
        self.kill()
        return self.start()

    def uri(self, export="", **parameters):
        pairs = [f"socket={self.path}"] if self.path else []
        pairs += [f"{key}={value}" for key, value in parameters.items()]
        query = "?" + "&".join(pairs) if pairs else ""
        place = "nbd+unix://" if self.path else f"nbd://127.0.0.1:{self.port}"
        return f"{place}/{export}{query}"


class NbdServer(LegServer):
    """nbd-server, which goes into the background, and has a process for each client."""

    def pids(self):
        with open(self.case.path("nbd-server.pid"), encoding="ascii") as file:
            parent = int(file.read())
        with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
            return [parent, *map(int, file.read().split())]

    def answers(self):
        if self.process.wait(harness.PATIENCE) != 0:
            raise AssertionError(f"nbd-server does not start: {self.said()}")
        return os.path.exists(self.case.path("nbd-server.pid"))

    def send(self, number):
        for pid in self.pids():
            os.kill(pid, number)

    def stop(self):
        harness.freeze(*self.pids())

    def go_on(self):
        self.send(signal.SIGCONT)

    def kill(self):
        try:
            self.send(signal.SIGKILL)
        except OSError:
            pass  # it is gone, or never came


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def place(case):
    return case.path(f"leg{random.randrange(1 << 30)}.sock")


def nbdkit(case, *words, tcp=False, flags=()):
    """nbdkit with a plugin of its own: nbdkit(case, "memory", "64M")."""
    if tcp:
        port = free_port()
        return LegServer(case, ["nbdkit", "-f", "-p", str(port), "-i", "127.0.0.1", *flags, *words],
                         port=port)
    path = place(case)
    return LegServer(case, ["nbdkit", "-f", "-U", path, *flags, *words], path=path)


def ours(case, table, *words, flags=(), state=True, name="vol"):
    """A Blockloom server with one device."""
    path = place(case)
    folder = case.path(f"state-{os.path.basename(path)}")
    kept = [f"state={folder}"] if state else []
    command = ["nbdkit", "-f", "-U", path, *flags, harness.PLUGIN, f"device={name}:{table}", *kept,
               *words]
    return LegServer(case, command, path=path, environment=harness.PRELOAD)


def qemu_nbd(case, image, *flags):
    path = place(case)
    return LegServer(case, ["qemu-nbd", "-f", "raw", "-t", "-e", "8", "-k", path, *flags, image],
                     path=path)


def nbd_server(case, image):
    port = free_port()
    config = case.write_text(f"nbd-server-{port}.conf", f"""[generic]
  listenaddr = 127.0.0.1
  port = {port}
  allowlist = true
[vol]
  exportname = {image}
  flush = true
  fua = true
  trim = true
""")
    return NbdServer(case, ["nbd-server", "-C", config, "-p", case.path("nbd-server.pid")],
                     port=port)


class Cable:
    """A TCP port that leads to another, until it is cut: connections are reset, and new ones are
    refused until it is mended."""

    def __init__(self, case, port):
        self.port, self.target = free_port(), port
        self.lock = threading.Lock()
        self.ends = []
        self.listener = None
        case.addCleanup(self.cut)
        self.mend()

    def mend(self):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.listener.listen(16)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def cut(self):
        with self.lock:
            # shutdown wakes the accept that sleeps in the listener.
            for end in [self.listener, *self.ends]:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                end.close()
            self.ends = []

    def accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            with self.lock:
                self.ends += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self.pump, args=(a, b), daemon=True).start()

    @staticmethod
    def pump(a, b):
        try:
            while data := a.recv(1 << 16):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Driver:
    """tests/functional/leg_drive.cpp: one leg as a mirror has it. Its lines as they come, but for
    the first words of what was done: "end TAG CODE", "fence EPOCH …", "ok …" and "error …"."""

    WORDS = {"done": "end", "fenced": "fence", "opened": "ok", "controlled": "ok",
             "abandoned": "ok", "released": "ok", "closed": "ok", "state": "ok",
             "refused": "error"}

    def __init__(self, case, uri, opens=True):
        self.case = case
        self.process = subprocess.Popen([DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, cwd=case.folder)
        case.addCleanup(self.end)
        self.lines = queue.Queue()
        self.seen = []
        threading.Thread(target=self.listen, daemon=True).start()
        self.say(f"open {uri}")
        self.opened = self.next_line(("ok", "error"))
        if opens and not self.opened.startswith("ok"):
            raise AssertionError(self.opened)

    def listen(self):
        for line in self.process.stdout:
            first, _, rest = line.rstrip("\n").partition(" ")
            self.lines.put(f"{self.WORDS.get(first, first)} {rest}".rstrip())
        self.lines.put(None)

    def end(self):
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the leg driver did not end") from None
        self.case.assertEqual(self.process.returncode, 0, "the leg driver's end")

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def next_line(self, prefixes, seconds=harness.PATIENCE):
        """The next line with one of these beginnings; others wait for who asks for them."""
        if isinstance(prefixes, str):
            prefixes = (prefixes,)
        deadline = time.monotonic() + seconds
        while True:
            for i, line in enumerate(self.seen):
                if (line + " ").startswith(prefixes):
                    return self.seen.pop(i)
            try:
                line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"not within {seconds} s: {prefixes}; came: {self.seen}") \
                    from None
            if line is None:
                raise AssertionError(f"the leg driver ended; came: {self.seen}")
            self.seen.append(line)

    def expect(self, line, seconds=harness.PATIENCE):
        """The next line with the same first two words is exactly this, or begins with it."""
        words = line.split()
        found = self.next_line(" ".join(words[:2] if len(words) > 2 else words[:1]) + " ", seconds)
        self.case.assertTrue((found + " ").startswith(line + " "), f"expected: {line}\ncame: {found}")
        return found

    def nothing(self, prefix, seconds):
        """No such line comes within this time."""
        try:
            line = self.next_line(prefix, seconds)
        except AssertionError:
            return
        raise AssertionError(f"came: {line}")

    def ask(self, line, answer="ok"):
        self.say(line)
        return self.next_line(("ok", "error")) if answer is None else self.expect(answer)

    def control(self):
        self.ask("control")

    def fence(self, epoch, scope="own", ms=20000, gives="given"):
        self.say(f"fence {epoch} {scope} {ms}")
        return self.expect(f"fence {epoch} {gives}")

    def session(self, epoch, ms=20000):
        self.say(f"session {epoch} {ms}")
        self.expect(f"session {epoch} ok")

    def begin(self, epoch=1, scope="own"):
        """From the beginning to a session."""
        self.control()
        self.fence(epoch, scope)
        self.session(epoch)
        return self

    def write(self, name, offset, length, byte, wait=True):
        self.say(f"write {name} {offset} {length} {byte}")
        if wait:
            self.expect(f"end {name} ok")

    def read(self, offset, length=4096):
        """The byte that the range is full of."""
        self.say(f"read r {offset} {length}")
        return int(self.expect("end r ok").split()[3])


def have(*programs):
    return all(shutil.which(p) for p in programs)
