"""The synchronous mode: a commit that returned is in the bucket, and nobody waits who need not."""

import json
import os
import re
import sqlite3
import subprocess
from contextlib import closing

import pytest

import harness
from slow_proxy import SlowProxy
from test_lifecycle import Session
from test_sync_verify import write_config
from test_workloads import PYTHON

OPEN = """
import os, signal, sqlite3, sys, threading, time
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1].removesuffix(".so"))
def open_database(uri, **options):
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60, **options)
def attempt(db, sql):
    try:
        db.execute(sql)
        print("written")
    except sqlite3.OperationalError as error:
        print(error.sqlite_errorname)
"""


class Place:
    """A database that is replicated to a bucket through a proxy."""

    def __init__(self, build, minio, folder, name="app"):
        self.build, self.minio, self.folder = build, minio, folder
        self.database = folder / f"{name}.db"
        self.bucket = minio.bucket()
        self.proxy = SlowProxy(minio.port)
        self.env = minio.env(SQLSTREAM_LOG=folder / "log")
        self._restored = 0

    @property
    def url(self):
        return self.minio.url(self.bucket, "app")

    @property
    def far_url(self):
        return self.url.replace(f":{self.minio.port}", f":{self.proxy.port}")

    def uri(self, **parameters):
        return self.build.uri(self.database, self.far_url, **parameters)

    def start(self, script, *arguments):
        return subprocess.Popen(
            [PYTHON, "-c", OPEN + script, self.build.extension, *arguments],
            env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )

    def run(self, script, *arguments, killed=False):
        process = self.start(script, *arguments)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == (-9 if killed else 0), said
        return said

    def restored(self, url=None):
        """What the bucket alone gives, or another replica."""
        self._restored += 1
        output = self.folder / f"{self.database.stem}-{self._restored}.db"
        self.build.restore(output, url or self.url, env=self.env)
        with closing(sqlite3.connect(output)) as db:
            return db.execute("select count(*) from t").fetchone()[0]

    def segments(self):
        return [key for key in self.minio.keys(self.bucket) if "/wal/" in key]

    def log(self):
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    def close(self):
        self.proxy.stop()


@pytest.fixture
def place(build, minio, tmp_path):
    place = Place(build, minio, tmp_path)
    yield place
    place.close()


COMMIT_AND_DIE = """
db = open_database(sys.argv[2])
db.execute("create table if not exists t(x)")
if sys.argv[3] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
for i in range(int(sys.argv[3])):
    db.execute("insert into t values (randomblob(300))")
    n = db.execute("select count(*) from t").fetchone()[0]
    if i + 1 == int(sys.argv[3]):
        os.write(1, str(n).encode())
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("shipper", ["this process", "another process"])
def test_killed_right_after_the_commit_returned(place, shipper):
    """The first commit, too, which is made before there is a WAL."""
    uri = place.uri(sync="60000")
    place.run(COMMIT_AND_DIE, uri, "0", killed=True)
    assert place.restored() == 0
    other = Session(place.build, place.database, place.far_url, env=place.env)
    with other:
        if shipper == "another process":
            other.do("insert into t values (1)")
            assert other.shipped() == 1
        else:
            other.end()
        for round_ in range(50):
            said = place.run(COMMIT_AND_DIE, uri, str(round_ % 4 + 1), killed=True)
            assert place.restored() == int(said), f"round {round_}"
    assert "do not wait" not in place.log()


WAIT_FOR_COMMANDS = """
db = open_database(sys.argv[2], check_same_thread=False)
print("ready", flush=True)
for line in sys.stdin:
    db.execute(line).fetchall()
    print("done", flush=True)
