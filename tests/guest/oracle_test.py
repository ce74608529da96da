"""Device-mapper as the oracle: the same tables and the same I/O give the same bytes and words."""

import random
import shlex
import unittest

import images
import oracle_tables
import oracle_verbs
import setting
from oracle import LEG_NAMES, Oracle, first_difference

REQUESTS = 200
RANDOM_TABLES = 6
VERBS = 60


class OracleTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.oracle = Oracle(setting.scratch / "oracle")
        cls.addClassCleanup(cls.oracle.close)
        cls.oracle.start(images.prepare(setting.build))

    def compare(self, name: str, table: str, seed: int) -> None:
        oracle = self.oracle
        self.addCleanup(oracle.remove, name)
        self.assertIsNone(oracle.create_dm(name, table), f"dm refuses\n{table}")
        self.assertIsNone(oracle.create_blockloom(name, table), f"Blockloom refuses\n{table}")
        oracle.attach(name)
        for verb in ("table", "status"):
            self.assertEqual(oracle.texts_of_dm(name, verb), oracle.texts_of_blockloom(name, verb),
                             verb)
        operations = "rrrwwwwszd" if oracle.dm_discards(name) else "rrrwwwwsz"
        dm, blockloom = oracle.same_io(name, seed, REQUESTS, operations)
        self.assert_same(table, dm, blockloom)
        # dm's status is of the last errors as well.
        status = oracle.texts_of_blockloom(name, "status")
        self.assertEqual(oracle.texts_of_dm(name, "status"), status, "status after the I/O")

    def assert_same(self, table: str, dm: str, blockloom: str) -> None:
        parted = first_difference(dm, blockloom)
        self.assertEqual(parted, "", f"with\n{table}\n{parted}")
        for leg in LEG_NAMES:
            sector = self.oracle.difference(leg)
            self.assertIsNone(sector, f"leg {leg} differs from sector {sector} on, with\n{table}")

    def test_random_tables(self):
        rng = random.Random(setting.seed)
        for number in range(RANDOM_TABLES):
            table = oracle_tables.random_table(rng)
            with self.subTest(table=table):
                self.compare(f"random{number}", table, rng.getrandbits(32))
                self.doCleanups()

    def test_what_dm_refuses_is_refused(self):
        for table in oracle_tables.BAD:
            with self.subTest(table=table):
                self.addCleanup(self.oracle.remove_blockloom, "bad")
                if self.oracle.create_dm("bad", table) is None:
                    self.oracle.remove_dm("bad")
                    self.fail("dm takes it")
                self.assertIsNotNone(self.oracle.create_blockloom("bad", table),
                                     "Blockloom takes it")
            self.doCleanups()

    def test_verbs(self):
        """dmsetup's verbs in a senseless order: the same are refused, and the states are equal
        after each."""
        verbs = oracle_verbs.random_verbs(random.Random(setting.seed), VERBS)
        self.compare_verbs([*verbs, ["remove", "x"], ["remove", "y"]])

    def compare_verbs(self, verbs: list[list[str]]) -> None:
        script = "\n".join(
            [f"dmsetup {shlex.join(map(self.oracle.for_dm, words))} >/dev/null 2>&1; echo $?\n"
             + "\n".join(f"echo =; dmsetup {shlex.join(question)} 2>/dev/null"
                         for question in oracle_verbs.QUESTIONS) + "\necho =="
             for words in verbs])
        out = self.oracle.with_legs_of_dm(self.oracle.guest.run(script)[1])
        done = []
        for words, answer in zip(verbs, out.split("==\n")):
            code, *answers = answer.split("=\n")
            rc, said = self.oracle.blockloom(*words)
            done.append(f"{shlex.join(words)}: dm {code.strip()}, Blockloom {rc} {said.strip()}")
            before = "\n".join(["", *done[-20:]])
            self.assertEqual(code.strip() == "0", rc == 0, before)
            for question, dm in zip(oracle_verbs.QUESTIONS, answers, strict=True):
                ours = self.oracle.blockloom(*question)[1]
                self.assertEqual(oracle_verbs.comparable(dm), oracle_verbs.comparable(ours),
                                 f"{before}\nthen {shlex.join(question)}")
        self.assertEqual(len(done), len(verbs))

    def test_another_layout_is_noticed(self):
        """That the comparison can fail: Blockloom gets other chunks than dm."""
        oracle = self.oracle
        self.addCleanup(oracle.remove, "other")
        self.assertIsNone(oracle.create_dm("other", "0 1024 striped 2 16 {a} 0 {b} 0"))
        self.assertIsNone(oracle.create_blockloom("other", "0 1024 striped 2 8 {a} 0 {b} 0"))
        oracle.attach("other")
        self.assertNotEqual(first_difference(*oracle.same_io("other", 1, 20, "w")), "")
        self.assertIsNotNone(oracle.difference("a"))
        dm = oracle.texts_of_dm("other", "table")
        self.assertNotEqual(dm, oracle.texts_of_blockloom("other", "table"))


def add_test(number: int, name: str, table: str) -> None:
    def test(self):
        self.compare(f"t{number}", table, setting.seed + number)

    words = name.replace(",", "").replace(" ", "_")
    test.__name__ = f"test_{words}"
    setattr(OracleTest, test.__name__, test)


for _number, (_name, _table) in enumerate(oracle_tables.GOOD.items()):
    add_test(_number, _name, _table)
