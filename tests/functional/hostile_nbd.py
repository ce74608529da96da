"""NBD servers that lie or answer garbage. Each serves its clients with one behaviour."""

import random
import socket
import struct
import threading

NBDMAGIC, IHAVEOPT = 0x4e42444d41474943, 0x49484156454F5054
REPLY_MAGIC, SIMPLE, CHUNK, REQUEST = 0x3e889045565a9, 0x67446698, 0x668e33ef, 0x25609513
FLAGS = 1 | 4 | 8 | 32 | 64 | 1024  # flush, FUA, trim, zero, cache


class Honest:
    """Fixed newstyle, structured replies and base:allocation if asked: what others spoil."""

    size = 1 << 20

    def __init__(self, seed=0):
        self.rng = random.Random(seed)
        self.disk = bytearray(self.size)
        self.structured = False

    # --- the handshake -------------------------------------------------------------------------

    def greeting(self):
        return struct.pack(">QQH", NBDMAGIC, IHAVEOPT, 3)

    def export_info(self):
        return struct.pack(">HQH", 0, self.size, FLAGS | (256 if self.structured else 0))

    def option_reply(self, option, kind, data=b""):
        return struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data

    def option(self, option, data):
        if option == 8:  # structured replies
            self.structured = True
            return self.option_reply(option, 1)
        if option == 10 and self.structured:  # set meta context
            return (self.option_reply(option, 4, struct.pack(">I", 1) + b"base:allocation")
                    + self.option_reply(option, 1))
        if option in (6, 7):
            return (self.option_reply(option, 3, self.export_info())
                    + self.option_reply(option, 3, struct.pack(">HIII", 3, 512, 4096, 1 << 25))
                    + self.option_reply(option, 1))
        return self.option_reply(option, 0x80000001)

    # --- requests ------------------------------------------------------------------------------

    def chunk(self, flags, kind, cookie, data=b""):
        return struct.pack(">IHHQI", CHUNK, flags, kind, cookie, len(data)) + data

    def simple(self, cookie, error=0, data=b""):
        return struct.pack(">IIQ", SIMPLE, error, cookie) + data

    def request(self, kind, cookie, offset, length, data):
        if kind == 0:
            found = bytes(self.disk[offset:offset + length])
            if self.structured:
                return self.chunk(1, 1, cookie, struct.pack(">Q", offset) + found)
            return self.simple(cookie, 0, found)
        if kind == 7:
            return self.chunk(1, 5, cookie, struct.pack(">III", 1, length, 0))
        if kind == 1:
            self.disk[offset:offset + length] = data
        return self.simple(cookie)

    # --- the wire ------------------------------------------------------------------------------

    def send(self, client, data):
        client.sendall(data)

    def serve(self, client):
        self.structured = False
        self.client = client
        self.send(client, self.greeting())
        take = Taker(client)
        take(4)
        while True:
            _, option, length = struct.unpack(">QII", take(16))
            data = take(min(length, 1 << 16))
            if option == 2:
                return
            self.send(client, self.option(option, data))
            if option == 7:
                break
        while True:
            _, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", take(28))
            data = take(length) if kind == 1 else b""
            if kind == 2:
                return
            self.send(client, self.request(kind, cookie, offset, length, data))


class Taker:
    def __init__(self, client):
        self.client = client

    def __call__(self, length):
        data = b""
        while len(data) < length:
            more = self.client.recv(length - len(data))
            if not more:
                raise EOFError
            data += more
        return data


class Fuzzed(Honest):
    """Honest until a point, then some bytes of what it sends are others, or too few, or too many."""

    def __init__(self, seed):
        super().__init__(seed)
        self.spare = self.rng.choice((0, 1, 2, 3, 4, 5, 6, 8, 12, 20))
        self.sent = 0

    def serve(self, client):
        self.sent = 0
        super().serve(client)

    def send(self, client, data):
        self.sent += 1
        if self.sent <= self.spare:
            return super().send(client, data)
        data, rng = bytearray(data), self.rng
        for _ in range(rng.randrange(4)):
            what, at = rng.randrange(5), rng.randrange(max(1, min(len(data), 64)))
            if what == 0:
                data[at:at + 1] = bytes([rng.randrange(256)])
            elif what == 1:
                data[at:at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            elif what == 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 40))
            elif what == 3:
                del data[at:at + rng.randrange(1, 40)]
            else:
                data = data * 2
        super().send(client, bytes(data))
        if rng.randrange(6) == 0:
            raise EOFError


class Server:
    """Serves on a Unix socket, or without a path on a port of 127.0.0.1, until the test ends;
    `behave` makes one behaviour a client."""

    def __init__(self, case, path, behave):
        self.behave, self.clients, self.count = behave, [], 0
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listener.bind(path or ("127.0.0.1", 0))
        self.port = None if path else self.listener.getsockname()[1]
        self.listener.listen(64)
        case.addCleanup(self.close)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.clients.append(client)
            self.count += 1
            threading.Thread(target=self.attend, args=(client,), daemon=True).start()

    def attend(self, client):
        try:
            self.behave().serve(client)
        except (EOFError, OSError, struct.error):
            pass
        finally:
            client.close()

    def close(self):
        if self.listener.fileno() < 0:
            return
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for client in self.clients:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
