"""What an iSCSI leg makes of answers that are right and say no: retried, told, or done otherwise."""

import struct

import harness
from harness import MIB, wait_until
from iscsi_script import ABORTED, BUSY, CHECK, CONFLICT, FULL, ScriptedTarget, sense
from iscsi_target import Drive

READS, WRITES = (0x28, 0x88), (0x2a, 0x8a)
QUICK = "timeout=2s&login_timeout=1s&keepalive=5s"


def once(*codes):
    """A hook that deals with the first command of one of these codes, by the function given."""
    def decorate(function):
        left = [1]

        def hook(connection, command):
            if command.code not in codes or not left[0]:
                return False
            left[0] -= 1
            function(connection, command)
            return True
        return hook
    return decorate


class Retries(harness.Case):
    """Answers that are no errors."""

    def check_write_is_tried_again(self, status, data=b"", times=3):
        left = [times]

        def refuse(connection, command):
            if command.code not in WRITES or left[0] == 0:
                return False
            left[0] -= 1
            connection.respond(command, status, data)
            return True
        target = ScriptedTarget(self, on_command=refuse)
        drive = Drive(self, target.uri())
        self.assertEqual(drive.run("write", 0, 4096, 9), ["ok"])
        self.assertEqual(target.disk[:4096], b"\x09" * 4096)
        self.assertEqual(left, [0])

    def test_busy(self):
        self.check_write_is_tried_again(BUSY)

    def test_task_set_full(self):
        self.check_write_is_tried_again(FULL)

    def test_task_aborted(self):
        self.check_write_is_tried_again(ABORTED)

    def test_unit_attention(self):
        self.check_write_is_tried_again(CHECK, sense(6, 0x2900))

    def test_aborted_command(self):
        self.check_write_is_tried_again(CHECK, sense(0xb, 0x4700))

    def test_becoming_ready(self):
        self.check_write_is_tried_again(CHECK, sense(2, 0x0401))

    def test_retries_have_an_end(self):
        def refuse(connection, command):
            if command.code in WRITES:
                connection.respond(command, CHECK, sense(6, 0x2900))
            return command.code in WRITES
        target = ScriptedTarget(self, on_command=refuse)
        drive = Drive(self, target.uri())
        self.assertEqual(drive.run("write", 0, 4096, 9), ["busy"])
        self.assertLess(target.count(0x2a), 50)


class Errors(harness.Case):
    """Answers that are errors, and which."""

    def check_error(self, expected, status, data=b"", response=0):
        def refuse(connection, command):
            if command.code in WRITES:
                connection.respond(command, status, data, response)
            return command.code in WRITES
        drive = Drive(self, ScriptedTarget(self, on_command=refuse).uri())
        self.assertEqual(drive.run("write", 0, 4096, 9), [expected])
        self.assertEqual(drive.run("read", 0, 4096), ["ok", "0"])  # the session goes on
        return drive

    def test_reservation_conflict(self):
        drive = self.check_error("permission", CONFLICT)
        wait_until(lambda: any("another initiator has reserved the LUN" in line
                               for line in drive.errors), "it is logged")

    def test_medium_error(self):
        self.check_error("io", CHECK, sense(3, 0x0c00))

    def test_hardware_error(self):
        self.check_error("io", CHECK, sense(4, 0x4400))

    def test_write_protected(self):
        self.check_error("read_only", CHECK, sense(7, 0x2700))

    def test_full_thin_lun(self):
        self.check_error("no_space", CHECK, sense(7, 0x2707))

    def test_beyond_the_end(self):
        self.check_error("out_of_range", CHECK, sense(5, 0x2100))

    def test_check_condition_without_sense(self):
        self.check_error("io", CHECK)

    def test_sense_that_is_cut_off(self):
        for data in (b"\0", b"\0\x12", b"\xff\xff\x70", b"\0\x02\x72\x06"):
            self.check_error("io", CHECK, data)

    def test_unknown_status(self):
        self.check_error("io", 0x3c)

    def test_target_failure(self):
        self.check_error("io", 0, response=1)

    def test_a_read_that_brings_less_than_asked(self):
        @once(*READS)
        def short(connection, command):
            connection.give(command, b"x" * 512)
        drive = Drive(self, ScriptedTarget(self, on_command=short).uri())
        self.assertEqual(drive.run("read", 0, 4096), ["io"])
        self.assertEqual(drive.run("read", 0, 4096), ["ok", "0"])


