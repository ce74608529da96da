"""[iscsi] of the configuration: targets, LUNs, access, CHAP, reload; and the commands."""

import hashlib
import json
import os
import re
import socket

import daemon
import harness
import iscsi
from harness import pattern

MAIL = "iqn.2026-01.org.example:mail"
DISK = 1 << 20


class Daemon(daemon.Case, iscsi.Case):
    def setUp(self):
        super().setUp()
        self.port = self.free_port()
        self.devices = ""
        for number, name in enumerate(("vol0", "vol1")):
            disk = self.make_file(f"{name}.img", DISK, seed=number + 1)
            self.devices += daemon.device(name, f"0 {DISK // 512} linear {disk} 0")

    def iscsi(self, text="", portals=None):
        return (f"[iscsi]\nportals = {json.dumps(portals or [f'127.0.0.1:{self.port}'])}\n{text}\n"
                + self.devices)

    def start(self, text="", **how):
        self.server = self.start_daemon(self.iscsi(text), **how)
        return self.server

    def secrets(self, text, mode=0o640):
        path = self.write_text("chap", text)
        os.chmod(path, mode)
        return path

    def refusal(self, text):
        """What `blockloomd --check` says of a configuration that is wrong."""
        folder = self.new_folder()
        self.configure(folder, text)
        done = self.blockloomd("--config", f"{folder}/blockloom.toml", "--check")
        self.assertNotEqual(done.returncode, 0, done.stdout)
        return done.stderr

    def login_status(self, target, **how):
        initiator = self.initiator(**how)
        return int.from_bytes(initiator.login(target).header[36:38], "big")


class Targets(Daemon):
    def test_an_empty_section_serves_every_device(self):
        self.start()
        session = self.session()
        for lun, seed in ((0, 1), (1, 2)):
            session.clear_attentions(lun)
            self.assertEqual(session.read(0, 8, lun=lun)[1], pattern(DISK, seed)[:4096])

    def test_a_portal_is_no_place_for_nbd_clients(self):
        server = self.start()
        endpoints = server.rpc("attach_help", {"device": "vol0"})["endpoints"]
        self.assertEqual([e["kind"] for e in endpoints], ["unix"])

    def test_a_device_that_nobody_uses_can_be_removed(self):
        self.start()
        session = self.session()
        with self.assertRaises(harness.RpcError):
            self.server.rpc("remove", {"device": "vol0"})
        session.logout()

        def removed():
            try:
                return self.server.rpc("remove", {"device": "vol0"}) is not None
            except harness.RpcError:
                return False
        harness.wait_until(removed, "the device is let go")
        session = self.session()
        answer = session.finish(session.command(iscsi.TEST_UNIT_READY))[0]
        self.assertEqual((answer.status, answer.sense), (2, (5, 0x2500)), "no such LUN")

    def test_without_the_section_there_is_no_target(self):
        self.server = self.start_daemon(self.devices)
        with self.assertRaises(harness.RpcError) as caught:
            self.server.rpc("iscsi_sessions")
        self.assertIn("no iSCSI target", caught.exception.message)

    def test_names_luns_and_read_only(self):
        self.start(f"""
[[iscsi.target]]
name = "{MAIL}"
luns = ["vol1", {{device = "vol0", lun = 300, read_only = true}}]
[[iscsi.target]]
name = "iqn.2026-01.org.example:other"
luns = ["vol0"]
""")
        session = self.session(MAIL)
        self.assertEqual(session.read(0, 8)[1], pattern(DISK, 2)[:4096])
        flat = 0x4000 | 300
        session.clear_attentions(flat)
        self.assertEqual(session.read(0, 8, lun=flat)[1], pattern(DISK, 1)[:4096])
        answer = session.write(0, bytes(512), lun=flat)
        self.assertEqual((answer.status, answer.sense), (2, (7, 0x2700)))
        self.assertEqual(self.login_status(iscsi.TARGET), 0x0203, "the default is not there")

    def test_a_device_that_comes_later_is_served_then(self):
        self.start(f'[[iscsi.target]]\nname = "{MAIL}"\nluns = ["later"]')
        luns = self.server.rpc("iscsi_luns")["luns"]
        self.assertIn("later", luns[0]["failure"])
        self.server.rpc("create", {"name": "later", "table": "0 2048 linear mem:1M 0"})
        harness.wait_until(lambda: not self.server.rpc("iscsi_luns")["luns"][0]["failure"],
                           "the LUN is served")
        self.assertEqual(self.session(MAIL).read(0, 1)[0].status, 0)

    def test_several_portals_and_send_targets(self):
        other = self.free_port()
        self.server = self.start_daemon(self.iscsi(
            portals=[f"127.0.0.1:{self.port}", f"127.0.0.2:{other}"]))
        for host, port in (("127.0.0.1", self.port), ("127.0.0.2", other)):
            session = iscsi.Initiator(port, host)
            self.addCleanup(session.close)
            session.login(None)
            text = session.text({"SendTargets": "All"}).data.decode()
            self.assertEqual(re.findall(r"TargetAddress=([^\0]*)", text),
                             [f"127.0.0.1:{self.port},1", f"127.0.0.2:{other},1"])

    def test_an_advertised_address_and_a_redirection(self):
        portal = {"address": f"127.0.0.1:{self.port}", "advertise": "storage.example:3260"}
        text = ('[iscsi]\nportals = [{address = "%(address)s", advertise = "%(advertise)s"}]\n'
                % portal)
        text += f'[[iscsi.target]]\nname = "{MAIL}"\nredirect = "192.0.2.9:3260"\n'
        self.server = self.start_daemon(text + self.devices)
        session = self.session(None)
        self.assertIn(b"TargetAddress=storage.example:3260,1\0",
                      session.text({"SendTargets": "All"}).data)
        moved = self.initiator().login(MAIL)
        self.assertEqual(moved.header[36:38], b"\1\1")
        self.assertEqual(moved.keys(), {"TargetAddress": "192.0.2.9:3260"})


