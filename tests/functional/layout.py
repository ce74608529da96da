"""A model of linear and striped in a few lines, to compare the server with."""

import random

SECTOR = 512


class Linear:
    """Runs of (path, first byte in the file, length), one after the other."""

    def __init__(self, *runs):
        self.runs = runs
        self.size = sum(length for _path, _start, length in runs)

    def where(self, offset):
        """(path, offset in it, how many bytes lie there in a row)"""
        for path, start, length in self.runs:
            if offset < length:
                return path, start + offset, length - offset
            offset -= length
        raise IndexError(offset)


class Striped:
    """Chunks of `chunk` bytes in turn over (path, first byte)."""

    def __init__(self, chunk, size, *stripes):
        self.chunk, self.size, self.stripes = chunk, size, stripes

    def where(self, offset):
        chunk, inside = divmod(offset, self.chunk)
        row, stripe = divmod(chunk, len(self.stripes))
        path, start = self.stripes[stripe]
        return path, start + row * self.chunk + inside, self.chunk - inside


def gather(layout, offset=0, length=None):
    """The device's bytes, read from the files as the layout says."""
    length = layout.size - offset if length is None else length
    found = []
    while length > 0:
        path, start, run = layout.where(offset)
        run = min(run, length)
        with open(path, "rb") as file:
            file.seek(start)
            found.append(file.read(run))
        offset += run
        length -= run
    return b"".join(found)


def scribble(client, before, seed, count=200, longest=300 * SECTOR):
    """Writes at random over `before`, and gives back what the device has to hold then."""
    rng = random.Random(seed)
    expected, size = bytearray(before), len(before)
    for _ in range(count):
        length = rng.randrange(1, longest // SECTOR + 1) * SECTOR
        offset = rng.randrange(0, (size - length) // SECTOR + 1) * SECTOR
        data = rng.randbytes(length)
        client.pwrite(data, offset)
        expected[offset:offset + length] = data
    return expected


def read_all(client, size, step=1 << 20):
    return b"".join(client.pread(min(step, size - at), at) for at in range(0, size, step))
