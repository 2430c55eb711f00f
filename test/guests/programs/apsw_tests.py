"""Runs apsw's tests, with the extension loaded into its SQLite before each: some call sqlite3_shutdown(),
and SQLite forgets extensions then."""

import os
import runpy
import sys
import unittest

import apsw
import apsw.tests.extratest

from record import Recording

EXTENSION = os.environ.get("GUEST_EXTENSION")


class Result(Recording):
    def startTest(self, test):
        if EXTENSION:
            loader = apsw.Connection(":memory:")
            loader.enable_load_extension(True)
            loader.load_extension(EXTENSION)
            loader.close()
        super().startTest(test)


for name in os.environ["GUEST_SKIPPED"].split():
    case, method = name.split(".")
    owner = getattr(apsw.tests.extratest, case)
    setattr(owner, method, unittest.skip("GUEST_SKIPPED")(getattr(owner, method)))
unittest.TextTestRunner.resultclass = Result
runpy.run_module("apsw.tests", run_name="__main__", alter_sys=True)
