"""What functional tests stand on: a folder of their own, a real nbdkit with the plugin, and
clients. Everything started here is ended when the test ends, however it ends.

    class Linear(harness.Case):
        def test_reads_what_was_written(self):
            disk = self.make_file("a.img", 1 << 20)
            server = self.serve(f"table=0 2048 linear {disk} 0")
            client = self.connect(server)
"""

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

import nbd

BUILD = os.environ.get("BLOCKLOOM_BUILD", "build")
PLUGIN = os.path.join(BUILD, "plugins/nbdkit/nbdkit-blockloom-plugin.so")
BLOCKLOOM = os.path.join(BUILD, "clients/blockloom/blockloom")
BLOCKLOOMD = os.path.join(BUILD, "server/daemon/blockloomd")
SECTOR = 512
MIB = 1 << 20

# A sanitizer's runtime for nbdkit, which is not built with it: BLOCKLOOM_PRELOAD=libclang_rt…so.
PRELOAD = {"LD_PRELOAD": os.environ["BLOCKLOOM_PRELOAD"]} if "BLOCKLOOM_PRELOAD" in os.environ else {}

# One bound for everything that should be quick. Generous: the machine may be busy.
PATIENCE = 60


def pattern(length, seed):
    """Bytes that are the same for the same seed, and different everywhere else."""
    return random.Random(seed).randbytes(length)


def sectors(size):
    return size // SECTOR


def wait_until(condition, what, seconds=PATIENCE):
    """Polls until condition() is true, and gives its value back."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)
    return value


def freeze(*pids):
    """SIGSTOP, and comes back when no thread of theirs runs any more: one that is on a processor
    goes on for a moment, and may answer a request yet."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            pass  # a client's child that just ended
    wait_until(lambda: all(map(is_frozen, pids)), f"processes {pids} are stopped")


def is_frozen(pid):
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", encoding="utf-8") as stat:
                if stat.read().rpartition(")")[2].split()[0] not in "TZX":
                    return False
    except FileNotFoundError:  # it, or a thread of it, is no more
        return not os.path.exists(f"/proc/{pid}")
    return True


class RpcError(Exception):
    """The error that a control call was answered with."""

    def __init__(self, error):
        super().__init__(f"{error.get('message')} ({error.get('code')})")
        self.code, self.message = error.get("code"), error.get("message")
        self.data = error.get("data")


class Control:
    """A connection to the control socket: one JSON-RPC message a line."""

    def __init__(self, path, seconds=PATIENCE):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(seconds)
        self.socket.connect(path)
        self.file = self.socket.makefile("rwb")
        self.last_id = 0

    def rpc(self, method, params=None):
        """The result of the call; RpcError when it was refused. Notifications are passed over."""
        self.last_id += 1
        call = {"jsonrpc": "2.0", "id": self.last_id, "method": method}
        if params is not None:
            call["params"] = params
        self.file.write(json.dumps(call).encode() + b"\n")
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                raise ConnectionError(f"the server hung up on '{method}'")
            answer = json.loads(line)
            if answer.get("id") == self.last_id:
                break
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]

    def close(self):
        self.file.close()
        self.socket.close()


