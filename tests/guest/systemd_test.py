"""The packaged units under systemd as the first process: starting, serving, hardening, sockets,
reload, restart, stop, and what comes after a death."""

import re

import daemon
import system_case
from system_case import SERVICE, SOCKET

MIB = 8
SIZE = MIB << 20
SECTORS = MIB * 2048
TCP, UNIX = "nbd://127.0.0.1:10809/a", "'nbd+unix:///a?socket=/run/blockloom/nbd.sock'"
EXPOSURE = 2.0  # systemd's own scale: below 2 is OK or better

# In PATH before nbdkit: the service cannot become ready until /run/test/go is there.
GATE = """
mkdir /run/test/bin
cat >/run/test/bin/nbdkit <<'END'
#!/bin/sh
until [ -e /run/test/go ]; do sleep 0.1; done
exec /usr/bin/nbdkit "$@"
END
chmod 755 /run/test/bin/nbdkit
"""

# A line for each thing tried: what it is, and whether it worked. Run by the service in its sandbox,
# and outside of it by the same user.
PROBE = """
home=/home
try() { if eval "$2" >/dev/null 2>&1; then echo "$1: yes"; else echo "$1: no"; fi; }
try "write to /usr" 'echo x >/usr/probe/file'
try "write to /etc" 'echo x >/etc/probe/file'
try "write to /home" 'echo x >$home/probe/file'
try "see the other /tmp" '[ -e /tmp/probe ]'
try "see other processes" '[ -e /proc/1/status ]'
try "use a terminal" 'echo -n >/dev/ttyS0'
try "use netlink" 'ip link'
try "make a namespace" 'unshare -U true'
try "change personality" 'linux32 true'
try "change an owner" 'touch $mine/x; chown $(id -u) $mine/x'
try "make a set-id program" 'touch $mine/y; chmod u+s $mine/y'
try "write to /srv" 'echo x >/srv/probe/file'
try "write to its own folder" 'echo x >$mine/z'
try "read a disk" 'head -c 512 /dev/vda'
"""
OUTSIDE = """
[Service]
Type=oneshot
User=blockloom
Environment=mine=/run/test/mine
ExecStart=/bin/sh /run/test/probe
StandardOutput=file:/run/test/outside
"""
ALLOWED = {"write to /srv", "write to its own folder", "read a disk"}
MAKE_PROBED = """
mkdir -p /home /run/test/mine
cd / && mkdir -p usr/probe etc/probe home/probe srv/probe
chmod 777 usr/probe etc/probe home/probe srv/probe /run/test/mine
touch /tmp/probe
chmod 666 /dev/ttyS0 /dev/vda
"""
END_PROBED = """
cd / && rm -r usr/probe etc/probe home/probe srv/probe tmp/probe
chmod 600 /dev/ttyS0 /dev/vda
"""


def linear(name: str, path: str, sectors: int = SECTORS) -> str:
    return daemon.device(name, f"0 {sectors} linear {path} 0")