class Access(Daemon):
    def test_names_and_addresses(self):
        self.start(f"""
[[iscsi.target]]
name = "{MAIL}"
initiators = ["{iscsi.NAME}", "iqn.1991-05.com.microsoft:*"]
addresses = ["127.0.0.0/8"]
[[iscsi.target]]
name = "iqn.2026-01.org.example:far"
addresses = ["192.0.2.0/24"]
""")
        self.assertEqual(self.login_status(MAIL), 0)
        self.assertEqual(self.login_status(MAIL, name="iqn.1991-05.com.microsoft:host"), 0)
        self.assertEqual(self.login_status(MAIL, name="iqn.2026-01.org.blockloom:else"), 0x0202)
        self.assertEqual(self.login_status("iqn.2026-01.org.example:far"), 0x0202)
        text = self.session(None).text({"SendTargets": "All"}).data
        self.assertIn(MAIL.encode(), text)
        self.assertNotIn(b"example:far", text)

    def chap(self, target, user, secret, algorithms="7", mutual=None):
        session = self.initiator()
        answer = session.login_step(0, session.names(target, AuthMethod="CHAP"))
        self.assertEqual(answer.keys()["AuthMethod"], "CHAP")
        answer = session.login_step(0, {"CHAP_A": algorithms})
        if answer.header[36:38] != b"\0\0":
            return answer
        keys = answer.keys()
        function = {"5": "md5", "6": "sha1", "7": "sha256", "8": "sha3_256"}[keys["CHAP_A"]]
        challenge = bytes.fromhex(keys["CHAP_C"][2:])
        proof = hashlib.new(function, bytes([int(keys["CHAP_I"])]) + secret.encode() + challenge)
        more = {"CHAP_I": "77", "CHAP_C": "0x" + bytes(range(16)).hex()} if mutual else {}
        answer = session.login_step(0x83, {"CHAP_N": user, "CHAP_R": "0x" + proof.hexdigest(),
                                           **more})
        if mutual and answer.header[36:38] == b"\0\0":
            self.assertEqual(answer.keys()["CHAP_N"], "mail")
            right = hashlib.new(function, b"\x4d" + mutual.encode() + bytes(range(16)))
            self.assertEqual(answer.keys()["CHAP_R"], "0x" + right.hexdigest())
        return answer

    def test_chap_one_way_and_mutual(self):
        path = self.secrets("# who may\ninitiator host1 a-secret-of-16-b\n"
                            "target mail another-secret-1\n")
        self.start(f'[[iscsi.target]]\nname = "{MAIL}"\nchap = "{path}"')
        for algorithms, mutual in (("5", None), ("6", None), ("7", "another-secret-1"),
                                   ("8", None), ("5,8", "another-secret-1")):
            answer = self.chap(MAIL, "host1", "a-secret-of-16-b", algorithms, mutual)
            self.assertEqual((answer.header[36:38], answer.flags), (b"\0\0", 0x83), algorithms)
        for user, secret, algorithms in (("host1", "wrong-secret-00", "7"),
                                         ("host2", "a-secret-of-16-b", "7"),
                                         ("host1", "a-secret-of-16-b", "56")):
            answer = self.chap(MAIL, user, secret, algorithms)
            self.assertEqual(answer.header[36:38], b"\2\1")
        self.assertEqual(self.login_status(MAIL), 0x0201, "not around it")
        harness.wait_until(lambda: "login refused (0201)" in self.server.log(), "the log")

    def test_libiscsi_logs_in_by_chap(self):
        path = self.secrets("initiator host1 a-secret-of-16-b\ntarget mail another-secret-1\n")
        self.start(f'[[iscsi.target]]\nname = "{MAIL}"\nchap = "{path}"')
        place = f"127.0.0.1:{self.port}/{MAIL}/0"
        self.command("iscsi-inq", f"iscsi://host1%a-secret-of-16-b@{place}")
        self.command("iscsi-inq", f"iscsi://host1%a-secret-of-16-b@{place}"
                                  "?target_user=mail&target_password=another-secret-1")
        for wrong in (f"iscsi://host1%wrong@{place}", f"iscsi://{place}"):
            self.assertNotEqual(self.command("iscsi-inq", wrong, check=False).returncode, 0)


