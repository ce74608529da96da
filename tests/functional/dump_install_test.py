"""What `blockloom-dump install` writes, in a folder that stands for the machine's root. That a capture
kernel's initramfs comes of it, and sends, is proved by tests/guest (kdump)."""

import os
import shutil
import stat
import subprocess

import harness

HOOKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../clients/blockloom-dump/hooks")
KDUMP_DEFAULT = "reset_devices systemd.unit=kdump-tools-dump.service nr_cpus=1 irqpoll usbcore.nousb"


class Install(harness.Case):
    def setUp(self):
        super().setUp()
        self.root = self.path("root")
        # As meson installs them, dracut's in a folder of their own.
        self.share = self.path("share")
        shutil.copytree(HOOKS, self.share)

    def machine(self, *files):
        for name in files:
            path = os.path.join(self.root, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write("# as it was\n")
            os.chmod(path, 0o755)

    def debian(self):
        self.machine("etc/initramfs-tools/initramfs.conf", "etc/default/kdump-tools",
                     "etc/kernel/postinst.d/kdump-tools")

    def install(self, *words, check=True, program="/opt/sbin/blockloom-dump"):
        done = subprocess.run([os.path.join(self.share, "install"), *words], check=False,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=harness.PATIENCE,
                              env={**os.environ, "BLOCKLOOM_ROOT": self.root,
                                   "BLOCKLOOM_PROGRAM": program})
        if check:
            self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def text(self, name):
        with open(os.path.join(self.root, name), encoding="utf-8") as file:
            return file.read()

    def files(self):
        return sorted(os.path.relpath(os.path.join(folder, name), self.root)
                      for folder, _, names in os.walk(self.root) for name in names)

    def mode(self, name):
        return stat.S_IMODE(os.stat(os.path.join(self.root, name)).st_mode)

    def shell(self, name, expression, environment=None):
        """What a shell makes of the expression after it has read the file."""
        return subprocess.run(["sh", "-eu", "-c", f'. "$1"; printf %s "{expression}"', "sh",
                               os.path.join(self.root, name)], check=True, capture_output=True,
                              text=True, env=environment or {}, timeout=harness.PATIENCE).stdout

    def test_debian_with_kdump_tools(self):
        self.debian()
        done = self.install("--to", "10.0.0.2:20030", "--host", "web1")
        conf = "etc/blockloom/dump.conf"
        self.assertEqual(self.shell(conf, "$BLOCKLOOM_TO $BLOCKLOOM_HOST $BLOCKLOOM_OTHERWISE "
                                          "$BLOCKLOOM_PROGRAM $BLOCKLOOM_SHARE"),
                         f"10.0.0.2:20030 web1 boot /opt/sbin/blockloom-dump {self.share}")
        self.assertEqual(self.mode(conf), 0o600)
        for name in ("hooks/blockloom-dump", "scripts/init-premount/blockloom-dump"):
            self.assertEqual(self.mode(f"etc/initramfs-tools/{name}"), 0o755)
        # kdump-config takes its default only where the variable is empty.
        self.assertEqual(self.shell("etc/default/kdump-tools", "$KDUMP_CMDLINE_APPEND"),
                         f"{KDUMP_DEFAULT} ip=dhcp")
        self.assertIn("/etc/kernel/postinst.d/kdump-tools", done.stdout)

    def test_an_administrators_own_command_line_stays(self):
        self.debian()
        with open(os.path.join(self.root, "etc/default/kdump-tools"), "a", encoding="utf-8") as file:
            file.write('KDUMP_CMDLINE_APPEND="nr_cpus=2"\n')
        self.install("--to", "10.0.0.2", "--ip", "10.0.0.9::10.0.0.1:255.0.0.0::eth0:none")
        self.assertEqual(self.shell("etc/default/kdump-tools", "$KDUMP_CMDLINE_APPEND"),
                         "nr_cpus=2 ip=10.0.0.9::10.0.0.1:255.0.0.0::eth0:none")

    def test_again_and_removed(self):
        self.debian()
        before = {name: self.text(name) for name in self.files()}
        token = self.write_text("token", "secret\n")
        self.install("--to", "10.0.0.2", "--token-file", token, "--netconsole", "eth0")
        self.assertEqual(self.text("etc/blockloom/dump.token"), "secret\n")
        self.assertEqual(self.mode("etc/blockloom/dump.token"), 0o600)
        self.assertIn("UMASK=0077", self.text("etc/initramfs-tools/conf.d/blockloom-dump"))
        self.install("--to", "10.0.0.3")
        self.assertEqual(self.shell("etc/blockloom/dump.conf", "$BLOCKLOOM_TO"), "10.0.0.3")
        self.assertEqual(self.text("etc/default/kdump-tools").count("ip=dhcp"), 1)
        self.assertNotIn("etc/blockloom/dump.token", self.files())
        self.install("--remove")
        self.assertEqual({name: self.text(name) for name in self.files()}, before)

    def test_keys_for_tls(self):
        self.debian()
        psk = self.write_text("keys", "web1:00112233445566778899aabbccddeeff\n")
        done = self.install("--to", "10.0.0.2", "--tls-psk", psk, check=False)
        self.assertIn("blockloom-dump-tls", done.stderr)
        self.assertNotEqual(done.returncode, 0)
        tls = "/opt/sbin/blockloom-dump-tls"
        self.install("--to", "10.0.0.2", "--tls-psk", psk, program=tls)
        self.assertEqual(self.shell("etc/blockloom/dump.conf", "$BLOCKLOOM_PROGRAM"), tls)
        self.assertEqual(self.text("etc/blockloom/dump.psk"), self.read_file(psk).decode())
        self.assertEqual(self.mode("etc/blockloom/dump.psk"), 0o600)
        self.assertIn("UMASK=0077", self.text("etc/initramfs-tools/conf.d/blockloom-dump"))
        os.mkdir(self.path("pki"))
        self.assertNotEqual(self.install("--to", "10.0.0.2", "--tls-certificates", self.path("pki"),
                                         program=tls, check=False).returncode, 0)
        self.write_text("pki/ca-cert.pem", "authority\n")
        self.install("--to", "10.0.0.2", "--tls-certificates", self.path("pki"), program=tls)
        self.assertEqual(self.text("etc/blockloom/dump.pki/ca-cert.pem"), "authority\n")
        self.assertNotIn("etc/blockloom/dump.psk", self.files())

    def test_netconsole_of_every_kind_of_address(self):
        self.debian()
        for to, address in {"10.0.0.2": "10.0.0.2", "10.0.0.2:99": "10.0.0.2", "[fe80::1]": "fe80::1",
                            "[fe80::1]:99": "fe80::1", "localhost:99": None}.items():
            with self.subTest(to):
                self.install("--to", to, "--netconsole", "eth0")
                line = self.text("etc/modprobe.d/blockloom-netconsole.conf")
                self.assertRegex(line, r"^options netconsole netconsole=\+6665@/eth0,6666@[0-9a-f:.]+/$")
                if address:
                    self.assertIn(f"6666@{address}/", line)
        self.assertRegex(self.shell("etc/blockloom/dump.conf", "$BLOCKLOOM_TO"),
                         r"^(127\.0\.0\.1|\[::1\]):99$")

    def test_a_machine_with_dracut(self):
        self.machine("usr/lib/dracut/modules.d/99base/module-setup.sh", "etc/kdump.conf")
        before = self.files()
        done = self.install("--to", "10.0.0.2")
        self.assertIn("kdumpctl restart", done.stdout)
        self.assertIn('dracut_args --add "blockloom-dump network"', self.text("etc/kdump.conf"))
        self.install("--to", "10.0.0.2")
        self.assertEqual(self.text("etc/kdump.conf").count("dracut_args"), 1)
        self.install("--remove")
        self.assertEqual(self.files(), before)
        self.assertNotIn("dracut_args", self.text("etc/kdump.conf"))

    def test_what_is_refused_writes_nothing(self):
        self.debian()
        before = self.files()
        for words in ((), ("--to",), ("--to", "10.0.0.2'; reboot; '"), ("--to", "10.0.0.2", "--host", "a b"),
                      ("--to", "10.0.0.2", "--netconsole", "eth0 x=y"), ("--nonsense",),
                      ("--to", "no.such.host.invalid"), ("--to", "10.0.0.2", "--token-file", "/nonexistent")):
            with self.subTest(words):
                self.assertNotEqual(self.install(*words, check=False).returncode, 0)
        self.assertEqual(self.files(), before)
        shutil.rmtree(self.root)
        self.assertIn("neither", self.install("--to", "10.0.0.2", check=False).stderr)
