"""What happens to an application over time: databases in every state, stores that go away and come
back, processes that end and others that take over."""

import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import threading
import time
from contextlib import ExitStack, closing

import pytest

import faults
import harness
from test_workloads import PYTHON, WORKLOADS, check_restores, run_workload


class Session:
    """An application that does what it is told, one SQL statement a line."""

    def __init__(self, build, database, url, env=None):
        self.process = subprocess.Popen(
            [PYTHON, WORKLOADS, build.extension, database, url, "commands"],
            env=env or harness.clean_environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        assert self.process.stdout.readline() == "ready\n"

    def do(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"ended at {line}"
        return json.loads(answer)

    def status(self):
        return json.loads(self.do("pragma sqlstream_status")[0][0])

    def shipped(self, limit=30000):
        return self.do(f"select sqlstream_wait({limit})")[0][0]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()


def generations(replica):
    return sorted(path.name for path in replica.glob("generations/*"))


def shell(build, database, url, sql, env=None):
    return build.shell(database, url, sql, env=env)


@pytest.fixture
def place(tmp_path):
    """database, replica folder, replica URL"""
    replica = tmp_path / "replica"
    return tmp_path / "app.db", replica, f"file://{replica}"


# --- Databases in every state


def test_a_database_in_delete_mode_is_switched_and_replicated(build, litestream, place, tmp_path):
    database, replica, url = place
    with closing(sqlite3.connect(database)) as db:
        db.execute("create table t(x)")
        db.executemany("insert into t values (?)", [(i,) for i in range(5000)])
        db.commit()
    shell(build, database, url, "insert into t values (-1);")
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("pragma journal_mode").fetchone()[0] == "wal"
    check_restores(build, litestream, database, url, replica, tmp_path)


def leave_a_wal(database):
    """500 rows that are in the WAL only."""
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('pragma journal_mode = wal')\n"
        "db.execute('pragma wal_autocheckpoint = 0')\n"
        "db.execute('create table t(x)')\n"
        "for i in range(500): db.execute('insert into t values (?)', (i,))\n"
        "os._exit(0)\n"
    )
    harness.run([PYTHON, "-c", script, database])


def test_content_that_is_only_in_the_wal_is_replicated(build, litestream, place, tmp_path):
    database, replica, url = place
    leave_a_wal(database)
    assert (tmp_path / "app.db-wal").stat().st_size > 0
    assert shell(build, database, url, "select count(*) from t;").stdout.strip() == "500"
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_nothing_is_checkpointed_but_by_the_application(build, litestream, place, tmp_path):
    """Neither what was in the WAL at the beginning nor what came later, and not for a snapshot: no
    call writes to the database file."""
    database, replica, url = place
    leave_a_wal(database)
    before = database.read_bytes()
    log = tmp_path / "calls"
    env = faults.Faults(build.faults, tmp_path, tmp_path).env(log=log)
    with Session(build, database, url, env) as app:
        app.do("pragma wal_autocheckpoint = 0")
        assert app.shipped() == 1
        assert len(list(replica.glob("generations/*/snapshots/*.lz4"))) == 1
        for i in range(20):
            app.do("insert into t values (randomblob(3000))")
            if i % 5 == 4:
                assert app.shipped() == 1
        app.end()
    calls = [tuple(line.split()[1:]) for line in log.read_text().splitlines()]
    assert ("write", f"{database}-wal") in calls
    assert {call for call, path in calls if path == str(database)} == {"lock"}
    assert database.read_bytes() == before
    copy = harness.checkpointed_copy(database, tmp_path / "expected.db")
    check_restores(build, litestream, copy, url, replica, tmp_path)


def test_an_empty_database_keeps_its_page_size_and_encoding(build, litestream, place, tmp_path):
    database, replica, url = place
    sql = "pragma page_size = 8192; pragma encoding = 'UTF-16le'; create table t(x); insert into t values ('é');"
    shell(build, database, url, sql)
    assert harness.page_size_of(database.read_bytes()[:100]) == 8192
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_exclusive_mode_before_the_wal_pauses_and_says_so(build, litestream, place, tmp_path):
    database, replica, url = place
    run_workload(build, database, url, "exclusive_before_wal")
    assert len(generations(replica)) == 2, "what was written unseen begins a new generation"
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_exclusive_mode_over_a_left_wal_is_noticed(build, litestream, place, tmp_path):
    database, replica, url = place
    run_workload(build, database, url, "exclusive_over_a_left_wal")
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_wal_mode_that_another_process_sets_again_ends_the_pause(build, litestream, place, tmp_path):
    database, replica, url = place
    shell(build, database, url, "create table t(x); insert into t values (1);")
    shell(build, database, url, "pragma journal_mode = delete; insert into t values (2);")
    said = shell(build, database, url, "insert into t values (3); pragma sqlstream_status;").stdout
    assert json.loads(said)["state"] == "paused"
    said = shell(build, database, url,
                 "pragma journal_mode = wal; insert into t values (4); pragma sqlstream_status;").stdout
    assert json.loads(said.splitlines()[-1])["state"] == "replicating"
    check_restores(build, litestream, database, url, replica, tmp_path)


@pytest.mark.parametrize("same", [True, False], ids=["same process", "another process"])
@pytest.mark.parametrize("wal", [True, False], ids=["in WAL mode", "as created"])
def test_a_database_created_anew_after_another_left_wal_mode_is_replicated(
    build, litestream, place, tmp_path, same, wal
):
    database, replica, url = place
    with Session(build, database, url) as app:
        app.do("create table t(x)")
        assert app.do("select * from t") == []
        assert app.shipped() == 1
        assert app.do("pragma journal_mode = delete") == [["delete"]]
        app.do("insert into t values (1)")
        app.do("open")
        assert app.status()["state"] == "paused"
        app.do("close")
        app.do("close")
        if not same:
            app.end()
        database.unlink()
        # The file system may give it the same inode number.
        with app if same else Session(build, database, url) as app:
            if same:
                app.do("open")
            if wal:
                app.do("pragma journal_mode = wal")
            app.do("create table t(x)")
            app.do("insert into t values (2)")
            assert app.shipped() == 1
            status = app.status()
            assert status["state"] == "replicating" and "error" not in status
            listed = harness.run([build.sqlstream, "status", "-json", database],
                                 env=harness.clean_environment(SQLSTREAM_REPLICA_URL=url)).stdout
            assert json.loads(listed)[0]["state"] == "replicating"
            app.do("close")
            app.end()
    assert len(generations(replica)) == 2
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_a_restart_continues_the_generation(build, litestream, place, tmp_path):
    database, replica, url = place
    shell(build, database, url, "create table t(x);")
    for i in range(10):
        shell(build, database, url, f"insert into t values ({i});")
    assert len(generations(replica)) == 1
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_writes_without_the_shim_begin_a_new_generation(build, litestream, place, tmp_path):
    database, replica, url = place
    shell(build, database, url, "create table t(x); insert into t values (1);")
    harness.run(["sqlite3", database, "update t set x = 2;"])
    shell(build, database, url, "select * from t;")
    assert len(generations(replica)) == 2
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_a_restored_copy_put_in_place_begins_a_new_generation(build, litestream, place, tmp_path):
    database, replica, url = place
    shell(build, database, url, "create table t(x); insert into t values (1);")
    backup = tmp_path / "backup.db"
    shutil.copy2(database, backup)
    shell(build, database, url, "insert into t values (2);")
    os.replace(backup, database)
    shell(build, database, url, "insert into t values (3);")
    assert len(generations(replica)) == 2
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_the_applications_standard_output_is_its_own(build, tmp_path):
    (tmp_path / "file").touch()
    config = tmp_path / "litestream.yml"
    config.write_text(
        f"""
logging: {{level: debug, stderr: false}}
unknown: key
dbs:
  - path: {tmp_path}/app.db
    replicas:
      - path: {tmp_path}/replica
      - {{name: broken, path: {tmp_path}/file/replica}}
"""
    )
    env = harness.clean_environment(SQLSTREAM_CONFIG=config, SQLSTREAM_LOG_LEVEL="debug")
    sql = "create table t(a);\nselect 'mine';\nselect sqlstream_wait(100) is not null;\nselect 'mine too';"
    script = f".load {build.extension.with_suffix('')}\n.open file:{tmp_path}/app.db?vfs=sqlstream\n{sql}\n"
    for log, what in (("stderr", "msg="), ("", "")):
        (tmp_path / "app.db").unlink(missing_ok=True)
        said = harness.run(["sqlite3", "-batch", ":memory:"], env={**env, "SQLSTREAM_LOG": log}, input=script)
        assert said.stdout == "mine\n1\nmine too\n", said
        assert what in said.stderr and bool(said.stderr) == bool(what), said


def test_two_databases_with_one_replica_are_refused(build, place, tmp_path):
    database, replica, url = place
    with Session(build, database, url) as first:
        first.do("create table t(x)")
        assert first.shipped() == 1
        first.do(f"attach 'file:{tmp_path}/other.db?vfs=sqlstream&replica={url}' as other")
        first.do("create table other.o(x)")
        assert first.shipped(10000) == 0  # what is in the other one will never be in a replica
        first.do("detach other")
        assert first.shipped() == 1
        first.end()
    assert len(generations(replica)) == 1
    assert (tmp_path / "other.db").exists()


# --- Processes


def test_two_processes_closing_last(build, litestream, place, tmp_path):
    database, replica, url = place
    with Session(build, database, url) as one, Session(build, database, url) as two:
        one.do("create table t(x)")
        for i in range(50):
            (one, two)[i % 2].do(f"insert into t values ({i})")
        one.do("close")
        two.do("insert into t values (1000)")
        two.do("close")
        one.end()
        two.end()
    shell(build, database, url, "insert into t values (1001);")
    assert len(generations(replica)) == 1
    check_restores(build, litestream, database, url, replica, tmp_path)


OPEN_ONLY = """
import sqlite3, sys
extension, uri = sys.argv[1:]
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension.removesuffix(".so"))
db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0)
print("ready", flush=True)
for line in sys.stdin:
    print(db.execute(line).fetchone()[0], flush=True)
"""


class Unread:
    """An application that has the database open, and has read nothing yet."""

    def __init__(self, build, database, url="", env=None):
        self.process = subprocess.Popen(
            [PYTHON, "-c", OPEN_ONLY, build.extension, build.uri(database, url)],
            env=env or harness.clean_environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@pytest.mark.parametrize("holder", ["has closed it", "has read nothing"])
def test_who_cannot_make_a_snapshot_leaves_the_shipping_to_who_can(build, litestream, place, tmp_path, holder):
    """The process with the role has no wal-index, and a new generation begins in another one."""
    database, replica, url = place
    shell(build, database, url, "create table t(x);")
    kind = Session if holder == "has closed it" else Unread
    with kind(build, database, url) as first, Session(build, database, url) as second:
        second.do("insert into t values (-1)")
        harness.wait_until(lambda: second.status()["shipping"] == "another process", "the first's role")
        if holder == "has closed it":
            first.do("close")
        os.utime(database)  # as after a copy over it

        def ships():
            second.do("insert into t values (0)")
            return second.status()["shipping"] == "this process"

        harness.wait_until(ships, "its role, while it commits all the time")
        assert second.shipped(20000) == 1
        assert len(generations(replica)) == 2
        assert second.status()["shipping"] == "this process"
        second.do("close")
        second.end()
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_who_has_closed_it_leaves_the_shipping_to_who_writes_all_the_time(build, litestream, place, tmp_path):
    database, replica, url = place
    with Session(build, database, url) as first, Session(build, database, url) as second:
        first.do("create table t(x)")
        assert first.shipped() == 1
        assert second.do("select count(*) from t") == [[0]]
        assert first.status()["shipping"] == "this process"
        first.do("close")

        def ships():
            second.do("insert into t values (0)")
            return second.status()["shipping"] == "this process"

        harness.wait_until(ships, "the second's role")
        assert second.shipped(20000) == 1
        assert len(generations(replica)) == 1
        first.end()
        second.do("close")
        second.end()
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_who_cannot_make_a_snapshot_leaves_the_shipping_when_nobody_commits(build, litestream, place, tmp_path):
    """A new generation begins while the store is away, which comes back when nobody tells of commits
    any more; of those that wait for the role another one has read nothing either."""
    database, replica, url = place
    shell(build, database, url, "create table t(x);")
    with (
        Unread(build, database, url),
        Session(build, database, url) as second,
        Unread(build, database, url),
    ):
        second.do("insert into t values (-1)")
        harness.wait_until(lambda: second.status()["shipping"] == "another process", "the first's role")
        assert second.shipped(20000) == 1
        away = replica.rename(tmp_path / "away")
        replica.touch()
        os.utime(database)  # as after a copy over it
        second.do("insert into t values (1)")
        second.do("insert into t values (2)")
        time.sleep(12)
        replica.unlink()
        away.rename(replica)

        def snapshots():
            return len(list(replica.glob("generations/*/snapshots/*.lz4"))) == 2

        harness.wait_until(snapshots, "the new generation's snapshot", 60)
        assert second.status()["shipping"] == "this process"
        assert second.shipped(20000) == 1
        second.do("close")
        second.end()
    check_restores(build, litestream, database, url, replica, tmp_path)


@pytest.mark.parametrize("where", ["file", "s3"])
@pytest.mark.parametrize("forked", [False, True])
def test_another_process_takes_over_when_the_shipping_one_is_killed(
    build, litestream, minio, place, tmp_path, forked, where
):
    database, replica, url = place
    env = None
    if where == "s3":
        bucket = minio.bucket()
        url, env = minio.url(bucket, "app"), minio.env()
        replica = minio.litestream_replica(bucket, "app")
    child = None
    with Session(build, database, url, env) as first, Session(build, database, url, env) as second:
        first.do("create table t(x)")
        assert first.shipped() == 1
        assert first.status()["shipping"] == "this process"
        second.do("insert into t values (1)")
        assert second.shipped() == 1
        assert second.status()["shipping"] == "another process"
        generation = second.status()["generation"]
        if forked:
            child = first.do("fork")[0]
        # A hundred commits: some of them are being shipped when it is killed.
        for i in range(100):
            first.do("insert into t values (randomblob(3000))")
        first.kill()
        if forked:
            os.kill(child, 0)
        harness.wait_until(lambda: second.status()["shipping"] == "this process", "taking over", 20)
        second.do("insert into t values (3)")
        assert second.shipped() == 1
        assert second.do("select count(*) from t") == [[102]]
        second.do("close")
        second.end()
    if child:
        os.kill(child, signal.SIGKILL)
    if where == "s3":
        found = {key.split("/")[2] for key in minio.keys(bucket, "app/generations/")}
    else:
        found = set(generations(replica))
    assert found == {generation}
    check_restores(build, litestream, database, url, replica, tmp_path, env=env)


def test_the_shipping_is_taken_over_within_a_second(build, place):
    """… from a process that is killed and leaves a child that only sleeps. The requirement is a time;
    as a busy machine may be slow at any of them, most of five takes must keep to it."""
    database, _, url = place
    takes = []
    with ExitStack() as stack:
        first = stack.enter_context(Session(build, database, url))
        first.do("create table t(x)")
        for _ in range(5):
            assert first.shipped() == 1
            assert first.status()["shipping"] == "this process"
            second = stack.enter_context(Session(build, database, url))
            second.do("insert into t values (1)")
            assert second.shipped() == 1
            assert second.status()["shipping"] == "another process"
            child = first.do("fork")[0]
            stack.callback(os.kill, child, signal.SIGKILL)
            began = time.monotonic()
            first.kill()
            harness.wait_until(lambda: second.status()["shipping"] == "this process", "taking over", 20)
            takes.append(time.monotonic() - began)
            os.kill(child, 0)
            first = second
    assert statistics.median(takes) < 1, takes


def end_generation(database, app):
    """By what nobody can account for: a program without the shim resets the WAL and commits."""
    harness.run(["sqlite3", database, "insert into t values (0); pragma wal_checkpoint(restart); "
                                      "insert into t values (0);"])
    app.do("insert into t values (0)")


def test_waiting_goes_on_over_the_end_of_a_generation_elsewhere(build, litestream, place, tmp_path):
    """… that another process ended, and goes on with: who waits has nothing to capture itself."""
    database, replica, url = place
    away = tmp_path / "away"
    with Session(build, database, url) as shipping, Session(build, database, url) as waiting:
        shipping.do("create table t(x)")
        assert shipping.shipped() == 1
        waiting.do("insert into t values (1)")
        assert waiting.shipped() == 1
        assert waiting.status()["shipping"] == "another process"
        replica.rename(away)
        replica.write_text("in the way")
        waiting.do("insert into t values (2)")
        harness.wait_until(lambda: shipping.status()["replicas"][0].get("error"), "an error")
        before = waiting.status()["generation"]
        answer = []
        waiter = threading.Thread(target=lambda: answer.append(waiting.shipped(60000)))
        waiter.start()
        time.sleep(0.3)
        end_generation(database, shipping)
        assert shipping.status()["generation"] != before
        replica.unlink()
        away.rename(replica)
        waiter.join()
        assert answer == [1]
        for app in (waiting, shipping):
            app.do("close")
            app.end()
    assert len(generations(replica)) == 2
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_waiting_without_having_read_ends_when_it_is_shipped(build, litestream, place, tmp_path):
    """After quick ends of generations the next one waits; only the other process can begin it."""
    database, replica, url = place
    with Session(build, database, url) as shipping:
        shipping.do("create table t(x)")
        assert shipping.shipped() == 1
        for _ in range(10):
            end_generation(database, shipping)
            if shipping.status()["state"] == "waiting":
                break
        assert shipping.status()["state"] == "waiting"
        assert shell(build, database, url, "select sqlstream_wait(100000);").stdout == "1\n"
        assert shipping.status()["replicas"][0]["in_sync"]
        shipping.do("close")
        shipping.end()
    check_restores(build, litestream, database, url, replica, tmp_path)


# --- Stores


def test_a_store_that_is_away_harms_nothing(build, litestream, own_minio, tmp_path):
    database = tmp_path / "app.db"
    bucket = own_minio.bucket()
    url, env = own_minio.url(bucket, "app"), own_minio.env()
    with Session(build, database, url, env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        generation = app.status()["generation"]
        own_minio.stop()
        for i in range(200):
            assert app.do(f"insert into t values ({i})") == []
        assert app.shipped(100) == 0
        harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "an error in the status")
        status = app.status()
        assert own_minio.endpoint.split("//")[1].split(":")[0] in status["replicas"][0]["error"]
        assert not status["replicas"][0]["in_sync"]
        assert status["state"] == "replicating"
        own_minio.start()
        assert app.shipped(60000) == 1
        status = app.status()
        assert "error" not in status["replicas"][0]
        assert status["generation"] == generation
        app.do("close")
        app.end()
    check_restores(build, litestream, database, url, own_minio.litestream_replica(bucket, "app"),
                   tmp_path, env=env)


ROWS = 1000
FILL = (f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {ROWS}) "
        "insert into t select i, randomblob(3500) from n")
UPDATE = "update t set x = randomblob(3500)"


def bounded_session(build, own_minio, tmp_path, size):
    """An application whose outbox may hold `size`, and what a restore of it needs."""
    bucket = own_minio.bucket()
    config = tmp_path / "sqlstream.yml"
    config.write_text(
        f"dbs:\n- path: {tmp_path}/app.db\n  outbox-max-size: {size}\n"
        f"  replicas:\n  - url: {own_minio.url(bucket, 'app')}\n    sync-interval: 100ms\n"
    )
    env = own_minio.env(SQLSTREAM_CONFIG=str(config))
    return Session(build, tmp_path / "app.db", "", env), bucket, env


def test_an_outbox_near_its_bound_is_folded(build, litestream, own_minio, tmp_path):
    app, bucket, env = bounded_session(build, own_minio, tmp_path, "64MB")
    with app:
        app.do("create table t(i integer primary key, x)")
        app.do(FILL)
        assert app.shipped() == 1
        generation = app.status()["generation"]
        own_minio.stop()
        for _ in range(40):  # 160 MB of pages
            app.do(UPDATE)
            harness.wait_until(lambda: app.status()["outbox_bytes"] < 48_000_000, "a folded outbox")
        own_minio.start()
        app.do("insert into t values (-1, 'last')")
        assert app.shipped(60000) == 1
        assert app.status()["generation"] == generation
        app.do("close")
        app.end()
    check_restores(build, litestream, tmp_path / "app.db", own_minio.url(bucket, "app"),
                   own_minio.litestream_replica(bucket, "app"), tmp_path, env=env)


def test_an_outbox_over_its_bound_ends_the_generation_and_recovers(
    build, litestream, own_minio, tmp_path
):
    app, bucket, env = bounded_session(build, own_minio, tmp_path, "32MB")
    with app:
        app.do("create table t(i integer primary key, x)")
        app.do(FILL)
        assert app.shipped() == 1
        generation = app.status()["generation"]
        own_minio.stop()
        for i in range(30):  # new pages: nothing to fold
            app.do(f"insert into t select i + {(i + 1) * ROWS}, randomblob(3500) from t "
                   f"where i <= {ROWS}")
        status = app.status()
        assert status["state"] == "waiting"
        assert "outbox-max-size" in status["error"]
        assert status["outbox_bytes"] < 64 << 20
        own_minio.start()

        def again():
            app.do("update t set x = 1 where i = 1")
            return app.shipped(1000) == 1

        harness.wait_until(again, "a new generation")
        assert app.status()["generation"] != generation
        app.do("close")
        app.end()
    check_restores(build, litestream, tmp_path / "app.db", own_minio.url(bucket, "app"),
                   own_minio.litestream_replica(bucket, "app"), tmp_path, env=env)


def test_a_one_shot_program_leaves_its_data_for_the_next(build, litestream, own_minio, tmp_path):
    database = tmp_path / "app.db"
    bucket = own_minio.bucket()
    url, env = own_minio.url(bucket, "app"), own_minio.env()
    shell(build, database, url, "create table t(x); insert into t values (1);", env)
    own_minio.stop()
    shell(build, database, url, "insert into t values (2);", env)
    own_minio.start()
    assert shell(build, database, url, "select count(*) from t;", env).stdout.strip() == "2"
    check_restores(build, litestream, database, url, own_minio.litestream_replica(bucket, "app"),
                   tmp_path, env=env)
    assert len({key.split("/")[2] for key in own_minio.keys(bucket, "app/generations/")}) == 1


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "secret"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "access key"),
    ],
)
def test_wrong_credentials_are_named_and_reach_no_sql(build, minio, tmp_path, wrong, says):
    database = tmp_path / "app.db"
    log = tmp_path / "log"
    url, env = minio.url(minio.bucket(), "app"), {**minio.env(SQLSTREAM_LOG=log), **wrong}
    with Session(build, database, url, env) as app:
        assert app.do("create table t(x)") == []
        error = harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "an error")
        assert says in error.lower(), error
        for i in range(20):
            assert app.do(f"insert into t values ({i})") == []
        time.sleep(1.5)
        lines = [line for line in log.read_text().splitlines() if "level=ERROR" in line]
        assert len(lines) == 1, "once per change of state"
        everything = log.read_text() + json.dumps(app.status())
        assert minio.env()["AWS_SECRET_ACCESS_KEY"] not in everything


