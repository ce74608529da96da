"""Logs of the tool, and what is to be found in them: the parser's own test."""

import skips
import verdicts

LOG = """\
    Send READCAPACITY10 (Expecting SUCCESS) LBA:0 pmi:0


     CUnit - A unit testing framework for C - Version 2.1-3
     http://cunit.sourceforge.net/


Suite: GetLBAStatus
  Test: Simple ...
    Send GET_LBA_STATUS (Expecting SUCCESS) LBA:204544 alloc_len:24
    [OK] GET_LBA_STATUS returned SUCCESS NO SENSE(0x00) (null)(0x0000)
passed
  Test: BeyondEol ...
    Test GETLBASTATUS at LBA 2^63
    [FAILED] GET_LBA_STATUS successful but should have failed
FAILED
    1. test_get_lba_status_beyond_eol.c:38  - CU_ASSERT_EQUAL(_r,0)
  Test: UnmapSingle ...    [SKIPPED] Logical unit is fully provisioned. Skipping test
passed
Suite: Sanitize
  Test: BlockErase ...
    Test SANITIZE BLOCK ERASE
    [SKIPPED] --allow-sanitize flag is not set. Skipping test.
passed
  Test: CryptoErase ...
    Test SANITIZE CRYPTO ERASE
"""

FOUND = {
    "GetLBAStatus.Simple": ("pass", []),
    "GetLBAStatus.BeyondEol": ("fail", ["GET_LBA_STATUS successful but should have failed",
                                        "test_get_lba_status_beyond_eol.c:38  - "
                                        "CU_ASSERT_EQUAL(_r,0)"]),
    "GetLBAStatus.UnmapSingle": ("skip", ["Logical unit is fully provisioned. Skipping test"]),
    "Sanitize.BlockErase": ("skip", ["--allow-sanitize flag is not set. Skipping test."]),
    "Sanitize.CryptoErase": ("fail", [verdicts.DIED]),
}

LISTING = "ALL\nALL.Read6\nALL.Read6.Simple\nSCSI\nSCSI.Read6\nSCSI.Read6.Simple\n" \
          "SCSI.Read6.BeyondEol\niSCSI.iSCSITMF.LUNResetSimpleAsync\n"


def complaints():
    """What is wrong with the parser, and with the list of skips."""
    found = verdicts.parse(LOG)
    for name, (what, why) in FOUND.items():
        if name not in found or tuple(found[name][:2]) != (what, why):
            yield f"{name}: {found.get(name)} instead of {what} {why}"
    if len(found) != len(FOUND):
        yield f"{len(found)} tests instead of {len(FOUND)}"
    if verdicts.parse("Failed to connect to SCSI device 0\n"):
        yield "finds tests where there are none"
    if verdicts.expected(LISTING, "SCSI") != ["Read6.Simple", "Read6.BeyondEol"]:
        yield "reads the tool's list wrongly"
    if skips.reason("thin", "Read10.Simple") or not skips.reason("thin", "Sanitize.Reset"):
        yield "allows the wrong skips"
    if skips.reason("paths", "MultipathIO.Simple") or skips.reason("thin", "Unmap.Simple"):
        yield "allows skips for the wrong kind"
