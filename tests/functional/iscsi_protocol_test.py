"""The iSCSI target PDU by PDU: what RFC 7143 wants of it, said by an initiator that can also lie."""

import socket
import struct
import time

import harness
import iscsi
from harness import pattern
from iscsi import (COMMAND, DATA_IN, LOGIN_RESPONSE, LOGOUT_RESPONSE, NO_TAG, NOP_IN, R2T, REJECT,
                   RESPONSE, TASK_RESPONSE, TEXT_RESPONSE, read10, write10)

SIZE = 8 << 20
GOOD, CHECK_CONDITION = 0, 2


class Protocol(iscsi.Case):
    def setUp(self):
        super().setUp()
        self.disk = self.make_file("a.img", SIZE, seed=7)
        self.server = self.serve_iscsi(f"table=0 {SIZE // 512} linear {self.disk} 0", control=True)

    def still_serves(self):
        session = self.session(isid=b"\x80\xff\xff\xff\xff\xff")
        self.assertEqual(session.read(0, 1)[1], pattern(SIZE, 7)[:512])
        session.close()


class Login(Protocol):
    def status(self, pdu):
        self.assertEqual(pdu.opcode, LOGIN_RESPONSE)
        return int.from_bytes(pdu.header[36:38], "big")

    def test_the_keys_are_answered(self):
        session = self.initiator()
        answer = session.login(HeaderDigest="None", InitialR2T="No", ImmediateData="Yes",
                               MaxBurstLength="262144", FirstBurstLength="65536",
                               MaxConnections="4", ErrorRecoveryLevel="2",
                               **{"X-org.example.key": "1"})
        self.assertEqual(self.status(answer), 0)
        self.assertNotEqual(answer.header[14:16], b"\0\0", "a TSIH")
        self.assertEqual(answer.keys(), {
            "TargetPortalGroupTag": "1", "HeaderDigest": "None", "InitialR2T": "No",
            "ImmediateData": "Yes", "MaxBurstLength": "262144", "FirstBurstLength": "65536",
            "MaxConnections": "1", "ErrorRecoveryLevel": "0", "X-org.example.key": "NotUnderstood",
            "MaxRecvDataSegmentLength": "262144"})

    def test_an_unknown_target_is_refused(self):
        session = self.initiator()
        self.assertEqual(self.status(session.login("iqn.2026-01.org.example:none")), 0x0203)
        self.assertTrue(session.closed())

    def test_a_missing_name_is_refused(self):
        session = self.initiator()
        self.assertEqual(self.status(session.login_step(0x87, {"SessionType": "Normal"})), 0x0207)
        self.assertTrue(session.closed())

    def test_a_second_connection_to_a_session_is_refused(self):
        tsih = int.from_bytes(self.session_answer().header[14:16], "big")
        second = self.initiator()
        self.assertEqual(self.status(second.login_step(0x87, second.names(), tsih=tsih)), 0x0206)
        third = self.initiator()
        self.assertEqual(self.status(third.login_step(0x87, third.names(), tsih=tsih ^ 0x5555)),
                         0x020a)

    def session_answer(self):
        self.first = self.initiator()
        return self.first.login()

    def test_anything_else_before_login_ends_the_connection(self):
        for opcode in (iscsi.NOP_OUT, COMMAND, iscsi.TEXT, iscsi.LOGOUT, 0x1f, 0x3f):
            session = self.initiator()
            session.send(session.header(opcode, 0x80, 1, immediate=True))
            self.assertTrue(session.closed(), hex(opcode))
        self.still_serves()

    def test_a_login_in_pieces(self):
        session = self.initiator()
        text = "".join(f"{k}={v}\0" for k, v in session.names().items()).encode()
        for piece in (text[:7], text[7:40]):
            answer = session.login_step(0x44, {}, data=piece)
            self.assertEqual((self.status(answer), answer.flags, answer.data), (0, 0x04, b""))
        self.assertEqual(session.login_step(0x87, {}, data=text[40:]).flags, 0x87)

    def test_a_login_that_grows_for_ever_is_refused(self):
        session = self.initiator()
        for _ in range(4):
            self.assertEqual(self.status(session.login_step(0x44, {}, data=b"x" * 8192)), 0)
        self.assertEqual(self.status(session.login_step(0x44, {}, data=b"x" * 8192)), 0x0200)
        self.assertTrue(session.closed())

    def test_a_login_pdu_longer_than_allowed_ends_the_connection(self):
        session = self.initiator()
        header, _ = session.login_pdu(0x87, {})
        session.socket.sendall(header[:5] + b"\xff\xff\xff" + header[8:])
        self.assertTrue(session.closed())

    def test_the_same_identity_again_ends_the_old_session(self):
        first = self.session()
        second = self.session()
        self.assertTrue(first.closed())
        self.assertEqual(second.read(0, 1)[0].status, GOOD)
        self.assertEqual(len(self.server.rpc("iscsi_sessions")["sessions"]), 1)

    def test_other_identities_stand_beside_each_other(self):
        first, second = self.session(), self.session(isid=b"\x80\x00\x00\x00\x00\x09")
        third = self.session(name="iqn.2026-01.org.blockloom:other")
        for session in (first, second, third):
            self.assertEqual(session.read(3, 1)[0].status, GOOD)
        self.assertEqual(len(self.server.rpc("iscsi_sessions")["sessions"]), 3)


