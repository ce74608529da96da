"""Builds what the guest boots: Debian's kernel, and a base image with modules and programs.

Both are made once and kept; a machine appends its own files to the image (machine.py).
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator

import cpio
import packages

HERE = pathlib.Path(__file__).resolve().parent

MODULES = [
    # the machine's own devices
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtio_console",
    # what the tests use
    "netconsole",
    "nbd",
    "iscsi_tcp",
    "sd_mod",
    "ext4",
    "xfs",
    "dm-mod",  # with linear, striped and error in it
    "dm-zero",
    "dm-delay",
    "dm-flakey",
    "vsock_loopback",
    "dm-multipath",
    "dm-round-robin",
]
PROGRAMS = ["dmsetup", "e2fsck", "iscsiadm", "iscsid", "kexec", "mke2fs", "mkfs.xfs", "nbd-client",
            "resize2fs", "xfs_repair"]
LINKS = {"/usr/sbin/mkfs.ext4": "mke2fs"}
# Opened while running, so that no program's header names them.
LIBRARIES = ["libgcc_s.so.1", "libnss_files.so.2"]

KEPT = 3  # images of other states

ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "group": "root:x:0:\n",
    "hosts": "127.0.0.1 localhost\n10.0.2.2 host\n",
    "nsswitch.conf": "".join(
        f"{what}: files\n" for what in ("passwd", "group", "hosts", "protocols", "services")
    ),
    "protocols": "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\n",
    "services": "nbd 10809/tcp\n",
    "mtab": "",
}


class ImageError(Exception):
    """What the image lacks."""


@dataclasses.dataclass(frozen=True)
class Image:
    kernel: pathlib.Path
    initramfs: pathlib.Path
    version: str  # of the kernel


def cache_folder(build: pathlib.Path) -> pathlib.Path:
    """Where images are kept: shared by all build folders if there is a home to keep it in."""
    cache = os.environ.get("XDG_CACHE_HOME")
    if not cache and os.environ.get("HOME"):
        cache = os.path.join(os.environ["HOME"], ".cache")
    if cache and os.path.isabs(cache):
        folder = pathlib.Path(cache) / "blockloom" / "guest"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    return build / "guest-cache"


def prepare(build: pathlib.Path) -> Image:
    """The image, from the cache when it is there and whole."""
    ready = kept(build, "image", recipe("packages.py", "cpio.py", "images.py"), _make)
    version = (ready / "version").read_text().strip()
    return Image(ready / "vmlinuz", ready / "base.cpio", version)


def kept(
    build: pathlib.Path, kind: str, state: str, make: Callable[[pathlib.Path], None]
) -> pathlib.Path:
    """The folder that `make` fills: the one in the cache, if it was made in this `state`. A few of
    other states stay: another tree's tests may be using them."""
    cache = cache_folder(build)
    ready = cache / f"{kind}-{state}"
    with _locked(cache):
        if not ready.exists():
            others = sorted(cache.glob(f"{kind}-*"), key=lambda folder: folder.stat().st_mtime)
            for old in [*others[:-KEPT], *cache.glob("making")]:
                shutil.rmtree(old)
            making = cache / "making"
            making.mkdir()
            make(making)
            making.rename(ready)
        os.utime(ready)
    return ready


def recipe(*sources: str) -> str:
    """Changes with anything that an image is made from or by."""
    digest = hashlib.sha256()
    for name in sources:
        digest.update((HERE / name).read_bytes())
    for path in sorted((HERE / "rootfs").iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _locked(cache: pathlib.Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: pathlib.Path) -> None:
    root = packages.fetch(folder, [packages.KERNEL, *packages.PACKAGES])
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise ImageError(f"expected one kernel in {root}/boot, found {kernels}")
    version = kernels[0].name.removeprefix("vmlinuz-")
    archive = cpio.Archive()
    _add_frame(archive)
    add_busybox(archive, root, [*PROGRAMS, *map(os.path.basename, LINKS)])
    _add_modules(archive, root, version)
    _add_programs(archive, root)
    (folder / "base.cpio").write_bytes(archive.data())
    shutil.copy(kernels[0], folder / "vmlinuz")
    (folder / "version").write_text(version + "\n")
    for used in ("root", "apt"):
        shutil.rmtree(folder / used, ignore_errors=True)


def add_merged_usr(archive: cpio.Archive) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        archive.folder(f"usr/{name}")
        archive.symlink(name, f"usr/{name}")


def _add_frame(archive: cpio.Archive) -> None:
    add_merged_usr(archive)
    for name in ("dev", "mnt", "proc", "root", "run", "sys", "tmp"):
        archive.folder(name)
    for name, content in ETC.items():
        archive.text(f"etc/{name}", content)
    for source in (HERE / "rootfs").iterdir():
        archive.text("init" if source.name == "init" else f"usr/bin/{source.name}",
                     source.read_text(), 0o755)


def add_busybox(archive: cpio.Archive, root: pathlib.Path, others: list[str]) -> None:
    """With a name for each of its programs, except those that are `others`."""
    busybox = find(root, "busybox")
    archive.file("usr/bin/busybox", busybox)
    listed = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True)
    for name in listed.stdout.split():
        if name not in ("busybox", *others):
            archive.symlink(f"usr/bin/{name}", "busybox")


