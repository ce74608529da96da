"""What `run` was told, for the tests, and what several of them need."""

import pathlib
import sys

build = pathlib.Path()  # of Meson
seed = 0
scratch = pathlib.Path()  # empty at the start, kept at the end

# The server side is the functional tests' harness.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "functional"))


def seeded_io() -> pathlib.Path:
    return build / "tests/guest/seeded_io"
