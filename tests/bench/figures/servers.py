"""The servers that are compared. All of them serve the same bytes through the page cache, each as
its own manual page starts it; nothing is tuned but what is said here."""

import os
import shutil
import subprocess

from .procs import BenchError, Process, free_port

SECTOR = 512
CHUNK = 64 * 1024


class Server:
    """One running server."""

    def __init__(self, name, process, uri, address, idle_processes=1):
        self.name = name
        self.process = process
        self.uri = uri
        self.address = address
        self.idle_processes = idle_processes

    @property
    def pid(self):
        return self.process.pid


class Backing:
    """The files behind the servers: an image, and the two halves of a striped one. Written with
    random bytes, so that nothing is a hole, and read once, so that all is cached."""

    def __init__(self, name, folder, size):
        self.name = name
        self.folder = folder
        self.size = size
        self.image = os.path.join(folder, "image")
        self.legs = [os.path.join(folder, "leg0"), os.path.join(folder, "leg1")]

    def create(self):
        os.makedirs(self.folder, exist_ok=True)
        need = 2 * self.size + (64 << 20)
        free = shutil.disk_usage(self.folder).free
        if free < need:
            raise BenchError(f"{self.folder}: {need >> 20} MiB needed, {free >> 20} MiB free")
        block = os.urandom(4 << 20)
        for path, size in [(self.image, self.size)] + [(p, self.size // 2) for p in self.legs]:
            with open(path, "wb") as f:
                for at in range(0, size, len(block)):
                    f.write(block[: size - at])
                f.flush()
                os.fsync(f.fileno())

    def sync(self):
        """Dirty pages out, so that no server is measured under another one's write-back."""
        for path in [self.image] + self.legs:
            fd = os.open(path, os.O_RDONLY)
            os.fdatasync(fd)
            os.close(fd)

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class Place:
    """Where one server listens, and its files."""

    def __init__(self, folder, transport, name):
        self.folder = folder
        self.transport = transport
        self.log = os.path.join(folder, f"{name}.log")
        self.conf = os.path.join(folder, f"{name}.conf")
        self.pid_file = os.path.join(folder, f"{name}.pid")
        if transport == "unix":
            self.address = os.path.join(folder, f"{name}.sock")
            self.port = None
        else:
            self.port = free_port()
            self.address = ("127.0.0.1", self.port)

    def uri(self, export=""):
        if self.transport == "unix":
            return f"nbd+unix:///{export}?socket={self.address}"
        return f"nbd://127.0.0.1:{self.port}/{export}"

    def nbdkit(self):
        if self.transport == "unix":
            return ["nbdkit", "-f", "-U", self.address]
        return ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(self.port)]


def linear_table(backing):
    return f"0 {backing.size // SECTOR} linear {backing.image} 0"


def striped_table(backing):
    legs = " ".join(f"{leg} 0" for leg in backing.legs)
    return f"0 {backing.size // SECTOR} striped 2 {CHUNK // SECTOR} {legs}"


def memory_table(backing):
    return f"0 {backing.size // SECTOR} linear mem:{backing.size} 0"


class Kind:
    """How to start one server; `needs` is the program or file without which it is skipped."""

    def __init__(self, name, argv, needs, fill=False, daemon=False):
        self.name = name
        self.argv = argv
        self.needs = needs
        self.fill = fill  # its bytes live inside it: copy the image in
        self.daemon = daemon  # it goes to the background by itself, and writes a pid file

    def missing(self):
        if os.sep in self.needs:
            return None if os.path.exists(self.needs) else f"{self.needs} is not built"
        return None if shutil.which(self.needs) else f"{self.needs} is not installed"

    def start(self, folder, transport, backing):
        place = Place(folder, transport, "".join(c if c.isalnum() else "-" for c in self.name))
        export, argv = self.argv(place, backing)
        process = Process(argv, place.log, pid_file=place.pid_file if self.daemon else None)
        process.wait_ready(place.address)
        server = Server(self.name, process, place.uri(export), place.address)
        if self.fill:
            subprocess.run(["nbdcopy", backing.image, server.uri], check=True, timeout=300)
        return server


def _qemu_nbd(place, backing):
    # The page cache as with all others (writeback), io_uring as its fastest engine here, and as
    # many clients as the rows need.
    if place.transport == "unix":
        listen = ["-k", place.address]
    else:
        listen = ["-b", "127.0.0.1", "-p", str(place.port)]
    argv = ["qemu-nbd", "-t", "-e", "16", "-f", "raw", "--aio=io_uring", "--cache=writeback"]
    return "", argv + listen + [backing.image]


def _nbd_server(place, backing):
    generic = "[generic]\n"
    if place.transport == "unix":
        generic += f"unixsock = {place.address}\n"
    else:
        generic += f"listenaddr = 127.0.0.1\nport = {place.port}\n"
    with open(place.conf, "w", encoding="ascii") as f:
        f.write(f"{generic}[bench]\nexportname = {backing.image}\nflush = true\nfua = true\n")
    return "bench", ["nbd-server", "-C", place.conf, "-p", place.pid_file]


def plugin_path(build):
    return os.path.join(os.path.abspath(build), "plugins/nbdkit/nbdkit-blockloom-plugin.so")


def kinds(build):
    """Every server, by name, in the order of the report."""
    plugin = plugin_path(build)

    def blockloom(table):
        return lambda place, backing: ("", place.nbdkit() + [plugin, f"table={table(backing)}"])

    def nbdkit(*words):
        return lambda place, backing: ("", place.nbdkit() + [w.format(b=backing) for w in words])

    file_argv = nbdkit("file", "{b.image}")
    rows = [
        Kind("blockloom linear", blockloom(linear_table), plugin),
        Kind("blockloom striped", blockloom(striped_table), plugin),
        Kind("nbdkit file", file_argv, "nbdkit"),
        Kind("nbdkit file (again)", file_argv, "nbdkit"),
        Kind("blockloom mem:", blockloom(memory_table), plugin, fill=True),
        Kind("nbdkit memory", nbdkit("memory", "{b.size}"), "nbdkit", fill=True),
        Kind("qemu-nbd io_uring", _qemu_nbd, "qemu-nbd"),
        Kind("nbd-server", _nbd_server, "nbd-server", daemon=True),
    ]
    return {kind.name: kind for kind in rows}


REFERENCE = "nbdkit file"
CONTROL = "nbdkit file (again)"