def _add_modules(archive: cpio.Archive, root: pathlib.Path, version: str) -> None:
    """The modules with what they depend on, and the index that modprobe reads."""
    _checked(["depmod", "-b", str(root), version])
    wanted: set[str] = set()
    for module in MODULES:
        shown = _checked(["modprobe", "-d", str(root), "-S", version, "--show-depends", module])
        for line in shown.splitlines():
            words = line.split()
            if words[0] == "insmod":
                wanted.add(os.path.relpath(words[1], root))
            elif words[0] != "builtin":
                raise ImageError(f"modprobe --show-depends {module}: {line}")
    # An index of these alone: with all of Debian's it takes the guest seconds to read.
    tree = root / "tree"
    for path in wanted:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, tree / path)
        archive.file(f"usr/{path}", root / path)
    modules = f"lib/modules/{version}"
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(root / modules / name, tree / modules / name)
    _checked(["depmod", "-b", str(tree), version])
    for index in sorted((tree / modules).glob("modules.*")):
        archive.file(f"usr/{modules}/{index.name}", index)


def _add_programs(archive: cpio.Archive, root: pathlib.Path) -> None:
    programs = [find(root, name) for name in PROGRAMS]
    for program in programs:
        archive.file(f"usr/sbin/{program.name}", program)
    for path, target in LINKS.items():
        archive.symlink(path, target)
    add_libraries(archive, root, programs, LIBRARIES)
    archive.file("etc/mke2fs.conf", root / "etc/mke2fs.conf")


def add_libraries(
    archive: cpio.Archive, root: pathlib.Path, programs: list[pathlib.Path], others: list[str]
) -> None:
    """What the programs load, and the `others`, and what those load."""
    more = [find(root, name) for name in others]
    libraries = {path.name: path for path in more}
    for program in [*programs, *more]:
        libraries.update(_libraries_of(root, program))
    archive.file("usr/lib64/ld-linux-x86-64.so.2", find(root, "ld-linux-x86-64.so.2"))
    for name, path in sorted(libraries.items()):
        archive.file(f"usr/lib/x86_64-linux-gnu/{name}", path)


def _libraries_of(root: pathlib.Path, program: pathlib.Path) -> dict[str, pathlib.Path]:
    """What the guest's own loader would load, by name. A missing library is an error."""
    folders = ":".join(str(f) for f in _library_folders(root))
    loader = find(root, "ld-linux-x86-64.so.2")
    listed = _checked([str(loader), "--library-path", folders, "--list", str(program)])
    found = {}
    for line in listed.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if not arrow or name.startswith("/"):
            continue  # the loader itself, the kernel's vdso
        path = rest.split(" (")[0]
        if not path.startswith(str(root)):
            raise ImageError(f"{program.name}: {line.strip()}: add its package to packages.py")
        found[name] = pathlib.Path(path)
    return found


def _library_folders(root: pathlib.Path) -> list[pathlib.Path]:
    folders = [root / f / "x86_64-linux-gnu" for f in ("lib", "usr/lib")]
    return folders + [folder / "systemd" for folder in folders]  # its own shared parts


def find(root: pathlib.Path, name: str) -> pathlib.Path:
    folders = [root / f for f in ("bin", "sbin", "usr/bin", "usr/sbin", "lib64", "usr/lib64")]
    for folder in folders + _library_folders(root):
        if (folder / name).exists():
            return folder / name
    raise ImageError(f"{name} is in none of the packages of packages.py")


def _checked(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise ImageError(f"{command[0]} is not here; it is in the package kmod") from None
    if done.returncode != 0:
        raise ImageError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout
