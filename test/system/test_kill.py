"""kill -9 of the writer at random instants: the same generation goes on, and nothing is missing."""

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest

import harness
from test_lifecycle import Session
from test_workloads import PYTHON, WORKLOADS, check_restores


def start_counter(build, database, url, seed, env=None):
    return subprocess.Popen(
        [PYTHON, WORKLOADS, build.extension, database, url, "counter", str(seed)],
        env=env or harness.clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        text=True,
    )


def run_and_kill(process, seconds):
    """The last number the writer said was committed."""
    first = process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.wait()
    lines = (first + rest).split("\n")[:-1]  # the last line may be cut
    return int(lines[0]), int(lines[-1])


def check_counter(database):
    """The invariant that every commit of the workload leaves."""
    with closing(sqlite3.connect(f"file:{database}?immutable=1", uri=True)) as db:
        n, total = db.execute("select n, sum from total").fetchone()
        rows = db.execute("select n, data from c order by n").fetchall()
    assert [row[0] for row in rows] == list(range(1, n + 1))
    for number, data in rows:
        assert data == random.Random(number).randbytes(number % 700)
    assert total == sum(len(data) * number % 9973 for number, data in rows)
    return n


def finish(build, database, url, env=None):
    """A last ordinary run: ships what the killed ones left."""
    result = harness.run([PYTHON, WORKLOADS, build.extension, database, url, "fill_nothing"], env=env)
    said = json.loads(result.stdout)
    assert said["shipped"] == 1, said
    return said["status"]


