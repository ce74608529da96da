"""The Debian packages that the guest is made of: downloaded and unpacked, never installed.

They come from the apt sources of this machine, checked by apt as always, into a folder that the
next run uses again.
"""

import os
import pathlib
import shutil
import subprocess

KERNEL = "linux-image-cloud-amd64"
# The programs of the small guest, with every library they load.
PACKAGES = [
    "busybox-static",
    "dmsetup",
    "e2fsprogs",
    "kexec-tools",
    "nbd-client",
    "open-iscsi",
    "xfsprogs",
    # Libraries; images.py fails and names it if one is missing here.
    "libblkid1",
    "libbsd0",
    "libc6",
    "libcap2",
    "libcom-err2",
    "libdevmapper1.02.1",
    "libedit2",
    "libext2fs2",
    "libffi8",
    "libgcc-s1",
    "libgcrypt20",
    "libgmp10",
    "libgnutls30",
    "libgpg-error0",
    "libhogweed6",
    "libicu72",
    "libidn2-0",
    "libinih1",
    "libisns0",
    "libkmod2",
    "liblz4-1",
    "liblzma5",
    "libmd0",
    "libmount1",
    "libnettle8",
    "libnl-3-200",
    "libnl-genl-3-200",
    "libopeniscsiusr",
    "libp11-kit0",
    "libpcre2-8-0",
    "libselinux1",
    "libssl3",
    "libstdc++6",
    "libsystemd0",
    "libtasn1-6",
    "libudev1",
    "libtinfo6",
    "libunistring2",
    "liburcu8",
    "libuuid1",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenmisc4.17",
    "libxentoolcore1",
    "libxentoollog1",
    "libzstd1",
]

DOWNLOAD_LIMIT_S = 300


class PackageError(Exception):
    """What is wrong, and what to do about it."""


def fetch(folder: pathlib.Path, names: list[str]) -> pathlib.Path:
    """Downloads the packages and unpacks them into folder/root, which it returns. KERNEL stands
    for the package that the current kernel is in."""
    root, debs = folder / "root", folder / "debs"
    for each in (root, debs):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(parents=True)
    apt = _Apt(folder)
    try:
        apt.download(names, debs)
    except PackageError:
        # No package lists yet, or so old that the mirror has dropped what they name.
        apt.use_own_lists()
        apt.download(names, debs)
    for deb in sorted(debs.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(deb), str(root)])
    shutil.rmtree(debs)
    return root


class _Apt:
    """apt-get as whoever runs the tests, root or not."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._options = ["-q", "-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=60"]
        if os.geteuid() == 0:
            # Otherwise apt complains that its own user cannot write to the folder.
            self._options += ["-o", "APT::Sandbox::User=root"]

    def use_own_lists(self) -> None:
        """Fetches the package lists into the folder: this needs no root."""
        lists = self._folder / "apt"
        shutil.rmtree(lists, ignore_errors=True)
        for sub in ("lists/partial", "cache/archives/partial"):
            (lists / sub).mkdir(parents=True)
        self._options += [
            "-o", f"Dir::State::Lists={lists}/lists",
            "-o", f"Dir::Cache={lists}/cache",
        ]
        _run(["apt-get", *self._options, "update"])

    def download(self, names: list[str], into: pathlib.Path) -> None:
        packages = [self._kernel() if name == KERNEL else name for name in names]
        _run(["apt-get", *self._options, "download", *packages], cwd=into)

    def _kernel(self) -> str:
        """The package that the current kernel's name stands for."""
        out = _run(["apt-cache", *self._options, "depends", KERNEL])
        for line in out.splitlines():
            words = line.split()
            if words[:1] == ["Depends:"] and words[1].startswith("linux-image-"):
                return words[1]
        raise PackageError(f"apt-cache depends {KERNEL} names no kernel:\n{out}")


def _run(command: list[str], cwd: pathlib.Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_LIMIT_S,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError:
        raise PackageError(f"{command[0]} is not here: the guest is made of Debian's packages")
    except subprocess.TimeoutExpired:
        raise PackageError(f"{' '.join(command[:3])}: not done after {DOWNLOAD_LIMIT_S} s")
    if done.returncode != 0:
        raise PackageError(
            f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-2000:]}\n"
            "The guest's packages come from this machine's apt sources; check them and the network."
        )
    return done.stdout