class Mistakes(Daemon):
    def test_mistakes_are_told_with_their_place(self):
        for text, complaint in (
                ("[iscsi]\nportal = []", r"blockloom.toml:\d+:1: unknown key 'portal' in iscsi"),
                ("[iscsi]\nportals = ['host']", r":\d+:12: iscsi.portals: 'host' is not a portal"),
                ("[iscsi]\nportals = ['127.0.0.1', '127.0.0.1:3260']", "already given"),
                ("[iscsi]\nqueue_depth = 0", "a whole number from 1 to 1024"),
                ("[[iscsi.target]]\nname = 'disks'", "'disks' is not an iSCSI name"),
                ("[[iscsi.target]]\nalias = 'x'", "is not an iSCSI name"),
                (f"[[iscsi.target]]\nname = '{MAIL}'\nluns = [{{device = 'a', lun = 0}}, "
                 "{device = 'b', lun = 0}]", "LUN 0 is already given"),
                (f"[[iscsi.target]]\nname = '{MAIL}'\nluns = [{{device = 'a', "
                 "block_size = 1024}]", "expected 512 or 4096, not 1024"),
                (f"[[iscsi.target]]\nname = '{MAIL}'\naddresses = ['1.2.3']",
                 "'1.2.3' is not an address"),
                (f"[[iscsi.target]]\nname = '{MAIL}'\nchap_algorithms = ['md4']", "sha3-256"),
                (f"[[iscsi.target]]\nname = '{MAIL}'\nheader_digest = 'crc'", "\"require\""),
                (f"[[iscsi.target]]\nname = '{MAIL}'\n" * 2, "already given")):
            self.assertRegex(self.refusal(text), complaint)

    def test_a_public_portal_without_protection_is_refused(self):
        said = self.refusal(f"[iscsi]\nportals = ['0.0.0.0:{self.port}']")
        self.assertIn("is public", said)
        said = self.refuse("table=0 8 zero", f"iscsi=0.0.0.0:{self.port}")
        self.assertIn("is public", said)
        protected = f"[[iscsi.target]]\nname = '{MAIL}'\naddresses = ['127.0.0.1']\n"
        self.server = self.start_daemon(
            f"[iscsi]\nportals = ['*:{self.port}']\n{protected}" + self.devices)
        self.assertEqual(self.login_status(MAIL), 0)

    def test_insecure_portals_are_meant(self):
        self.server = self.start_daemon(
            f"[iscsi]\nportals = [{{address = '*:{self.port}', insecure = true}}]\n" + self.devices)
        self.assertEqual(self.login_status(iscsi.TARGET), 0)

    def test_secrets_that_are_no_secrets(self):
        target = f"[[iscsi.target]]\nname = '{MAIL}'\nchap = '%s'"
        for text, mode, complaint in (
                ("initiator a a-secret-of-16-b\n", 0o644, "everybody may read it"),
                ("initiator a short\n", 0o600, "has 5 bytes"),
                ("# none\n", 0o600, "nobody could log in"),
                ("initiator a\n", 0o600, "chap:1: expected"),
                ("initiator a a-secret-of-16-b\ntarget b a-secret-of-16-b\n", 0o600, "reflected")):
            self.assertIn(complaint, self.refusal(target % self.secrets(text, mode)))
        self.assertIn("No such file", self.refusal(target % "/nowhere/chap"))

    def test_a_port_that_is_taken(self):
        self.start()
        folder = self.new_folder()
        self.configure(folder, self.iscsi())
        second = self.run_daemon(folder, ready=False)
        self.assertNotEqual(second.wait_end(), 0)
        self.assertIn(f"iSCSI portal 127.0.0.1:{self.port}: Address already in use", second.log())


