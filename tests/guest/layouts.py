"""Tables that lay the same device out over the same two legs in different words.

All put chunk number i of the device at chunk i/2 of leg i%2, so a swap from one to another moves
no byte. They differ in targets and in their borders, which is what a swap changes.
"""

CHUNK = 128  # sectors


def striped(legs: list[str], chunks: int) -> str:
    """One target."""
    return _stripe_set(legs, 0, chunks)


def linear(legs: list[str], chunks: int) -> str:
    """As many targets as chunks."""
    return "\n".join(
        f"{i * CHUNK} {CHUNK} linear {legs[i % 2]} {i // 2 * CHUNK}" for i in range(chunks)
    )


def pieces_of_stripes(legs: list[str], chunks: int) -> str:
    """Stripe sets one after the other, of 6 chunks each."""
    return "\n".join(
        _stripe_set(legs, first, min(6, chunks - first)) for first in range(0, chunks, 6)
    )


def mixed(legs: list[str], chunks: int) -> str:
    """A stripe set, and the second half chunk by chunk."""
    half = chunks // 4 * 2
    tail = linear(legs, chunks).splitlines()[half:]
    return "\n".join([_stripe_set(legs, 0, half), *tail])


ALL = [striped, linear, pieces_of_stripes, mixed]


def places(table: str) -> list[tuple[str, int]]:
    """Where a table puts each chunk: (leg, sector)."""
    found = []
    for line in table.splitlines():
        start, length, kind, *words = line.split()
        assert int(start) == len(found) * CHUNK, line
        if kind == "linear":
            found.append((words[0], int(words[1])))
            assert int(length) == CHUNK, line
        else:
            assert (kind, words[:2]) == ("striped", ["2", str(CHUNK)]), line
            for chunk in range(int(length) // CHUNK):
                leg, offset = words[2 + chunk % 2 * 2 :][:2]
                found.append((leg, int(offset) + chunk // 2 * CHUNK))
    return found


def _stripe_set(legs: list[str], first: int, chunks: int) -> str:
    assert first % 2 == 0 and chunks % 2 == 0
    offset = first // 2 * CHUNK
    return (
        f"{first * CHUNK} {chunks * CHUNK} striped 2 {CHUNK} {legs[0]} {offset} {legs[1]} {offset}"
    )
