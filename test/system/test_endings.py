"""How programs with several threads that commit end, fork, and unload SQLite (endings.cc): nothing is lost, no
generation is begun anew, and nobody hangs."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import harness
from test_workloads import PYTHON

SOURCE = Path(__file__).with_name("endings.cc")
ROWS = 4 * 150 + 1


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    output = tmp_path_factory.mktemp("endings") / "endings"
    harness.run(["g++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-o", output, SOURCE, "-ldl", "-lpthread"])
    return output


class Place:
    def __init__(self, build, program, folder):
        self.build, self.program, self.folder = build, program, folder
        self.database, self.replica = folder / "app.db", folder / "replica"
        self.url = f"file://{self.replica}?sync-interval=20ms"

    def start(self, how, **parameters):
        return subprocess.Popen(
            [self.program, self.build.extension, self.build.uri(self.database, self.url, **parameters), how],
            env=harness.clean_environment(SQLSTREAM_LOG=self.folder / "log"), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, how):
        """How many rows it said."""
        with self.start(how) as process:
            said = process.stdout.read()
            assert process.wait() == 0
        return int(said)

    def rows(self):
        with closing(sqlite3.connect(self.database)) as db:
            return db.execute("select count(*) from t").fetchone()[0]

    def check(self):
        """What the replica holds is what was committed, in one generation."""
        source = harness.checkpointed_copy(self.database, self.folder / "source.db")
        restored = self.folder / "restored.db"
        self.build.restore(restored, f"file://{self.replica}")
        harness.compare_databases(source, restored)
        harness.integrity_check(restored)
        assert len(list(self.replica.glob("generations/*"))) == 1

    def check_with_the_next(self):
        """As check(), once another program has shipped what this one left."""
        sql = "insert into t(x) values ('next'); select sqlstream_wait(60000);"
        assert self.build.shell(self.database, self.url, sql).stdout == "1\n"
        self.check()


@pytest.fixture
def place(build, program, tmp_path):
    return Place(build, program, tmp_path)


@pytest.mark.parametrize("how", ["return", "exit"])
def test_an_orderly_end_ships_all(place, how):
    """With a connection that is still open."""
    assert place.run(how) == ROWS
    place.check()
    assert place.rows() == ROWS


def test_an_end_without_handlers(place):
    assert place.run("_exit") == ROWS
    place.check_with_the_next()
    assert place.rows() == ROWS + 1


def test_static_objects_that_commit_when_they_are_destroyed(place):
    """Before the flush at exit, and after it."""
    assert place.run("static") == ROWS
    place.check_with_the_next()
    assert place.rows() == ROWS + 2 + 1


def test_with_policy_fail_nothing_is_committed_behind_the_last_flush(place):
    """Nobody is left who would ship it."""
    with place.start("static", **{"sync": "60000", "sync-policy": "fail"}) as process:
        said, error = process.communicate()
        assert process.returncode == 9
    assert int(said) == ROWS and "disk I/O error" in error
    place.check()
    assert place.rows() == ROWS + 1  # what was committed before the flush


def test_an_end_while_threads_commit(place):
    said = place.run("going on")
    assert said > 0
    place.check_with_the_next()
    assert place.rows() > said


def test_sigterm_while_threads_commit(place):
    with place.start("killed") as process:
        said = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
    assert said > 0
    place.check_with_the_next()
    assert place.rows() > said


def test_forks_while_threads_commit(place):
    """With exec, and without: children that end in both ways, and some that live on."""
    said = place.run("fork")
    place.check()
    assert place.rows() == said + 8 * 3


def test_sqlite_is_unloaded_while_a_snapshot_is_made(place):
    with closing(sqlite3.connect(place.database)) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("create table t(i integer primary key, x)")
        db.executemany("insert into t(x) values (randomblob(3000))", [()] * 10000)
        db.commit()
    assert place.run("dlclose") == 1
    place.check()
    assert place.rows() == 10001


def test_the_extension_is_unloaded_by_who_loaded_it(place):
    """As an automatic extension, of which SQLite does not know that it has to stay."""
    assert place.run("dlclose the extension") == 3
    place.check()
    assert place.rows() == 3


CLOSES_EVERYTHING = """
import ctypes, os, sqlite3, sys, time
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
db = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None)
db.execute("create table t(x)")
db.execute("insert into t values (1)")
if "shipped" in sys.argv:
    db.execute("select sqlstream_wait(60000)").fetchone()
ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))  # never closed: its numbers may be other files' now
os.closerange(3, 4096)
time.sleep("later" in sys.argv)
"""


@pytest.mark.parametrize("when", [["shipped", "later"], []])
def test_a_program_that_closes_all_descriptors_ends(build, tmp_path, when):
    """As daemons do that should have done it before. What is on disk is as after a kill."""
    database, url = tmp_path / "app.db", f"file://{tmp_path}/replica"
    command = [sys.executable, "-c", CLOSES_EVERYTHING, build.extension, build.uri(database, url), *when]
    subprocess.run([str(part) for part in command], env=harness.clean_environment(), timeout=60)
    sql = "insert into t values (2); select count(*) from t; select sqlstream_wait(60000);"
    assert build.shell(database, url, sql).stdout == "2\n1\n"
    source = harness.checkpointed_copy(database, tmp_path / "source.db")
    build.restore(tmp_path / "restored.db", url)
    harness.compare_databases(source, tmp_path / "restored.db")


DAEMON = """
import ctypes, os, sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
loader.close()
if "child" in sys.argv:
    parent = sqlite3.connect(sys.argv[3], uri=True, isolation_level=None)
    parent.execute("create table t(x)")
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(parent))  # never closed in the child, see above
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
os.closerange(3, 4096)
db = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None)
for number in range(3):
    db.execute("insert into t values (?)", (number,))
    db.execute("pragma wal_checkpoint(truncate)").fetchone()
    print(db.execute("select sqlstream_wait(60000)").fetchone()[0], flush=True)
db.close()
"""


@pytest.mark.parametrize("where", ["itself", "child"])
def test_a_daemon_that_closes_descriptors_before_it_opens_a_database(build, tmp_path, where):
    """The log's number is another file's then, the database's perhaps."""
    database, url, log = tmp_path / "app.db", f"file://{tmp_path}/replica", tmp_path / "log"
    with closing(sqlite3.connect(database)) as db:
        db.execute("create table t(x)")
    other = build.uri(tmp_path / "other.db", f"file://{tmp_path}/other")
    said = harness.run(
        [PYTHON, "-c", DAEMON, build.extension, build.uri(database, url), other, where],
        env=harness.clean_environment(SQLSTREAM_LOG=log), timeout=60,
    )  # fmt: skip
    assert said.stdout == "1\n1\n1\n"
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        assert db.execute("select count(*) from t").fetchone() == (3,)
    assert "new generation" in log.read_text() and "wal segment written" in log.read_text()
    build.restore(tmp_path / "restored.db", url)
    harness.compare_databases(harness.checkpointed_copy(database, tmp_path / "source.db"), tmp_path / "restored.db")