"""


class Waiting:
    """A process that commits while the store does not answer."""

    def __init__(self, place, **parameters):
        self.place = place
        self.process = place.start(WAIT_FOR_COMMANDS, place.uri(sync="60000", **parameters))
        assert self.process.stdout.readline() == "ready\n"

    def do(self, sql):
        self.begin(sql)
        self.end()

    def begin(self, sql):
        self.process.stdin.write(sql + "\n")
        self.process.stdin.flush()

    def end(self):
        assert self.process.stdout.readline() == "done\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def rows(database):
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return db.execute("select count(*) from t").fetchone()[0]


def own_policies(process):
    """How the kernel schedules the threads that the program did not start itself."""
    threads = [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]
    return {os.sched_getscheduler(thread) for thread in threads if thread != process.pid}


def test_threads_of_ours_interrupt_programs_only_when_a_commit_waits_for_them(place):
    """Here, or in another process."""
    ordinary = {os.sched_getscheduler(0)}
    unfiltered = "\nSeccomp:\t0\n" in open("/proc/self/status").read()
    polite = {os.SCHED_BATCH} if unfiltered and ordinary == {os.SCHED_OTHER} else ordinary
    with Session(place.build, place.database, place.far_url, env=place.env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        assert own_policies(app.process) == polite
        with Waiting(place) as other:
            other.do("insert into t values (1)")
            assert own_policies(other.process) == ordinary
        assert own_policies(app.process) == ordinary


def test_readers_and_writers_go_on_and_see_the_commit_that_waits(place):
    with Waiting(place) as app:
        app.do("create table t(x)")
        place.proxy.held = True
        app.begin("insert into t values (1)")
        # Others see a commit before it is durable remotely.
        harness.wait_until(lambda: rows(place.database) == 1, "the commit to be visible")
        with Session(place.build, place.database, place.far_url, env=place.env) as other:
            assert other.do("select count(*) from t") == [[1]]
            for _ in range(20):
                other.do("insert into t values (2)")
            assert other.do("select count(*) from t") == [[21]]
            assert place.restored() == 0
            place.proxy.held = False
            app.end()
            assert place.restored() >= 1


def test_the_wal_is_reset_by_another_process_while_a_commit_waits(place):
    with Waiting(place) as app:
        app.do("create table t(x)")
        place.proxy.held = True
        app.begin("insert into t values (1)")
        harness.wait_until(lambda: rows(place.database) == 1, "the commit to be visible")
        with Session(place.build, place.database, place.far_url, env=place.env) as other:
            for i in range(5):
                # Not busy: who waits holds no read mark.
                assert other.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
                other.do(f"insert into t values ({i})")
            assert os.path.getsize(f"{place.database}-wal") > 0
            place.proxy.held = False
            app.end()
            assert place.restored() >= 1
            assert other.shipped() == 1
            generation = other.status()["generation"]
        assert place.restored() == 6
        assert {key.split("/")[2] for key in place.minio.keys(place.bucket)} == {generation}


def test_a_statement_that_reads_on_the_same_connection(place):
    said = place.run(
        """
db = open_database(sys.argv[2])
db.execute("create table t(x)")
db.execute("insert into t values (1), (2), (3)")
reading = db.execute("select x from t")
print(reading.fetchone()[0])
db.execute("insert into t values (4)")
os.write(1, b"committed")
os.kill(os.getpid(), signal.SIGKILL)
""",
        place.uri(sync="60000"), killed=True,
    )
    assert said.endswith("committed")
    assert place.restored() == 4


def test_a_commit_to_attached_databases_is_in_all_their_replicas(build, minio, tmp_path):
    first, second = (Place(build, minio, tmp_path, name) for name in ("first", "second"))
    try:
        for round_ in range(5):
            first.run(
                """
db = open_database(sys.argv[2])
db.execute("attach ? as second", (sys.argv[3],))
db.execute("create table if not exists main.t(x)")
db.execute("create table if not exists second.t(x)")
db.execute("begin")
db.execute("insert into main.t values (1)")
db.execute("insert into second.t values (1)")
db.execute("commit")
os.kill(os.getpid(), signal.SIGKILL)
""",
                first.uri(sync="60000"), second.uri(sync="60000"), killed=True,
            )
            assert (first.restored(), second.restored()) == (round_ + 1, round_ + 1)
    finally:
        first.close()
        second.close()


def test_exclusive_mode_after_the_first_read(place):
    place.run(
        """
db = open_database(sys.argv[2])
db.execute("create table t(x)")
db.execute("select * from t").fetchall()
db.execute("pragma locking_mode=exclusive")
db.execute("select * from t").fetchall()
for i in range(3):
    db.execute("insert into t values (1)")
