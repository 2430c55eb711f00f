"""Who ships, where one of two processes has a fault: the other one does, and neither ends for it."""

import fcntl
import json
import os
import shutil
import sqlite3
import struct
import subprocess
import threading
import time
from contextlib import closing, contextmanager

import pytest

import harness
from slow_proxy import SlowProxy
from test_docs import assume
from test_endings import program  # noqa: F401
from test_lifecycle import Session
from test_local_faults import Place, whole
from test_machine_crash import F_OFD_SETLK
from test_stopped import CAPTURE, FLOCK
from test_sync_verify import write_config
from test_workloads import PYTHON


@pytest.fixture
def place(build, tmp_path):
    return Place(build, tmp_path)


def no_descriptors(place):
    """For whoever has place.env: the log files, which are named by their first batch, cannot be opened."""
    place.fail(*(f"EMFILE open {place.outbox}/{digit}" for digit in "0123456789abcdef"))


def begin_next_log_file(session, place):
    """Log files grow to 16 MiB: behind the batch of the first of these commits the next one begins."""
    before = set(place.outbox.glob("0*"))
    assert session.do("insert into t values (randomblob(17000000))") == []

    def begun():
        assert session.do("insert into t values (1)") == []
        return set(place.outbox.glob("0*")) - before

    harness.wait_until(begun, "the next log file")


def blind(app, other, place):
    """`app` ships, and cannot open what `other` has begun."""
    app.do("create table t(x)")
    assert app.shipped() == 1
    assert other.do("select count(*) from t") == [[0]]
    no_descriptors(place)
    begin_next_log_file(other, place)


def test_who_ships_closes_the_database_while_it_cannot_look(build, litestream, place):
    """It has nothing to do with it any more by what it knows, and is in nobody's way."""
    with place.session() as app, Session(build, place.database, place.url) as other:
        blind(app, other, place)
        harness.wait_until(lambda: place.lines("ERROR"), "the fault to be told")
        app.do("close")
        time.sleep(4)  # then it is let go
        place.fail()
        assert other.shipped(60000) == 1
        app.end()
        other.do("close")
        other.end()
    whole(build, litestream, place)


def test_who_ships_can_look_no_more(build, litestream, place):
    """It leaves the role to others, for as long as that is so."""
    with place.session() as app, Session(build, place.database, place.url) as other:
        blind(app, other, place)
        assert other.shipped(60000) == 1
        assert other.status()["shipping"] == "this process"
        assert len(place.lines("ERROR")) <= 3
        place.fail()
        for session in (app, other):
            assert session.do("insert into t values (4)") == []
            assert session.shipped(60000) == 1
        for session in (app, other):
            session.do("close")
            session.end()
    whole(build, litestream, place)


def test_who_takes_the_role_cannot_open_the_outbox(build, litestream, place):
    """It leaves the role to others."""
    with Session(build, place.database, place.url) as first:
        first.do("create table t(x)")
        assert first.shipped() == 1
        with place.session() as app:
            assert app.do("select count(*) from t") == [[0]]
            harness.wait_until(lambda: app.status()["shipping"] == "another process", "it to watch")
            no_descriptors(place)
            begin_next_log_file(first, place)
            first.kill()
            harness.wait_until(lambda: place.lines("ERROR"), "the fault to be told")
            with Session(build, place.database, place.url) as other:
                other.do("insert into t values (2)")
                assert other.shipped(60000) == 1
                other.do("close")
                other.end()
            place.fail()
            assert app.do("insert into t values (3)") == []
            assert app.shipped(60000) == 1
            app.do("close")
            app.end()
    whole(build, litestream, place)


