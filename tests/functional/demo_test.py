"""./demo: does what it says, and leaves nothing behind."""

import os
import re
import signal
import unittest

import harness

DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../demo")


@unittest.skipIf(os.environ.get("BLOCKLOOM_SANITIZER"),
                 "./demo puts Debian's nbdkit first in PATH, without the sanitizer's runtime")
class Demo(harness.Case):
    def environment(self):
        temporary = self.path("tmp")
        os.makedirs(temporary, exist_ok=True)
        return {**os.environ, "BLOCKLOOM_BUILD": os.path.abspath(harness.BUILD),
                "TMPDIR": temporary}

    def nothing_is_left(self, server):
        self.assertEqual(os.listdir(self.path("tmp")), [])
        self.assertFalse(os.path.exists(f"/proc/{server}"), "the server still runs")

    def test_check(self):
        done = self.command(DEMO, "--check", seconds=250, environment=self.environment())
        self.assertIn("demo: all is well", done.stdout)
        self.assertRegex(done.stdout, r"\d+ swaps .* no error, no wrong byte")
        for line in ("nbd-client 127.0.0.1", "nbdinfo nbd://127.0.0.1", "qemu-system", "/etc/nbdtab"):
            self.assertIn(line, done.stdout)
        self.assertEqual(os.listdir(self.path("tmp")), [])

    def test_an_interrupt_ends_it_cleanly(self):
        output = self.path("output")
        with open(output, "wb") as log:
            demo = self.spawn(DEMO, stdout=log, stderr=log, env=self.environment(),
                              start_new_session=True)
        # Before, under, and after the load: the first moment that a server is there will do.
        harness.wait_until(lambda: b"Swapping" in self.read_file(output), "the load begins", 200)
        found = self.command("pgrep", "-f", self.path("tmp") + ".*blockloom.toml").stdout.split()
        self.assertGreater(len(found), 0)
        os.killpg(demo.pid, signal.SIGINT)
        self.assertEqual(demo.wait(60), 130)
        self.nothing_is_left(found[0])

    def test_an_unknown_option_is_refused(self):
        done = self.command(DEMO, "--chekc", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, re.escape("'--chekc' is unknown"))


if __name__ == "__main__":
    harness.unittest.main()
