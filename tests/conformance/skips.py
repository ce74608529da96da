"""What may be skipped, and why. Anything else that is skipped is a failure.

A row: the kinds of LUN it holds for ("*": all; "!a,b": all but these), a pattern for the test, and
the reason.
"""

import fnmatch

import verdicts

REASONS = [
    ("!paths,removable,slow", "Sanitize.*", "SANITIZE is for a LUN that is said to write in place"),
    ("*", "Sanitize.CryptoErase", "nothing is encrypted"),
    ("*", "Sanitize.Readonly", "passed, but for CRYPTO ERASE: nothing is encrypted"),
    ("*", "Sanitize.Reservations", "passed, but for CRYPTO ERASE: nothing is encrypted"),
    ("*", "WriteAtomic16.*", "no leg promises a whole write over a power loss: not offered"),
    ("!removable", "NoMedia.*", "the medium is not removable"),
    ("!removable", "PreventAllow.*", "the medium is not removable"),
    ("!removable", "StartStopUnit.*", "the medium is not removable"),
    ("!readonly", "ReadOnly.*", "for a unit that is read-only"),
    ("!paths,removable", "MultipathIO.*", "for a unit with two paths"),
    ("plain", "Unmap.*", "fully provisioned"),
    ("plain", "GetLBAStatus.UnmapSingle", "fully provisioned"),
    ("plain", "WriteSame1*.Unmap*", "fully provisioned"),
    ("plain", "*.InvalidDataOutSize", "fully provisioned"),
    ("plain", "Inquiry.BlockLimits", "fully provisioned: it is about UNMAP's limits"),
    ("4096", "WriteSame1*.UnmapUnaligned", "a physical block is one logical block"),
    ("4096", "*.InvalidDataOutSize", "a physical block is one logical block"),
]

# Whatever the test says there does not count, because another kind is made for it.
ELSEWHERE = [
    ("paths,removable", "Sanitize.Reset", "too fast to be seen at it: the slow LUN has it"),
]

# Defects of libiscsi 1.19.0: the kinds, the test, the assertion that is wrong, what the test must
# have said nevertheless, and the reason. Such a failure, with no other beside it, counts as a skip;
# so does its end in the middle, after what it had to say.
DEFECTS = [
    ("*", "iSCSITMF.LUNResetSimpleAsync", "reconnect_succeeded,1", "LU RESET completed",
     "it wants to have heard the answer before it has sent the reset (tgtd fails it as well)"),
    ("*", "GetLBAStatus.UnmapSingle", "lba offset in first descriptor does not match request",
     "We have 8 logical blocks per physical block",
     "it asks for LBA + 1 and expects LBA + 8; with 4096-byte blocks it runs"),
]


def applies(kinds, kind):
    listed = kind in kinds.strip("!").split(",")
    return kinds == "*" or listed != kinds.startswith("!")


def reason(kind, test):
    """Why this test may be skipped on this kind of LUN; None: it may not."""
    for kinds, pattern, why in REASONS:
        if applies(kinds, kind) and fnmatch.fnmatchcase(test, pattern):
            return why
    return None


def elsewhere(kind, test):
    """Why another kind of LUN is asked; None: this one is."""
    for kinds, name, why in ELSEWHERE:
        if applies(kinds, kind) and name == test:
            return why
    return None


def defect(kind, test, verdict):
    """Why this failure is the tool's own; None: it is not."""
    for kinds, name, assertion, said, why in DEFECTS:
        asserts = [line for line in verdict.why if "CU_" in line]
        died = not asserts and verdict.why[:1] == [verdicts.DIED]
        wrong = len(asserts) == 1 and assertion in asserts[0].replace('" "', "")
        if (applies(kinds, kind) and name == test and (wrong or died)
                and any(said in line for line in verdict.said)):
            return why
    return None
