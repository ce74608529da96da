"""Device-mapper in the guest and Blockloom on the host, side by side on legs of equal bytes.

dm's legs are the guest's disks /dev/vda, /dev/vdb, …, which qemu keeps in files of the host;
Blockloom's are files as well. So the host compares the legs' bytes itself, at any time.
"""

import contextlib
import pathlib
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable

import setting  # first: it makes the functional tests' harness importable

import harness
import images
from machine import Machine

LEG_NAMES = "abc"
LEG_SECTORS = 16384
LIMIT_S = 600  # all the tables go through one boot
MODULES = "dm-mod dm-zero dm-delay dm-flakey nbd"


class Oracle:
    """Tables are written with {a}, {b}, {c} for the legs; each side puts in its own names."""

    def __init__(self, folder: pathlib.Path):
        folder.mkdir(parents=True)
        self._folder = folder
        # In /tmp, because the name of a Unix socket has 107 characters at most.
        self._sockets = tempfile.mkdtemp(prefix="bl-")
        self._started: list[Callable[[], None]] = []
        content = random.Random(setting.seed)
        for leg in LEG_NAMES:
            self.blockloom_leg(leg).write_bytes(content.randbytes(LEG_SECTORS * 512))
            shutil.copyfile(self.blockloom_leg(leg), self.dm_leg(leg))

    def start(self, image: images.Image) -> None:
        """Both sides, up to close()."""
        command = ["nbdkit", harness.PLUGIN, "device=first:0 8 zero",
                   f"control={self._sockets}/control.sock"]
        self.server = harness.Server(self._sockets, command)
        self._started.append(self.server.stop)
        self.guest = Machine(image, self._folder, limit_s=LIMIT_S,
                             files={"usr/bin/seeded_io": setting.seeded_io()},
                             disks=[self.dm_leg(leg) for leg in LEG_NAMES])
        self._started.append(self.guest.kill)
        self.server.wait_ready()
        rc, said = self.blockloom("remove", "first")
        if rc != 0:
            raise harness.RpcError({"message": said, "code": rc})
        self.guest.wait_ready()
        self.guest.run(f"for m in {MODULES}; do modprobe $m || exit 1; done")

    def close(self) -> None:
        for stop in reversed(self._started):
            stop()
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(f"{self._sockets}/server.log", self._folder)
        shutil.rmtree(self._sockets)

    def blockloom_leg(self, leg: str) -> pathlib.Path:
        return self._folder / f"blockloom_{leg}.img"

    def dm_leg(self, leg: str) -> pathlib.Path:
        return self._folder / f"dm_{leg}.img"

    # Devices: dm's at /dev/mapper/NAME, Blockloom's one at a time at /dev/nbd0.

    def attach(self, name: str) -> None:
        self.guest.run(f"nbd-client 10.0.2.2 {self.server.port} /dev/nbd0 -N {name}")

    def remove(self, name: str) -> None:
        """Both, as far as they came. Legs that differ are made equal, for the next table."""
        self.guest.run("nbd-client -d /dev/nbd0", check=False)
        self.remove_dm(name)
        self.remove_blockloom(name)
        for leg in LEG_NAMES:
            if self.difference(leg) is not None:
                shutil.copyfile(self.blockloom_leg(leg), self.dm_leg(leg))

    def create_dm(self, name: str, table: str) -> str | None:
        """None, or why dm refuses it."""
        table = self.for_dm(table)
        rc, said = self.guest.run(
            f"cat >/run/table <<'END'\n{table}\nEND\n"
            "dmesg -c >/dev/null\n"
            f"dmsetup create {name} /run/table || {{ dmesg | grep device-mapper; exit 1; }}",
            check=False,
        )
        return said or "no reason" if rc != 0 else None

    def for_dm(self, table: str) -> str:
        return table.format(**{leg: f"/dev/vd{leg}" for leg in LEG_NAMES})

    def remove_dm(self, name: str) -> None:
        self.guest.run(f"dmsetup remove {name}", check=False)

    def create_blockloom(self, name: str, table: str) -> str | None:
        """None, or why Blockloom refuses it."""
        rc, said = self.blockloom("create", name, "--table", table)
        return said or "no reason" if rc != 0 else None

    def remove_blockloom(self, name: str) -> None:
        self.blockloom("remove", "--force", name)

    # What both sides say and did.

    def texts_of_dm(self, name: str, verb: str) -> list[str]:
        return _lines(self.with_legs_of_dm(self.guest.shell("dmsetup", verb, name)))

    def texts_of_blockloom(self, name: str, verb: str) -> list[str]:
        rc, text = self.blockloom(verb, name)
        return _lines(text) if rc == 0 else [f"exit {rc}: {text}"]

    def with_legs_of_dm(self, text: str) -> str:
        """dm's words with {a}, {b}, {c} where it has numbers of devices."""
        numbers = {f"254:{16 * i}": f"{{{leg}}}" for i, leg in enumerate(LEG_NAMES)}
        return re.sub(r"\b254:\d+\b", lambda found: numbers[found.group()], text)

    def blockloom(self, *words: str) -> tuple[int, str]:
        """The command: exit code and output, with {a}, {b}, {c} for the legs' paths both ways."""
        paths = {leg: str(self.blockloom_leg(leg)) for leg in LEG_NAMES}
        command = [harness.BLOCKLOOM, "--socket", self.server.control]
        done = subprocess.run(
            [*command, *(word.format(**paths) for word in words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        text = done.stdout
        for leg, path in paths.items():
            text = text.replace(path, f"{{{leg}}}")
        return done.returncode, text

    def same_io(self, name: str, seed: int, count: int, operations: str) -> tuple[str, str]:
        """Does it to both: dm's log and Blockloom's."""
        logs = []
        for device in (f"/dev/mapper/{name}", "/dev/nbd0"):
            log = self.guest.shell("seeded_io", "run", device, str(seed), str(count), operations)
            logs.append(log)
        for side, log in zip(("dm", "blockloom"), logs):
            (self._folder / f"{name}.{side}.log").write_text(log)
        return logs[0], logs[1]

    def dm_discards(self, name: str) -> bool:
        """Whether dm passes discards on for this table."""
        number = f"$(dmsetup info -c --noheadings --separator : -o major,minor {name})"
        limit = self.guest.run(f"cat /sys/dev/block/{number}/queue/discard_max_bytes")[1]
        return limit.strip() != "0"

    def difference(self, leg: str) -> int | None:
        """The first sector of this leg that is not equal on both sides."""
        ours, dms = self.blockloom_leg(leg).read_bytes(), self.dm_leg(leg).read_bytes()
        if ours == dms:
            return None
        return next(at // 512 for at in range(0, len(dms), 512)
                    if ours[at : at + 512] != dms[at : at + 512])


def first_difference(dm: str, blockloom: str) -> str:
    """Where two logs part, with the requests before it. Empty if they are equal."""
    ours, dms = blockloom.splitlines(), dm.splitlines()
    for at, (line, expected) in enumerate(zip(ours, dms)):
        if line != expected:
            before = "".join(f"  both:      {same}\n" for same in dms[max(0, at - 5) : at])
            return f"{before}  dm:        {expected}\n  Blockloom: {line}"
    return "" if len(ours) == len(dms) else f"{len(dms)} lines of dm, {len(ours)} of Blockloom"


def _lines(text: str) -> list[str]:
    """dm puts a blank after a word that may be empty."""
    return [line.rstrip() for line in text.splitlines()]