@pytest.mark.parametrize("where", ["file", "s3"])
def test_killed_writers_lose_nothing(build, litestream, minio, tmp_path, where):
    seed = int(os.environ.get("SQLSTREAM_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    chance = random.Random(seed)
    database = tmp_path / "app.db"
    env = harness.clean_environment()
    if where == "s3":
        bucket = minio.bucket()
        url, env = minio.url(bucket, "app"), minio.env()
        replica = minio.litestream_replica(bucket, "app")
    else:
        replica = tmp_path / "replica"
        url = f"file://{replica}"
    acknowledged = 0
    for round_ in range(100):
        writer = start_counter(build, database, url, chance.randrange(1 << 30), env)
        began, said = run_and_kill(writer, chance.random() ** 2 * 0.3)
        # SQLite's own promise: a commit that returned survives the process.
        assert began >= acknowledged, f"round {round_}"
        acknowledged = said
    status = finish(build, database, url, env)
    assert check_counter(database) >= acknowledged
    check_restores(build, litestream, database, url, replica, tmp_path, env=env)
    listed = harness.run([build.sqlstream, "generations", url], env=env).stdout
    generations = set(re.findall(r"\b[0-9a-f]{16}\b", listed))
    assert generations == {status["generation"]}


def test_every_shipped_state_is_one_that_was_committed(build, tmp_path):
    """Restoring at each object's commit time gives a state between which and the next one commits
    happened, in order, none skipped backwards."""
    database = tmp_path / "app.db"
    replica = tmp_path / "replica"
    url = f"file://{replica}"
    for seed in range(4):
        writer = start_counter(build, database, url, seed)
        run_and_kill(writer, 2.5)
    finish(build, database, url)
    segments = sorted(replica.glob("generations/*/wal/*.lz4"))
    assert len(segments) >= 6
    reached = []
    for number, segment in enumerate(segments):
        stamp = segment.stat().st_mtime_ns
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stamp // 10**9))
        output = tmp_path / f"at{number}.db"
        build.restore(output, url, "-timestamp", f"{when}.{stamp % 10**9:09d}Z")
        reached.append(check_counter(output))
    assert reached == sorted(reached)
    assert len(set(reached)) == len(reached), "each segment holds at least one commit"
    assert reached[-1] == check_counter(database)


LARGE_MIB = 100
LARGE_OBJECTS = LARGE_MIB // 8  # of 8 MiB each, and one for the rest


def started_large(build, database, url, env):
    """A program that commits LARGE_MIB in one transaction; it ships them when it is told to go on."""
    script = (
        "import os, sqlite3, sys\n"
        "loader = sqlite3.connect(':memory:')\n"
        "loader.enable_load_extension(True)\n"
        "loader.load_extension(sys.argv[1])\n"
        "db = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None)\n"
        "db.execute('pragma cache_size = 100000').fetchall()\n"
        "db.execute('create table small(x)')\n"
        "db.execute('create table large(id integer primary key, x)')\n"
        "assert db.execute('select sqlstream_wait(30000)').fetchone() == (1,)\n"
        "db.execute('begin')\n"
        "for i in range(int(sys.argv[3])):\n"
        "    db.execute('insert into large values (?, ?)', (i, os.urandom(1 << 20)))\n"
        "db.execute('commit')\n"
        "print('committed', flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [PYTHON, "-c", script, build.extension, build.uri(database, url), str(LARGE_MIB)],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    assert process.stdout.readline() == "committed\n"
    return process


def test_killed_in_the_first_commit_of_a_wal(build, litestream, tmp_path):
    """One after the other, while another process keeps the wal-index as the first of them left it."""
    database, replica = tmp_path / "app.db", tmp_path / "replica"
    url = f"file://{replica}?sync-interval=1ms"

    def killed_writing(app):
        # More than its cache holds: the WAL gets its header, and frames, before the commit.
        app.do("pragma cache_size = 10")
        app.do("begin immediate")
        app.do("insert into t select zeroblob(4000) from json_each(json_array(1, 2, 3, 4, 5, 6, 7, 8))")
        app.do("insert into t select x from t t1, json_each(json_array(1, 2, 3, 4, 5, 6, 7, 8))")
        app.kill()

    with Session(build, database, url) as app:
        app.do("create table t(x)")
        app.do("insert into t values (1)")
        assert app.shipped() == 1
        generation = app.status()["generation"]
        assert app.do("pragma wal_checkpoint(restart)")[0][0] == 0
        wal = (tmp_path / "app.db-wal").read_bytes()[:32]
        killed_writing(app)
    with Session(build, database, url) as idle:
        assert idle.do("select count(*) from t") == [[1]]
        for _ in range(2):
            with Session(build, database, url) as app:
                now = (tmp_path / "app.db-wal").read_bytes()[:32]
                assert now != wal, "it was to be killed after the header"
                wal = now
                killed_writing(app)
        with Session(build, database, url) as app:
            app.do("insert into t values (2)")
            assert app.shipped() == 1
            assert app.status()["generation"] == generation
            app.do("close")
            app.end()
        idle.do("close")
        idle.end()
    assert [path.name for path in replica.glob("generations/*")] == [generation]
    check_restores(build, litestream, database, url, replica, tmp_path)


@pytest.mark.parametrize("where", ["file", "s3"])
def test_killed_while_it_ships_a_large_transaction(build, litestream, minio, tmp_path, where):
    """The replica ends in the middle of it: both readers give the commit before, and the next
    process completes it."""
    env = minio.env() if where == "s3" else harness.clean_environment()
    bucket = minio.bucket()
    # On a busy machine all of it can be there before this process looks again.
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        database = folder / "app.db"
        if where == "s3":
            url = minio.url(bucket, f"app-{attempt}")
            replica = minio.litestream_replica(bucket, f"app-{attempt}")

            def objects(prefix=f"app-{attempt}/generations/"):
                return [key for key in minio.keys(bucket, prefix) if "/wal/" in key]
        else:
            replica = folder / "replica"
            url = f"file://{replica}"

            def objects(replica=replica):
                return list(replica.glob("generations/*/wal/*.lz4"))

        process = started_large(build, database, url, env)
        try:
            harness.wait_until(lambda: len(objects()) >= 2, "the first objects of the transaction")
        finally:
            process.kill()
            process.communicate()
        there = len(objects())
        print(there, "objects when it was killed")
        if there < LARGE_OBJECTS:
            break
    else:
        raise AssertionError("all of it was shipped already, each time")

    for restore, name in ((build.restore, "ours"), (litestream.restore, "theirs")):
        output = folder / f"before-{name}.db"
        source, options = (url, {"env": env}) if name == "ours" else (replica, {})
        restore(output, source, **options)
        with closing(sqlite3.connect(output)) as db:
            assert db.execute("select count(*) from large").fetchone() == (0,)
        harness.integrity_check(output)

    status = finish(build, database, url, env)
    assert len(objects()) > there
    listed = harness.run([build.sqlstream, "generations", url], env=env).stdout
    assert set(re.findall(r"\b[0-9a-f]{16}\b", listed)) == {status["generation"]}
    check_restores(build, litestream, database, url, replica, folder, env=env)
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("select count(*) from large").fetchone() == (LARGE_MIB,)