class Server:
    """An nbdkit with the plugin, listening on a Unix socket and on a TCP port of 127.0.0.1.

    The test binds the sockets and hands them over (LISTEN_FDS), so there is no free port to
    guess, and none to wait for: clients may connect at once.
    """

    def __init__(self, folder, command, environment=None, wrapper=()):
        self.folder = folder
        self.socket = os.path.join(folder, "nbd.sock")
        self.control = os.path.join(folder, "control.sock")
        self.log_path = os.path.join(folder, "server.log")
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        local.bind(self.socket)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.1", 0))
        self.port = tcp.getsockname()[1]
        handed = []
        for listener in (local, tcp):
            listener.listen(128)
            handed.append(fcntl.fcntl(listener, fcntl.F_DUPFD, 50))
            listener.close()
        script = ('export LISTEN_PID=$$ LISTEN_FDS=2; '
                  f'exec "$@" 3<&{handed[0]} 4<&{handed[1]} {handed[0]}<&- {handed[1]}<&-')
        try:
            with open(self.log_path, "ab") as log:
                self.process = subprocess.Popen(
                    [*wrapper, "/bin/bash", "-c", script, "bash", *command], cwd=folder,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=handed,
                    env={**os.environ, "LC_ALL": "C", **PRELOAD, **(environment or {})})
        finally:
            for fd in handed:
                os.close(fd)
        self.wrapped = bool(wrapper)

    def wait_ready(self, seconds=PATIENCE):
        """Until a client is greeted, which is after everything has started."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(seconds)
            try:
                client.connect(self.socket)
                greeting = client.recv(18, socket.MSG_WAITALL)
                # Fixed newstyle; NBD_OPT_ABORT, a client's polite way to leave.
                client.sendall(struct.pack(">I8sII", 1, b"IHAVEOPT", 2, 0))
                client.recv(20, socket.MSG_WAITALL)
            except OSError as error:
                greeting = str(error).encode()
        if not greeting.startswith(b"NBDMAGIC"):
            self.stop()
            raise AssertionError(f"the server did not start ({greeting!r}):\n{self.log()}")
        return self

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    @property
    def pid(self):
        return self.process.pid

    def uri(self, export=""):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def tcp_uri(self, export=""):
        return f"nbd://127.0.0.1:{self.port}/{export}"

    def rpc(self, method, params=None):
        control = Control(self.control)
        try:
            return control.rpc(method, params)
        finally:
            control.close()

    def alive(self):
        return self.process.poll() is None

    def descriptors(self):
        """How many file descriptors the server has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def signal(self, number):
        self.process.send_signal(number)

    def wait_end(self, seconds=20):
        """The exit code; fails when the server is still there after this time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            stacks = self.kernel_waits()
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"the server did not end within {seconds} s\n{stacks}\n{self.log()}") from None

    def kernel_waits(self):
        """Where each thread sleeps, to find what a server hangs on."""
        lines = []
        for task in sorted(os.listdir(f"/proc/{self.pid}/task")):
            try:
                with open(f"/proc/{self.pid}/task/{task}/comm", encoding="utf-8") as comm, \
                        open(f"/proc/{self.pid}/task/{task}/wchan", encoding="utf-8") as wchan:
                    lines.append(f"  thread {task} {comm.read().strip()}: {wchan.read()}")
            except OSError:
                pass
        return "\n".join(lines)

    def terminate(self, seconds=20):
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_end(seconds)

    def stop(self):
        """Whatever it is doing: the end."""
        if not self.alive():
            return
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Case(unittest.TestCase):
    """A test with a folder of its own (self.folder), which goes with everything in it."""

    maxDiff = 2000

    def setUp(self):
        # Short, because the name of a Unix socket has 107 characters at most.
        self.folder = tempfile.mkdtemp(prefix="bl-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.servers = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def make_file(self, name, size, seed=None):
        """A sparse file, or with a seed one full of pattern(size, seed). Its path."""
        path = self.path(name)
        with open(path, "wb") as file:
            file.truncate(size)
            if seed is not None:
                file.write(pattern(size, seed))
        return path

    def write_text(self, name, text):
        path = self.path(name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    @staticmethod
    def read_file(path, offset=0, length=-1):
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    def serve(self, *parameters, filters=(), flags=(), control=False, ready=True,
              environment=None, wrapper=()):
        """nbdkit FLAGS --filter=FILTER… blockloom PARAMETERS, ready for clients."""
        self.servers += 1
        folder = self.path(f"s{self.servers}")
        os.mkdir(folder)
        if control:
            parameters = [*parameters, f"control={folder}/control.sock"]
        command = ["nbdkit", *flags, *(f"--filter={f}" for f in filters), PLUGIN, *parameters]
        return self.start(folder, command, ready, environment, wrapper)

    def start(self, folder, command, ready=True, environment=None, wrapper=()):
        server = Server(folder, command, environment, wrapper)
        self.addCleanup(server.stop)
        return server.wait_ready() if ready else server

    def refuse(self, *parameters, flags=()):
        """Starts a server that must not start, and gives back what it said."""
        done = subprocess.run(
            ["nbdkit", "-f", "-U", self.path("refused.sock"), *flags, PLUGIN, *parameters],
            cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr

    def connect(self, server, export="", strict=True, uri=None):
        """A libnbd handle, with the meta context that extents need."""
        client = nbd.NBD()
        client.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        if not strict:
            client.set_strict_mode(0)
        client.set_export_name(export)
        if uri:
            client.connect_uri(uri)
        else:
            client.connect_unix(server.socket)
        self.addCleanup(self.hang_up, client)
        return client

    @staticmethod
    def hang_up(client):
        try:
            client.shutdown()
        except nbd.Error:
            pass  # was closed before, or its server is gone

    def assert_errno(self, expected, call, *arguments):
        """The call fails with this errno ("EIO")."""
        with self.assertRaises(nbd.Error) as caught:
            call(*arguments)
        self.assertEqual(caught.exception.errno, expected, caught.exception.string)

    def command(self, *words, seconds=PATIENCE, check=True, environment=None, text=True):
        """Runs a client to its end. With check its failure is the test's."""
        done = subprocess.run(words, cwd=self.folder, stdin=subprocess.DEVNULL,
                              capture_output=True, text=text, timeout=seconds, check=False,
                              env={**os.environ, "LC_ALL": "C", **(environment or {})},
                              errors="replace" if text else None)
        if check and done.returncode != 0:
            self.fail(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def spawn(self, *words, **options):
        """Starts a client that the test ends, or that ends with the test."""
        process = subprocess.Popen(words, cwd=self.folder, stdin=subprocess.DEVNULL, **options)
        self.addCleanup(self.reap, process)
        return process

    @staticmethod
    def reap(process):
        if process.poll() is None:
            process.kill()
        process.communicate()


def extents(client, offset=0, length=None):
    """[(length, flags)] of base:allocation over the range; flags: 1 hole, 2 zero."""
    found = []
    end = offset + length if length is not None else client.get_size()
    while offset < end:
        def take(_context, position, entries, _error):
            nonlocal offset
            for size, flags in zip(entries[::2], entries[1::2]):
                size = min(size, end - position)
                if size == 0:
                    break
                if found and found[-1][1] == flags:
                    found[-1] = (found[-1][0] + size, flags)
                else:
                    found.append((size, flags))
                position += size
            offset = position
            return 0
        before = offset
        client.block_status(min(end - offset, 1 << 30), offset, take)
        if offset == before:
            raise AssertionError(f"no extent at {offset}")
    return found
