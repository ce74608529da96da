"""A sender of the dump stream, written from docs/dump-protocol.md: it shares no code with the
server or with blockloom-dump."""

import hashlib
import hmac
import os
import socket
import struct

MAGIC = 0xB10C
(GREETING, HELLO, WELCOME, REFUSE, TEXT, TEXT_END, DATA, ZERO, ACK, END, DONE, ABORT, PING,
 START_TLS) = range(1, 15)
CHUNK = 65536


def make_table():
    table = []
    for i in range(256):
        crc = i
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


TABLE = make_table()


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def frame(kind, offset=0, body=b"", body_crc=None, length=None):
    crc = (crc32c(body) if body else 0) if body_crc is None else body_crc
    head = struct.pack(">HHIQI", MAGIC, kind, len(body) if length is None else length, offset, crc)
    return head + struct.pack(">I", crc32c(head)) + body


def lines(**pairs):
    return "".join(f"{key}={value}\n" for key, value in pairs.items()).encode()


def parse_lines(body):
    return dict(line.split("=", 1) for line in body.decode().splitlines())


def digest(crcs, length):
    return hashlib.sha256(b"".join(struct.pack(">I", crc) for crc in crcs) +
                          struct.pack(">Q", length)).digest()


def flattened(records, end=True):
    """[(offset, bytes)] as makedumpfile -F writes them."""
    out = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0")
    for offset, data in records:
        out += struct.pack(">qq", offset, len(data)) + data
    return out + (b"\xff" * 16 if end else b"")


class Sender:
    """One dump; connect() again after a broken connection."""

    def __init__(self, port, host="web1", chunk=CHUNK, token=None, tls=None, **hello):
        """`tls`: an ssl.SSLContext."""
        self.port, self.host, self.chunk, self.token = port, host, chunk, token
        self.tls = tls
        self.greeting = {}
        self.session = os.urandom(16).hex()
        self.more = hello
        self.socket = None
        self.file = None
        self.acked = 0

    def close(self):
        if self.socket:
            self.file.close()
            self.socket.close()
            self.socket = None

    def connect(self):
        """The frame that answers the hello: (kind, offset, lines)."""
        self.close()
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.file = self.socket.makefile("rb")
        self.hear_greeting()
        if self.tls:
            self.put(START_TLS)
            self.file.close()
            self.socket = self.tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
            self.file = self.socket.makefile("rb")
            self.hear_greeting()
        nonce = self.greeting["nonce"]
        hello = {"version": 1, "host": self.host, "session": self.session, "chunk": self.chunk,
                 **self.more}
        if self.token is not None:
            text = f"{nonce}\n{self.session}\n{self.host}"
            hello["proof"] = hmac.new(self.token.encode(), text.encode(), "sha256").hexdigest()
        self.put(HELLO, 0, lines(**hello))
        kind, offset, body = self.receive()
        return kind, offset, parse_lines(body)

    def hear_greeting(self):
        kind, _, body = self.receive()
        assert kind == GREETING, kind
        self.greeting = parse_lines(body)

    def put(self, *parts, **how):
        self.socket.sendall(frame(*parts, **how))

    def receive(self):
        head = self.file.read(24)
        if len(head) < 24:
            raise ConnectionError("the server hung up")
        magic, kind, length, offset, body_crc, crc = struct.unpack(">HHIQII", head)
        assert magic == MAGIC and crc == crc32c(head[:20])
        body = self.file.read(length)
        assert not body or crc32c(body) == body_crc
        return kind, offset, body

    def dmesg(self, text):
        for at in range(0, len(text), 60000):
            self.put(TEXT, at, text[at:at + 60000])
        self.put(TEXT_END, len(text))

    def chunks(self, image):
        return [image[at:at + self.chunk] for at in range(0, len(image), self.chunk)]

    def data(self, image, start=0, end=None):
        for number, piece in enumerate(self.chunks(image)):
            at = number * self.chunk
            if at >= start and (end is None or at < end):
                self.put(DATA, at, piece)

    def end(self, image, wrong=None):
        crcs = [crc32c(piece) for piece in self.chunks(image)]
        self.put(END, len(image), wrong or digest(crcs, len(image)))
        return self.wait(DONE)

    def wait(self, wanted):
        """The lines of the frame of this kind; acks on the way are noted."""
        while True:
            kind, offset, body = self.receive()
            if kind == ACK:
                assert offset >= self.acked, "acks go forward"
                self.acked = offset
            if kind == wanted:
                return parse_lines(body)
            if kind in (REFUSE, DONE):
                raise AssertionError(f"{kind}: {body}")

    def wait_ack(self, offset):
        while self.acked < offset:
            kind, at, _ = self.receive()
            assert kind == ACK, kind
            self.acked = at

    def dump(self, image, dmesg=None):
        kind, _, answer = self.connect()
        assert kind == WELCOME, answer
        if dmesg:
            self.dmesg(dmesg)
        self.data(image)
        return self.end(image)