class Discovery(Protocol):
    def test_send_targets(self):
        session = self.session(target=None)
        answer = session.text({"SendTargets": "All"})
        self.assertEqual((answer.opcode, answer.flags, answer.ttt), (TEXT_RESPONSE, 0x80, NO_TAG))
        self.assertEqual(answer.keys(), {"TargetName": iscsi.TARGET,
                                         "TargetAddress": f"127.0.0.1:{self.port},1"})
        self.assertEqual(session.text({"SendTargets": iscsi.TARGET}).keys()["TargetName"],
                         iscsi.TARGET)
        self.assertEqual(session.text({"SendTargets": "iqn.none"}).data, b"")
        self.assertEqual(session.text({"sendtargets": "All"}).keys(),
                         {"sendtargets": "NotUnderstood"})
        self.assertEqual(session.logout().header[2], 0)
        self.assertTrue(session.closed())

    def test_a_normal_session_asks_for_its_own_target_only(self):
        session = self.session()
        for name in ("", iscsi.TARGET):
            self.assertEqual(session.text({"SendTargets": name}).keys(),
                             {"TargetName": iscsi.TARGET,
                              "TargetAddress": f"127.0.0.1:{self.port},1"})
        self.assertEqual(session.text({"SendTargets": "All"}).keys(), {"SendTargets": "Reject"})

    def test_scsi_commands_are_rejected(self):
        session = self.session(target=None)
        session.command(iscsi.INQUIRY, 96, 0x40)
        self.assertEqual(session.receive().opcode, REJECT)