class Reload(Daemon):
    def rewrite(self, text):
        self.configure(self.server.folder, text)
        return self.server.hang_up()

    def test_sessions_stay_and_what_changed_reaches_them(self):
        target = f'[[iscsi.target]]\nname = "{MAIL}"\nluns = '
        self.start(target + '["vol0"]')
        session = self.session(MAIL)
        self.assertNotIn("failed", self.rewrite(self.iscsi(target + '["vol0", "vol1"]')))
        answer = session.finish(session.command(iscsi.TEST_UNIT_READY))[0]
        while answer.opcode == iscsi.ASYNC:
            answer = session.receive()
        self.assertEqual((answer.status, answer.sense), (2, (6, 0x3f0e)), "REPORTED LUNS CHANGED")
        session.clear_attentions(1)
        self.assertEqual(session.read(0, 8, lun=1)[1], pattern(DISK, 2)[:4096])

    def test_a_session_that_is_not_allowed_any_more_ends(self):
        target = f'[[iscsi.target]]\nname = "{MAIL}"\n'
        self.start(target)
        session = self.session(MAIL)
        self.rewrite(self.iscsi(target + 'initiators = ["iqn.2026-01.org.example:other"]'))
        self.assertTrue(session.closed())
        self.assertEqual(self.login_status(MAIL), 0x0202)

    def test_portals_come_and_go(self):
        self.start()
        session = self.session()
        old, self.port = self.port, self.free_port()
        self.rewrite(self.iscsi())
        self.assertEqual(session.read(0, 1)[0].status, 0, "the session stays")
        self.assertEqual(self.login_status(iscsi.TARGET, name="iqn.2026-01.org.blockloom:b"), 0)

        def refused():
            try:
                iscsi.Initiator(old).close()
                return False
            except ConnectionRefusedError:
                return True
        harness.wait_until(refused, "the old portal is closed")

    def test_the_target_is_switched_on_and_off(self):
        self.server = server = self.start_daemon(self.devices)
        nbd = self.connect(server, "vol0")
        for turn in range(2):
            self.assertNotIn("failed", self.rewrite(self.iscsi()))
            self.assertEqual(server.rpc("iscsi_targets")["portals"], [f"127.0.0.1:{self.port}"])
            session, discovery = self.session(), self.session(None)
            self.assertEqual(session.write(8, bytes([turn + 1]) * 512).status, 0)
            self.assertEqual(nbd.pread(512, 4096), bytes([turn + 1]) * 512)

            said = self.rewrite(self.devices)
            self.assertNotIn("restart", said)
            for initiator in (session, discovery):
                told = initiator.receive()
                self.assertEqual((told.opcode, told.header[36]), (iscsi.ASYNC, 3), "session dropped")
                self.assertTrue(initiator.closed())
            with self.assertRaises(ConnectionRefusedError):
                iscsi.Initiator(self.port)
            with self.assertRaises(harness.RpcError) as caught:
                server.rpc("iscsi_targets")
            self.assertIn("no iSCSI target", caught.exception.message)
            self.assertEqual(nbd.pread(512, 4096), bytes([turn + 1]) * 512)
        harness.wait_until(lambda: server.rpc("info", {"device": "vol1"})["devices"][0]["open_count"] == 0,
                           "no LUN holds the device open")

    def test_a_portal_that_is_taken_leaves_the_target_off(self):
        self.server = self.start_daemon(self.devices)
        with socket.create_server(("127.0.0.1", self.port)):
            self.assertIn(f"127.0.0.1:{self.port}", self.rewrite(self.iscsi()))
        with self.assertRaises(harness.RpcError):
            self.server.rpc("iscsi_targets")
        self.assertNotIn("failed", self.rewrite(self.iscsi()))
        self.assertEqual(self.session().read(0, 1)[0].status, 0)

    def test_a_mistake_changes_nothing(self):
        self.start()
        session = self.session()
        self.assertIn("reload failed", self.rewrite("[iscsi]\nportals = 7\n" + self.devices))
        self.assertEqual(session.read(0, 1)[0].status, 0)


