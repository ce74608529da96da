"""Servers of mirror legs on loopback, each a real one, that can be frozen, killed and started again;
and a mirror over them with what the tests ask of it."""

import itertools
import json
import os
import re
import signal
import subprocess

import harness
from harness import MIB, PLUGIN, SECTOR, sectors, wait_until
from iscsi_target import Tgtd, free_port

NUMBERS = itertools.count()


class LegServer:
    """One leg's server over a file of its own."""

    #: Its fence proves something although its link is dead: it comes back by itself.
    proves_after_kill = False

    def __init__(self, case, size, path=None):
        self.case, self.size = case, size
        self.number = next(NUMBERS)
        self.path = path or case.make_file(f"leg{self.number}.img", size)
        self.port = free_port()
        self.process = None
        case.addCleanup(self.stop)
        self.start()

    def command(self):
        raise NotImplementedError

    def uri(self):
        return f"nbd://127.0.0.1:{self.port}/"

    def start(self):
        with open(self.case.path(f"leg{self.number}.log"), "ab") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.case.folder,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        wait_until(self.answers, f"{type(self).__name__} listens")

    def answers(self):
        done = subprocess.run(["nbdinfo", "--size", self.uri()], capture_output=True, check=False,
                              timeout=30)
        return done.returncode == 0

    def signal(self, number):
        os.killpg(self.process.pid, number)  # nbd-server has a child a client

    def freeze(self):
        harness.freeze(self.process.pid)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.kill()

    def content(self):
        with open(self.path, "rb") as file:
            return file.read(self.size)


class Nbdkit(LegServer):
    """nbdkit file; with `trigger` a file whose presence makes an error filter fail writes."""

    def __init__(self, case, size, error=None, rate="100%"):
        self.trigger = case.path(f"fail{next(NUMBERS)}")
        self.error, self.rate = error, rate
        super().__init__(case, size)

    def command(self):
        filters = ["--filter=error"] if self.error else []
        words = [f"error-pwrite={self.error}", f"error-pwrite-rate={self.rate}",
                 f"error-file={self.trigger}"] if self.error else []
        return ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(self.port), *filters, "file",
                self.path, *words]

    def fail(self):
        with open(self.trigger, "w", encoding="utf-8"):
            pass

    def heal(self):
        os.unlink(self.trigger)


class Qemu(LegServer):
    """qemu-nbd"""

    def command(self):
        return ["qemu-nbd", "-f", "raw", "-b", "127.0.0.1", "-p", str(self.port), "--persistent",
                "--shared=16", self.path]


class NbdServer(LegServer):
    """nbd-server, which always goes into the background, in a session of its own, and has a child
    for each client there."""

    def command(self):
        config = self.case.write_text(
            f"nbd{self.number}.conf",
            f"[generic]\nport = {self.port}\nlistenaddr = 127.0.0.1\nallowlist = true\n"
            f"[disk]\nexportname = {self.path}\nflush = true\nfua = true\n")
        self.pid_file = self.case.path(f"nbd{self.number}.pid")
        return ["nbd-server", "-C", config, "-p", self.pid_file]

    def start(self):
        super().start()
        with open(self.pid_file, encoding="utf-8") as file:
            self.pid = int(file.read())

    def uri(self):
        return f"nbd://127.0.0.1:{self.port}/disk"

    def everybody(self):
        """The server and its children."""
        children = subprocess.run(["pgrep", "-P", str(self.pid)], capture_output=True, text=True,
                                  check=False).stdout.split()
        return [self.pid, *map(int, children)]

    def signal(self, number):
        for pid in self.everybody():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def freeze(self):
        harness.freeze(*self.everybody())

    def kill(self):
        self.signal(signal.SIGKILL)
        wait_until(lambda: not self.answers(), "it is gone")

    def stop(self):
        self.signal(signal.SIGKILL)
        self.process.wait()


class Own(LegServer):
    """Blockloom's own server, which knows epochs."""

    proves_after_kill = True

    def command(self):
        config = self.case.write_text(
            f"own{self.number}.toml",
            f'[server]\nstate_dir = "{self.case.path(f"own{self.number}")}"\n'
            f'[[device]]\nname = "disk"\n'
            f'table = "0 {sectors(self.size)} linear {self.path} 0"\n')
        os.makedirs(self.case.path(f"own{self.number}"), exist_ok=True)
        return ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(self.port), PLUGIN,
                f"config={config}"]

    def uri(self):
        return f"nbd://127.0.0.1:{self.port}/disk"


