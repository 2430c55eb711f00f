"""apsw's own tests. It has a SQLite of its own, newer than the distribution's: it loads the extension."""

import harness
from place import PROGRAMS, need

# The fast ones that have to do with files, locks, and the library as a whole.
TESTS = """
    testCursor testWAL testVFSFcntlPragma testThreading testSerialize testBlobIO testCommitHook
    testRollbackHook testUpdateHook testConnectionNames testConnectionPragma testConfig testTxnState
    testReadonly testURIFilenames testFilename testChanges testLastInsertRowId testWith testClosing
    testClosingChecks testPreUpdate testDataVersion testReserveBytes testExtDiskused testExtAnalyzePages
    testAutovacuumPages testLog testDBStatus testStatus testDropModules testIssue142 testIssue433
    testRecursiveCursor testVTableStuff testTracebacks testZeroBlob
""".split()

LEAVES_WAL = """takes a database out of WAL mode that another connection has open, which SQLite refuses; its "PRAGMA
journal_mode=delete" on the empty database, where that is the mode already, does not keep sqlstream from WAL mode"""

CANNOT = {
    "__main__.APSW.testConnectionFileControl": "reads the rollback journal of a transaction",
    "__main__.APSW.testVFS": LEAVES_WAL,
    "__main__.APSW.testVFSWithWAL": LEAVES_WAL,
}


def run(place):
    python = need(harness.TEST_HOME / "venv/bin/python")
    tests = [] if place.long else ["Extra.testLoadExtension", *(f"APSW.{name}" for name in TESTS)]
    place.run([python, PROGRAMS / "apsw_tests.py", *tests], **place.loading())
    return place.outcomes()