class Data(Protocol):
    def test_reads_in_pdus_of_the_initiators_size(self):
        session = self.session(MaxRecvDataSegmentLength="1024", MaxBurstLength="4096")
        itt = session.command(read10(16, 20), 20 * 512, 0x40)
        pdus = []
        while not pdus or not pdus[-1].flags & 1:
            pdus.append(session.receive())
        self.assertEqual([p.opcode for p in pdus], [DATA_IN] * 10)
        self.assertEqual([p.u32(36) for p in pdus], list(range(10)), "DataSN")
        self.assertEqual([p.u32(40) for p in pdus], [1024 * i for i in range(10)], "offset")
        self.assertEqual([p.flags & 0x80 for p in pdus], [0, 0, 0, 128, 0, 0, 0, 128, 0, 128],
                         "F at the end of each burst")
        self.assertEqual(b"".join(p.data for p in pdus), pattern(SIZE, 7)[8192:8192 + 10240])
        self.assertEqual({p.itt for p in pdus}, {itt})
        self.assertEqual(pdus[-1].status, GOOD)

    def test_writes_as_immediate_data(self):
        session = self.session()
        self.assertEqual(session.write(8, pattern(4096, 1)).status, GOOD)
        self.assertEqual(self.read_file(self.disk, 4096, 4096), pattern(4096, 1))
        self.assertEqual(session.read(8, 8)[1], pattern(4096, 1))

    def test_writes_as_unsolicited_data(self):
        session = self.session(InitialR2T="No", FirstBurstLength="8192")
        data = pattern(8192, 2)
        itt = session.command(write10(0, 16), 8192, 0x20, data[:1024], final=False)
        session.data_out(itt, data[1024:5120], 1024, 0, final=False)
        session.data_out(itt, data[5120:], 5120, 1)
        self.assertEqual(session.finish(itt)[0].status, GOOD)
        self.assertEqual(self.read_file(self.disk, 0, 8192), data)

    def test_writes_by_r2t(self):
        session = self.session(InitialR2T="Yes", ImmediateData="No", MaxBurstLength="4096",
                               MaxOutstandingR2T="2")
        data = pattern(20480, 3)
        itt = session.command(write10(100, 40), 20480, 0x20)
        asked = []
        while len(asked) < 5:
            r2t = session.receive()
            self.assertEqual((r2t.opcode, r2t.itt), (R2T, itt))
            self.assertEqual(r2t.u32(36), len(asked), "R2TSN")
            offset, length = r2t.u32(40), r2t.u32(44)
            asked.append((offset, length))
            half = length // 2
            session.data_out(itt, data[offset:offset + half], offset, 0, r2t.ttt, final=False)
            session.data_out(itt, data[offset + half:offset + length], offset + half, 1, r2t.ttt)
        self.assertEqual(asked, [(4096 * i, 4096) for i in range(5)])
        answer = session.finish(itt)[0]
        self.assertEqual((answer.opcode, answer.status, answer.u32(36)), (RESPONSE, GOOD, 5))
        self.assertEqual(self.read_file(self.disk, 51200, 20480), data)

    def test_several_r2ts_at_once_as_negotiated(self):
        session = self.session(InitialR2T="Yes", ImmediateData="No", MaxBurstLength="1024",
                               MaxOutstandingR2T="4")
        itt = session.command(write10(0, 16), 8192, 0x20)
        asked = [session.receive() for _ in range(4)]
        self.assertEqual([p.opcode for p in asked], [R2T] * 4)
        session.nop()
        self.assertEqual(session.receive().opcode, NOP_IN, "and not a fifth")
        data = pattern(8192, 4)
        for _ in range(8):
            r2t = asked.pop(0)
            at = r2t.u32(40)
            session.data_out(itt, data[at:at + 1024], at, 0, r2t.ttt)
            if at < 4096:
                asked.append(session.receive())
        self.assertEqual(session.finish(itt)[0].status, GOOD)
        self.assertEqual(self.read_file(self.disk, 0, 8192), data)

    def test_a_wrong_data_sn_fails_the_command(self):
        session = self.session(InitialR2T="No", ImmediateData="No")
        itt = session.command(write10(0, 2), 1024, 0x20, final=False)
        session.data_out(itt, bytes(1024), 0, data_sn=27)
        answer = session.finish(itt)[0]
        self.assertEqual((answer.status, answer.sense), (CHECK_CONDITION, (0x0b, 0x4b00)))
        self.assertEqual(session.read(0, 2)[1], pattern(SIZE, 7)[:1024])

    def test_data_at_a_wrong_offset_or_too_much_of_it_fails_the_command(self):
        session = self.session(InitialR2T="Yes", ImmediateData="No")
        for offset, length, code in ((512, 512, 0x4b00), (0, 2048, 0x0c0d)):
            itt = session.command(write10(0, 2), 1024, 0x20)
            r2t = session.receive()
            session.data_out(itt, bytes(length), offset, 0, r2t.ttt)
            answer = session.finish(itt)[0]
            self.assertEqual((answer.status, answer.sense), (CHECK_CONDITION, (0x0b, code)))

    def test_unsolicited_data_that_were_not_allowed_fail_the_command(self):
        session = self.session(InitialR2T="Yes", ImmediateData="No")
        itt = session.command(write10(0, 1), 512, 0x20, bytes(512))
        answer = session.finish(itt)[0]
        self.assertEqual((answer.status, answer.sense), (CHECK_CONDITION, (0x0b, 0x0c0c)))
        itt = session.command(write10(0, 1), 512, 0x20, final=False)
        session.data_out(itt, bytes(512))
        self.assertEqual(session.finish(itt)[0].sense, (0x0b, 0x0c0c))

    def test_data_for_nobody_are_thrown_away(self):
        session = self.session()
        session.data_out(0x7777, bytes(4096))
        self.assertEqual(session.read(0, 1)[0].status, GOOD)

    def test_residuals(self):
        session = self.session()
        for expected, blocks, flag, count in ((1024, 1, 2, 512), (512, 4, 4, 1536), (0, 1, 4, 512)):
            itt = session.command(read10(0, blocks), expected, 0x40)
            answer, data = session.finish(itt)
            self.assertEqual(answer.status, GOOD)
            self.assertEqual((answer.flags & 6, answer.u32(44)), (flag, count))
            self.assertEqual(data, pattern(SIZE, 7)[:min(expected, blocks * 512)])
        itt = session.command(write10(0, 1), 1024, 0x20, pattern(1024, 5))
        answer = session.finish(itt)[0]
        self.assertEqual((answer.status, answer.flags & 6, answer.u32(44)), (GOOD, 2, 512))
        self.assertEqual(self.read_file(self.disk, 0, 512), pattern(1024, 5)[:512])
        self.assertEqual(self.read_file(self.disk, 512, 512), pattern(SIZE, 7)[512:1024])

    def test_many_small_commands_in_one_segment(self):
        session = self.session()
        text, tags = b"", []
        for lba in range(60):
            tags.append(session.next_tag())
            text += session.pack(session.header(COMMAND, 0xc1, tags[-1], ttt=512, rest=read10(lba, 1)))
            session.cmd_sn += 1
        session.socket.sendall(text)
        for lba, itt in enumerate(tags):
            answer, data = session.finish(itt)
            self.assertEqual((answer.status, data), (GOOD, pattern(SIZE, 7)[lba * 512:][:512]))

    def test_a_megabyte_each_way(self):
        session = self.session(MaxRecvDataSegmentLength="262144", MaxBurstLength="1048576",
                               ImmediateData="No")
        data = pattern(1 << 20, 6)
        itt = session.command(write10(0, 2048), 1 << 20, 0x20)
        r2t = session.receive()
        self.assertEqual((r2t.u32(40), r2t.u32(44)), (0, 1 << 20))
        for i in range(4):
            at = i << 18
            session.data_out(itt, data[at:at + (1 << 18)], at, i, r2t.ttt, final=i == 3)
        self.assertEqual(session.finish(itt)[0].status, GOOD)
        self.assertEqual(session.read(0, 2048)[1], data)