class Iscsi:
    """tgtd"""

    proves_after_kill = True

    def __init__(self, case, size):
        self.size = size
        self.path = case.make_file(f"leg{next(NUMBERS)}.img", size)
        self.target = Tgtd(case, self.path)
        for name in ("start", "freeze", "thaw", "kill", "stop"):
            setattr(self, name, getattr(self.target, name))

    def uri(self):
        return self.target.uri("keepalive=1s&login_timeout=2s")

    def content(self):
        with open(self.path, "rb") as file:
            return file.read(self.size)


class FileLeg:
    """A file of the server's own machine."""

    def __init__(self, case, size, path=None):
        self.size = size
        self.path = path or case.make_file(f"leg{next(NUMBERS)}.img", size)

    def uri(self):
        return self.path

    def content(self):
        with open(self.path, "rb") as file:
            return file.read(self.size)


class Mirror:
    """A server whose only device is a mirror over these legs, with a log on a file."""

    REGION = 128  # sectors

    def __init__(self, case, legs, features="", size=16 * MIB, sync="nosync"):
        self.case, self.legs, self.size, self.sync = case, legs, size, sync
        self.log_path = case.make_file(f"mirror{next(NUMBERS)}.log", MIB)
        self.features = features
        self.server = None
        self.start()

    def table(self):
        legs = " ".join(f"{leg.uri()} 0" for leg in self.legs)
        words = self.features.split()
        features = f" {len(words)} {self.features}" if words else ""
        return (f"0 {sectors(self.size)} mirror disk 3 {self.log_path} {self.REGION} {self.sync} "
                f"{len(self.legs)} {legs}{features}")

    def start(self):
        config = self.case.write_text(f"mirror{next(NUMBERS)}.toml",
                                      f'[[device]]\nname = "m"\ntable = """{self.table()}"""\n')
        self.server = self.case.serve(f"config={config}", control=True)

    def health(self):
        """"AA", "AD"…: A alive, S out of sync, D down, R read error."""
        status = self.status()
        return re.search(r"(\d+)/(\d+) 1 ([ADSRU]+)", status).group(3)

    def status(self):
        answer = self.server.rpc("status", {"device": "m"})
        return answer if isinstance(answer, str) else json.dumps(answer)

    def details(self):
        """What mirror-status --json shows."""
        return self.server.rpc("mirror_status", {"device": "m"})["mirrors"][0]["details"]

    def wait_whole(self, seconds=harness.PATIENCE):
        letters = "A" * len(self.legs)
        try:
            wait_until(lambda: self.health() == letters, "", seconds)
        except AssertionError:
            raise AssertionError(f"not healed within {seconds} s: {self.status()}\n"
                                 f"{self.server.log()}") from None

    def wait_health(self, condition, seconds=harness.PATIENCE):
        wait_until(lambda: condition(self.health()), f"health: {self.status()}", seconds)
        return self.health()

    def check_equal(self):
        """After everything was flushed: 0 blocks differ."""
        contents = [leg.content() for leg in self.legs]
        for leg, content in zip(self.legs[1:], contents[1:]):
            differ = [at for at in range(0, self.size, 4096)
                      if content[at:at + 4096] != contents[0][at:at + 4096]]
            self.case.assertEqual(differ, [], f"{len(differ)} blocks differ on {leg.uri()}")

    def fio(self):
        return Fio(self)


class Fio:
    """fio in the background, until the end of the block: random writes and reads, verified."""

    def __init__(self, mirror):
        self.mirror = mirror
        self.report = mirror.case.path(f"fio{next(NUMBERS)}.json")
        self.process = subprocess.Popen(
            ["fio", "--name=verify", "--ioengine=nbd", f"--uri={mirror.server.uri('m')}",
             "--rw=randrw", "--rwmixread=40", "--bsrange=4k-64k", "--iodepth=8", "--size=16m",
             "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64", "--time_based",
             "--runtime=3600", "--randrepeat=0", "--output-format=json",
             f"--output={self.report}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=mirror.case.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def written(self):
        return self.mirror.server.rpc("stats", {"device": "m"})["devices"][0]["io"]["writes"]

    def goes_on(self, writes=100):
        """Until so many more writes were answered than when it was asked."""
        wanted = self.written() + writes
        wait_until(lambda: self.process.poll() is not None or self.written() >= wanted,
                   f"fio goes on: {self.mirror.status()}")
        if self.process.poll() is not None:
            self.check()

    def check(self):
        """Ends it; it met no error, of the device or in what it read."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(harness.PATIENCE)
        with open(self.report, encoding="utf-8") as file:
            text = file.read()
        job = json.loads(text[text.index("{"):])["jobs"][0]
        if job["error"] or job.get("total_err"):
            raise AssertionError(f"fio met an error: {text[:500]}\n{self.mirror.status()}\n"
                                 f"{self.mirror.server.log()}")
