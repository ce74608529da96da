"""iSCSI targets that lie, break the protocol, or are only slow to grant: an error, nothing worse."""

import socket
import struct
import threading
import time
import unittest

import harness
from harness import MIB, wait_until
from iscsi_script import CHECK, ScriptedTarget, sense
from iscsi_target import Drive

READS, WRITES = (0x28, 0x88), (0x2a, 0x8a)
QUICK = "timeout=2s&login_timeout=1s&keepalive=5s"


class Right(harness.Case):
    """First: the script itself does right, or its wrongs would prove nothing."""

    def test_the_scripted_target_serves(self):
        target = ScriptedTarget(self)
        drive = Drive(self, target.uri())
        self.assertEqual(drive.opened, f"opened {MIB}")
        self.assertEqual(drive.run("write", 0, 262144, 7), ["ok"])
        self.assertEqual(drive.run("read", 0, 262144), ["ok", "7"])
        self.assertEqual(drive.run("flush"), ["ok"])
        self.assertEqual(drive.run("zero", 0, 65536), ["ok"])
        self.assertEqual(drive.run("read", 0, 65536), ["ok", "0"])
        self.assertEqual(target.disk[65536:262144], b"\7" * (262144 - 65536))


class Broken(harness.Case):
    """Targets that break the protocol: the session ends, the request fails at its time."""

    def check_session_ends(self, hook_name, hook, request=("read", 0, 4096), said=""):
        """A leg in plain use tries again, so its request fails when its time is over."""
        target = ScriptedTarget(self, **{hook_name: hook})
        drive = Drive(self, target.uri(QUICK))
        self.assertEqual(drive.run(*request, seconds=30), ["timed_out"])
        self.assertTrue(any("is lost" in line and said in line for line in drive.errors),
                        drive.errors)
        target.hooks.clear()
        wait_until(lambda: drive.run("read", 8192, 512) == ["ok", "0"], "it serves again")
        self.assertEqual(drive.quit(), 0)

    def on_read(self, function):
        def hook(connection, command):
            if command.code not in READS:
                return False
            function(connection, command)
            return True
        return hook

    def test_data_of_a_command_that_was_never_sent(self):
        def wrong(connection, command):
            command.itt ^= 0x10000
            connection.give(command, bytes(4096))
        self.check_session_ends("on_command", self.on_read(wrong), said="was not asked for")

    def test_an_answer_to_a_command_that_was_never_sent(self):
        def wrong(connection, command):
            command.itt = 0x12345678
            connection.respond(command)
        self.check_session_ends("on_command", self.on_read(wrong), said="was not sent")

    def test_more_data_than_asked_for(self):
        def wrong(connection, command):
            command.length = 1 << 20
            connection.give(command, bytes(8192))
        self.check_session_ends("on_command", self.on_read(wrong), said="too much")

    def test_data_at_a_wrong_offset(self):
        def wrong(connection, command):
            bhs = connection.header(0x25, command.itt, 0x81, 512)
            struct.pack_into(">II", bhs, 36, 0, 0xfffffe00)
            connection.send(bhs, bytes(512))
        self.check_session_ends("on_command", self.on_read(wrong), said="out of order")

    def test_data_for_a_write(self):
        def wrong(connection, command):
            if command.code not in WRITES:
                return False
            connection.give(command, bytes(512))
            return True
        self.check_session_ends("on_command", wrong, ("write", 0, 4096, 1), "was not asked for")

    def test_r2t_beyond_the_data(self):
        def wrong(connection, command):
            connection.ask(command, 0, 0xffffffff)
            return True
        self.check_session_ends("on_first_data", wrong, ("write", 0, 262144, 1),
                                "that the command does not have")

    def test_r2t_for_a_read(self):
        self.check_session_ends(
            "on_command", self.on_read(lambda c, command: c.ask(command, 0, 512)),
            said="it asks for data")

    def test_r2t_without_end(self):
        def wrong(connection, command):
            for number in range(20):
                connection.ask(command, 65536, 4096, number)
            return True
        self.check_session_ends("on_first_data", wrong, ("write", 0, 262144, 1))

    def test_a_pdu_longer_than_agreed(self):
        def wrong(connection, command):
            bhs = connection.header(0x25, command.itt, 0x81, (1 << 24) - 1)
            connection.send(bhs)
        self.check_session_ends("on_command", self.on_read(wrong), said="longer than agreed")

    def test_additional_headers(self):
        def wrong(connection, command):
            bhs = connection.header(0x21, command.itt)
            bhs[4] = 1
            connection.send(bhs, bytes(4))
        self.check_session_ends("on_command", self.on_read(wrong))

    def test_opcodes_that_no_target_has(self):
        for opcode in (0x01, 0x03, 0x24, 0x3e):
            def wrong(connection, command, opcode=opcode):
                connection.send(connection.header(opcode, command.itt))
            self.check_session_ends("on_command", self.on_read(wrong), said="opcode")

    def test_garbage(self):
        def wrong(connection, _command):
            connection.client.sendall(harness.pattern(4096, 5))
        self.check_session_ends("on_command", self.on_read(wrong))

    def test_a_reject(self):
        def wrong(connection, _command):
            bhs = connection.header(0x3f, 0xffffffff, length=48)
            bhs[2] = 4
            connection.send(bhs, bytes(48))
        self.check_session_ends("on_command", self.on_read(wrong), said="rejects")

    def test_a_pdu_that_is_cut_off(self):
        def wrong(connection, command):
            bhs = connection.header(0x25, command.itt, 0x81, 4096)
            connection.client.sendall(bytes(bhs) + bytes(100))
            connection.close()
        self.check_session_ends("on_command", self.on_read(wrong), said="closed the connection")

    def test_a_request_for_a_logout(self):
        def wrong(connection, _command):
            bhs = connection.header(0x32, 0xffffffff)
            bhs[36] = 1
            connection.send(bhs)
        self.check_session_ends("on_command", self.on_read(wrong), said="asks for a logout")

    def test_pings_without_end(self):
        def wrong(connection, _command):
            ping = connection.header(0x20, 0xffffffff, counts=False)
            struct.pack_into(">I", ping, 20, 5)
            try:
                connection.client.settimeout(3)
                for _ in range(2000):
                    connection.client.sendall(bytes(ping) * 1000)
            except OSError:
                pass
            connection.close()
        self.check_session_ends("on_command", self.on_read(wrong))

    def test_a_window_that_never_opens(self):
        target = ScriptedTarget(self)
        drive = Drive(self, target.uri("timeout=1s&login_timeout=1s"))
        self.assertEqual(drive.run("read", 0, 512), ["ok", "0"])
        target.connections[-1].window = 0
        drive.run("read", 0, 512)
        tags = [drive.start("read", 0, 512) for _ in range(80)]
        ends = [drive.end(tag)[0] for tag in tags]
        self.assertIn("timed_out", ends)

    def test_silence_after_the_connection(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        port = listener.getsockname()[1]
        began = time.monotonic()
        said = Drive(self, f"iscsi://127.0.0.1:{port}/iqn.2026-11.x:y/0?login_timeout=500ms").opened
        self.assertIn("no answer to the login in time", said)
        self.assertLess(time.monotonic() - began, 20)

    def test_login_answers_that_are_no_answers(self):
        for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 8, bytes(48), b"\xff" * 4096,
                       harness.pattern(100000, 3),
                       bytes([0x25, 0x80, 0, 0, 0, 0, 0, 4]) + bytes(40) + b"abcd",
                       bytes([0x23, 0x87, 0, 0, 0, 0xff, 0xff, 0xff]) + bytes(40)):
            listener = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listener.close)

            def answer_once(listener=listener, answer=answer):
                client, _ = listener.accept()
                client.recv(4096)
                client.sendall(answer)
                client.close()
            threading.Thread(target=answer_once, daemon=True).start()
            port = listener.getsockname()[1]
            drive = Drive(self, f"iscsi://127.0.0.1:{port}/iqn.2026-11.x:y/0?login_timeout=2s")
            self.assertIn("refused leg", drive.opened)
            self.assertEqual(drive.quit(), 0)

    def test_redirections_without_end(self):
        target = ScriptedTarget(self)

        def move(connection, header, _data):
            if header[0] & 0x3f != 0x03:
                return False
            text = f"TargetAddress=127.0.0.1:{target.port},1\0".encode()
            bhs = connection.header(0x23, 0, 0, len(text))
            bhs[36:38] = b"\1\1"
            connection.send(bhs, text)
            return True
        target.hooks["on_pdu"] = move
        self.assertIn("cannot be followed", Drive(self, target.uri()).opened)
        self.assertLessEqual(len(target.connections), 5)

    def test_a_redirection_is_followed(self):
        there = ScriptedTarget(self)

        def move(connection, header, _data):
            if header[0] & 0x3f != 0x03:
                return False
            text = f"TargetAddress=127.0.0.1:{there.port},1\0".encode()
            bhs = connection.header(0x23, 0, 0, len(text))
            bhs[36:38] = b"\1\1"
            connection.send(bhs, text)
            return True
        here = ScriptedTarget(self, on_pdu=move)
        drive = Drive(self, here.uri())
        self.assertEqual(drive.opened, f"opened {MIB}")
        self.assertEqual(drive.run("write", 0, 4096, 3), ["ok"])
        self.assertEqual(there.disk[:4096], b"\3" * 4096)


