"""Outcomes of unittest's tests, a line each, as they come: a crash leaves those before it."""

import json
import os
import unittest


def _note(test, outcome):
    # A subtest counts for its test.
    name = getattr(test, "test_case", test).id()
    with open(os.environ["GUEST_OUTCOMES"], "a", encoding="utf-8") as file:
        file.write(json.dumps([name, outcome]) + "\n")


class Recording(unittest.TextTestResult):
    _failed = False

    def startTest(self, test):
        self._failed = self._skipped = False
        super().startTest(test)

    def stopTest(self, test):
        _note(test, "failed" if self._failed else "skipped" if self._skipped else "passed")
        super().stopTest(test)

    def addError(self, test, err):
        self._failed = True
        super().addError(test, err)
        if not isinstance(test, unittest.TestCase):  # a class or a module could not be set up
            _note(test, "failed")

    def addFailure(self, test, err):
        self._failed = True
        super().addFailure(test, err)

    def addUnexpectedSuccess(self, test):
        self._failed = True
        super().addUnexpectedSuccess(test)

    def addSubTest(self, test, subtest, err):
        self._failed = self._failed or err is not None
        super().addSubTest(test, subtest, err)

    def addSkip(self, test, reason):
        self._skipped = True
        super().addSkip(test, reason)
