"""What `run` was told, for the tests: its build folder, the seed, where files may go."""

import pathlib

build = pathlib.Path()  # of Meson
seed = 0
scratch = pathlib.Path()  # empty at the start, kept at the end


def seeded_io() -> pathlib.Path:
    return build / "tests/guest/seeded_io"