def test_a_missing_bucket_is_named(build, minio, tmp_path):
    url, env = minio.url("no-such-bucket", "app"), minio.env()
    with Session(build, tmp_path / "app.db", url, env) as app:
        app.do("create table t(x)")
        error = harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "an error")
        assert "no-such-bucket" in error


def test_an_outbox_that_cannot_be_written_is_reported_and_harms_no_sql(build, place, tmp_path):
    database, replica, url = place
    (tmp_path / ".app.db-sqlstream").write_text("a file where the folder should be")
    with Session(build, database, url) as app:
        assert app.do("create table t(x)") == []
        assert app.do("insert into t values (1)") == []
        status = app.status()
        assert str(tmp_path / ".app.db-sqlstream") in status["error"]
        assert app.do("select count(*) from t") == [[1]]


def test_the_classic_accident_is_refused(build, place, tmp_path):
    """kill -9, the main file removed, its -wal left behind: a restore must not mix the two."""
    database, replica, url = place
    with Session(build, database, url) as app:
        app.do("create table t(x)")
        app.do("insert into t values (1)")
        assert app.shipped() == 1
        app.kill()
    database.unlink()
    wal = tmp_path / "app.db-wal"
    assert wal.exists()
    before = wal.read_bytes()
    refused = build.restore(database, url, check=False)
    assert refused.returncode == 1
    assert "app.db-wal" in refused.stderr and "move" in refused.stderr
    assert not database.exists() and wal.read_bytes() == before