class Systemd(system_case.SystemCase):
    NAME = "systemd"
    DISK_BYTES = SIZE

    def setUp(self):
        super().setUp()
        self.make_leg("/srv/a.img", MIB)

    def start(self, devices: str = linear("a", "/srv/a.img")) -> None:
        self.configure(devices)
        self.systemctl("start", SERVICE)

    def attach(self) -> None:
        """The guest's own kernel as a client, with requests under way all the time until
        /run/test/load is gone; one that fails makes /run/test/failed."""
        self.run_in("""
            modprobe nbd
            nbd-client -unix /run/blockloom/nbd.sock /dev/nbd0 -N a -C 2
            seeded_io generate 7 65536 >/run/test/block
            touch /run/test/load
            while [ -e /run/test/load ]; do
              dd if=/run/test/block of=/dev/nbd0 bs=4096 seek=64 oflag=direct 2>/dev/null &&
                echo done >>/run/test/rounds || { touch /run/test/failed; break; }
            done </dev/null >/dev/null 2>&1 &""")
        self.addCleanup(self.guest.run, "rm -f /run/test/load; nbd-client -d /dev/nbd0",
                        check=False)
        self.wait_for_rounds()

    def wait_for_rounds(self) -> None:
        """Until two more rounds of the load have begun and ended."""
        self.run_in(": >/run/test/rounds")
        self.wait_until("[ $(wc -l </run/test/rounds) -ge 2 ]", "the load goes on")

    def gate(self) -> None:
        self.run_in(GATE)
        self.drop_in("gate", "Environment=PATH=/run/test/bin:/usr/bin")

    def assert_ended_clean(self) -> None:
        self.assertEqual(self.show("ActiveState"), "inactive")
        self.assertEqual(self.show("Result"), "success")
        self.assertEqual(self.show("ExecMainStatus"), "0")

    # What is installed.

    def test_the_files_make_a_user_and_its_folders(self):
        # systemd-sysusers and systemd-tmpfiles found them at the boot, as on any machine.
        user = self.run_in("grep ^blockloom: /etc/passwd").strip().split(":")
        self.assertEqual(user[5:], ["/var/lib/blockloom", "/usr/sbin/nologin"])
        self.assertEqual(
            self.run_in("cd /; stat -c '%n %a %U %G' run/blockloom var/lib/blockloom "
                        "etc/blockloom/conf.d"),
            "run/blockloom 755 blockloom blockloom\n"
            "var/lib/blockloom 700 blockloom blockloom\n"
            "etc/blockloom/conf.d 750 root blockloom\n")

    def test_the_units_can_be_enabled(self):
        self.systemctl("enable", "--quiet", SERVICE, SOCKET)
        self.assertEqual(self.run_in(f"systemctl is-enabled {SERVICE} {SOCKET}"),
                         "enabled\nenabled\n")
        self.systemctl("disable", "--quiet", SERVICE, SOCKET)

    # Starting and serving.

    def test_it_is_active_when_it_is_ready_and_not_before(self):
        self.gate()
        self.configure(linear("a", "/srv/a.img"))
        self.systemctl("start", "--no-block", SERVICE)
        self.wait_until("grep -q test/bin/nbdkit /proc/$(systemctl show --value -p MainPID "
                        f"{SERVICE})/cmdline", "blockloomd has become the gate")
        self.assertEqual(self.show("ActiveState"), "activating")
        self.run_in("touch /run/test/go")
        self.wait_until(f"systemctl is-active --quiet {SERVICE}")
        self.assertEqual(self.run_in(f"nbdinfo --size {TCP}"), f"{SIZE}\n")
        self.assertIn("1 device", self.show("StatusText"))

    def test_it_serves_on_tcp_and_on_its_unix_socket(self):
        self.start()
        self.assertEqual(self.run_in("stat -c '%a %U' /run/blockloom/nbd.sock"),
                         "660 blockloom\n")
        self.assertEqual(self.run_in("stat -c '%a %U' /run/blockloom/control.sock"),
                         "600 blockloom\n")
        self.run_in(f"""
            seeded_io generate 1 {SIZE} >/run/test/sent
            nbdcopy --flush /run/test/sent {UNIX}
            cmp /run/test/sent /srv/a.img
            nbdcopy {TCP} /run/test/received
            cmp /run/test/sent /run/test/received""")

    def test_a_wrong_configuration_ends_the_start_and_is_told(self):
        self.configure("[[device]]\nname = 1\n")
        rc, out = self.guest.run(f"systemctl start {SERVICE}", check=False)
        self.assertNotEqual(rc, 0, out)
        self.assertIn("blockloom.toml:", self.run_in(
            f"journalctl --no-pager -o cat -u {SERVICE} -n 20"))
        self.systemctl("stop", SERVICE)
        self.run_in("systemctl reset-failed")
        self.start()

    # Hardening.

    def test_it_runs_as_its_user_without_rights(self):
        self.start()
        pid = self.show("MainPID")
        status = dict(line.split(":", 1) for line in
                      self.run_in(f"cat /proc/{pid}/status").splitlines() if ":" in line)
        uid = self.run_in("id -u blockloom").strip()
        self.assertEqual(set(status["Uid"].split()), {uid})
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(status[capabilities], 16), 0, capabilities)
        self.assertEqual(status["NoNewPrivs"].strip(), "1")
        self.assertEqual(status["Seccomp"].strip(), "2")
        self.assertEqual(self.run_in(f"cat /proc/{pid}/oom_score_adj"), "-900\n")
        self.assertRegex(self.run_in(f"cat /proc/{pid}/limits"), r"Max open files +524288 +524288")

    def test_systemd_finds_it_little_exposed(self):
        out = self.run_in(f"systemd-analyze security --no-pager {SERVICE}")
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", out)
        self.assertIsNotNone(found, out)
        self.assertLess(float(found.group(1)), EXPOSURE, out)

    def test_what_it_does_not_need_fails(self):
        self.run_in(MAKE_PROBED)
        self.addCleanup(self.guest.run, END_PROBED)
        self.run_in(f"cat >/run/test/probe <<'END'\n{PROBE}\nEND")
        self.run_in(f"cat >/run/systemd/system/outside.service <<'END'\n{OUTSIDE}\nEND")
        self.addCleanup(self.guest.run, "rm /run/systemd/system/outside.service")
        self.drop_in("probe", "Environment=mine=/var/lib/blockloom\n"
                     "ExecStartPre=/bin/sh -c 'sh /run/test/probe >/run/blockloom/probe'")
        self.start()
        self.run_in("systemctl start outside.service")
        outside, inside = (self.run_in(f"cat {path}")
                           for path in ("/run/test/outside", "/run/blockloom/probe"))
        tried = re.findall('^try "(.*?)"', PROBE, re.MULTILINE)
        self.assertEqual(outside.splitlines(), [f"{what}: yes" for what in tried])
        self.assertEqual(inside.splitlines(),
                         [f"{what}: {'yes' if what in ALLOWED else 'no'}" for what in tried])

    def test_a_leg_outside_its_folders_is_refused(self):
        self.run_in("mkdir -p /usr/probe && truncate -s 1M /usr/probe/leg.img && "
                    "chmod 777 /usr/probe && chmod 666 /usr/probe/leg.img")
        self.addCleanup(self.guest.run, "rm -r /usr/probe")
        self.start()
        rc, out = self.guest.run(
            "blockloom create b --table '0 2048 linear /usr/probe/leg.img 0'", check=False)
        self.assertNotEqual(rc, 0, out)
        self.assertIn("Read-only file system", out)

    def test_a_block_device_needs_the_drop_in(self):
        self.run_in("chgrp disk /dev/vda && chmod 660 /dev/vda")
        self.start(linear("a", "/dev/vda"))
        self.assertIn("1 of them without a table", self.show("StatusText"))
        self.assertIn("Permission denied", self.said())
        self.drop_in("disk", "SupplementaryGroups=disk")
        self.systemctl("restart", SERVICE)
        self.run_in(f"""
            seeded_io generate 2 {SIZE} >/run/test/sent
            nbdcopy --flush /run/test/sent {TCP}
            nbdcopy {TCP} /run/test/received
            cmp /run/test/sent /run/test/received
            echo 3 >/proc/sys/vm/drop_caches
            cmp /run/test/sent /dev/vda""")

    # Socket activation.

    def test_a_client_starts_it_through_its_sockets(self):
        self.configure(linear("a", "/srv/a.img"))
        for uri in (TCP, "nbd://[::1]:10809/a", UNIX):
            with self.subTest(uri):
                self.systemctl("start", SOCKET)
                self.assertEqual(self.show("ActiveState"), "inactive")
                self.assertEqual(self.run_in(f"nbdinfo --size {uri}"), f"{SIZE}\n")
                self.assertEqual(self.show("ActiveState"), "active")
                self.systemctl("stop", SOCKET, SERVICE)

    def test_clients_wait_while_it_restarts_behind_its_sockets(self):
        self.configure(linear("a", "/srv/a.img"))
        self.gate()
        self.run_in("touch /run/test/go")
        self.systemctl("start", SOCKET, SERVICE)
        self.run_in("rm /run/test/go")
        self.systemctl("restart", "--no-block", SERVICE)
        self.wait_until(f"[ $(systemctl show --value -p ActiveState {SERVICE}) = activating ]")
        self.run_in(f"""
            for uri in {TCP} {UNIX}; do
              nbdinfo --size "$uri" >>/run/test/sizes 2>&1 </dev/null &
            done
            sleep 1
            [ ! -s /run/test/sizes ]""")
        self.run_in("touch /run/test/go")
        self.wait_until("[ $(wc -l </run/test/sizes) = 2 ]")
        self.assertEqual(self.run_in("cat /run/test/sizes"), f"{SIZE}\n" * 2)

    # While clients are attached.

    def test_a_reload_keeps_the_client(self):
        self.start()
        self.attach()
        pid, client = self.show("MainPID"), self.run_in("cat /sys/block/nbd0/pid")
        half = SECTORS // 2
        halves = f"0 {half} linear /srv/a.img 0\n{half} {half} linear /srv/a.img {half}"
        self.configure(daemon.device("a", halves) + daemon.device("b", "0 8 zero"))
        self.systemctl("reload", SERVICE)
        self.assertEqual(self.run_in("blockloom table a").splitlines(), halves.splitlines())
        self.assertEqual(self.run_in("nbdinfo --size nbd://127.0.0.1/b"), "4096\n")
        self.assertIn("2 devices", self.show("StatusText"))
        self.wait_for_rounds()

        self.configure("[[device]]\nname = 1\n")
        rc, out = self.guest.run(f"systemctl reload {SERVICE}", check=False)
        self.assertNotEqual(rc, 0, out)
        self.assertEqual(self.show("ActiveState"), "active")
        self.assertIn("blockloom.toml:", self.show("StatusText"))
        self.assertIn("blockloom.toml:", self.said())
        self.assertEqual(self.run_in("blockloom table a").splitlines(), halves.splitlines())
        self.wait_for_rounds()
        self.run_in("""
            rm /run/test/load && [ ! -e /run/test/failed ]
            dd if=/dev/nbd0 bs=4096 skip=64 count=16 iflag=direct 2>/dev/null |
              cmp - /run/test/block""")
        self.assertEqual((self.show("MainPID"), self.run_in("cat /sys/block/nbd0/pid")),
                         (pid, client))

    def test_a_stop_with_a_client_is_clean_and_loses_nothing(self):
        self.start()
        self.attach()
        self.run_in("dd if=/run/test/block of=/dev/nbd0 bs=4096 oflag=direct 2>/dev/null")
        self.systemctl("stop", SERVICE)
        self.assert_ended_clean()
        self.wait_until("[ -e /run/test/failed ]", "the client has noticed")
        self.run_in("head -c 65536 /srv/a.img | cmp - /run/test/block")

    def test_a_restart_with_a_client_is_clean(self):
        self.start()
        self.attach()
        pid = self.show("MainPID")
        self.run_in("blockloom create made --table '0 2048 zero'")
        self.systemctl("restart", SERVICE)
        self.assertNotEqual(self.show("MainPID"), pid)
        self.assertEqual(self.show("NRestarts"), "0")
        self.assertNotIn("timed out", self.run_in(
            f"journalctl --no-pager -o cat -u {SERVICE} -n 40"))
        self.run_in(f"nbdcopy {UNIX} /run/test/received && "
                    "dd if=/run/test/received bs=4096 skip=64 count=16 2>/dev/null | "
                    "cmp - /run/test/block")
        self.assertEqual(self.run_in("blockloom table made").split(), ["0", "2048", "zero"])

    # After a death.

    def test_a_killed_one_comes_back_with_its_saved_state(self):
        self.start()
        self.make_leg("/srv/b.img", MIB)
        self.run_in(f"""
            blockloom create made --table '0 {SECTORS} linear /srv/b.img 0'
            seeded_io generate 3 {SIZE} >/run/test/sent
            nbdcopy --flush /run/test/sent nbd://127.0.0.1/made
            kill -9 $(systemctl show --value -p MainPID {SERVICE})""")
        self.wait_until(f"[ $(systemctl show --value -p NRestarts {SERVICE}) = 1 ] && "
                        f"systemctl is-active --quiet {SERVICE}")
        self.assertEqual(self.run_in("blockloom table made"),
                         f"0 {SECTORS} linear /srv/b.img 0\n")
        self.run_in("nbdcopy nbd://127.0.0.1/made /run/test/received && "
                    "cmp /run/test/sent /run/test/received")
        self.assertEqual(self.run_in(f"nbdinfo --size {UNIX}"), f"{SIZE}\n")
        self.assertEqual(self.run_in("find /var/lib/blockloom -perm /077"), "")

    def test_one_that_stands_still_is_replaced(self):
        self.drop_in("watchdog", "WatchdogSec=8s")
        self.start()
        self.run_in(f"kill -STOP $(systemctl show --value -p MainPID {SERVICE})")
        self.wait_until(f"[ $(systemctl show --value -p NRestarts {SERVICE}) = 1 ] && "
                        f"systemctl is-active --quiet {SERVICE}")
        self.assertEqual(self.run_in(f"nbdinfo --size {TCP}"), f"{SIZE}\n")
