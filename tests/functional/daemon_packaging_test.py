"""What is installed: the units, and the example of a configuration."""

import os
import re
import shutil

import daemon
import harness

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
PACKAGING = os.path.join(TOP, "packaging")


class Packaging(daemon.Case):
    def example(self):
        with open(f"{PACKAGING}/blockloom.toml", encoding="utf-8") as file:
            return file.read()

    def check(self, text):
        config = self.write_text("blockloom.toml", text)
        return self.blockloomd("--check", config, check=True).stdout

    def test_the_example_is_a_configuration(self):
        self.assertIn("listen         tcp:127.0.0.1:10809", self.check(self.example()))

    def test_the_devices_in_the_example_are_ones(self):
        disks = [self.make_file(name, 2 << 30) for name in ("a.img", "b.img")]
        text = re.sub(r"(?m)^# (?=\[\[device|name|description|table)", "", self.example())
        for disk in disks:
            text = text.replace(f"/srv/blockloom/{os.path.basename(disk)}", disk)
        plan = self.check(text)
        self.assertIn("linear0: 2097152 sectors (1 GiB), 1 target", plan)
        self.assertIn("striped0: 4194304 sectors (2 GiB), 1 target", plan)

    def test_the_manual_page_s_example_is_a_configuration(self):
        with open(f"{TOP}/docs/blockloom.toml.5.scd", encoding="utf-8") as file:
            text = file.read().split("```")[1]
        for path, size in (("/dev/sdb", 2 << 30), ("/dev/sdc", 2 << 30), ("/srv/more.img", 1 << 30),
                           ("/srv/boot.img", 1 << 30)):
            text = text.replace(path, self.make_file(os.path.basename(path), size))
        self.assertIn("vol0: 6291456 sectors (3 GiB), 2 targets", self.check(text))

    def test_systemd_takes_the_units(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("needs systemd-analyze")
        with open(f"{harness.BUILD}/packaging/blockloomd.service", encoding="utf-8") as file:
            unit = file.read()
        self.assertNotIn("@", unit.replace("@system-service", "").replace("@privileged", ""))
        # What it starts is not installed here.
        unit = re.sub(r"(?m)^(Exec\w+=)\S+", r"\1/bin/true", unit)
        self.write_text("blockloomd.service", unit)
        shutil.copy(f"{PACKAGING}/systemd/blockloomd.socket", self.folder)
        for name in ("blockloomd.service", "blockloomd.socket"):
            done = self.command("systemd-analyze", "verify", "--man=no", self.path(name))
            self.assertEqual(done.stdout + done.stderr, "")

    def test_sockets_of_the_unit_are_not_public(self):
        with open(f"{PACKAGING}/systemd/blockloomd.socket", encoding="utf-8") as file:
            streams = re.findall(r"(?m)^ListenStream=(.*)$", file.read())
        listeners = [f"unix:{s}" if s.startswith("/") else f"tcp:{s}" for s in streams]
        self.assertEqual(len(listeners), 3)
        text = "[server]\nlisten = [" + ", ".join(f'"{x}"' for x in listeners) + "]\n"
        self.assertNotIn("public", self.check(text))