@pytest.mark.parametrize("left", ["whole", "torn"])
def test_a_log_file_whose_writer_was_killed_before_it_counts(build, litestream, place, left):
    """Who captures next writes it again. Until then nobody reads it: not who has found out, in the outbox,
    where the replica ends, before anything was captured."""
    with place.session() as app:
        app.do("pragma wal_autocheckpoint = 0")
        app.do("create table t(x)")
        assert app.do("insert into t values (randomblob(17000000))") == []  # no more has room behind it
        assert app.shipped() == 1
        before = set(place.outbox.glob("0*"))
        place.fail(f"WAIT write {place.outbox}/control")
        assert app.do("insert into t values (randomblob(300000))") == []

        def written():
            return [file for file in set(place.outbox.glob("0*")) - before if file.stat().st_size > 300000]

        [begun] = harness.wait_until(written, "the next log file")
        app.kill()
    place.fail()
    if left == "torn":
        os.truncate(begun, 100000)
    with place.session() as app:

        def located():
            status = app.status()
            return status["shipping"] == "this process" and status["replicas"][0].get("sequence")

        harness.wait_until(located, "the replica's end")
        for number in range(2):
            assert app.do(f"insert into t values ({number})") == []
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    assert len(list(place.replica.glob("generations/*"))) == 1
    whole(build, litestream, place)


def wait_for_rows(build, place, url, rows):
    def restored():
        there = place.folder / "restored.db"
        for name in ("restored.db", "restored.db-wal", "restored.db-shm"):
            (place.folder / name).unlink(missing_ok=True)
        build.restore(there, url)
        with closing(sqlite3.connect(there)) as db:
            return db.execute("select count(*) from t").fetchone() == (rows,)

    harness.wait_until(restored, "the other to ship it", 30)


def test_who_takes_the_role_ships_what_a_killed_one_committed_last(build, place):
    """That waits in the WAL for the interval to pass; nobody commits any more."""
    url = f"file://{place.replica}"
    with Session(build, place.database, url) as first, Session(build, place.database, url) as second:
        first.do("create table t(x)")
        assert first.shipped() == 1
        assert second.do("select count(*) from t") == [[0]]
        for _ in range(2):
            assert first.do("insert into t values (1)") == []
        first.kill()
        wait_for_rows(build, place, url, 2)
        second.end()


COMMITS_AND_IS_GONE = """
import os, sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1].removesuffix(".so"))
db = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None)
db.execute("insert into t values (0)")
if sys.argv[3] == "closes":
    db.close()
os._exit(0)
"""


@pytest.mark.parametrize("end", ["closes", "is open", "is killed"])
def test_who_ships_finds_what_nobody_told_of(build, place, end):
    """Nothing else happens any more, and who committed it had no time."""
    url = f"file://{place.replica}"
    with Session(build, place.database, url) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        if end == "is killed":
            with Session(build, place.database, url) as other:
                for _ in range(2):  # the second is not captured before the interval has passed
                    assert other.do("insert into t values (1)") == []
                other.kill()
        else:
            uri = build.uri(place.database, url)
            for _ in range(2):
                harness.run([PYTHON, "-c", COMMITS_AND_IS_GONE, build.extension, uri, end])
                time.sleep(1.1)  # so that neither is told of with the other
        wait_for_rows(build, place, url, 2)
        assert app.status()["shipping"] == "this process"
        app.end()


