"""An iSCSI initiator of the tests' own, PDU by PDU, so that it can say what no real one would, and
a server with the plugin's iscsi= parameter."""

import socket
import struct

import harness

TARGET = "iqn.2026-01.org.blockloom:devices"
NAME = "iqn.2026-01.org.blockloom:test"

NOP_OUT, COMMAND, TASK, LOGIN, TEXT, DATA_OUT, LOGOUT, SNACK = 0, 1, 2, 3, 4, 5, 6, 0x10
NOP_IN, RESPONSE, TASK_RESPONSE, LOGIN_RESPONSE, TEXT_RESPONSE = 0x20, 0x21, 0x22, 0x23, 0x24
DATA_IN, LOGOUT_RESPONSE, R2T, ASYNC, REJECT = 0x25, 0x26, 0x31, 0x32, 0x3f
NO_TAG = 0xffffffff

CRC_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82f63b78 if _byte & 1 else 0)
    CRC_TABLE.append(_byte)


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xff]
    return struct.pack("<I", crc ^ 0xffffffff)


def pad(data):
    return data + bytes(-len(data) % 4)


def read10(lba, blocks):
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)


def write10(lba, blocks):
    return struct.pack(">BBIBHB", 0x2a, 0, lba, 0, blocks, 0)


INQUIRY = bytes([0x12, 0, 0, 0, 96, 0])
TEST_UNIT_READY = bytes(6)


class Pdu:
    """What a target sent."""

    def __init__(self, header, data):
        self.header, self.data = header, data
        self.opcode = header[0] & 0x3f
        self.flags = header[1]
        self.itt, self.ttt = struct.unpack_from(">II", header, 16)
        self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn = struct.unpack_from(">III", header, 24)

    def u32(self, at):
        return struct.unpack_from(">I", self.header, at)[0]

    @property
    def status(self):
        """Of a SCSI response or the last Data-In."""
        return self.header[3]

    @property
    def sense(self):
        """(key, ASC << 8 | ASCQ) of a response's fixed sense data."""
        sense = self.data[2:]
        return (sense[2] & 15, sense[12] << 8 | sense[13]) if len(sense) >= 14 else None

    def keys(self):
        return dict(pair.split("=", 1) for pair in self.data.decode().split("\0") if pair)


