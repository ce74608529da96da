#!/usr/bin/python3
"""probe.py SOCKET EXPORT OUT: reads 4 KiB at random places of an NBD export, one after the other,
until its standard input ends, and writes when each began and ended (pairs of 64-bit nanoseconds
of the monotonic clock). It speaks the protocol itself, to stay out of the way of what it sees."""

import array
import os
import random
import select
import socket
import struct
import sys
import time

BLOCK = 4096
MOST = 4_000_000  # requests kept
REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")


def receive(sock, count, buffer):
    view = memoryview(buffer)[:count]
    while view:
        got = sock.recv_into(view)
        if got == 0:
            raise SystemExit("probe: the server hung up")
        view = view[got:]


def attach(sock, export):
    """The fixed newstyle handshake with NBD_OPT_GO; gives back the export's size."""
    buffer = bytearray(65536)
    receive(sock, 18, buffer)
    if bytes(buffer[:16]) != b"NBDMAGICIHAVEOPT":
        raise SystemExit("probe: not an NBD server")
    name = export.encode()
    option = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    sock.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, len(option)) + option)
    size = None
    while True:
        receive(sock, 20, buffer)
        _, _, kind, length = struct.unpack_from(">QIII", buffer)
        receive(sock, length, buffer)
        if kind & 0x80000000:
            raise SystemExit(f"probe: export '{export}': refused with {kind:#x}")
        if kind == 3 and struct.unpack_from(">H", buffer)[0] == 0:
            size = struct.unpack_from(">Q", buffer, 2)[0]
        if kind == 1:
            return size


def main(path, export, out):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(path)
    blocks = attach(sock, export) // BLOCK
    times = array.array("Q")
    buffer = bytearray(BLOCK)
    clock = time.monotonic_ns
    numbers = random.Random(1)
    while len(times) < 2 * MOST:
        if len(times) % 256 == 0 and select.select([0], [], [], 0)[0] and not os.read(0, 1):
            break
        offset = numbers.randrange(blocks) * BLOCK
        start = clock()
        sock.sendall(REQUEST.pack(0x25609513, 0, 0, len(times), offset, BLOCK))
        receive(sock, REPLY.size, buffer)
        magic, error, cookie = REPLY.unpack_from(buffer)
        if magic != 0x67446698 or error != 0 or cookie != len(times):
            raise SystemExit(f"probe: read at {offset}: error {error}")
        receive(sock, BLOCK, buffer)
        times.append(start)
        times.append(clock())
    with open(out, "wb") as f:
        times.tofile(f)


if __name__ == "__main__":
    main(*sys.argv[1:])
