"""A guest: a small machine under qemu, in software emulation, with Debian's kernel.

It runs a job, /job of its image; by default the agent, through which the host then runs scripts
in it. It never outlives its limit, nor this process. The job runs in the small guest of images.py,
or in the system of system_image.py.
"""

import base64
import os
import pathlib
import re
import shlex
import socket
import subprocess
import time

import cpio
import images

LIMIT_S = 240.0
AGENT_JOB = "exec agent"

MACHINE = [
    "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none",
    "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2",
    "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
]


class GuestError(Exception):
    """Something in the guest went wrong; the text says what, with the end of its serial log."""


class ScriptError(GuestError):
    """A script ended with another exit code than 0, or missed a program or a library."""

    def __init__(self, script: str, rc: int, output: str):
        super().__init__(f"in the guest, exit {rc}:\n{script.strip()}\n-- its output:\n{output}")
        self.rc = rc
        self.output = output


class Machine:
    """One boot. Use it as a context: leaving ends the machine, whatever state it is in."""

    def __init__(
        self,
        image: images.Image,
        folder: pathlib.Path,
        *,
        job: str = AGENT_JOB,
        files: dict[str, pathlib.Path] | None = None,
        disks: list[pathlib.Path] | None = None,
        system: pathlib.Path | None = None,
        memory_mib: int = 384,
        limit_s: float = LIMIT_S,
        kernel_arguments: str = "",
    ):
        """`files`: path in the guest → file of the host. `disks`: raw files, in the guest
        /dev/vda, /dev/vdb, …. `system`: of system_image.py, which then is where job and files go.
        `folder` gets the serial log and is the machine's own."""
        folder.mkdir(parents=True, exist_ok=True)
        self.serial = folder / "serial.log"
        self.serial.unlink(missing_ok=True)
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self._received = b""
        self._lost = False  # once it did not answer, what comes is no answer to what is asked
        drives = [_drive(disk, "discard=unmap") for disk in disks or []]
        # On a busy host the emulated timer may come too late for the kernel's check of it.
        parameters = f"console=ttyS0 quiet panic=-1 no_timer_check {kernel_arguments}"
        initramfs = folder / "initramfs.cpio"
        added = _archive(job, files or {})
        if system is None:
            initramfs.write_bytes(image.initramfs.read_bytes() + added)
        else:
            initramfs = image.initramfs
            (folder / "files.cpio").write_bytes(added)
            parameters += f" guest_system={_disk_name(len(drives))},{_disk_name(len(drives) + 1)}"
            drives += [_drive(each, "readonly=on") for each in (system, folder / "files.cpio")]
        self._agent, theirs = socket.socketpair()
        try:
            command = self._command(memory_mib, theirs.fileno())
            command += ["-kernel", str(image.kernel), "-initrd", str(initramfs)]
            command += ["-append", parameters]
            for number, drive in enumerate(drives):
                command += ["-drive", f"{drive},id=d{number}"]
                command += ["-device", f"virtio-blk-pci,drive=d{number}"]
            with open(folder / "qemu.log", "wb") as log:
                self._qemu = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                )
        except BaseException:
            self._agent.close()
            raise
        finally:
            theirs.close()
        self._log = folder / "qemu.log"

    def _command(self, memory_mib: int, agent_fd: int) -> list[str]:
        # timeout ends qemu at the limit even if this process hangs, setpriv if it is killed.
        command = ["setpriv", "--pdeathsig", "TERM"]
        command += ["timeout", "-k", "5", f"{self._limit_s:.0f}"]
        command += ["qemu-system-x86_64", *MACHINE, "-m", str(memory_mib)]
        command += ["-serial", f"file:{self.serial}"]
        command += ["-chardev", f"socket,id=agent,fd={agent_fd}", "-device", "virtio-serial-pci"]
        command += ["-device", "virtserialport,chardev=agent,name=agent"]
        return command

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def wait_ready(self) -> None:
        """Returns when the agent answers."""
        line = self._line(self._deadline)
        if line != "ready":
            raise self._error(f"expected the agent's 'ready', got {line!r}")

    def run(self, script: str, *, check: bool = True, limit_s: float = 120) -> tuple[int, str]:
        """Runs a shell script in the guest: its exit code and its output (stdout and stderr).
        With `check`, raises unless the code is 0 and nothing was "not found"."""
        if self._lost:
            raise GuestError(f"the guest is lost since an earlier error; {self.serial}")
        try:
            self._agent.sendall(base64.b64encode(script.encode()) + b"\n")
        except OSError as error:
            raise self._error(f"the guest went away: {error}") from None
        answer = self._line(min(time.monotonic() + limit_s, self._deadline), script)
        rc_word, _, encoded = answer.partition(" ")
        rc, output = int(rc_word), base64.b64decode(encoded).decode(errors="replace")
        if check and (rc != 0 or _missing(output)):
            raise ScriptError(script, rc, output)
        return rc, output

    def shell(self, *words: str, limit_s: float = 120) -> str:
        """One command that must succeed: what it printed."""
        return self.run(shlex.join(words), limit_s=limit_s)[1]

    def finish(self) -> None:
        """Ends the agent, and checks that the guest went down in order."""
        self._agent.sendall(b"exit\n")
        rc = self.wait()
        if rc != 0:
            raise self._error(f"the job's exit code is {rc}")

    def wait(self) -> int:
        """Waits for the power to go off: the job's exit code. Raises if the guest did not report
        one, or if its log says that something was not found."""
        log = self.wait_off()
        found = re.search(r"^GUEST-EXIT rc=(\d+)\s*$", log, re.MULTILINE)
        if not found:
            raise self._error(f"no GUEST-EXIT line; qemu's exit code is {self._qemu.returncode}")
        return int(found.group(1))

    def wait_off(self) -> str:
        """Waits for the power to go off, whatever the guest ran last: its serial log. Raises if
        that says that something was not found."""
        try:
            self._qemu.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._error(f"still running after its limit of {self._limit_s:.0f} s") from None
        log = self._serial_text()
        missing = _missing(log)
        if missing:
            raise self._error("something is missing in the image:\n" + "\n".join(missing))
        return log

    def exit_code(self) -> int | None:
        """Of qemu; None while it runs."""
        return self._qemu.poll()

    def kill(self) -> None:
        """Idempotent."""
        if self._qemu.poll() is None:
            self._qemu.terminate()  # of timeout, which passes it on
            try:
                self._qemu.wait(10)
            except subprocess.TimeoutExpired:
                self._qemu.kill()
                self._qemu.wait()
        self._agent.close()

    def _line(self, deadline: float, script: str = "") -> str:
        doing = f" while it ran:\n{script.strip()}" if script else " before the agent was ready"
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._error(f"no answer in time{doing}")
            self._agent.settimeout(left)
            try:
                data = self._agent.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise self._error(f"the guest went away{doing}")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def _serial_text(self) -> str:
        try:
            return self.serial.read_text(errors="replace").replace("\r", "")
        except FileNotFoundError:
            return ""

    def _error(self, what: str) -> GuestError:
        self._lost = True
        tail = "\n".join(self._serial_text().splitlines()[-25:])
        said = self._log.read_text(errors="replace").strip()
        return GuestError(f"guest: {what}\n-- serial log, {self.serial}, its end:\n{tail}\n"
                          + (f"-- qemu said:\n{said}\n" if said else ""))


def _archive(job: str, files: dict[str, pathlib.Path]) -> bytes:
    archive = cpio.Archive()
    archive.text("/job", job + "\n", 0o755)
    for path, source in files.items():
        archive.file(path, source)
    return archive.data()


def _drive(path: pathlib.Path, options: str) -> str:
    return f"file={str(path).replace(',', ',,')},format=raw,if=none,{options}"


def _disk_name(number: int) -> str:
    assert number < 26
    return "vd" + chr(ord("a") + number)


def _missing(text: str) -> list[str]:
    """Lines of a shell or a loader that did not find a program, a file or a library."""
    return [line for line in text.splitlines() if "not found" in line]
