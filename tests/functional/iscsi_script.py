"""An iSCSI target in a few lines that does right unless a test tells it to do wrong."""

import socket
import struct
import threading

GOOD, CHECK, BUSY, CONFLICT, FULL, ABORTED = 0x00, 0x02, 0x08, 0x18, 0x28, 0x40
NO_TAG = 0xffffffff


def sense(key, code):
    """Fixed format, as a SCSI response carries it."""
    data = bytearray(18)
    data[0], data[2], data[7] = 0x70, key, 10
    data[12:14] = struct.pack(">H", code)
    return struct.pack(">H", len(data)) + bytes(data)


class Command:
    """A SCSI command as it came; `data` is complete when the target acts on it."""

    def __init__(self, header, data):
        self.itt = struct.unpack_from(">I", header, 16)[0]
        self.length = struct.unpack_from(">I", header, 20)[0]
        self.cdb = header[32:48]
        self.code = self.cdb[0]
        self.writes = bool(header[1] & 0x20)
        self.final = bool(header[1] & 0x80)
        self.data = bytearray(data)
        if self.code in (0x28, 0x2a):
            self.lba, self.blocks = struct.unpack_from(">I", self.cdb, 2)[0], \
                struct.unpack_from(">H", self.cdb, 7)[0]
        elif self.code in (0x88, 0x8a, 0x93):
            self.lba, self.blocks = struct.unpack_from(">QI", self.cdb, 2)


class ScriptedTarget:
    """Listens on 127.0.0.1:port. Tests override the methods below, or give functions:

    on_command(connection, command) and on_pdu(connection, header, data) return True for what they
    have dealt with. `log` has the CDBs' first bytes, in order.
    """

    def __init__(self, case, size=1 << 20, block_size=512, **hooks):
        self.block_size = block_size
        self.disk = bytearray(size)
        self.hooks = hooks
        self.log, self.managed, self.logins = [], [], []
        self.lock = threading.Lock()
        self.keys = {"HeaderDigest": "None", "DataDigest": "None", "InitialR2T": "Yes",
                     "ImmediateData": "Yes", "MaxBurstLength": "262144",
                     "FirstBurstLength": "65536", "MaxOutstandingR2T": "1", "MaxConnections": "1",
                     "ErrorRecoveryLevel": "0", "MaxRecvDataSegmentLength": "65536",
                     "DefaultTime2Wait": "0", "DefaultTime2Retain": "0", "DataPDUInOrder": "Yes",
                     "DataSequenceInOrder": "Yes"}
        self.connections = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        case.addCleanup(self.stop)
        threading.Thread(target=self.accept, daemon=True).start()

    def uri(self, parameters=""):
        query = f"?{parameters}" if parameters else ""
        return f"iscsi://127.0.0.1:{self.port}/iqn.2026-11.io.blockloom.test:script/0{query}"

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            connection = Connection(self, client)
            self.connections.append(connection)
            threading.Thread(target=connection.run, daemon=True).start()

    def stop(self):
        self.listener.close()
        for connection in self.connections:
            connection.close()

    def count(self, code):
        return self.log.count(code)

    # What a test may replace.

    def capacity(self):
        return len(self.disk) // self.block_size

    def inquiry(self, page):
        if page is None:
            return bytes([0, 0, 6, 2, 31, 0, 0, 2]) + b"BLOOM   " + b"scripted        " + b"1   "
        pages = {0x00: bytes([0x00, 0x83, 0xb0, 0xb2]),
                 0x83: bytes([1, 3, 0, 8]) + b"\x60scripted"[:8],
                 0xb0: struct.pack(">BBHIIIIII", 0, 0, 0, 0, 0, 0, 0xffff, 1, 0) + bytes(32),
                 0xb2: bytes([0, 0xe0, 2, 0])}
        if page not in pages:
            return None
        return bytes([0, page]) + struct.pack(">H", len(pages[page])) + pages[page]


