"""What bash offers for the words of `blockloom`."""

import os

import harness
from control_cli_test import Cli


class Completion(Cli):
    def complete(self, *words):
        """What bash offers for the last word."""
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                              "../../clients/completion/blockloom")
        program = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
                   '_blockloom; printf "%s\\n" "${COMPREPLY[@]}"')
        done = self.command("/bin/bash", "-c", program, "bash", script,
                            os.path.abspath(harness.BLOCKLOOM), *words,
                            environment={"BLOCKLOOM_SOCKET": self.server.control})
        return done.stdout.split()

    def test_verbs_options_and_device_names(self):
        self.assertEqual(self.complete("susp"), ["suspend"])
        self.assertEqual(self.complete("suspend", "--no"), ["--noflush"])
        self.blockloom("create", "vol1", "--notable")
        self.assertEqual(self.complete("suspend", ""), ["vol0", "vol1"])
        self.assertEqual(self.complete("suspend", "vol0", "vol1"), ["vol1"])
        self.assertEqual(self.complete("rename", "vol0", ""), [])
        self.assertEqual(self.complete("--socket", "/nowhere", "info", ""), [])
        self.assertEqual(self.complete("apply", self.a[:-3]), [self.a])
