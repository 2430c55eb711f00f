"""Runs apsw's tests, with the extension loaded into its SQLite before each: some call sqlite3_shutdown(),
and SQLite forgets extensions then. And without the VFSes that a test leaves behind: Extra.testLoadExtension has
vfsstat and cksumvfs above tmstmpvfs, which takes the file that SQLite opened for its own, and so crashes at the first
checkpoint of a WAL beneath any other VFS, sqlstream or not."""

import os
import runpy
import sys
import unittest

import apsw

from record import Recording

EXTENSION = os.environ.get("GUEST_EXTENSION")


class Result(Recording):
    def startTest(self, test):
        if EXTENSION:
            loader = apsw.Connection(":memory:")
            loader.enable_load_extension(True)
            loader.load_extension(EXTENSION)
            loader.close()
            # What the tests make themselves is deleted, often before it is shipped.
            kept = apsw.Connection(os.path.join(os.environ["GUEST_DATA"], "kept.db"))
            kept.execute("create table if not exists test(id)")
            kept.execute("insert into test values (?)", [test.id()])
            kept.close()
        self.vfs_names = set(apsw.vfs_names())
        super().startTest(test)

    def stopTest(self, test):
        super().stopTest(test)
        for name in set(apsw.vfs_names()) - self.vfs_names:
            apsw.unregister_vfs(name)


unittest.TextTestRunner.resultclass = Result
runpy.run_module("apsw.tests", run_name="__main__", alter_sys=True)
