"""What iscsi-test-cu's log says of each test.

The tool counts a test that skipped itself as passed, and goes on after a failure: only its log
tells. A test's part is from its "Test: NAME ..." to "passed" or "FAILED" at the start of a line;
what it prints between may hold [SKIPPED], with the reason.
"""

import collections
import re

# what: pass, fail, skip; why: what it complained of; said: all its lines
Verdict = collections.namedtuple("Verdict", "what why said", defaults=([],))

DIED = "the tool ended in the middle of it"
SUITE = re.compile(r"^Suite: (\S+)")
TEST = re.compile(r"^\s*Test: (\S+) \.\.\.(.*)$")
END = re.compile(r"^(passed|FAILED)")
SKIP = re.compile(r"\[SKIPPED\]\s*(.*)")
ASSERT = re.compile(r"^\s+\d+\. (\S+:\d+\s+- .*)$")
BAD = re.compile(r"\[FAILED\]\s*(.*)")


def parse(log):
    """{"Suite.Test": Verdict}. A test without an end is one that the tool died in."""
    found, suite, name = {}, "", None
    skips, complaints, said = [], [], []

    def close(ended):
        if ended == "FAILED":
            found[name] = Verdict("fail", complaints, said)  # its assertions are still to come
        elif ended is None:
            found[name] = Verdict("fail", [DIED, *complaints], said)
        elif skips:
            found[name] = Verdict("skip", skips)
        else:
            found[name] = Verdict("pass", [])

    for line in log.splitlines():
        if match := SUITE.match(line):
            suite = match.group(1)
            continue
        if match := TEST.match(line):
            if name and name not in found:
                close(None)
            name, skips, complaints, said = f"{suite}.{match.group(1)}", [], [], []
            line = match.group(2)
        if name is None:
            continue
        said.append(line)
        if match := ASSERT.match(line):
            complaints.append(match.group(1))
        elif name in found:
            continue
        elif match := SKIP.search(line):
            skips.append(match.group(1).strip())
        elif match := BAD.search(line):
            complaints.append(match.group(1).strip())
        elif match := END.match(line):
            close(match.group(1))
    if name and name not in found:
        close(None)
    return found


def expected(listing, family):
    """The names of a family in the answer to --list."""
    names = [line.strip() for line in listing.splitlines()]
    return [n.split(".", 1)[1] for n in names if n.startswith(family + ".") and n.count(".") == 2]
