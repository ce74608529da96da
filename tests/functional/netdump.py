"""A netdump client, written from the layouts in FreeBSD's headers alone: it shares no code with
the server. Each client has an address of its own out of 127.0.0.0/8, as machines have.

    with Client(port) as client:
        client.herald()
        client.send_image(image)
        client.finish(kernel_dump_header(len(image)))
"""

import itertools
import random
import select
import socket
import struct
import time

HERALD, FINISHED, VMCORE, KDH, KEY = 1, 2, 3, 4, 5
WINDOW = 46
addresses = itertools.count(random.Random().randrange(1 << 20))


def new_address():
    n = next(addresses)
    return f"127.{16 + (n >> 16) % 32}.{(n >> 8) % 256}.{1 + n % 250}"


def message(kind, seqno, offset=0, payload=b"", length=None, aux2=0):
    return struct.pack(">IIQII", kind, seqno, offset,
                       len(payload) if length is None else length, aux2) + payload


def with_parity(header, at=508):
    """The word at the end makes the XOR of all 128 words 0."""
    parity = 0
    for (word,) in struct.iter_unpack(">I", header[:at]):
        parity ^= word
    return header[:at] + struct.pack(">I", parity)


def kernel_dump_header(length, version=4, panic=b"made up", host=b"crashy", compression=0,
                       key_size=0, block=4096, magic=b"FreeBSD Kernel Dump", parity=True):
    """struct kerneldumpheader of version 1 or 4."""
    head = struct.pack(">20s12sIIQQ", magic, b"amd64", version, 2, length, 1767225600)
    if version == 1:
        rest = struct.pack(">I64s192s192s", block, host, b"FreeBSD 11.4", panic)
    else:
        rest = struct.pack(">II64s192s175sBQ4x", key_size, block, host, b"FreeBSD 14.1-RELEASE",
                           panic, compression, 0)
    header = with_parity(head + rest)
    assert len(header) == 512
    return header if parity else header[:508] + b"\xff\xee\xdd\xcc"


def kernel_dump_key(encrypted=b"k" * 256):
    return struct.pack(">B32sI", 1, b"i" * 32, len(encrypted)) + encrypted


def minidump(size, text, seed=1):
    """An uncompressed amd64 minidump: header page, message buffer, random pages."""
    ring = text.ljust(4096, b"\0")
    page = struct.pack("<24sIIIIQQQ", b"minidump FreeBSD/amd64", 2, len(ring), 0, 0, 0, 0, 0)
    page = page.ljust(4096, b"\0")
    return page + ring + random.Random(seed).randbytes(size - 8192)


class GaveUp(Exception):
    """As the kernel does after its resends."""


class Client:
    """What debugnet does: batches of packets, an ack for each, resends of those without one."""

    def __init__(self, port, mtu=1500, address=None, server="127.0.0.1", wait=0.25, resends=12):
        self.address = address or new_address()
        self.server = (server, port)
        self.payload = mtu - 28 - 24
        self.wait, self.resends = wait, resends
        self.seqno = 0
        self.acked = set()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((self.address, 0))
        self.chance = None  # of a Network

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def put(self, packet):
        """One datagram, through whatever network there is."""
        for each in self.chance.outbound(packet) if self.chance else [packet]:
            self.socket.sendto(each, self.server)

    def take_acks(self, until):
        """Collects acks until the time is over or all of these have come."""
        deadline = time.monotonic() + self.wait
        while not until <= self.acked:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                return
            data, sender = self.socket.recvfrom(65536)
            if len(data) != 4 or sender[0] != self.server[0]:
                continue  # a client takes acks from the address that it sent to, and only those
            if self.chance and self.chance.loses_ack():
                continue
            self.acked.add(struct.unpack(">I", data)[0])

    def send(self, *packets):
        """[(kind, offset, payload)] as one batch: returns when all are acknowledged."""
        batch = {}
        for kind, offset, payload in packets:
            self.seqno += 1
            batch[self.seqno] = message(kind, self.seqno, offset, payload)
        for _ in range(self.resends):
            for seqno, packet in batch.items():
                if seqno not in self.acked:
                    self.put(packet)
            self.take_acks(set(batch))
            if set(batch) <= self.acked:
                return
        raise GaveUp(f"{len(set(batch) - self.acked)} of {len(batch)} without an ack")

    def herald(self, path=None):
        self.send((HERALD, 0, path.encode() + b"\0" if path is not None else b""))

    def pieces(self, image, start=0):
        for at in range(0, len(image), self.payload):
            yield VMCORE, start + at, image[at:at + self.payload]

    def send_image(self, image, start=0):
        pieces = self.pieces(image, start)
        while batch := list(itertools.islice(pieces, WINDOW)):
            self.send(*batch)

    def key(self, blob):
        self.send((KEY, 0, blob))

    def header(self, header):
        self.send((KDH, 0, header))

    def finish(self, header=None):
        if header:
            self.header(header)
        self.send((FINISHED, 0, b""))

    def dump(self, image, **header):
        self.herald()
        self.send_image(image)
        self.finish(kernel_dump_header(len(image), **header))


class Network:
    """Loses, doubles and reorders datagrams at random, out of a seed."""

    def __init__(self, seed, loss=0.0, double=0.0, reorder=0.0):
        self.random = random.Random(seed)
        self.loss, self.double, self.reorder = loss, double, reorder
        self.held = []

    def outbound(self, packet):
        out = []
        if self.random.random() >= self.loss:
            out.append(packet)
            if self.random.random() < self.double:
                out.append(packet)
        if out and self.random.random() < self.reorder:
            self.held += out
            out = []
        # What was held back goes out behind later ones.
        while self.held and self.random.random() < 0.5:
            out.append(self.held.pop(self.random.randrange(len(self.held))))
        return out

    def loses_ack(self):
        return self.random.random() < self.loss
