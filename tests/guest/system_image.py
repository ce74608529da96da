"""A Debian system in which systemd is the first process: what a guest hands over to when it is to
run the server instead of being its client.

It is one archive, made from packages as the base image is (images.py), made once and kept. A
machine brings Blockloom, installed, in a second one; init unpacks both into a tmpfs and makes
systemd the first process there (rootfs/init). What systemd starts is Debian's basic.target and
guest.service, the machine's job.
"""

import os
import pathlib
import shutil
import subprocess

import cpio
import images
import packages

PACKAGES = [
    "busybox-static",
    "libnbd-bin",
    "nbd-client",
    "nbdkit",
    "systemd",
    # Libraries of these and of Blockloom.
    "libacl1",
    "libapparmor1",
    "libargon2-1",
    "libaudit1",
    "libblkid1",
    "libc6",
    "libcap-ng0",
    "libcap2",
    "libcrypt1",
    "libcryptsetup12",
    "libdevmapper1.02.1",
    "libfdisk1",
    "libffi8",
    "libfmt9",
    "libgcc-s1",
    "libgcrypt20",
    "libgmp10",
    "libgnutls30",
    "libgpg-error0",
    "libhogweed6",
    "libicu72",
    "libidn2-0",
    "libip4tc2",
    "libisal2",
    "libjson-c5",
    "libkmod2",
    "liblz4-1",
    "liblzma5",
    "libmount1",
    "libnbd0",
    "libnettle8",
    "libnl-3-200",
    "libnl-genl-3-200",
    "libp11-kit0",
    "libpam0g",
    "libpcre2-8-0",
    "libseccomp2",
    "libselinux1",
    "libssl3",
    "libstdc++6",
    "libsystemd-shared",
    "libsystemd0",
    "libtasn1-6",
    "libudev1",
    "libunistring2",
    "libuuid1",
    "libxml2",
    "libzstd1",
    "zlib1g",
]
PROGRAMS = ["journalctl", "nbd-client", "nbdcopy", "nbdinfo", "nbdkit", "systemctl",
            "systemd-analyze", "systemd-sysusers", "systemd-tmpfiles"]
# What Blockloom loads: its files come with the machine, their libraries with Debian.
LIBRARIES = ["libcrypto.so.3", "libfmt.so.9", "libgcc_s.so.1", "libgnutls.so.30", "libisal.so.2",
             "libnbd.so.0", "libnss_files.so.2", "libssl.so.3", "libstdc++.so.6",
             "libsystemd.so.0"]
# Of Debian's systemd, with all that is in them, but without what looks for disks, consoles and old
# init scripts at every reload: it takes seconds here and finds nothing.
FOLDERS = ["lib/systemd", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d"]
LEFT_OUT = "system-generators"
# Units of basic.target whose programs or modules are not in the images.
MASKED = ["kmod-static-nodes.service", "proc-sys-fs-binfmt_misc.automount"]
# Programs of busybox that would do systemd's part.
NOT_BUSYBOX = ["halt", "init", "linuxrc", "poweroff", "reboot"]

ETC = {
    **images.ETC,
    "hostname": "guest\n",
    "machine-id": "b10c100b10c100b10c100b10c100b10c\n",  # without it systemd sets up a new system
    "os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12, a guest of the tests"\n',
}

# The job, and its exit code in the serial log when everything else has stopped: see init.
GUEST_SERVICE = """\
[Unit]
Description=The job of this machine
Requires=basic.target
After=basic.target
SuccessAction=poweroff
FailureAction=poweroff

[Service]
Type=exec
Environment=HOME=/root
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
ExecStart=/bin/sh -c "sh /job; echo $$? >/run/guest-exit"
StandardOutput=file:/dev/ttyS0
StandardError=inherit
"""
LAST_WORDS = """\
#!/bin/sh
# systemd-shutdown runs this when all processes are gone, right before it switches the power off.
[ "$1" = poweroff ] && echo "GUEST-EXIT rc=$(cat /run/guest-exit)" >/dev/ttyS0
"""


def prepare(build: pathlib.Path) -> pathlib.Path:
    """The archive, from the cache when it is there and whole."""
    sources = ("packages.py", "cpio.py", "images.py", "system_image.py")
    return images.kept(build, "system", images.recipe(*sources), _make) / "system.cpio"


def installed(build: pathlib.Path, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """What `meson install` installs from a build that is done: path in the guest → file, which is
    below `folder`. Manual pages stay out."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["meson", "install", "-C", str(build), "--no-rebuild", "--strip", "--quiet",
         "--destdir", str(folder)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )
    if done.returncode != 0:
        raise images.ImageError(f"meson install: exit {done.returncode}: is all of it built?\n"
                                f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
    files = [path for path in folder.rglob("*") if path.is_file() and "man" not in path.parts]
    return {str(path.relative_to(folder)): path for path in files}


def _make(folder: pathlib.Path) -> None:
    root = packages.fetch(folder, PACKAGES)
    archive = cpio.Archive()
    images.add_merged_usr(archive)
    for name in ("dev", "mnt", "proc", "root", "run", "srv", "sys", "tmp", "var"):
        archive.folder(name)
    for name, content in ETC.items():
        archive.text(f"etc/{name}", content)
    archive.text("usr/bin/agent", (images.HERE / "rootfs/agent").read_text(), 0o755)
    archive.text("etc/systemd/system/guest.service", GUEST_SERVICE)
    for unit in MASKED:
        archive.symlink(f"etc/systemd/system/{unit}", "/dev/null")
    archive.text("usr/lib/systemd/system-shutdown/guest", LAST_WORDS, 0o755)
    images.add_busybox(archive, root, [*PROGRAMS, *NOT_BUSYBOX])
    programs = [images.find(root, name) for name in PROGRAMS]
    for program in programs:
        archive.file(f"usr/bin/{program.name}", program)
    for name in FOLDERS:
        programs += _add_folder(archive, root, root / name)
    images.add_libraries(archive, root, programs, LIBRARIES)
    (folder / "system.cpio").write_bytes(archive.data())
    for used in ("root", "apt"):
        shutil.rmtree(folder / used, ignore_errors=True)


def _add_folder(
    archive: cpio.Archive, root: pathlib.Path, folder: pathlib.Path
) -> list[pathlib.Path]:
    """All of it, below /usr; the programs among it."""
    programs = []
    for path in sorted(folder.rglob("*")):
        inside = str(path.relative_to(root))
        if LEFT_OUT in path.parts:
            continue
        to = inside if inside.startswith("usr/") else f"usr/{inside}"
        if path.is_symlink():
            archive.symlink(to, os.readlink(path))
        elif path.is_dir():
            archive.folder(to)
        else:
            archive.file(to, path)
            with open(path, "rb") as file:
                if file.read(4) == b"\x7fELF":
                    programs.append(path)
    return programs