def test_a_program_whose_end_takes_long_holds_nothing_back(build, place, program):  # noqa: F811
    """Its other exit handlers may run for as long as they like."""
    command = [program, build.extension, build.uri(place.database, place.url), "lingers"]
    with subprocess.Popen(
        [str(part) for part in command], env=harness.clean_environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as ending:  # fmt: skip
        assert ending.stdout.readline() == "at its end\n"
        build.shell(place.database, place.url, "create table other(x);")
        restored = place.folder / "restored.db"
        build.restore(restored, place.url)
        assert harness.run(["sqlite3", restored, ".tables"]).stdout.split() == ["other", "t"]
        assert ending.poll() is None
        ending.stdin.close()
        assert ending.wait(60) == 0


class Far:
    """A database whose store is so far away that others always commit while something is under way with it."""

    def __init__(self, build, minio, folder, **settings):
        self.build, self.folder = build, folder
        self.database = folder / "app.db"
        bucket = minio.bucket()
        self.proxy = SlowProxy(minio.port, delay=0.3)
        self.url = minio.url(bucket, "app")
        self.far_url = minio.url(
            bucket, "app", endpoint=f"http://127.0.0.1:{self.proxy.port}",
            **{"sync_interval": "50ms", **settings},
        )  # fmt: skip
        config = write_config(
            folder / "sqlstream.yml", self.database, self.far_url, **{"shutdown-timeout": "10m"}
        )
        self.log = folder / "log"
        self.env = minio.env(SQLSTREAM_CONFIG=config, SQLSTREAM_LOG=self.log)

    def session(self, **more):
        return Session(self.build, self.database, "", {**self.env, **more})

    @contextmanager
    def busy(self, session):
        """Commits of `session`, all the time."""
        over = threading.Event()

        def commit():
            while not over.is_set():
                assert session.do("insert into t values (1)") == []

        thread = threading.Thread(target=commit)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def check(self):
        restored = self.folder / "restored.db"
        self.build.restore(restored, self.url, env=self.env)
        with closing(sqlite3.connect(restored)) as there, closing(sqlite3.connect(self.database)) as here:
            count = "select count(*) from t"
            assert there.execute(count).fetchone() == here.execute(count).fetchone()


@pytest.fixture
def far(build, minio, tmp_path):
    place = Far(build, minio, tmp_path)
    yield place
    place.proxy.stop()


ENDS_WHEN_TOLD = """
import sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1].removesuffix(".so"))
db = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None)
db.execute("create table t(x)")
assert db.execute("select sqlstream_wait(30000)").fetchone() == (1,)
print("ships", flush=True)
sys.stdin.read()
db.execute("insert into t values (0)")
"""


def test_who_ends_does_not_wait_for_what_others_commit(far):
    uri = far.build.uri(far.database)
    with (
        subprocess.Popen(
            [PYTHON, "-c", ENDS_WHEN_TOLD, far.build.extension, uri], env=far.env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as first,
        far.session() as second,
    ):  # fmt: skip
        assert first.stdout.readline() == "ships\n"
        with far.busy(second):
            time.sleep(1)
            first.stdin.close()
            assert first.wait(60) == 0  # of ten minutes that it would have
        assert second.status()["shipping"] == "this process"
        assert second.shipped() == 1
        second.do("close")
        second.end()
    far.check()


def test_who_has_closed_it_leaves_the_shipping_also_while_something_is_under_way(far):
    with far.session() as first, far.session() as second:
        first.do("create table t(x)")
        assert first.shipped() == 1
        first.do("close")

        def ships():
            for _ in range(20):
                assert second.do("insert into t values (1)") == []
                time.sleep(0.01)
            return second.status()["shipping"] == "this process"

        harness.wait_until(ships, "the second's role")
        assert second.shipped() == 1
        first.end()
        second.do("close")
        second.end()
    far.check()


CLOSES_AND_ENDS_WHEN_TOLD = """
import sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1].removesuffix(".so"))
db = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None)
db.executescript("begin; create table t(x); insert into t values (randomblob(40000000)); commit;")
db.close()
print("closed", flush=True)
sys.stdin.read()
"""


def test_who_has_closed_it_goes_on_with_a_first_snapshot_when_others_commit(far):
    far.proxy.rate = 5_000_000
    uri = far.build.uri(far.database)
    with subprocess.Popen(
        [PYTHON, "-c", CLOSES_AND_ENDS_WHEN_TOLD, far.build.extension, uri], env=far.env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as first:  # fmt: skip
        assert first.stdout.readline() == "closed\n"
        far.build.shell(far.database, None, "insert into t values (1);", env=far.env)
        first.stdin.close()
        assert first.wait(120) == 0
    far.check()


SHORT_CONNECTIONS = """
import select, sqlite3, sys, time
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1].removesuffix(".so"))
while not select.select([sys.stdin], [], [], 5)[0]:
    db = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None, timeout=60)
    db.execute("insert into t values (1)")
    db.close()
"""


@contextmanager
def short_connections(far, programs):
    """Each opens the database every five seconds: for longer, nobody holds a role for one that is unused."""
    running = []
    try:
        for _ in range(programs):
            running.append(subprocess.Popen(
                [PYTHON, "-c", SHORT_CONNECTIONS, far.build.extension, far.build.uri(far.database)],
                env=far.env, stdin=subprocess.PIPE,
            ))  # fmt: skip
            time.sleep(5 / programs)
        yield
        for program in running:
            program.stdin.close()
        for program in running:
            assert program.wait(120) == 0
    finally:
        for program in running:
            program.kill()
            program.wait()


def snapshots(far):
    return far.log.read_text().count('msg="snapshot written"') if far.log.exists() else 0


LARGE = "create table t(x); insert into t values (randomblob(40000000));"


def test_a_first_snapshot_ends_where_all_have_the_database_open_for_short(far):
    """Also while others commit, who don't have it open at its end either."""
    far.proxy.rate = 5_000_000
    harness.run(["sqlite3", far.database, f"pragma journal_mode = wal; {LARGE}"])
    with short_connections(far, 3):
        harness.wait_until(lambda: snapshots(far) == 1, "the snapshot", limit=60)
    far.check()


def test_a_later_snapshot_ends_where_the_database_is_open_for_short(build, minio, tmp_path):
    far = Far(build, minio, tmp_path, snapshot_interval="1s")
    try:
        far.build.shell(far.database, None, LARGE, env=far.env)
        assert snapshots(far) >= 1
        far.proxy.rate = 5_000_000
        had = snapshots(far)
        with short_connections(far, 1):
            harness.wait_until(lambda: snapshots(far) > had, "a later snapshot", limit=60)
        far.check()
    finally:
        far.proxy.stop()


REOPENS = """
import sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1].removesuffix(".so"))
for _ in range(int(sys.argv[4])):
    db = sqlite3.connect(sys.argv[2] + "&sync=" + sys.argv[3], uri=True, isolation_level=None)
    db.execute("insert into t values (1)")
    db.close()
"""


def test_what_was_waited_for_in_vain_is_not_waited_for_by_each_connection_anew(far, tmp_path):
    """Where another process ships, nothing of a database is left in this one between two of them."""
    log = tmp_path / "log-of-reopens"
    with far.session() as app:
        app.do("create table t(x)")
        assert app.shipped(60000) == 1
        far.proxy.held = True
        harness.run(
            [PYTHON, "-c", REOPENS, far.build.extension, far.build.uri(far.database), "1s", 4],
            env={**far.env, "SQLSTREAM_LOG": log},
        )  # fmt: skip
        assert log.read_text().count("is not in the replica after") == 1, log.read_text()
        far.proxy.held = False
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    far.check()


def test_connections_wait_again_when_the_replica_has_what_was_waited_for(build, minio, tmp_path):
    """Also where there is always something newer that it does not have yet."""
    far = Far(build, minio, tmp_path, sync_interval="1h")
    command = [PYTHON, "-c", REOPENS, build.extension, build.uri(far.database)]
    try:
        with far.session() as app:
            app.do("create table t(x)")
            assert app.shipped(60000) == 1
            far.proxy.held = True
            harness.run([*command, "1s", 1], env=far.env)
            far.proxy.held = False

            def waited():
                assert app.shipped(60000) == 1
                app.do("insert into t values (2)")  # for an hour, but that somebody else waits
                harness.run([*command, "30s", 1], env=far.env)
                return app.status()["replicas"][0]["in_sync"]

            harness.wait_until(waited, "a commit that waits", limit=20)
            app.do("close")
            app.end()
        far.check()
    finally:
        far.proxy.stop()


def test_who_takes_the_role_while_somebody_captures_waits_to_look(build, place):
    """What the one before him captured and shipped last is in the outbox, and not known to him."""
    url = f"file://{place.replica}"
    with Session(build, place.database, url) as first, Session(build, place.database, url) as second:
        first.do("create table t(x)")
        assert first.shipped() == 1
        assert second.do("select count(*) from t") == [[0]]
        assert first.do("insert into t values (1)") == []
        assert first.shipped() == 1
        with open(place.outbox / "lock", "r+b") as lock:
            wanted = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, CAPTURE, 1, 0)
            fcntl.fcntl(lock, F_OFD_SETLK, wanted)
            first.kill()
            time.sleep(1)  # less than what it waits for the lock before it gives a generation up
        assert second.do("insert into t values (2)") == []
        assert second.shipped(60000) == 1
        assert len(list(place.replica.glob("generations/*"))) == 1
        second.do("close")
        second.end()


@pytest.mark.parametrize("keys", ["wrong", "that may only read"])
def test_who_has_the_wrong_keys_gives_way_to_others(far, minio, keys):
    """It had the role first; to an outage, which is everybody's, it would give way much later. What was
    committed once is enough."""
    far.build.shell(far.database, None, "create table t(x);", env=far.env)
    env = {"AWS_SECRET_ACCESS_KEY": "wrong"}
    if keys == "that may only read":
        statement = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
        granted = assume(minio, json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
        env = {
            "AWS_ACCESS_KEY_ID": granted["AccessKeyId"], "AWS_SESSION_TOKEN": granted["SessionToken"],
            "AWS_SECRET_ACCESS_KEY": granted["SecretAccessKey"],
        }  # fmt: skip
    with far.session(**env) as wrong, far.session() as right:
        assert wrong.do("insert into t values (1)") == []
        harness.wait_until(lambda: wrong.status()["replicas"][0].get("error"), "the refusal")
        assert wrong.status()["shipping"] == "this process"

        assert right.do("insert into t values (2)") == []
        harness.wait_until(lambda: right.status()["shipping"] == "this process", "the other's role", limit=60)
        assert right.shipped(60000) == 1
        for session in (wrong, right):
            session.do("close")
            session.end()
    far.check()


def test_who_has_a_deleted_outbox_tells_nothing_to_those_of_the_next(far):
    """Its upload is answered when all of it was deleted and created anew: what it notes then is of other commits."""
    with far.session() as old:
        old.do("create table t(x)")
        for number in range(5):
            assert old.do(f"insert into t values ({number})") == []
            assert old.shipped() == 1
        assert old.do("insert into t values (5)") == []
        time.sleep(0.1)  # it is on its way
        shutil.rmtree(far.database.with_name(".app.db-sqlstream"))
        for suffix in ("", "-wal", "-shm"):
            far.database.with_name("app.db" + suffix).unlink()
        with far.session() as new:
            assert new.do("create table t(x)") == []
            assert new.shipped(60000) == 1
            time.sleep(1)
            inside = new.status()["replicas"][0]
            said = harness.run([far.build.sqlstream, "status", "-json"], env=far.env).stdout
            [outside] = json.loads(said)
            assert outside["sequence"] == inside["sequence"] < 5
            assert outside["generation"] == inside["generation"]
            assert new.do("insert into t values (1)") == []
            assert new.shipped(60000) == 1
            far.check()
            new.do("close")
            new.end()


def test_commits_do_not_pass_for_shipped_by_the_notes_of_another_outbox(far):
    """Who has the deleted one still open reads what is noted in the next one, and its sequences are other commits'."""
    far.proxy.delay = 0
    with far.session() as shipper, far.session() as writer:
        shipper.do("create table t(x)")
        assert shipper.shipped() == 1
        assert shipper.status()["shipping"] == "this process"
        writer.do("pragma sqlstream_sync=1000")
        assert writer.do("insert into t values (1)") == []
        assert writer.status()["sync"]["state"] == "synchronous"
        shutil.rmtree(far.database.with_name(".app.db-sqlstream"))
        with far.session() as other:
            for _ in range(30):
                assert other.do("insert into t values (1)") == []
                assert other.shipped() == 1
            other.do("close")
            other.end()
        shipper.kill()
        assert writer.do("insert into t values (1)") == []
        status = writer.status()
        assert status["sync"]["state"] == "degraded" and not status["replicas"][0]["in_sync"]
        assert "was deleted while it was in use" in status["error"]


TWO_DATABASES = """
import sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
dbs = [sqlite3.connect(uri, uri=True, isolation_level=None) for uri in sys.argv[2:]]
for db in dbs:
    db.execute("create table t(x)")
assert dbs[1].execute("select sqlstream_wait(60000)").fetchone() == (1,)
dbs[1].execute("insert into t values (1)")
"""


def test_a_store_that_hangs_takes_no_time_of_other_databases_at_the_end(far, tmp_path):
    """All are shipped at the same time."""
    far.proxy.held = True
    url = f"file://{tmp_path}/near?sync-interval=1h"
    uris = [far.build.uri(far.database, far.far_url), far.build.uri(tmp_path / "near.db", url)]
    env = {name: value for name, value in far.env.items() if name != "SQLSTREAM_CONFIG"}
    program = [PYTHON, "-c", TWO_DATABASES, far.build.extension.with_suffix("")]
    harness.run([*program, *uris], env=env, timeout=60)
    far.build.restore(tmp_path / "restored.db", f"file://{tmp_path}/near")
    with closing(sqlite3.connect(tmp_path / "restored.db")) as db:
        assert db.execute("select count(*) from t").fetchone() == (1,)


CHOOSES_ANOTHER_REPLICA = """
import sqlite3, sys, time
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
for number, uri in enumerate(sys.argv[2:]):
    db = sqlite3.connect(uri, uri=True, isolation_level=None)
    db.execute("create table if not exists t(x)")
    db.execute("insert into t values (?)", (number,))
    db.close()
    time.sleep(0.1 * (number == 0))  # it is on its way
"""


def test_a_program_that_ends_soon_after_it_chose_another_replica_ships_all(far):
    """An upload to the one before is still on its way, by what has the role of shipping then."""
    second = f"file://{far.folder}/second"
    uris = [far.build.uri(far.database, url) for url in (far.far_url, second)]
    env = {name: value for name, value in far.env.items() if name != "SQLSTREAM_CONFIG"}
    program = [PYTHON, "-c", CHOOSES_ANOTHER_REPLICA, far.build.extension.with_suffix("")]
    harness.run([*program, *uris], env=env, timeout=60)
    far.build.restore(far.folder / "restored.db", second)
    source = harness.checkpointed_copy(far.database, far.folder / "source.db")
    harness.compare_databases(source, far.folder / "restored.db")


def test_who_can_make_no_client_leaves_the_shipping_to_others(far, tmp_path):
    """Its settings will be the same in a second; it says so once, and captures for those that can."""
    logs = [tmp_path / "log0", tmp_path / "log1"]
    proxy = "https://127.0.0.1:1"  # which sqlstream does not know how to use
    far.build.shell(far.database, None, "create table t(x);", env=far.env)
    with (
        far.session(http_proxy=proxy, SQLSTREAM_LOG=logs[0]) as app,
        far.session(http_proxy=proxy, SQLSTREAM_LOG=logs[1]) as another,
    ):
        assert app.do("insert into t values (1)") == []
        assert another.do("insert into t values (1)") == []
        for log in logs:
            harness.wait_until(lambda log=log: "level=ERROR" in log.read_text(), "the fault to be told")
        far.build.shell(far.database, None, "insert into t values (0);", env=far.env)
        far.check()
        (far.folder / "restored.db").unlink()
        with far.session() as other:
            assert other.do("insert into t values (2)") == []
            assert app.do("insert into t values (3)") == []
            for session in (other, app, another):
                assert session.shipped(60000) == 1
            assert other.status()["shipping"] == "this process"
            other.do("close")
            other.end()
        for session in (app, another):
            session.do("close")
            session.end()
    for log in logs:
        lines = [line for line in log.read_text().splitlines() if "level=ERROR" in line]
        assert len(lines) == 1 and "http_proxy" in lines[0], lines
    far.check()
