"""Writes the archive that Linux unpacks as its first file system (cpio's "newc" format).

The kernel takes several archives one after the other, each starting at a multiple of 4 bytes, so
a job and its files are a second archive behind the base image.
Source: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import os
import pathlib
import stat


class Archive:
    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0
        self._folders: set[str] = set()

    def folder(self, path: str) -> None:
        """A folder and those above it, unless already here."""
        path = path.strip("/")
        if not path or path in self._folders:
            return
        self.folder(os.path.dirname(path))
        self._folders.add(path)
        self._entry(path, stat.S_IFDIR | 0o755, b"")

    def symlink(self, path: str, target: str) -> None:
        self.folder(os.path.dirname(path.strip("/")))
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def text(self, path: str, content: str, mode: int = 0o644) -> None:
        self._file(path, content.encode(), mode)

    def file(self, path: str, source: pathlib.Path) -> None:
        """Content and execute bits of a file on the host."""
        mode = 0o755 if os.stat(source).st_mode & 0o111 else 0o644
        self._file(path, source.read_bytes(), mode)

    def data(self) -> bytes:
        """The whole archive, padded so that another may follow."""
        return b"".join([*self._parts, _record("TRAILER!!!", 0, 0, b"")])

    def _file(self, path: str, content: bytes, mode: int) -> None:
        self.folder(os.path.dirname(path.strip("/")))
        self._entry(path, stat.S_IFREG | mode, content)

    def _entry(self, path: str, mode: int, content: bytes) -> None:
        self._inode += 1
        self._parts.append(_record(path.strip("/"), self._inode, mode, content))


def _record(name: str, inode: int, mode: int, content: bytes) -> bytes:
    raw_name = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device ×4, name's length, checksum
    numbers = [inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(raw_name), 0]
    header = b"070701" + b"".join(b"%08x" % n for n in numbers)
    return _padded(header + raw_name) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
