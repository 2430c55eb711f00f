"""SQLAlchemy's own tests, as far as its sdist has them, on a file (--db sqlite_file)."""

from place import HOME, need

SUITE = ["test/dialect/test_suite.py"]
SOME = ["-k", "Insert or Update or Fetch or Isolation or Returning"]
# Those that are about a real database: most of the others compile statements only.
LONG = ["--backend-only", *SUITE, "test/dialect/test_sqlite.py", "test/engine", "test/sql", "test/orm", "test/ext"]

CANNOT = {}


def run(place):
    source, python = need(HOME / "SQLAlchemy"), need(HOME / "venv/bin/python")
    report = place.folder / "junit.xml"
    tests = LONG if place.long else [*SOME, *SUITE]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:logging",
               f"--dburi=sqlite:///{place.data}/querytest.db", f"--junitxml={report}", *tests]  # fmt: skip
    place.run(place.preloaded(command), cwd=source)
    return place.junit(report)
