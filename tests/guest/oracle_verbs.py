"""Sequences of dmsetup's verbs, for dm and for Blockloom: words that both programs take."""

import random
import re

NAMES = ["x", "y"]
TABLES = [
    "0 8 zero",
    "0 16 error",
    "0 16 linear {a} 8",
    "0 64 striped 2 8 {b} 0 {c} 8\n64 8 zero",
]
# Not among them a leg that is too small: dm sees that at load only for a device's first table,
# Blockloom always.
BAD_TABLES = ["0 8 nosuch", "8 8 zero", "0 8 linear {a}"]


def random_verbs(rng: random.Random, count: int) -> list[list[str]]:
    """Mostly on devices that may be there; often in an order that makes no sense."""
    return [_verb(rng) for _ in range(count)]


def _verb(rng: random.Random) -> list[str]:
    name, other = rng.sample(NAMES, 2)
    table = rng.choice(BAD_TABLES if rng.random() < 0.2 else TABLES)
    choices = [
        (4, ["create", name, "--table", table]),
        (1, ["create", name, "--readonly", "--table", table]),
        (1, ["create", name, "--uuid", "U" + name, "--table", table]),
        (6, ["load", name, "--table", table]),
        (1, ["load", name, "--readonly", "--table", table]),
        (2, ["clear", name]),
        (3, ["suspend", name]),
        (1, ["suspend", name, "--noflush"]),
        (6, ["resume", name]),
        (1, ["rename", name, other]),
        (1, ["rename", name, "--setuuid", "V" + name]),
        (1, ["remove", name]),
        (1, ["remove", "--force", name]),
    ]
    weights = [weight for weight, _ in choices]
    return rng.choices([words for _, words in choices], weights)[0]


# What is asked after each verb.
QUESTIONS = [["info"], ["table"], ["table", "--inactive"]]

# What the two may differ in: numbers of their own, and the count of events (dm counts a target's
# and renames, Blockloom every change).
_OWN = re.compile(r"^(Read Ahead|Event number|Major, minor):.*\n", re.MULTILINE)


def comparable(text: str) -> str:
    """Devices in the order of their names, which dm does not promise."""
    lines = _OWN.sub("", text).splitlines()
    if not any(line.startswith("Name:") for line in lines):
        return "\n".join(sorted((line.rstrip() for line in lines), key=_name_of))
    blocks = "\n".join(line.rstrip() for line in lines).split("\n\n")
    return "\n\n".join(sorted(block.strip() for block in blocks if block.strip()))


def _name_of(line: str) -> str:
    return line.partition(":")[0]
