"""The tables that device-mapper and Blockloom are both given."""

import random

LEG_SECTORS = 16384

# By name; {a}, {b}, {c} are legs of 16384 sectors.
GOOD = {
    "linear": "0 4096 linear {a} 0",
    "linear at an offset": "0 4000 linear {b} 12384",
    "linear of odd sectors": "0 2047 linear {c} 1001",
    "striped over one leg": "0 2048 striped 1 8 {a} 64",
    "striped over two, chunks of 8": "0 4096 striped 2 8 {a} 0 {b} 0",
    "striped over two, chunks of 128": "0 4096 striped 2 128 {a} 100 {b} 0",
    "striped over two, chunks of 1": "0 1024 striped 2 1 {b} 3 {c} 7",
    "striped over two, chunks of 24": "0 3072 striped 2 24 {c} 0 {a} 8",
    "striped over three, chunks of 16": "0 3072 striped 3 16 {a} 0 {b} 16 {c} 32",
    "striped over three, chunks of 7": "0 2100 striped 3 7 {a} 9 {b} 1 {c} 0",
    "striped over parts of one leg": "0 2048 striped 2 32 {a} 0 {a} 8192",
    "zero": "0 1024 zero",
    "error": "0 256 error",
    "linear pieces": "0 1000 linear {a} 24\n1000 24 linear {b} 0\n1024 1024 linear {a} 1024",
    "pieces of one sector": "0 1 linear {a} 5\n1 1 zero\n2 1 linear {b} 9\n3 253 linear {c} 3",
    "a hole of errors": "0 500 linear {a} 0\n500 20 error\n520 500 linear {b} 0",
    "all kinds": (
        "0 512 linear {a} 0\n512 96 zero\n608 768 striped 3 8 {a} 4096 {b} 4096 {c} 4096\n"
        "1376 8 error\n1384 640 linear {c} 100\n2024 640 striped 2 64 {c} 9000 {a} 9000"
    ),
    "delay": "0 1024 delay {a} 16 0",
    "delay of reads, writes, flushes": "0 256 delay {a} 0 1 {a} 0 2 {a} 0 3",
    "flakey, always up": "0 1024 flakey {b} 8 3600 0",
    "flakey, always down": "0 512 flakey {b} 0 0 3600",
    "flakey, drops writes": "0 1024 flakey {a} 0 0 3600 1 drop_writes",
    "flakey, fails writes": "0 1024 flakey {a} 0 0 3600 1 error_writes",
}

# Refused by dm, each for another reason.
BAD = [
    "0",
    "0 8",
    "x 8 zero",
    "0 x zero",
    "0 0 zero",
    "-8 8 zero",
    "8 8 zero",
    "0 18446744073709551615 zero",
    "0 99999999999999999999 zero",
    "0 36028797018963968 zero",
    "0 8 nosuch",
    "0 8 Zero",
    "0 8 zero extra",
    "0 8 zero\n9 8 zero",
    "0 8 zero\n7 8 zero",
    "0 8 zero\n0 8 zero",
    "8 8 zero\n0 8 zero",
    "0 8 zero\n8 18446744073709551612 zero",
    "0 8 zero\n8 8 linear {a} 16380",
    "0 8 linear",
    "0 8 linear {a}",
    "0 8 linear {a} 0 0",
    "0 8 linear /nosuch 0",
    "0 8 linear {a} -1",
    "0 8 linear {a} +1",
    "0 8 linear {a} 0x10",
    "0 8 linear {a} 1.5",
    "0 8 linear {a} 1k",
    "0 8 linear {a} 16384",
    "0 8 linear {a} 16377",
    "0 8 linear {a} 18446744073709551615",
    "0 8 linear {a} 99999999999999999999",
    "0 16 striped",
    "0 16 striped 2",
    "0 16 striped 0 4",
    "0 16 striped 2 0 {a} 0 {b} 0",
    "0 16 striped x 4 {a} 0 {b} 0",
    "0 16 striped 2 x {a} 0 {b} 0",
    "0 16 striped -2 4 {a} 0 {b} 0",
    "0 16 striped 2 4k {a} 0 {b} 0",
    "0 16 striped 2 4 {a} 0",
    "0 16 striped 2 4 {a} 0 {b}",
    "0 16 striped 2 4 {a} 0 {b} x",
    "0 16 striped 2 4 {a} 0 {b} 0 {c} 0",
    "0 16 striped 2 4 {a} 0 {b} 0 extra",
    "0 16 striped 2 4 {a} 0 {b} 16377",
    "0 16 striped 2 3 {a} 0 {b} 0",
    "0 15 striped 2 4 {a} 0 {b} 0",
    "0 12 striped 2 4 {a} 0 {b} 0",
    "0 16 striped 2 16 {a} 0 {b} 0",
    "0 16 striped 4294967297 4 {a} 0",
    "0 16 striped 1 4294967296 {a} 0",
    "0 8 delay {a} 0",
    "0 8 delay {a} 0 x",
    "0 8 delay {a} 0 -5",
    "0 8 delay {a} 0 5 {b}",
    "0 8 delay {a} 0 5 {b} 0",
    "0 8 delay {a} 0 5 {b} 0 5 {c} 0",
    "0 8 delay {a} 16377 5",
    "0 8 flakey {a} 0 1",
    "0 8 flakey {a} 0 0 0",
    "0 8 flakey {a} 0 x 2",
    "0 8 flakey {a} 0 1 x",
    "0 8 flakey {a} 0 1 2 1 nosuch",
    "0 8 flakey {a} 0 1 2 2 drop_writes",
    "0 8 flakey {a} 0 1 2 2 drop_writes error_writes",
    "0 8 flakey {a} 0 1 2 5 corrupt_bio_byte 0 r 1 0",
    "0 8 flakey {a} 0 1 2 5 corrupt_bio_byte 32 x 1 0",
    "0 8 flakey {a} 0 1 2 5 corrupt_bio_byte 32 r 256 0",
    "0 8 flakey {a} 0 1 2 6 drop_writes corrupt_bio_byte 32 w 1 0",
]


def random_table(rng: random.Random) -> str:
    """A table of several pieces, over places of the legs that may overlap."""
    lines, start = [], 0
    for _ in range(rng.randint(2, 12)):
        kind = rng.choice(["linear", "linear", "striped", "striped", "zero", "error"])
        length, words = _random_piece(rng, kind)
        lines.append(f"{start} {length} {kind} {words}".rstrip())
        start += length
    return "\n".join(lines)


def _random_piece(rng: random.Random, kind: str) -> tuple[int, str]:
    if kind == "error":
        return rng.randint(1, 16), ""
    if kind == "zero":
        return rng.randint(1, 200), ""
    if kind == "linear":
        length = rng.randint(1, 600)
        return length, f"{_leg(rng)} {rng.randint(0, LEG_SECTORS - length)}"
    stripes, chunk = rng.randint(1, 3), rng.choice([1, 3, 8, 16, 20, 64])
    width = chunk * rng.randint(1, max(1, 200 // chunk))
    places = " ".join(
        f"{_leg(rng)} {rng.randint(0, LEG_SECTORS - width)}" for _ in range(stripes)
    )
    return stripes * width, f"{stripes} {chunk} {places}"


def _leg(rng: random.Random) -> str:
    return rng.choice(["{a}", "{b}", "{c}"])