class Lies(harness.Case):
    """What a disk may say of itself."""

    def refused(self, target):
        return Drive(self, target.uri()).opened

    def test_sizes_that_no_disk_has(self):
        for blocks, block in ((1 << 63, 512), (1 << 62, 65536), (2048, 0), (2048, 513),
                              (2048, 1 << 20)):
            target = ScriptedTarget(self)
            target.capacity = lambda blocks=blocks: blocks
            target.block_size = block
            said = self.refused(target)
            self.assertIn("refused", said)
            self.assertRegex(said, "expected a power of two|are too many|how large")

    def test_a_tape_is_no_disk(self):
        target = ScriptedTarget(self)
        plain = target.inquiry
        target.inquiry = lambda page: b"\x01" + plain(page)[1:] if page is None else plain(page)
        self.assertIn("peripheral device type is 01h", self.refused(target))

    def test_pages_that_lie_about_their_length(self):
        target = ScriptedTarget(self)
        plain = target.inquiry

        def lie(page):
            answer = plain(page)
            return answer[:2] + b"\xff\xff" + answer[4:] if page is not None and answer else answer
        target.inquiry = lie
        self.assertEqual(self.refused(target), f"opened {MIB}")

    def test_a_size_larger_than_what_is_there(self):
        def end(connection, command):
            if command.code in READS and (command.lba + command.blocks) * 512 > MIB:
                connection.respond(command, CHECK, sense(5, 0x2100))
                return True
            return False
        target = ScriptedTarget(self, on_command=end)
        target.capacity = lambda: 1 << 20
        drive = Drive(self, target.uri())
        self.assertEqual(drive.opened, f"opened {1 << 29}")
        self.assertEqual(drive.run("read", 0, 4096), ["ok", "0"])
        self.assertEqual(drive.run("read", 1 << 28, 4096), ["out_of_range"])

    def test_parameters_that_make_no_sense_are_refused(self):
        for key, value in (("MaxRecvDataSegmentLength", "0"), ("MaxBurstLength", "1"),
                           ("FirstBurstLength", "99999999999999"), ("MaxOutstandingR2T", "0")):
            target = ScriptedTarget(self)
            target.keys[key] = value
            self.assertIn(f"the target says {key}=", self.refused(target))


