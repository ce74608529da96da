"""The manual pages against the program: each key, option and parameter that it takes has an entry
in its page, and each entry is one that it takes."""

import os
import re

import daemon

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs")


def page(name):
    with open(os.path.join(DOCS, name), encoding="utf-8") as file:
        return file.read()


def section(text, title):
    """The lines under '# TITLE', up to the next title."""
    return re.search(rf"^# {re.escape(title)}\n(.*?)(?=^# |\Z)", text, re.M | re.S)[1]


def entries(text):
    """What the entries of a list are about: the bold words of lines that are not indented."""
    heads = [line for line in text.splitlines() if line.startswith("*")]
    return [word for head in heads for word in re.findall(r"\*([^*]+)\*", head)]


class Pages(daemon.Case):
    def keys(self, text):
        """The keys that the program names when it is given one that it does not know."""
        folder = self.new_folder()
        path = os.path.join(folder, "blockloom.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        done = self.blockloomd("--check", path)
        self.assertEqual(done.returncode, 1)
        return re.search(r"unknown key 'nonesuch'.*: expected one of (.*)", done.stderr)[1].split(", ")

    def test_blockloom_toml(self):
        text = page("blockloom.toml.5.scd")
        sections = {"server": "[server]", "tls": "[tls]", "limits": "[limits]",
                    "iscsi": "[iscsi]", "dump": "[dump]", "device": "[[device]]"}
        self.assertEqual(sorted(self.keys("nonesuch = 1\n")), sorted(sections))
        for name, title in sections.items():
            with self.subTest(section=title):
                keys = self.keys(f"{title}\nnonesuch = 1\n")
                # What is a section of its own is described there.
                keys = [k for k in keys if not re.search(rf"\n# \[+{name}\.{k}\]+\n", text)]
                self.assertGreater(len(keys), 2)
                self.assertEqual(sorted(entries(section(text, title))), sorted(keys), name)
        self.assertEqual(sorted(entries(section(text, "[dump.tls]"))),
                         sorted(self.keys("[dump.tls]\nnonesuch = 1\n")))
        for inner, title in (("listen = [{nonesuch = 1}]", "LISTENERS"),
                             ("filters = [{nonesuch = 1}]", "[server]")):
            for key in self.keys(f"[server]\n{inner}\n"):
                self.assertRegex(section(text, title), rf"{{.*\b{key} = ")

    def test_blockloomd(self):
        done = self.blockloomd("--help", check=True).stdout
        options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*|(?<![\w-])-[A-Z]\b", done))
        self.assertIn("--print-command", options)
        self.assertEqual(options, set(entries(section(page("blockloomd.8.scd"), "OPTIONS"))))

    def test_the_plugin(self):
        said = self.refuse("nonesuch=1")
        names = re.search(r"unknown parameter 'nonesuch': expected (.*)", said)[1]
        names = re.split(r", | or ", names)
        self.assertIn("table", names)
        documented = entries(section(page("nbdkit-blockloom-plugin.1.scd"), "PARAMETERS"))
        documented = {word.split("=")[0] for word in documented if "=" in word}
        self.assertEqual(documented, set(names))
        shown = self.command("nbdkit", "--help", os.path.abspath(daemon.harness.PLUGIN)).stdout
        for name in names:
            self.assertRegex(shown, rf"(?m)^\[?{name}=")
