"""The bench's swaps under load see a wrong byte. (Its arithmetic is tested by bench/selftest.)"""

import os
import sys
import tempfile
import unittest

BENCH = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bench")
sys.path.insert(0, BENCH)

from figures import swaps  # noqa: E402
from figures.procs import BenchError  # noqa: E402
from figures.servers import plugin_path  # noqa: E402

LAYOUTS = swaps.layouts


def crossed(legs, size):
    """Two chunks of the linear layout change places."""
    tables = LAYOUTS(legs, size)
    lines = [line.split() for line in tables["linear"].splitlines()]
    lines[7][4], lines[9][4] = lines[9][4], lines[7][4]
    tables["linear"] = "".join(" ".join(line) + "\n" for line in lines)
    return tables


class Bench(unittest.TestCase):
    def swap(self, count):
        plugin = plugin_path(os.environ["BLOCKLOOM_BUILD"])
        with tempfile.TemporaryDirectory(prefix="blockloom-bench.") as folder:
            return swaps.run(plugin, folder, count, 6, 32 << 20)

    def test_swaps_between_layouts_of_the_same_bytes_pass(self):
        result = self.swap(30)
        self.assertGreater(result["fio"]["verified_blocks"], 0)
        self.assertGreater(result["pause_us"]["median"], 0)

    def test_a_swap_to_a_layout_that_is_wrong_by_two_chunks_is_seen(self):
        swaps.layouts = crossed
        self.addCleanup(setattr, swaps, "layouts", LAYOUTS)
        with self.assertRaisesRegex(BenchError, "fio verify|does not read as its legs"):
            self.swap(30)
