"""Makes a capture kernel's initramfs as an administrator of Debian does.

Debian's packages are unpacked into a tree, never installed. In that tree, changed into as a root,
`blockloom-dump install` runs, and then kdump-tools' own script, which calls mkinitramfs, which
calls our hook: what is in the initramfs is what the hook put there. Needs root, or user namespaces.
"""

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess

import images
import packages

LIMIT_S = 240

PACKAGES = [
    "initramfs-tools",
    "initramfs-tools-core",
    "kdump-tools",
    "kexec-tools",
    "makedumpfile",
    # What they run.
    "bash",
    "busybox-static",
    "coreutils",
    "cpio",
    "dash",
    "debianutils",
    "dpkg",
    "findutils",
    "grep",
    "gzip",
    "klibc-utils",
    "kmod",
    "libc-bin",
    "linux-base",
    "logsave",
    "mount",
    "perl-base",
    "sed",
    "udev",
    "util-linux",
    "zstd",
    # Libraries; a program that misses one here ends with an error.
    "libacl1",
    "libattr1",
    "libblkid1",
    "libbz2-1.0",
    "libc6",
    "libcap2",
    "libcap-ng0",
    "libcrypt1",
    "libdw1",
    "libelf1",
    "libgcc-s1",
    "libgmp10",
    "libklibc",
    "libkmod2",
    "liblz4-1",
    "liblzma5",
    "liblzo2-2",
    "libmd0",
    "libmount1",
    "libpcre2-8-0",
    "libselinux1",
    "libsmartcols1",
    "libssl3",
    "libstdc++6",
    "libsystemd0",
    "libtinfo6",
    "libudev1",
    "libuuid1",
    "libzstd1",
    "zlib1g",
]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CaptureError(Exception):
    """What went wrong while the initramfs was made."""


@dataclasses.dataclass(frozen=True)
class Capture:
    kernel: pathlib.Path
    initramfs: pathlib.Path
    arguments: str  # what kdump-config puts on the capture kernel's command line


def prepare(build: pathlib.Path, folder: pathlib.Path, *options: str, program: str = "blockloom-dump",
            files: dict[str, pathlib.Path] | None = None) -> Capture:
    """`options` are those of `blockloom-dump install`, `files` what they name: path in the tree →
    file of the host. The folder gets the initramfs and a log."""
    kept = images.kept(build, "capture", images.recipe("packages.py", "capture.py"), _make_tree)
    root = folder / "root"
    shutil.copytree(kept / "root", root, symlinks=True)
    for path, source in (files or {}).items():
        shutil.copy(source, root / path.lstrip("/"))
    try:
        return _make(build, root, folder, shlex.join([program, "install", *options]))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _make_tree(folder: pathlib.Path) -> None:
    root = packages.fetch(folder, [packages.KERNEL, *PACKAGES])
    for name in ("bin", "sbin", "lib", "lib64"):  # as every Debian 12 has them
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if (root / name).is_dir():
            subprocess.run(["cp", "-a", f"{root / name}/.", root / "usr" / name], check=True)
            shutil.rmtree(root / name)
        (root / name).symlink_to(f"usr/{name}")
    for name in ("dev", "proc", "root", "run", "sys", "tmp", "var/tmp", "var/lib"):
        (root / name).mkdir(parents=True, exist_ok=True)
    # What the packages' maintainer scripts would do.
    kdump_tools = root / "etc/default/kdump-tools"
    kdump_tools.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "usr/share/kdump-tools/kdump-tools.conf", kdump_tools)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    for name in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / name, ignore_errors=True)


def _make(build: pathlib.Path, root: pathlib.Path, folder: pathlib.Path, install: str) -> Capture:
    _install_sender(build, root)
    # An administrator's choice: with Debian's default, kdump-tools asks /sys for this machine's
    # drivers, and the machine that is made here is another.
    (root / "etc/initramfs-tools/conf.d").mkdir(exist_ok=True)
    (root / "etc/initramfs-tools/conf.d/guest").write_text("MODULES=list\n")
    kernel, = (root / "boot").glob("vmlinuz-*")
    version = kernel.name.removeprefix("vmlinuz-")
    _in_root(root, folder, f"""
        set -e
        ldconfig
        depmod {version}
        {install}
        /etc/kernel/postinst.d/kdump-tools {version}
        . /etc/default/kdump-tools
        echo "$KDUMP_CMDLINE_APPEND" > /arguments
        """)
    shutil.copy(kernel, folder / "vmlinuz")
    shutil.copy(root / f"var/lib/kdump/initrd.img-{version}", folder / "initrd.img")
    return Capture(folder / "vmlinuz", folder / "initrd.img", (root / "arguments").read_text().strip())


def _install_sender(build: pathlib.Path, root: pathlib.Path) -> None:
    """What `meson install` installs of blockloom-dump, to where it would."""
    listed = subprocess.run(["meson", "introspect", "--installed", build], check=True,
                            capture_output=True, text=True, timeout=60)
    for source, to in json.loads(listed.stdout).items():
        if "blockloom-dump" in source and "/docs/" not in source:
            target = root / to.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            target.chmod(0o755)


def _in_root(root: pathlib.Path, folder: pathlib.Path, script: str) -> None:
    """Runs a shell script with the tree as its root; capture.log has what it said."""
    enter = 'mount --rbind /dev "$1/dev" && mount --rbind /proc "$1/proc" && exec chroot "$1" ' \
            'env -i LC_ALL=C HOME=/root PATH="$2" sh -c "$3"'
    spaces = ["--mount"] if os.geteuid() == 0 else ["--map-root-user", "--mount"]
    log = folder / "capture.log"
    with open(log, "wb") as out:
        done = subprocess.run(["unshare", *spaces, "sh", "-c", enter, "enter", root, PATH, script],
                              stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=LIMIT_S,
                              check=False)
    text = log.read_text(errors="replace")
    missing = [line for line in text.splitlines() if "not found" in line]
    if done.returncode != 0 or missing:
        raise CaptureError(f"in {root}: exit {done.returncode}; {log}:\n{text[-3000:]}")
