"""Many small segments become few: of a replica that is written for long, by processes that are
killed, whatever is restored is the same with what was folded and without."""

import random
import re
import shutil
import sqlite3
import time
from contextlib import closing

import pytest

import harness
from test_kill import check_counter, finish, run_and_kill, start_counter
from test_lifecycle import Session
from test_workloads import check_restores


def times_in(replica_listing):
    """The commit times that `sqlstream wal -json` lists."""
    return re.findall(r'"created":\s*"([^"]+)"', replica_listing)


def test_folded_on_s3_and_restored_by_both_tools(build, litestream, minio, tmp_path):
    database = tmp_path / "app.db"
    bucket = minio.bucket()
    env = minio.env()
    url = minio.url(bucket, "app", sync_interval="1ms")
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    with Session(build, database, url, env) as session:
        session.do("create table t(id integer primary key, data blob)")
        session.do("begin")
        for _ in range(300):
            session.do("insert into t(data) values(randomblob(2000))")
        session.do("commit")
        for n in range(700):
            row = chance.randrange(1, 300)
            session.do(f"update t set data = randomblob({chance.randrange(4000)}) where id = {row}")
            if n % 3:
                session.shipped()
        assert session.shipped() == 1

        def folded():
            return [key for key in minio.keys(bucket) if "/compacted/" in key]

        harness.wait_until(lambda: any("_2.wal.lz4" in key for key in folded()), "two levels")
        session.end()
    folded = folded()
    print(len(minio.keys(bucket)), folded)
    database = harness.checkpointed_copy(database, tmp_path / "copy.db")
    check_restores(build, litestream, database, url, minio.litestream_replica(bucket, "app"),
                   tmp_path, env)
    # What is folded is what a restore reads: one that is damaged is named, and done without.
    damaged = next(key for key in folded if "_2.wal.lz4" in key)
    minio.put(bucket, damaged, minio.get(bucket, damaged)[:-100])
    again = tmp_path / "again.db"
    result = build.restore(again, url, env=env)
    assert "restoring without compacted segments" in result.stdout + result.stderr
    assert damaged.split("/")[-1] in result.stdout + result.stderr
    harness.compare_databases(database, again)


def test_not_folded_where_that_is_not_wanted(build, tmp_path):
    replica = tmp_path / "replica"
    url = f"file://{replica}?sync-interval=1ms&compaction=false"
    with Session(build, tmp_path / "app.db", url) as session:
        session.do("create table t(id integer primary key)")
        for _ in range(80):
            session.do("insert into t values(null)")
            session.shipped()
        time.sleep(0.5)
        session.end()
    assert len(list(replica.glob("generations/*/wal/*.lz4"))) > 64
    assert not list(replica.glob("generations/*/compacted"))


def test_every_moment_after_kills(build, litestream, tmp_path):
    """Killed while it writes and folds; the next process goes on folding."""
    database = tmp_path / "app.db"
    replica = tmp_path / "replica"
    url = f"file://{replica}?sync-interval=1ms"
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(12):
        writer = start_counter(build, database, url, chance.randrange(1 << 30))
        run_and_kill(writer, 0.2 + chance.random() * 0.6)
    finish(build, database, url)
    folded = list(replica.glob("generations/*/compacted/*.lz4"))
    segments = len(list(replica.glob("generations/*/wal/*.lz4")))
    print(segments, "segments,", len(folded), "folded")
    assert folded
    check_restores(build, litestream, database, url, replica, tmp_path)

    plain = tmp_path / "plain"
    shutil.copytree(replica, plain, ignore=shutil.ignore_patterns("compacted"))
    listing = harness.run([build.sqlstream, "wal", "-json", f"file://{replica}"]).stdout
    times = times_in(listing)
    assert len(times) == segments
    seen = 0
    # These are whole seconds; the first one is before the first snapshot.
    for moment in chance.sample([time for time in times if time > min(times)], 25):
        images = []
        for source in (replica, plain):
            output = tmp_path / f"{source.name}.db"
            output.unlink(missing_ok=True)
            build.restore(output, f"file://{source}", "-timestamp", moment)
            images.append(output.read_bytes())
        assert images[0] == images[1], moment
        with closing(sqlite3.connect(f"file:{output}?immutable=1", uri=True)) as db:
            if not db.execute("select count(*) from sqlite_master").fetchone()[0]:
                continue
        seen += check_counter(output)
    assert seen > 0


@pytest.mark.parametrize("what", ["truncated", "missing"])
def test_what_is_gone_is_done_without(build, tmp_path, what):
    database = tmp_path / "app.db"
    replica = tmp_path / "replica"
    url = f"file://{replica}?sync-interval=1ms"
    with Session(build, database, url) as session:
        session.do("create table t(id integer primary key)")
        for _ in range(200):
            session.do("insert into t values(null)")
            session.shipped()
        folded = "generations/*/compacted/*.lz4"
        harness.wait_until(lambda: len(list(replica.glob(folded))) >= 5, "segments to be folded")
        session.end()
    folded = sorted(replica.glob(folded))
    if what == "truncated":
        folded[2].write_bytes(folded[2].read_bytes()[:600])
    else:
        folded[2].unlink()
    output = tmp_path / "out.db"
    build.restore(output, f"file://{replica}")
    harness.compare_databases(harness.checkpointed_copy(database, tmp_path / "copy.db"), output)