class Commands(Daemon):
    def setUp(self):
        super().setUp()
        self.start()

    def blockloom(self, *words, code=0):
        done = self.command(harness.BLOCKLOOM, "--socket", self.server.control, *words, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.errors = done.stderr
        return done.stdout

    def documented(self, method):
        """The names in the document's sentence "Result: …"."""
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/control-api.md")
        with open(path, encoding="utf-8") as file:
            text = file.read().split(f"### `{method}`")[1].split("\n### ")[0]
        return set(re.findall(r"`([a-z_]+)`", text.split("Result:")[1].split("Error")[0]))

    def names(self, value):
        if isinstance(value, list):
            return set().union(*(self.names(v) for v in value)) if value else set()
        if isinstance(value, dict):
            return set(value).union(*(self.names(v) for v in value.values()))
        return set()

    def test_sessions(self):
        self.assertEqual(self.blockloom("iscsi", "sessions"), "No sessions\n")
        session = self.session()
        session.read(0, 8)
        answer = json.loads(self.blockloom("--json", "iscsi", "sessions"))
        self.assertEqual(self.names(answer), self.documented("iscsi_sessions"))
        one = answer["sessions"][0]
        self.assertEqual((one["initiator"], one["target"], one["portal"], one["isid"]),
                         (iscsi.NAME, iscsi.TARGET, f"127.0.0.1:{self.port}", "0x801234560001"))
        self.assertEqual((one["read_bytes"], one["write_bytes"], one["in_flight"]), (4096, 0, 0))
        self.assertIn(f"{one['tsih']}: {iscsi.NAME} from 127.0.0.1:",
                      self.blockloom("iscsi", "sessions"))

    def test_targets_and_luns(self):
        answer = json.loads(self.blockloom("--json", "iscsi", "targets"))
        self.assertEqual(self.names(answer), self.documented("iscsi_targets"))
        self.assertEqual(answer["portals"], [f"127.0.0.1:{self.port}"])
        self.assertEqual(self.blockloom("iscsi", "targets"),
                         f"{iscsi.TARGET}: 2 LUNs, 0 sessions, every device\n"
                         f"portal 127.0.0.1:{self.port}\n")
        answer = json.loads(self.blockloom("--json", "iscsi", "luns"))
        self.assertEqual(self.names(answer), self.documented("iscsi_luns"))
        self.assertEqual([(l["lun"], l["device"], l["blocks"]) for l in answer["luns"]],
                         [(0, "vol0", 2048), (1, "vol1", 2048)])
        self.assertRegex(self.blockloom("iscsi", "luns"),
                         rf"(?m)^{iscsi.TARGET} 1: vol1 naa\.[0-9a-f]+, 2048 blocks of 512$")

    def test_reservations(self):
        self.assertEqual(self.blockloom("iscsi", "reservations"), "No reservations\n")
        session = self.session()
        key = bytes(8) + b"\0\0\0\0\0\0\x12\x34" + bytes(8)
        register = bytes([0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0])
        self.assertEqual(session.finish(session.command(register, 24, 0x20, key))[0].status, 0)
        answer = json.loads(self.blockloom("--json", "iscsi", "reservations"))
        self.assertEqual(self.names(answer), self.documented("iscsi_reservations"))
        self.assertIn("0x0000000000001234", self.blockloom("iscsi", "reservations"))

    def test_kick(self):
        session = self.session()
        number = json.loads(self.blockloom("--json", "iscsi", "sessions"))["sessions"][0]["tsih"]
        self.assertEqual(self.blockloom("iscsi", "kick", str(number)), "1 session told to end\n")
        told = session.receive()
        self.assertEqual((told.opcode, told.header[36]), (iscsi.ASYNC, 3))
        self.assertTrue(session.closed())
        self.blockloom("iscsi", "kick", str(number), code=3)
        self.assertIn("no iSCSI session fits", self.errors)
        self.session()
        self.blockloom("iscsi", "kick", "--initiator", "iqn.none", code=3)
        self.assertEqual(self.blockloom("iscsi", "kick", "--target", iscsi.TARGET),
                         "1 session told to end\n")
        self.assertEqual(json.loads(self.blockloom("--json", "iscsi", "kick", "--all")).keys(),
                         self.documented("iscsi_kick"))
        for wrong in (["kick"], ["kick", "x"], ["nothing"], ["luns", "1"], ["luns", "--all"]):
            self.blockloom("iscsi", *wrong, code=2)