class Digests(Protocol):
    def test_with_both_digests(self):
        session = self.session(HeaderDigest="CRC32C", DataDigest="CRC32C")
        self.assertEqual(session.write(1, pattern(512, 8)).status, GOOD)
        self.assertEqual(session.read(1, 1)[1], pattern(512, 8))
        answer = session.text({"SendTargets": ""})  # data that need padding
        self.assertIn("TargetAddress", answer.keys())

    def test_each_digest_alone(self):
        for key in ("HeaderDigest", "DataDigest"):
            session = self.session(isid=b"\x80\0\0\0\0" + key[:1].encode(), **{key: "CRC32C"})
            self.assertEqual(session.write(1, pattern(512, 9)).status, GOOD)
            self.assertEqual(session.read(1, 1)[1], pattern(512, 9))

    def test_a_wrong_header_digest_ends_the_connection(self):
        session = self.session(HeaderDigest="CRC32C")
        header = session.header(iscsi.NOP_OUT, 0x80, 5, immediate=True)
        session.socket.sendall(header + b"\1\2\3\4")
        self.assertTrue(session.closed())
        self.still_serves()

    def test_a_wrong_data_digest_is_rejected_and_the_command_fails(self):
        session = self.session(DataDigest="CRC32C")
        itt = session.next_tag()
        header = session.header(COMMAND, 0xa1, itt, bytes(512), ttt=512, rest=write10(0, 1))
        session.socket.sendall(header + bytes(512) + b"\1\2\3\4")
        session.cmd_sn += 1
        answer = session.receive()
        self.assertEqual((answer.opcode, answer.header[2]), (REJECT, 2))
        self.assertEqual(answer.data, header, "the header that was rejected")
        answer = session.finish(itt)[0]
        self.assertEqual((answer.status, answer.sense), (CHECK_CONDITION, (0x0b, 0x4705)))
        self.assertEqual(self.read_file(self.disk, 0, 512), pattern(SIZE, 7)[:512])
        self.assertEqual(session.read(0, 1)[0].status, GOOD)

    def test_a_wrong_data_digest_of_a_ping_is_rejected(self):
        session = self.session(DataDigest="CRC32C")
        header = session.header(iscsi.NOP_OUT, 0x80, 9, b"ping", immediate=True)
        session.socket.sendall(header + b"ping" + bytes(4))
        self.assertEqual(session.receive().opcode, REJECT)
        self.assertEqual(session.read(0, 1)[0].status, GOOD)


