"""docs/control-api-dumps.md against what a server answers."""

import os
import re

import dump_support
import harness
from netdump import Client

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs")


def names(value):
    """The names of all members, however deep."""
    if isinstance(value, dict):
        return set(value) | set().union(*map(names, value.values()))
    if isinstance(value, list):
        return set().union(*map(names, value))
    return set()


class Page(dump_support.Case):
    def setUp(self):
        super().setUp()
        with open(os.path.join(DOCS, "control-api-dumps.md"), encoding="utf-8") as file:
            self.page = file.read()
        self.methods = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", self.page, re.M | re.S))
        table = self.methods["dump_list"].split("| Member |")[1]
        self.record = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M)
                       for name in re.findall(r"`(\w+)`", row)}

    def test_every_method_and_member_is_there(self):
        self.start_dumps(listen=["netdump", "stream", "netconsole"])
        with Client(self.port()) as client:
            client.dump(b"x" * 5000)
        dump = self.one_dump()
        self.wait_digest(dump)
        calls = {"dump_info": {}, "dump_list": {}, "dump_show": {"dump": dump["id"]},
                 "dump_text": {"dump": dump["id"], "name": "info.txt"},
                 "dump_read": {"dump": dump["id"], "offset": 0, "length": 10},
                 "dump_verify": {"dump": dump["id"]}, "dump_groups": {}, "dump_test": {"timeout_s": 20},
                 "dump_pin": {"dump": dump["id"], "pinned": False},
                 "dump_remove": {"dump": dump["id"]}}
        # The other two have tests of their own: dump_import_test, dump_device_test.
        self.assertEqual(set(calls) | {"dump_import", "dump_format"}, set(self.methods))
        for method, params in calls.items():
            with self.subTest(method):
                rows = set(re.findall(r"^\| `(\w+)` \| \w+ \| (?:yes|no) \|", self.methods[method], re.M))
                self.assertLessEqual(set(params), rows)
                found = names(self.server.rpc(method, params))
                text = re.split(r"^## Events", self.methods[method], flags=re.M)[0]
                said = set(re.findall(r"`(\w+)`", text)) | (
                    self.record if method in ("dump_list", "dump_show", "dump_test") else set())
                self.assertEqual(found - said, set(), "answered and not documented")
        with self.assertRaises(harness.RpcError):
            self.server.rpc("dump_nonesuch")

    def test_a_record_has_every_member_that_is_documented(self):
        self.start_dumps()
        with Client(self.port()) as client:
            client.dump(b"x" * 5000)
        self.assertEqual(self.record, set(self.one_dump()))