class Ladder(harness.Case):
    """The fence with targets that refuse, keep silent, or forget."""

    ABORT, LUN_RESET, WARM_RESET = 1, 5, 6

    def hanging(self, answers, parameters=""):
        """A target that never ends writes, and answers task management as told: a response code,
        or None for silence."""
        def hang(_connection, command):
            return command.code in WRITES and self.hangs

        def manage(connection, header):
            answer = answers.get(header[1] & 0x7f, 0) if self.hangs else 0
            if answer is not None:
                bhs = connection.header(0x22, struct.unpack_from(">I", header, 16)[0])
                bhs[2] = answer
                connection.send(bhs)
            return True
        self.hangs = False
        target = ScriptedTarget(self, on_command=hang, on_managed=manage)
        drive = Drive(self, target.uri("keepalive=1s&login_timeout=1s" + parameters))
        drive.take_over()
        self.hangs = True
        target.managed.clear()
        return target, drive

    def test_aborts_that_succeed_are_enough(self):
        target, drive = self.hanging({})
        tags = [drive.start("write", 0, 4096, 1) for _ in range(3)]
        time.sleep(0.2)
        self.assertEqual(drive.fence(2)[0], "given")
        self.assertEqual([drive.end(tag) for tag in tags], [["cancelled"]] * 3)
        self.assertEqual(target.managed, [self.ABORT] * 3)

    def test_many_commands_are_reset_at_once(self):
        target, drive = self.hanging({})
        tags = [drive.start("write", i * 4096, 4096, 1) for i in range(40)]
        time.sleep(0.2)
        self.assertEqual(drive.fence(2)[0], "given")
        self.assertEqual([drive.end(tag) for tag in tags], [["cancelled"]] * 40)
        self.assertEqual(target.managed, [self.LUN_RESET])

    def test_a_session_full_of_commands_is_reset(self):
        """What the leg asks after the reset needs a place among the commands that are out."""
        for depth, parameter in ((64, ""), (1, "&queue_depth=1")):
            with self.subTest(depth=depth):
                target, drive = self.hanging({self.ABORT: 5}, parameter)
                tags = [drive.start("write", i * 4096, 4096, 1) for i in range(depth)]
                time.sleep(0.2)
                self.assertEqual(drive.fence(2, ms=10000)[0], "given")
                self.assertEqual([drive.end(tag) for tag in tags], [["cancelled"]] * depth)

    def test_aborts_that_nobody_answers_leave_room_for_the_reset(self):
        target, drive = self.hanging({self.ABORT: None}, "&queue_depth=80")
        tags = [drive.start("write", i * 4096, 4096, 1) for i in range(64)]
        for tag in tags:
            self.assertEqual(drive.ask(f"cancel {tag}", "cancel").split()[2], "asked")
        self.assertEqual(drive.fence(2, ms=10000)[0], "given")
        self.assertEqual([drive.end(tag) for tag in tags], [["timed_out"]] * 64)
        self.assertEqual(target.managed, [self.ABORT] * 64 + [self.LUN_RESET])

    def test_an_abort_that_finds_no_task_is_no_proof(self):
        target, drive = self.hanging({self.ABORT: 1})
        drive.start("write", 0, 4096, 1)
        time.sleep(0.2)
        self.assertEqual(drive.fence(2)[0], "given")
        self.assertEqual(target.managed, [self.ABORT, self.LUN_RESET])

    def test_without_lun_reset_the_target_is_reset(self):
        target, drive = self.hanging({self.ABORT: 5, self.LUN_RESET: 5})
        drive.start("write", 0, 4096, 1)
        time.sleep(0.2)
        self.assertEqual(drive.fence(2)[0], "given")
        self.assertEqual(target.managed, [self.ABORT, self.LUN_RESET, self.WARM_RESET])

    def test_refusals_are_no_proof(self):
        _target, drive = self.hanging({self.ABORT: 255, self.LUN_RESET: 5, self.WARM_RESET: 6})
        tag = drive.start("write", 0, 4096, 1)
        time.sleep(0.2)
        proof, reason = drive.fence(2)
        self.assertEqual(proof, "impossible")
        self.assertIn('the target answers TARGET WARM RESET with "not authorized"', reason)
        self.assertTrue(drive.none_yet("done"))
        drive.ask("abandon", "abandoned")
        self.assertEqual(drive.end(tag), ["timed_out"])
        self.assertEqual(drive.session(2), "invalid")

    def test_silence_is_no_proof(self):
        target, drive = self.hanging({self.ABORT: None, self.LUN_RESET: None})
        drive.start("write", 0, 4096, 1)
        time.sleep(0.2)
        self.assertEqual(drive.fence(2, ms=4000)[0], "not_yet")
        self.assertNotIn(self.WARM_RESET, target.managed)
        self.assertEqual(drive.session(2), "invalid")

    def test_a_new_login_has_the_old_session_identifier(self):
        target, drive = self.hanging({})
        self.assertEqual(len(set(target.logins)), 2)  # the look at load time, and the session
        drive.start("write", 0, 4096, 1)
        time.sleep(0.2)
        for connection in target.connections:
            connection.close()
        drive.wait("lost")
        self.hangs = False
        self.assertEqual(drive.fence(2)[0], "given")
        self.assertEqual(target.logins[-1], target.logins[1])
        self.assertEqual(target.managed, [self.LUN_RESET])
        self.assertEqual(drive.session(2), "ok")
        self.assertEqual(drive.run("write", 0, 4096, 2), ["ok"])

    def test_a_fence_that_was_not_done_in_time_goes_on(self):
        answers = {self.ABORT: None, self.LUN_RESET: None}
        target, drive = self.hanging(answers)
        drive.start("write", 0, 4096, 1)
        time.sleep(0.2)
        self.assertEqual(drive.fence(2, ms=500)[0], "not_yet")
        self.hangs = False
        for connection in target.connections:
            connection.close()
        wait_until(lambda: "fenced (epoch 2)" in drive.ask("state", "state"), "it goes on behind")
        self.assertEqual(drive.fence(2, ms=500)[0], "given")
        self.assertEqual(drive.session(2), "ok")

    def test_a_plain_leg_repeats_nothing_before_the_old_session_is_over(self):
        self.hangs = True
        held = []

        def hang(_connection, command):
            return command.code in WRITES and self.hangs

        def manage(connection, header):
            held.append((connection, struct.unpack_from(">I", header, 16)[0]))
            return True
        target = ScriptedTarget(self, on_command=hang, on_managed=manage)
        drive = Drive(self, target.uri())
        tag = drive.start("write", 0, 4096, 1)
        wait_until(lambda: target.count(0x2a) == 1, "it is written")
        self.hangs = False
        for connection in list(target.connections):
            connection.close()
        wait_until(lambda: held, "the LUN is reset")
        time.sleep(0.3)
        self.assertEqual(target.count(0x2a), 1)
        connection, itt = held[0]
        connection.send(connection.header(0x22, itt))
        self.assertEqual(drive.end(tag), ["ok"])
        self.assertEqual(target.disk[:4096], b"\1" * 4096)


if __name__ == "__main__":
    unittest.main()