class Window(Protocol):
    def test_numbers_outside_the_window_are_silently_dropped(self):
        session = self.session()
        answer = session.read(0, 1)[0]
        for number in (answer.max_cmd_sn + 1, answer.exp_cmd_sn - 1):
            session.command(read10(0, 1), 512, 0x40, cmd_sn=number & 0xffffffff)
            session.nop(b"still there")
            self.assertEqual(session.receive().data, b"still there")
        self.assertEqual(session.read(0, 1)[0].status, GOOD)

    def test_immediate_commands_take_no_number(self):
        session = self.session()
        before = session.read(0, 1)[0].exp_cmd_sn
        itt = session.command(read10(0, 1), 512, 0x40, immediate=True)
        self.assertEqual(session.finish(itt)[0].exp_cmd_sn, before)

    def test_the_window_goes_on_with_the_commands(self):
        session = self.session()
        first = session.read(0, 1)[0]
        later = session.read(0, 1)[0]
        self.assertEqual(later.exp_cmd_sn, first.exp_cmd_sn + 1)
        self.assertEqual(later.max_cmd_sn, first.max_cmd_sn + 1)
        self.assertEqual(later.max_cmd_sn - later.exp_cmd_sn, 127)

    def test_a_tag_in_use_is_rejected(self):
        session = self.session(ImmediateData="No")
        itt = session.command(write10(0, 1), 512, 0x20)
        r2t = session.receive()
        session.command(read10(0, 1), 512, 0x40, itt=itt)
        answer = session.receive()
        self.assertEqual((answer.opcode, answer.header[2]), (REJECT, 7))
        session.data_out(itt, bytes(512), 0, 0, r2t.ttt)
        self.assertEqual(session.finish(itt)[0].status, GOOD)


class Others(Protocol):
    def test_pings_come_back_with_their_data(self):
        session = self.session()
        for data in (b"", b"x", b"hello", bytes(5000)):
            itt = session.nop(data)
            answer = session.receive()
            self.assertEqual((answer.opcode, answer.itt, answer.ttt), (NOP_IN, itt, NO_TAG))
            self.assertEqual(answer.data, data)

    def test_a_ping_without_a_tag_is_not_answered(self):
        session = self.session()
        session.nop(itt=NO_TAG)
        session.nop(b"this one")
        self.assertEqual(session.receive().data, b"this one")

    def test_snack_is_refused(self):
        session = self.session()
        session.send(session.header(iscsi.SNACK, 0x80, NO_TAG))
        answer = session.receive()
        self.assertEqual((answer.opcode, answer.header[2]), (REJECT, 3))
        self.assertEqual(session.read(0, 1)[0].status, GOOD)

    def test_unknown_opcodes_are_rejected(self):
        session = self.session()
        for opcode in (0x07, 0x0f, 0x1c, 0x20, 0x3f):
            session.send(session.header(opcode, 0x80, 1, b"data"), b"data")
            answer = session.receive()
            self.assertEqual((answer.opcode, answer.header[2]), (REJECT, 5), hex(opcode))
        session.send(*session.login_pdu(0x87, session.names()))
        self.assertEqual(session.receive().opcode, REJECT)
        self.assertEqual(session.read(0, 1)[0].status, GOOD)

    def test_a_data_segment_longer_than_declared_ends_the_connection(self):
        session = self.session()
        session.socket.sendall(session.header(iscsi.NOP_OUT, 0x80, 1, immediate=True)[:5] +
                               b"\xff\xff\xff" + bytes(40))
        self.assertEqual(session.receive().opcode, REJECT)
        self.assertTrue(session.closed())
        self.still_serves()

    def test_malformed_additional_headers_are_rejected(self):
        session = self.session()
        header = session.header(COMMAND, 0xc1, 3, ttt=512, rest=read10(0, 1))
        session.socket.sendall(header[:4] + b"\1" + header[5:] + b"\xff\xff\1\0")
        session.cmd_sn += 1
        answer = session.receive()
        self.assertEqual((answer.opcode, answer.header[2]), (REJECT, 9))
        self.assertEqual(session.read(0, 1)[0].status, GOOD)

    def test_text_in_pieces_and_unknown_keys(self):
        session = self.session()
        answer = session.text({"X-a": "1"}, flags=0x40)
        self.assertEqual((answer.opcode, answer.flags & 0x80), (TEXT_RESPONSE, 0))
        self.assertNotEqual(answer.ttt, NO_TAG)
        answer = session.text({"InitialR2T": "No"}, itt=answer.itt, ttt=answer.ttt)
        self.assertEqual(answer.keys(), {"X-a": "NotUnderstood", "InitialR2T": "Reject"})

    def test_a_text_answer_longer_than_a_segment_comes_in_pieces(self):
        session = self.session(MaxRecvDataSegmentLength="512")
        keys = {f"X-{'k' * 50}{i}": "v" for i in range(20)}
        answer = session.text(keys)
        text = answer.data
        while answer.flags & 0x40:
            self.assertEqual(answer.flags & 0x80, 0)
            answer = session.text({}, itt=answer.itt, ttt=answer.ttt)
            text += answer.data
        self.assertEqual(text.count(b"=NotUnderstood\0"), 20)
        self.assertEqual((answer.flags, answer.ttt), (0x80, NO_TAG))

    def test_logout_ends_session_or_connection(self):
        for reason in (0, 1):
            session = self.session()
            answer = session.logout(reason)
            self.assertEqual((answer.opcode, answer.header[2]), (LOGOUT_RESPONSE, 0))
            self.assertTrue(session.closed())
        session = self.session()
        self.assertEqual(session.logout(2).header[2], 2, "no recovery")
        self.assertEqual(session.read(0, 1)[0].status, GOOD)