os.kill(os.getpid(), signal.SIGKILL)
""",
        place.uri(sync="60000"), killed=True,
    )
    assert place.restored() == 3


@pytest.mark.parametrize("policy", ["degrade", "fail"])
@pytest.mark.parametrize("before", ["wal", "delete", "nothing", "nothing, attached"])
def test_exclusive_mode_before_the_first_read_cannot_be_waited_for(place, before, policy):
    """The status and the log say so; with sync-policy fail it is refused. Of an attached database the
    PRAGMA is not heard, but that a commit kept its locks is seen at the next one."""
    if not before.startswith("nothing"):
        with closing(sqlite3.connect(place.database)) as plain:
            plain.execute(f"pragma journal_mode={before}")
            plain.execute("create table t(x)")
    *commits, last = place.run(
        """
if "attached" in sys.argv[3]:
    db = open_database("file::memory:")
    db.execute("attach ? as app", (sys.argv[2],))
else:
    db = open_database(sys.argv[2])
try:
    db.execute("pragma locking_mode=exclusive")
except sqlite3.OperationalError as error:
    print(error)
    sys.exit()
name = db.execute("pragma database_list").fetchall()[-1][1]
for sql in "create table if not exists {}.t(x)", "insert into {}.t values (1)", "insert into {}.t values (2)":
    attempt(db, sql.format(name))
print(db.execute(f"pragma {name}.sqlstream_status").fetchone()[0])
""",
        place.uri(**{"sync": "60000", "sync-policy": policy}), before,
    ).splitlines()
    if policy == "fail" and "attached" not in before:
        assert not commits
        assert "sync-policy: fail forbids; set PRAGMA journal_mode=WAL and read once before" in last
        return
    assert commits == ["written"] * 3
    status = json.loads(last)
    assert status["state"] == "paused"
    assert "locking_mode=EXCLUSIVE" in status["error"]
    assert status["sync"]["state"] == "degraded"  # nothing is left that could refuse a write
    assert place.log().count("replication pauses: locking_mode=EXCLUSIVE") == 1
    assert "writes are refused" not in place.log()


def test_with_policy_fail_wal_mode_is_not_left_in_exclusive_mode(place):
    """No lock is taken any more then, at which a write could be refused."""
    said = place.run(
        """
db = open_database(sys.argv[2])
db.execute("create table t(x)")
assert db.execute("select count(*) from t").fetchone() == (0,)
db.execute("pragma locking_mode=exclusive")
db.execute("insert into t values (1)")
for mode in ("delete", "DEL", "t", "''"):  # SQLite takes the beginning of a name for it
    try:
        print(db.execute(f"pragma journal_mode={mode}").fetchone())
    except sqlite3.OperationalError as error:
        print(error)