class Initiator:
    """A connection; logged in after login()."""

    def __init__(self, port, host="127.0.0.1", name=NAME, seconds=20):
        self.socket = socket.create_connection((host, port), seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.name = name
        self.isid = b"\x80\x12\x34\x56\x00\x01"
        self.cmd_sn, self.exp_stat_sn, self.itt = 1, 0, 0x100
        self.header_digest = self.data_digest = False
        self.answers = {}

    def close(self):
        self.socket.close()

    def header(self, opcode, flags, itt, data=b"", immediate=False, lun=0, ttt=NO_TAG,
               cmd_sn=None, rest=b""):
        """48 bytes. `rest` is what follows byte 32."""
        return struct.pack(">BBHI", opcode | (0x40 if immediate else 0), flags, 0,
                           len(data)) + struct.pack(
            ">QIIII", lun, itt, ttt, self.cmd_sn if cmd_sn is None else cmd_sn,
            self.exp_stat_sn) + rest.ljust(16, b"\0")

    def pack(self, header, data=b""):
        text = header
        if self.header_digest:
            text += crc32c(header)
        if data:
            text += pad(data)
            if self.data_digest:
                text += crc32c(pad(data))
        return text

    def send(self, header, data=b""):
        self.socket.sendall(self.pack(header, data))

    def exactly(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError(f"the target closed the connection ({len(data)} of {count} bytes)")
            data += piece
        return data

    def receive(self):
        header = self.exactly(48)
        if self.header_digest:
            assert self.exactly(4) == crc32c(header), "header digest"
        length = int.from_bytes(header[5:8], "big")
        data = self.exactly(length + -length % 4)
        if length and self.data_digest:
            assert self.exactly(4) == crc32c(data), "data digest"
        pdu = Pdu(header, data[:length])
        if pdu.opcode not in (R2T,) and not (pdu.opcode == DATA_IN and not pdu.flags & 1) and not (
                pdu.opcode == NOP_IN and pdu.itt == NO_TAG):
            self.exp_stat_sn = (pdu.stat_sn + 1) & 0xffffffff
        return pdu

    def closed(self):
        """True when the target hangs up; what it says before is passed over."""
        try:
            while True:
                self.receive()
        except (EOFError, ConnectionError):
            return True
        except socket.timeout:
            return False

    # Login.

    def login_pdu(self, flags, keys, tsih=0, data=None, itt=None):
        text = "".join(f"{k}={v}\0" for k, v in keys.items()).encode() if data is None else data
        return struct.pack(">BBBBI", 0x43, flags, 0, 0, len(text)) + self.isid + struct.pack(
            ">HIHHII", tsih, self.itt if itt is None else itt, 0, 0, self.cmd_sn,
            self.exp_stat_sn) + bytes(16), text

    def login_step(self, flags, keys, **more):
        self.send(*self.login_pdu(flags, keys, **more))
        return self.receive()

    def names(self, target=TARGET, **keys):
        names = {"InitiatorName": self.name}
        names.update({"SessionType": "Normal", "TargetName": target} if target else
                     {"SessionType": "Discovery"})
        return {**names, **keys}

    def login(self, target=TARGET, **keys):
        """Straight to full feature phase; the response."""
        pdu = self.login_step(0x87, self.names(target, **keys))
        assert pdu.opcode == LOGIN_RESPONSE, hex(pdu.opcode)
        if pdu.header[36:38] == b"\0\0":
            assert pdu.flags == 0x87, hex(pdu.flags)
            self.header_digest = keys.get("HeaderDigest") == "CRC32C"
            self.data_digest = keys.get("DataDigest") == "CRC32C"
        return pdu

    # Full feature phase.

    def next_tag(self):
        self.itt += 1
        return self.itt

    def command(self, cdb, expected=0, flags=0, data=b"", lun=0, immediate=False, final=True,
                itt=None, cmd_sn=None):
        """Sends a SCSI command; its tag. flags: 0x40 reads, 0x20 writes."""
        itt = self.next_tag() if itt is None else itt
        self.send(self.header(COMMAND, (0x80 if final else 0) | flags | 1, itt, data, immediate,
                              lun << 48, expected, cmd_sn, cdb), data)
        if not immediate and cmd_sn is None:
            self.cmd_sn = (self.cmd_sn + 1) & 0xffffffff
        return itt

    def data_out(self, itt, data, offset=0, data_sn=0, ttt=NO_TAG, final=True):
        self.send(self.header(DATA_OUT, 0x80 if final else 0, itt, data, ttt=ttt, cmd_sn=0,
                              rest=struct.pack(">III", 0, data_sn, offset)), data)

    def finish(self, itt):
        """Everything for a command up to its status: (last PDU, data)."""
        data = bytearray()
        while True:
            pdu = self.receive()
            if pdu.itt != itt and pdu.opcode != REJECT:
                continue
            if pdu.opcode == DATA_IN:
                at = pdu.u32(40)
                data.extend(bytes(max(0, at + len(pdu.data) - len(data))))
                data[at:at + len(pdu.data)] = pdu.data
                if pdu.flags & 1:
                    return pdu, bytes(data)
            else:
                return pdu, bytes(data)

    def read(self, lba, blocks, **more):
        return self.finish(self.command(read10(lba, blocks), blocks * 512, 0x40, **more))

    def write(self, lba, data, **more):
        """As immediate data."""
        return self.finish(self.command(write10(lba, len(data) // 512), len(data), 0x20, data,
                                        **more))[0]

    def clear_attentions(self, lun=0):
        """Until the unit has nothing more to tell."""
        for _ in range(8):
            if self.finish(self.command(TEST_UNIT_READY, lun=lun))[0].status == 0:
                return

    def nop(self, data=b"", itt=None):
        itt = self.next_tag() if itt is None else itt
        self.send(self.header(NOP_OUT, 0x80, itt, data, immediate=True), data)
        return itt

    def text(self, keys, itt=None, ttt=NO_TAG, flags=0x80):
        text = "".join(f"{k}={v}\0" for k, v in keys.items()).encode()
        itt = self.next_tag() if itt is None else itt
        self.send(self.header(TEXT, flags, itt, text, immediate=True, ttt=ttt), text)
        return self.receive()

    def task(self, function, referenced=NO_TAG, lun=0):
        """Task management, as an immediate command; its response."""
        itt = self.next_tag()
        self.send(self.header(TASK, 0x80 | function, itt, immediate=True, lun=lun << 48,
                              ttt=referenced, rest=struct.pack(">I", self.cmd_sn)))
        while True:
            pdu = self.receive()
            if pdu.itt == itt:
                return pdu

    def logout(self, reason=0):
        itt = self.next_tag()
        self.send(self.header(LOGOUT, 0x80 | reason, itt, immediate=True, ttt=0))
        while True:
            pdu = self.receive()
            if pdu.itt == itt:
                return pdu


class Case(harness.Case):
    """Tests of a server that speaks iSCSI on self.port."""

    def free_port(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def serve_iscsi(self, *parameters, **how):
        self.port = self.free_port()
        return self.serve(*parameters, f"iscsi=127.0.0.1:{self.port}", **how)

    def initiator(self, **how):
        initiator = Initiator(self.port, **how)
        self.addCleanup(initiator.close)
        return initiator

    def session(self, target=TARGET, name=NAME, isid=None, **keys):
        """Logged in, and the units' first unit attention taken."""
        initiator = self.initiator(name=name)
        if isid is not None:
            initiator.isid = isid
        answer = initiator.login(target, **keys)
        self.assertEqual(answer.header[36:38], b"\0\0", answer.header)
        if target:
            initiator.clear_attentions()
        return initiator

    def url(self, lun=0, target=TARGET):
        return f"iscsi://127.0.0.1:{self.port}/{target}/{lun}"