class TaskManagement(Protocol):
    def test_functions_without_a_task(self):
        session = self.session()
        self.assertEqual(session.task(1, referenced=0x999).header[2], 1, "no such task")
        self.assertEqual(session.task(8).header[2], 4, "no reassignment")
        self.assertEqual(session.task(99).header[2], 5, "not supported")
        for function in (2, 4, 5):
            answer = session.task(function)
            self.assertEqual((answer.opcode, answer.header[2]), (TASK_RESPONSE, 0), function)
        self.assertEqual(session.task(5, lun=9).header[2], 2, "no such LUN")

    def test_abort_task_of_a_write_that_waits_for_its_data(self):
        session = self.session(ImmediateData="No")
        itt = session.command(write10(0, 1), 512, 0x20)
        r2t = session.receive()
        self.assertEqual(session.task(1, referenced=itt).header[2], 0)
        session.data_out(itt, bytes(512), 0, 0, r2t.ttt)  # too late
        self.assertEqual(session.read(0, 1)[1], pattern(SIZE, 7)[:512])
        self.assertEqual(session.task(1, referenced=itt).header[2], 1)

    def test_a_reset_ends_the_tasks_of_all_sessions(self):
        first = self.session(ImmediateData="No")
        second = self.session(isid=b"\x80\0\0\0\0\x22")
        first.command(write10(0, 1), 512, 0x20)
        first.receive()
        self.assertEqual(second.task(5).header[2], 0)
        answer = first.finish(first.command(iscsi.TEST_UNIT_READY))[0]
        self.assertEqual((answer.status, answer.sense[0]), (CHECK_CONDITION, 6))

    def test_a_cold_reset_drops_the_targets_sessions(self):
        first, second = self.session(), self.session(isid=b"\x80\0\0\0\0\x22")
        self.assertEqual(second.task(7).header[2], 0)
        self.assertTrue(first.closed())
        self.assertTrue(second.closed())
        self.still_serves()


class Suspended(Protocol):
    def test_abort_and_reinstatement_wait_for_what_a_suspended_device_holds(self):
        session = self.session()
        self.server.rpc("suspend", {"device": "default"})
        itt = session.command(read10(0, 1), 512, 0x40)
        session.nop(b"alive")
        self.assertEqual(session.receive().data, b"alive")
        started = time.monotonic()
        self.server.rpc("resume", {"device": "default"})
        answer, data = session.finish(itt)
        self.assertEqual((answer.status, data), (GOOD, pattern(SIZE, 7)[:512]))
        self.assertLess(time.monotonic() - started, 10)