assert db.execute("pragma journal_mode=wa").fetchone() == ("wal",)
db.execute("insert into t values (2)")
db.execute("pragma locking_mode=normal")
db.execute("select * from t").fetchall()
print(db.execute("pragma journal_mode=delete").fetchone()[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        place.uri(**{"sync": "60000", "sync-policy": "fail"}), killed=True,
    ).splitlines()
    assert all("sync-policy: fail forbids; stay in WAL mode" in line for line in said[:4])
    assert said[4:] == ["delete"]
    assert place.restored() == 2


@pytest.mark.parametrize("policy", ["degrade", "fail"])
def test_a_database_whose_file_was_replaced_is_not_waited_for(place, policy):
    """What is committed to the old file is in no replica, and not said to be."""
    *commits, status = place.run(
        """
db = open_database(sys.argv[2])
db.execute("create table t(x)")
db.execute("pragma wal_checkpoint(truncate)")
with sqlite3.connect(sys.argv[3] + "-next") as other:
    other.execute("create table t(x)")
os.replace(sys.argv[3] + "-next", sys.argv[3])
for i in range(3):
    attempt(db, "insert into t values (1)")
print(db.execute("pragma sqlstream_status").fetchone()[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        place.uri(**{"sync": "60000", "sync-policy": policy}), place.database, killed=True,
    ).splitlines()
    refused = policy == "fail"
    assert commits == ["written"] + ["SQLITE_IOERR_FSYNC" if refused else "written"] * 2
    status = json.loads(status)
    assert status["state"] == "paused" and "moved, deleted or replaced" in status["error"]
    assert status["sync"]["state"] == ("refusing writes" if refused else "degraded")
    assert place.log().count("moved, deleted or replaced while it was open, and what") == 1
    assert place.restored() == 0


def test_with_policy_fail_a_process_knows_what_another_waited_for_in_vain(place, tmp_path):
    """Programs that commit once and end: only the first commit is acknowledged."""
    (tmp_path / "away").write_text("a file in the folder's place")
    url = f"file://{tmp_path}/away"
    script = """
db = open_database(sys.argv[2])
try:
    db.execute("create table if not exists t(x)")
    db.execute("insert into t values (1)")
    print("written")
except sqlite3.OperationalError as error:
    print(error.sqlite_errorname)
"""
    options = {"sync": "200", "sync-policy": "fail", "replica": url}
    uri = place.build.uri(place.database, **options)
    said = [place.run(script, uri).splitlines()[-1] for _ in range(3)]
    assert said == ["SQLITE_IOERR_FSYNC"] * 3
    (tmp_path / "away").unlink()
    place.run("db = open_database(sys.argv[2]); db.execute('select sqlstream_wait(60000)')", uri)
    options["sync"] = "60000"
    assert place.run(script, place.build.uri(place.database, **options)) == "written\n"


def test_with_policy_fail_nothing_is_written_outside_wal_mode_either(place):
    """Leaving WAL mode is the application's right; the commit after it is not in the replica."""
    said = place.run(
        """
db = open_database(sys.argv[2])
db.execute("create table t(x)")
assert db.execute("select count(*) from t").fetchone() == (0,)
assert db.execute("pragma journal_mode=delete").fetchone() == ("delete",)
for i in range(3):
    try:
        db.execute("pragma journal_mode=delete")
        db.execute("insert into t values (1)")
        print("written")
    except sqlite3.OperationalError as error:
        print(error.sqlite_errorname)
print(db.execute("pragma integrity_check").fetchone()[0])
print(db.execute("pragma journal_mode=wal").fetchone()[0])
while True:
    try:
        db.execute("insert into t values (2)")
        break
    except sqlite3.OperationalError as error:
        assert error.sqlite_errorname == "SQLITE_IOERR_FSYNC"
print(db.execute("select count(*) from t").fetchone()[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        place.uri(**{"sync": "60000", "sync-policy": "fail"}), killed=True,
    ).splitlines()
    written = said.index("SQLITE_IOERR_FSYNC")
    assert written <= 1
    assert said[written:] == ["SQLITE_IOERR_FSYNC"] * (3 - written) + ["ok", "wal", str(written + 1)]
    assert place.restored() == written + 1


def test_many_threads_share_uploads(place):
    threads, each = 64, 4
    place.proxy.delay = 0.05
    place.run(
        """
def work():
    try:
        db = open_database(sys.argv[2])
        for i in range(int(sys.argv[4])):
            db.execute("insert into t values (randomblob(100))")
        finished.append(1)
    except Exception as error:
        print(error)
db = open_database(sys.argv[2])
db.execute("create table t(x)")
finished = []
threads = [threading.Thread(target=work) for _ in range(int(sys.argv[3]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
if len(finished) != len(threads): sys.exit("not all have finished")
os.kill(os.getpid(), signal.SIGKILL)
""",
        place.uri(sync="60000"), str(threads), str(each), killed=True,
    )
    assert place.restored() == threads * each
    assert len(place.segments()) <= threads * each / 4


def test_a_store_that_is_away_degrades_once_and_comes_back_by_itself(build, own_minio, tmp_path):
    place = Place(build, own_minio, tmp_path)
    config = write_config(tmp_path / "c.yml", place.database, place.far_url)

    def outside():
        return json.loads(
            harness.run([build.sqlstream, "status", "-config", config, "-json"], env=place.env).stdout
        )[0]

    try:
        with Session(build, place.database, place.far_url, env=place.env) as session:
            session.do("create table t(x)")
            assert session.do("pragma sqlstream_sync=60000") == [["60000"]]
            session.do("insert into t values (0)")
            assert session.status()["sync"] == {
                "limit_ms": 60000, "replicas": "all", "policy": "degrade", "state": "synchronous",
            }
            assert place.restored() == 1
            own_minio.stop()
            session.do("pragma sqlstream_sync=200")
            for i in range(30):
                session.do(f"insert into t values ({i})")
            assert session.status()["sync"]["state"] == "degraded"
            assert session.status()["sync"]["since"]
            assert outside()["state"] == "degraded"
            assert outside()["degraded_since"] == session.status()["sync"]["since"]
            own_minio.start()
            harness.wait_until(
                lambda: session.status()["sync"]["state"] == "synchronous", "the replica to catch up"
            )
            assert outside()["state"] == "replicating"
            session.do("pragma sqlstream_sync=60000")
            session.do("insert into t values (100)")
            assert place.restored() == 32
        said = re.findall(r"commits do not wait for it|commits wait for it again", place.log())
        assert said == ["commits do not wait for it", "commits wait for it again"]
    finally:
        place.close()


def test_with_policy_fail_writes_are_refused_until_the_replica_has_all(build, own_minio, tmp_path):
    place = Place(build, own_minio, tmp_path)
    script = """
db = open_database(sys.argv[2])
db.execute("create table t(x)")
db.execute("insert into t values (0)")
print("ready", flush=True)
sys.stdin.readline()
db.execute("pragma sqlstream_sync=200")
db.execute("insert into t values (1)")
for i in range(3):
    attempt(db, "insert into t values (2)")
print(db.execute("select count(*) from t").fetchone()[0], flush=True)
sys.stdin.readline()
db.execute("pragma sqlstream_sync=60000")
while True:
    try:
        db.execute("insert into t values (3)")
        break
    except sqlite3.OperationalError as error:
        assert error.sqlite_errorname == "SQLITE_IOERR_FSYNC"
print("written", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    try:
        process = place.start(script, place.uri(**{"sync": "60000", "sync-policy": "fail"}))
        assert process.stdout.readline() == "ready\n"
        own_minio.stop()
        process.stdin.write("\n")
        process.stdin.flush()
        for _ in range(3):
            assert process.stdout.readline() == "SQLITE_IOERR_FSYNC\n"
        assert process.stdout.readline() == "2\n"
        own_minio.start()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "written\n"
        process.wait()
        process.stdin.close()
        process.stdout.close()
        assert place.restored() == 3
        assert place.log().count("writes are refused") == 1
    finally:
        place.close()


REFUSED = {"sync": "300", "sync-policy": "fail"}


@pytest.mark.parametrize("away", ["main", "other"])
def test_of_attached_databases_none_is_written_where_one_is_refused(place, tmp_path, away):
    """SQLite makes a transaction visible in one after the other, and can take none of it back."""
    replicas = {name: tmp_path / f"{name}-replica" for name in ("main", "other")}
    files = {name: tmp_path / f"{name}.db" for name in replicas}
    said = place.run(
        """
db = open_database(sys.argv[2])
db.execute("attach ? as other", (sys.argv[3],))
for name in ("main", "other"):
    db.execute(f"create table {name}.t(x)")
os.rename(sys.argv[4], sys.argv[4] + ".away")
open(sys.argv[4], "x").close()
for i in range(3):
    db.execute("begin")
    db.execute("insert into main.t values (?)", (i,))
    db.execute("insert into other.t values (?)", (i,))
    attempt(db, "commit")
    if db.in_transaction:
        db.execute("rollback")
print([db.execute(f"select group_concat(x) from {name}.t").fetchone()[0] for name in ("main", "other")])
for name in ("main", "other"):  # each by itself is refused where its own replica is away
    # The first commit may have had no time left to wait for the other one.
    until = time.monotonic() + (60 if sys.argv[4] != sys.argv[5 if name == "main" else 6] else 0)
    while True:
        try:
            db.execute(f"insert into {name}.t values (9)")
            print("written")
            break
        except sqlite3.OperationalError as error:
            if time.monotonic() < until:
                continue
            print(error.sqlite_errorname)
            break
""",
        *(place.build.uri(files[name], f"file://{replicas[name]}", **REFUSED) for name in replicas), replicas[away],
        *replicas.values(),
    ).splitlines()  # fmt: skip
    assert said[:4] == ["written", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_FSYNC", "['0', '0']"]
    assert said[4:] == ["SQLITE_IOERR_FSYNC" if name == away else "written" for name in replicas]


@pytest.mark.parametrize("why", ["a reader", "a transaction", "another statement"])
def test_a_journal_mode_that_could_not_be_changed_lets_no_write_through(place, tmp_path, why):
    said = place.run(
        """
db = open_database(sys.argv[2])
db.execute("pragma busy_timeout=50")
db.execute("create table t(x)")
db.execute("insert into t values (0), (1)")
db.execute("pragma journal_mode=delete")
attempt(db, "insert into t values (2)")
reader = sqlite3.connect(sys.argv[3], isolation_level=None)
if sys.argv[4] == "a reader":
    reader.execute("begin")
    reader.execute("select * from t").fetchall()
if sys.argv[4] == "a transaction":
    db.execute("begin")
    db.execute("select * from t").fetchall()
if sys.argv[4] == "another statement":
    rows = db.execute("select * from t")
    rows.fetchone()
attempt(db, "pragma journal_mode=wal")
if sys.argv[4] == "a reader":
    reader.execute("commit")
if db.in_transaction:
    db.execute("rollback")
rows = None
for i in range(2):
    attempt(db, "insert into t values (3)")
attempt(db, " Pragma main.journal_mode ( wal )")
print(db.execute("select count(*) from t").fetchone()[0])
""",
        place.build.uri(place.database, f"file://{tmp_path}/replica", **REFUSED), place.database, why,
    ).splitlines()  # fmt: skip
    refused = "SQLITE_IOERR_FSYNC"
    assert said == [refused, "SQLITE_BUSY" if why == "a reader" else "SQLITE_ERROR", refused, refused, "written", "2"]


def test_exclusive_mode_that_an_attached_database_has_from_the_beginning_is_refused(place, tmp_path):
    """The PRAGMA came before it was attached: it has no wal-index, by which its commits would be seen."""
    files = [tmp_path / name for name in ("main.db", "other.db")]
    uris = [place.build.uri(file, f"file://{file}-replica", **{**REFUSED, "sync": "60000"}) for file in files]
    said = place.run(
        """
for uri in sys.argv[2:]:
    open_database(uri).execute("create table t(x)")
db = open_database(sys.argv[2])
db.execute("select * from t").fetchall()
db.execute("pragma locking_mode=exclusive")
db.execute("attach ? as other", (sys.argv[3],))
for name in ("other", "main"):
    attempt(db, f"insert into {name}.t values (1)")
""",
        *uris,
    )
    assert said == "SQLITE_IOERR_FSYNC\nwritten\n"
    assert place.log().count("writes are refused: locking_mode=EXCLUSIVE") == 1


def test_killed_after_a_commit_that_waited_for_all_replicas_or_for_any(place, tmp_path):
    folder = f"file://{tmp_path}/folder"

    def commit(replicas, count):
        settings = {"sync": "60s", "sync-replicas": replicas}
        config = write_config(tmp_path / "c.yml", place.database, place.far_url, folder, **settings)
        place.env["SQLSTREAM_CONFIG"] = str(config)
        return int(place.run(COMMIT_AND_DIE, place.build.uri(place.database), str(count), killed=True))

    place.proxy.delay = 0.05  # the folder is the first to have it
    for round_ in range(8):
        both = commit("all", round_ % 4 + 1)
        assert (place.restored(), place.restored(folder)) == (both, both), f"round {round_}"
    place.proxy.held = True
    for round_ in range(8):
        any_ = commit("any", round_ % 4 + 1)
        assert (place.restored(), place.restored(folder)) == (both, any_), f"round {round_}"
    assert "do not wait" not in place.log()


def test_any_replica_is_enough_where_that_is_said(place, tmp_path):
    """One replica cannot be written; the file tells which of them a commit must be in."""
    (tmp_path / "away").write_text("a file in the folder's place")
    urls = place.far_url, f"file://{tmp_path}/away"
    for replicas, state in (("any", "synchronous"), ("all", "degraded")):
        settings = {"sync": "2s", "sync-replicas": replicas}
        config = write_config(tmp_path / "c.yml", place.database, *urls, **settings)
        env = {**place.env, "SQLSTREAM_CONFIG": str(config)}
        with Session(place.build, place.database, "", env=env) as session:
            session.do("create table if not exists t(x)")
            session.do("insert into t values (1)")
            assert session.status()["sync"]["state"] == state
            assert session.status()["sync"]["replicas"] == replicas


@pytest.mark.parametrize("first_one", ["is open", "was closed"])
def test_connections_of_a_program_are_told_apart(place, tmp_path, first_one):
    """What one of them is content with is not what the next one asked for."""
    (tmp_path / "away").write_text("a file in the folder's place")
    settings = {"sync": "60s", "sync-replicas": "any"}
    config = write_config(tmp_path / "c.yml", place.database, place.far_url, f"file://{tmp_path}/away", **settings)
    place.env["SQLSTREAM_CONFIG"] = str(config)
    said = place.run(
        """
import json
content = open_database(sys.argv[2])
content.execute("create table t(x)")
if sys.argv[4] == "was closed":
    content.close()
strict = open_database(sys.argv[3])
for _ in range(3):
    attempt(strict, "insert into t values (1)")
content = open_database(sys.argv[2])
attempt(content, "insert into t values (1)")
for db in content, strict:
    print(json.loads(db.execute("select sqlstream_status()").fetchone()[0])["sync"]["state"])
os.unlink(sys.argv[5])
strict.execute("select sqlstream_wait(60000)")
attempt(strict, "insert into t values (1)")
os.kill(os.getpid(), signal.SIGKILL)
""",
        place.build.uri(place.database),
        place.build.uri(place.database, **{"sync": "500", "sync-replicas": "all", "sync-policy": "fail"}),
        first_one, tmp_path / "away", killed=True,
    )  # fmt: skip
    refused = ["SQLITE_IOERR_FSYNC"] * 2
    assert said.splitlines() == ["written", *refused, "written", "synchronous", "refusing writes", "written"]


def test_another_replica_beside_connections_that_are_open(place, tmp_path):
    """All go on to the one there is: who demands the other one is refused, who does not is told."""
    other = f"file://{tmp_path}/other"
    script = """
db = open_database(sys.argv[2])
db.execute("create table t(x)")
for uri in sys.argv[3:]:
    try:
        open_database(uri).execute("insert into t values (1)")
        print("written")
    except sqlite3.OperationalError as error:
        print(error.sqlite_errorname)
"""
    uris = [
        place.build.uri(place.database, other, **demand)
        for demand in ({"strict": "1"}, {"sync": "1", "sync-policy": "fail"}, {})
    ]
    said = place.run(script, place.uri(), *uris)
    assert said.splitlines() == ["SQLITE_CANTOPEN", "SQLITE_CANTOPEN", "written"]
    assert place.restored() == 1 and not (tmp_path / "other").exists()
    assert place.log().count("give all of its connections the same replicas") == 3


def test_a_note_that_is_ahead_of_a_damaged_outbox_counts_for_nothing(place):
    """Other commits get the sequences that were lost."""
    script = COMMIT_AND_DIE.replace("randomblob(300)", "1")
    uri = place.uri(sync="60000")
    assert place.run(script, uri, "60", killed=True) == "60"
    [log] = place.database.with_name(".app.db-sqlstream").glob("*.log")
    with log.open("r+b") as file:
        file.seek(log.stat().st_size // 2)
        file.write(bytes(8192))
    place.proxy.held = True
    said = place.run(
        """
db = open_database(sys.argv[2])
for _ in range(4):
    attempt(db, "insert into t values (2)")
os.kill(os.getpid(), signal.SIGKILL)
""",
        place.uri(**{"sync": "1000", "sync-policy": "fail"}), killed=True,
    )  # fmt: skip
    assert said.splitlines() == ["written"] + ["SQLITE_IOERR_FSYNC"] * 3


@pytest.mark.parametrize("policy, says", [("degrade", "written"), ("fail", "SQLITE_IOERR_FSYNC")])
def test_a_connection_that_was_opened_before_a_fork(place, policy, says):
    """Nobody ships what is committed over it in the child, and that is said."""
    said = place.run(
        """
import json
db = open_database(sys.argv[2])
db.execute("create table t(x)")
if os.fork() > 0:
    os._exit(0)  # as by daemon(3)
attempt(db, "insert into t values (1)")
status = json.loads(db.execute("select sqlstream_status()").fetchone()[0])
print(status["state"], "before a fork()" in status["error"])
sys.stdout.flush()
os._exit(0)
""",
        place.uri(**{"sync": "60000", "sync-policy": policy}),
    )  # fmt: skip
    assert said.splitlines() == [says, "paused True"]
    assert place.log().count("before a fork()") == 1