def test_a_process_beside_the_one_that_ships_ends_when_it_is_done(build, place, tmp_path):
    """It has nothing to wait for, whenever its threads hear that its last connection was closed."""
    database, _, url = place
    config = tmp_path / "c.yml"
    config.write_text(f"dbs:\n- path: {database}\n  shutdown-timeout: 1h\n  replicas:\n  - url: {url}\n")
    env = harness.clean_environment(SQLSTREAM_CONFIG=config)
    with Session(build, database, "", env=env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        for number in range(60):
            build.shell(database, "", f"insert into t values ({number});", env=env, timeout=60)
        assert app.shipped() == 1
        app.end()


def test_who_waits_beside_the_one_that_ships_waits_for_no_interval(build, place):
    database, _, url = place
    url += "?sync-interval=1h"
    with Session(build, database, url) as ships, Session(build, database, url) as waits:
        ships.do("create table t(x)")
        assert ships.shipped() == 1
        for number in range(3):
            assert waits.do(f"insert into t values ({number})") == []
            assert waits.shipped() == 1
        assert ships.status()["shipping"] == "this process"


def test_programs_that_end_at_the_same_time_ship_all(build, litestream, place, tmp_path):
    """Whoever of them is the last to have something, somebody is still there to ship it."""
    database, replica, url = place
    shell(build, database, url, "create table t(x);")
    count = 0
    for i in range(60):
        programs = []
        for _ in range(2):
            programs.append(
                subprocess.Popen(["sqlite3", "-bail"], env=harness.clean_environment(),
                                 text=True, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            )  # fmt: skip
            programs[-1].stdin.write(
                f".load {build.extension.with_suffix('')}\n.open {build.uri(database, url)}\n"
                f".timeout 10000\ninsert into t values ({count});\n"
            )
            programs[-1].stdin.close()
            count += 1
            time.sleep(i % 7 * 0.005)
        for program in programs:
            assert program.wait(60) == 0
        restored = tmp_path / f"{i}.db"
        build.restore(restored, url)
        with closing(sqlite3.connect(restored)) as db:
            assert db.execute("select count(*) from t").fetchone() == (count,), i
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_programs_that_name_different_replicas_are_told(build, tmp_path):
    """Who has the role ships to its own."""
    database = tmp_path / "app.db"
    with Session(build, database, f"file://{tmp_path}/one") as first:
        first.do("create table t(x)")
        assert first.shipped() == 1
        with Session(build, database, f"file://{tmp_path}/two") as second:
            second.do("insert into t values (1)")

            def told():
                status = second.status()
                if status["shipping"] == "none":
                    return None  # it has not looked yet
                assert status["shipping"] == "another process"
                return status["replicas"][0].get("error")

            harness.wait_until(told, "the difference to be told")
            assert "the process that ships knows no such replica" in told()
            assert first.shipped() == 1
            assert "error" not in first.status()["replicas"][0]
            second.do("close")
            second.end()
        first.do("close")
        first.end()
    assert not (tmp_path / "two").exists()


def test_restored_while_it_is_written(build, tmp_path):
    """Listings of a folder that grows: a reader may miss a name, and find one that came later."""
    database, replica = tmp_path / "app.db", tmp_path / "replica"
    url = f"file://{replica}?sync-interval=1ms"
    ended = threading.Event()
    with Session(build, database, url) as app:
        app.do("pragma synchronous=off")
        app.do("create table t(x)")
        assert app.shipped() == 1

        def write():
            while not ended.is_set():
                app.do("insert into t values (randomblob(50))")
                time.sleep(0.001)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            begun, restored, last = time.monotonic(), 0, 0
            while time.monotonic() < begun + 8:
                output = tmp_path / f"{restored}.db"
                build.restore(output, url)
                with closing(sqlite3.connect(output)) as copy:
                    rows = copy.execute("select count(*) from t").fetchone()[0]
                    assert copy.execute("pragma integrity_check").fetchall() == [("ok",)]
                assert rows >= last, "later, and with less"
                restored, last = restored + 1, rows
        finally:
            ended.set()
            writer.join()
        print(restored, "restores of", len(list(replica.glob("generations/*/wal/*"))), "segments")
        assert restored > 3
        app.do("close")
        app.end()
