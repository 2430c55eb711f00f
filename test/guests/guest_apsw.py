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

CANNOT = {
    "__main__.APSW.testConnectionFileControl": "reads the rollback journal of a transaction",
    "__main__.APSW.testVFSWithWAL": "expects a hot journal to be found through the VFS under test; turning WAL "
    "mode on, when the file is opened, has rolled it back",
}


def run(place):
    python = need(harness.TEST_HOME / "venv/bin/python")
    # Not those of its shell: they put tmstmpvfs above the shim, which has crashed there at a checkpoint.
    tests = ["APSW", "Session"] if place.long else [f"APSW.{name}" for name in TESTS]
    place.run([python, PROGRAMS / "apsw_tests.py", *tests], **place.loading())
    return place.outcomes()