class Connection:
    """One connection, which is a session."""

    def __init__(self, target, client):
        self.target, self.client = target, client
        self.stat_sn, self.exp_cmd_sn, self.window = 1, 1, 64
        self.waiting = {}  # ITT: a write that waits for its data
        self.logged_in = False

    def close(self):
        try:
            self.client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.client.close()

    def read(self, length):
        data = b""
        while len(data) < length:
            part = self.client.recv(length - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def run(self):
        try:
            while True:
                header = self.read(48)
                length = int.from_bytes(header[5:8], "big")
                data = self.read((length + 3) & ~3)[:length]
                self.take(header, data)
        except (OSError, ConnectionError):
            self.client.close()

    # Sending.

    def header(self, opcode, itt, flags=0x80, length=0, counts=True):
        bhs = bytearray(48)
        bhs[0], bhs[1] = opcode, flags
        bhs[5:8] = length.to_bytes(3, "big")
        struct.pack_into(">I", bhs, 16, itt)
        struct.pack_into(">III", bhs, 24, self.stat_sn, self.exp_cmd_sn,
                         (self.exp_cmd_sn + self.window - 1) & 0xffffffff)
        if counts:
            self.stat_sn += 1
        return bhs

    def send(self, bhs, data=b""):
        self.client.sendall(bytes(bhs) + data + bytes(-len(data) % 4))

    def respond(self, command, status=GOOD, data=b"", response=0):
        bhs = self.header(0x21, command.itt, length=len(data))
        bhs[2], bhs[3] = response, status
        self.send(bhs, data)

    def give(self, command, data, status=GOOD):
        """Data-In with the status in it."""
        data = data[:command.length]
        step, at = 65536, 0
        while True:
            part = data[at:at + step]
            last = at + len(part) >= len(data)
            flags = 0x80 | 0x01 if last else 0
            if last and len(data) < command.length:
                flags |= 0x02
            bhs = self.header(0x25, command.itt, flags, len(part), counts=last)
            bhs[3] = status
            struct.pack_into(">I", bhs, 20, NO_TAG)
            struct.pack_into(">II", bhs, 36, at // step, at)
            if last and len(data) < command.length:
                struct.pack_into(">I", bhs, 44, command.length - len(data))
            self.send(bhs, part)
            at += len(part)
            if last:
                return

    def ask(self, command, offset, length, number=0):
        """R2T"""
        bhs = self.header(0x31, command.itt, counts=False)
        struct.pack_into(">I", bhs, 20, 0x77)
        struct.pack_into(">III", bhs, 36, number, offset, length)
        self.send(bhs)

    # Receiving.

    def hook(self, name, *arguments):
        function = self.target.hooks.get(name)
        return function is not None and function(self, *arguments)

    def take(self, header, data):
        opcode = header[0] & 0x3f
        if not header[0] & 0x40 and opcode in (0x01, 0x00, 0x04, 0x02, 0x06):
            self.exp_cmd_sn = (struct.unpack_from(">I", header, 24)[0] + 1) & 0xffffffff
        if self.hook("on_pdu", header, data):
            return
        itt = struct.unpack_from(">I", header, 16)[0]
        if opcode == 0x03:
            self.login(header, data)
        elif opcode == 0x01:
            command = Command(header, data)
            self.target.log.append(command.code)
            if command.writes and len(command.data) < command.length:
                self.waiting[itt] = command
                if self.hook("on_first_data", command):
                    return
                if command.final:
                    self.ask(command, len(command.data), command.length - len(command.data))
            elif not self.hook("on_command", command):
                self.act(command)
        elif opcode == 0x05:
            command = self.waiting[itt]
            offset = struct.unpack_from(">I", header, 40)[0]
            command.data[offset:offset + len(data)] = data
            if header[1] & 0x80 and len(command.data) >= command.length:
                del self.waiting[itt]
                if not self.hook("on_command", command):
                    self.act(command)
        elif opcode == 0x02:
            self.target.managed.append(header[1] & 0x7f)
            if not self.hook("on_managed", header):
                self.send(self.header(0x22, itt))
        elif opcode == 0x00:
            if itt != NO_TAG:
                bhs = self.header(0x20, itt)
                struct.pack_into(">I", bhs, 20, NO_TAG)
                self.send(bhs)
        elif opcode == 0x06:
            self.send(self.header(0x26, itt))
            self.client.close()

    def login(self, header, data):
        stage, wants = header[1] >> 2 & 3, bool(header[1] & 0x80)
        keys = dict(pair.split("=", 1) for pair in data.decode().split("\0") if pair)
        if "InitiatorName" in keys:
            self.target.logins.append(bytes(header[8:14]))
        if stage == 0:
            text = "AuthMethod=None\0TargetPortalGroupTag=1\0"
        else:
            text = "".join(f"{key}={value}\0" for key, value in self.target.keys.items())
        bhs = self.header(0x23, 0, (0x80 if wants else 0) | stage << 2 |
                          ((1 if stage == 0 else 3) if wants else 0), len(text))
        bhs[8:14] = header[8:14]
        if stage == 1:
            self.logged_in = True
        self.send(bhs, text.encode())

    def act(self, command):
        target, code = self.target, command.code
        block = target.block_size
        if code == 0x12:
            page = command.cdb[2] if command.cdb[1] & 1 else None
            answer = target.inquiry(page)
            if answer is None:
                self.respond(command, CHECK, sense(5, 0x2400))
            else:
                self.give(command, answer)
        elif code == 0x9e and command.cdb[1] & 0x1f == 0x10:
            self.give(command, struct.pack(">QIBBBB", target.capacity() - 1, block, 0, 0, 0xc0, 0)
                      + bytes(16))
        elif code == 0x25:
            self.give(command, struct.pack(">II", min(target.capacity() - 1, 0xffffffff), block))
        elif code == 0x1a:
            self.give(command, bytes([23, 0, 0x10, 0, 0x08, 18, 0x04]) + bytes(17))
        elif code in (0x28, 0x88):
            at = command.lba * block
            self.give(command, bytes(target.disk[at:at + command.blocks * block]))
        elif code in (0x2a, 0x8a):
            at = command.lba * block
            target.disk[at:at + len(command.data)] = command.data
            self.respond(command)
        elif code == 0x93:
            at, length = command.lba * block, command.blocks * block
            target.disk[at:at + length] = bytes(length)
            self.respond(command)
        elif code in (0x00, 0x35, 0x91, 0x42):
            self.respond(command)
        else:
            self.respond(command, CHECK, sense(5, 0x2000))