class Unsupported(harness.Case):
    """What the target promised and does not have is done another way."""

    def without(self, *codes, sense_code=0x2000):
        def refuse(connection, command):
            if command.code in codes:
                connection.respond(command, CHECK, sense(5, sense_code))
            return command.code in codes
        target = ScriptedTarget(self, on_command=refuse)
        target.disk[:] = b"\xff" * MIB
        return target, Drive(self, target.uri())

    def test_zeroes_are_written_without_write_same(self):
        target, drive = self.without(0x93)
        self.assertEqual(drive.run("zero", 4096, 65536, "may_trim"), ["ok"])
        self.assertEqual(target.disk[4096:69632], bytes(65536))
        self.assertEqual(target.disk[:4096], b"\xff" * 4096)
        self.assertEqual(target.disk[69632:], b"\xff" * (MIB - 69632))
        self.assertEqual(target.count(0x93), 2)  # with UNMAP, then without
        self.assertEqual(drive.run("zero", 0, 4096), ["ok"])
        self.assertEqual(target.count(0x93), 2)
        self.assertEqual(drive.run("zero", 0, 4096, "fast"), ["not_supported"])

    def test_trim_is_a_hint(self):
        target, drive = self.without(0x42)
        self.assertEqual(drive.run("trim", 0, 65536), ["ok"])
        self.assertEqual(drive.run("trim", 0, 65536), ["ok"])
        self.assertEqual(target.count(0x42), 1)

    def test_extents_are_data_where_nobody_knows(self):
        _target, drive = self.without(0x9e, sense_code=0x2400)
        self.assertEqual(drive.run("extents", 0, MIB), ["ok", f"{MIB}:"])

    def test_a_flush_that_a_cache_refuses_is_an_error(self):
        _target, drive = self.without(0x35, 0x91)
        self.assertEqual(drive.run("flush"), ["not_supported"])

    def test_limits_of_unmap_and_write_same_are_kept(self):
        target = ScriptedTarget(self)
        limits = bytearray(target.inquiry(0xb0))
        struct.pack_into(">II", limits, 20, 16, 1)   # UNMAP: 16 blocks
        struct.pack_into(">Q", limits, 36, 32)       # WRITE SAME: 32 blocks
        struct.pack_into(">I", limits, 8, 64)        # READ, WRITE: 64 blocks
        plain = target.inquiry
        target.inquiry = lambda page: bytes(limits) if page == 0xb0 else plain(page)
        drive = Drive(self, target.uri())
        self.assertEqual(drive.run("trim", 0, 65536), ["ok"])
        self.assertEqual(target.count(0x42), 8)
        self.assertEqual(drive.run("zero", 0, 65536), ["ok"])
        self.assertEqual(target.count(0x93), 4)
        self.assertEqual(drive.run("write", 0, 65536, 1), ["ok"])
        self.assertEqual(target.count(0x2a), 2)


class Attentions(harness.Case):
    """What a LUN says by itself."""

    def test_a_capacity_that_changed_is_read_and_told(self):
        @once(*READS)
        def changed(connection, command):
            target.disk += bytes(MIB)
            connection.respond(command, CHECK, sense(6, 0x2a09))
        target = ScriptedTarget(self, on_command=changed)
        drive = Drive(self, target.uri())
        self.assertEqual(drive.run("read", 0, 4096), ["ok", "0"])
        wait_until(lambda: any(f"has grown from {MIB} to {2 * MIB} bytes" in line
                               for line in drive.errors), "it is logged")

    def test_a_reset_under_control_counts_as_a_lost_session(self):
        @once(*READS)
        def reset(connection, command):
            connection.respond(command, CHECK, sense(6, 0x2900))
        target = ScriptedTarget(self, on_command=reset)
        drive = Drive(self, target.uri())
        drive.take_over()
        self.assertEqual(drive.run("read", 0, 4096), ["cancelled"])
        self.assertIn("the LUN was reset", drive.wait("lost"))

    def test_an_asynchronous_event_is_taken(self):
        def tell(connection, command):
            if command.code in READS:
                target.disk += bytes(MIB)
                data = sense(6, 0x2a09)
                bhs = connection.header(0x32, 0xffffffff, length=len(data))
                connection.send(bhs, data)
                target.hooks.clear()
            return False
        target = ScriptedTarget(self, on_command=tell)
        drive = Drive(self, target.uri())
        self.assertEqual(drive.run("read", 0, 4096), ["ok", "0"])
        wait_until(lambda: any("has grown" in line for line in drive.errors), "it is logged")

    def test_another_lun_in_its_place_is_not_used(self):
        target = ScriptedTarget(self)
        drive = Drive(self, target.uri(QUICK))
        self.assertEqual(drive.run("write", 0, 4096, 1), ["ok"])
        plain = target.inquiry
        target.inquiry = lambda page: (
            bytes([0, 0x83, 0, 12, 1, 3, 0, 8]) + b"another!" if page == 0x83 else plain(page))
        for connection in target.connections:
            connection.close()
        self.assertEqual(drive.run("write", 0, 4096, 2), ["timed_out"])
        self.assertTrue(any("another LUN is there now" in line for line in drive.errors))
        self.assertEqual(target.disk[:4096], b"\1" * 4096)
