"""blockloomd's command line: --check, --print-command, exit codes."""

import os

import daemon
import harness
from harness import MIB


class Check(daemon.Case):
    def check(self, text, **settings):
        folder = self.new_folder()
        self.configure(folder, text, **settings)
        return self.blockloomd("--check", f"{folder}/blockloom.toml"), folder

    def refused(self, text, *parts, **settings):
        done, folder = self.check(text, **settings)
        self.assertEqual(done.returncode, 1, done.stdout)
        for part in parts:
            self.assertIn(part.replace("FOLDER", folder), done.stderr)

    def test_prints_the_plan_and_serves_nothing(self):
        disk = self.make_file("disk", MIB)
        done, folder = self.check(daemon.device("a", f"0 2048 linear {disk} 0", read_only="true"),
                                  state=True, more='filters = [{name = "stats", params = '
                                                   '{statsfile = "/tmp/with space"}}]')
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        for part in (f"configuration  {folder}/blockloom.toml", f"unix:{folder}/nbd.sock, mode 0660",
                     "a: 2048 sectors (1 MiB), 1 target, read-only", "filter         stats",
                     "--filter=stats", "'statsfile=/tmp/with space'"):
            self.assertIn(part, done.stdout)
        self.assertFalse(os.path.exists(f"{folder}/nbd.sock"))
        self.assertFalse(os.path.exists(f"{folder}/state"))

    def test_the_grammar(self):
        self.refused("[[device]]\nname = 3\n", "FOLDER/blockloom.toml:6:8: device.name: expected")

    def test_fragments_are_read(self):
        folder = self.new_folder()
        self.configure(folder, "")
        os.mkdir(f"{folder}/conf.d")
        self.write_text("s1/conf.d/10-a.toml", daemon.device("a", "0 8 zero"))
        self.write_text("s1/conf.d/20-b.toml", "\nnonsense\n")
        done = self.blockloomd("--check", f"{folder}/blockloom.toml")
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"{folder}/conf.d/20-b.toml:", done.stderr)
        self.write_text("s1/conf.d/20-b.toml", daemon.device("b", "0 8 zero"))
        done = self.blockloomd("--check", f"{folder}/blockloom.toml")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("device         b: 8 sectors", done.stdout)

    def test_a_name_and_a_uuid(self):
        self.refused(daemon.device("a b", "0 8 zero"),
                     "FOLDER/blockloom.toml:7:8: device.name: device name 'a b': expected 1 to 127")
        self.refused(daemon.device("a", "0 8 zero", uuid='"u u"'),
                     "FOLDER/blockloom.toml:11:8: device 'a': device uuid 'u u': expected 1 to 128")

    def test_a_table(self):
        self.refused(daemon.device("a", "0 8 nonesuch"), "FOLDER/blockloom.toml:8:9: device 'a': line 1: ",
                     "nonesuch")
        self.refused(daemon.device("a", "0 8 zero\n9 8 zero"), "FOLDER/blockloom.toml:8:9: device 'a': ",
                     "line 2")

    def test_a_missing_leg(self):
        self.refused(daemon.device("a", "0 8 linear /no/such/leg 0"), "FOLDER/blockloom.toml:8:9: device 'a'",
                     "/no/such/leg")

    def test_a_leg_that_is_too_small(self):
        disk = self.make_file("disk", 512)
        self.refused(daemon.device("a", f"0 8 linear {disk} 0"), "FOLDER/blockloom.toml:8:9: device 'a'",
                     disk)

    def test_a_loop_of_devices(self):
        self.refused(daemon.device("a", "0 8 linear dev:b 0") +
                     daemon.device("b", "0 8 linear dev:a 0"), "FOLDER/blockloom.toml:8:9: device 'a' would "
                     "stand on itself")

    def test_keys_that_cannot_be_read(self):
        self.refused('[tls]\nmode = "require"\npsk = "/no/such/keys"\n', "/no/such/keys")
        self.refused('[tls]\nmode = "on"\ncertificates = "/no/such"\n', "/no/such/ca-cert.pem")

    def test_no_configuration(self):
        done = self.blockloomd("--check", self.path("none.toml"))
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"{self.path('none.toml')}': No such file", done.stderr)


class CommandLine(daemon.Case):
    def test_prints_the_command(self):
        folder = self.new_folder()
        self.configure(folder, '[tls]\nmode = "require"\ncertificates = "/pki"\nverify_peer = true\n',
                       more='threads = 7\nfilters = [{name = "log", params = {logfile = "/l"}}]')
        done = self.blockloomd("--print-command", "-v", f"{folder}/blockloom.toml")
        self.assertEqual(done.returncode, 0, done.stderr)
        words = done.stdout.split()
        self.assertTrue(words[0].endswith("/nbdkit"))
        self.assertEqual(words[1:], [
            "--foreground", "--verbose", "--threads=7", "--tls=require", "--tls-certificates=/pki",
            "--tls-verify-peer", "--filter=log", os.path.abspath(harness.PLUGIN),
            f"config={folder}/blockloom.toml", "logfile=/l"])

    def test_version_and_help(self):
        done = self.command(harness.BLOCKLOOMD, "--version")
        self.assertRegex(done.stdout, r"^blockloomd \d+\.\d+\.\d+\n$")
        self.assertIn("--print-command", self.command(harness.BLOCKLOOMD, "--help").stdout)

    def test_a_wrong_option_is_a_usage_error(self):
        done = self.command(harness.BLOCKLOOMD, "--nonesuch", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("nonesuch", done.stderr)

    def test_programs_that_are_missing_are_told(self):
        folder = self.new_folder()
        self.configure(folder, "")
        config = f"{folder}/blockloom.toml"
        done = self.blockloomd("--nbdkit", "/no/such/nbdkit", config)
        self.assertEqual(done.returncode, 3)
        self.assertIn("'/no/such/nbdkit'", done.stderr)
        done = self.blockloomd("--nbdkit", "nbdkit-of-another-name", config)
        self.assertEqual(done.returncode, 3)
        self.assertIn("install nbdkit", done.stderr)
        done = self.command(harness.BLOCKLOOMD, "--plugin", "/no/such/plugin.so", config,
                            check=False)
        self.assertEqual(done.returncode, 3)
        self.assertIn("/no/such/plugin.so", done.stderr)

    def test_a_configuration_beside_the_caller(self):
        folder = self.new_folder()
        self.configure(folder, "")
        os.rename(f"{folder}/blockloom.toml", self.path("here.toml"))
        done = self.blockloomd("--print-command", "here.toml")
        self.assertIn(f"config={self.folder}/here.toml", done.stdout)
