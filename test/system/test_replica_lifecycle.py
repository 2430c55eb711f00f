"""What becomes of a replica over time: later snapshots, and the deletion of what nobody needs any
more, while an application writes."""

import os
import random
import re
import shutil
import signal
import struct
import time

import pytest

import harness
from test_kill import check_counter, finish, run_and_kill, start_counter
from test_lifecycle import Session, generations
from test_workloads import check_restores


def config(tmp_path, replica, **options):
    text = f"dbs:\n- path: {tmp_path}/app.db\n  replicas:\n  - {replica}\n"
    for name, value in options.items():
        text += f"    {name.replace('_', '-')}: {value}\n"
    path = tmp_path / "sqlstream.yml"
    path.write_text(text)
    return path


def snapshots_of(replica):
    return sorted(int(path.name[:8], 16) for path in replica.glob("generations/*/snapshots/*.lz4"))


def indexes_of(replica):
    return sorted({int(path.name[:8], 16) for path in replica.glob("generations/*/wal/*.lz4")})


def files_of(replica):
    return sorted((path, path.stat().st_mtime_ns) for path in replica.rglob("*") if path.is_file())


def moment(ns):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"


def test_snapshots_while_writing_and_each_moment_of_the_retention(build, litestream, tmp_path):
    """Killed in between, several times: a snapshot that was begun is no harm."""
    replica = tmp_path / "replica"
    path = config(tmp_path, f"path: {replica}", sync_interval="50ms", snapshot_interval="300ms",
                  retention="3s", retention_check_interval="500ms")
    env = harness.clean_environment(SQLSTREAM_CONFIG=str(path))
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(6):
        writer = start_counter(build, tmp_path / "app.db", "", chance.randrange(1 << 30), env)
        run_and_kill(writer, 0.3 + chance.random() * 2)
    finish(build, tmp_path / "app.db", "", env)
    # Deletions take the snapshots first, and one of these processes may have ended in between.
    with Session(build, tmp_path / "app.db", "", env) as app:
        harness.wait_until(lambda: indexes_of(replica)[0] >= snapshots_of(replica)[0],
                           "the deletion of what has no snapshot any more")
        app.do("close")
        app.end()
    assert len(generations(replica)) == 1
    snapshots, indexes = snapshots_of(replica), indexes_of(replica)
    print(snapshots, indexes)
    assert len(snapshots) >= 3 and snapshots[-1] >= 5
    assert snapshots[0] > 0, "the first ones are past the retention"

    # Each moment from the oldest snapshot on: the states in order, each one a commit's.
    objects = sorted(replica.glob("generations/*/*/*.lz4"), key=lambda each: each.stat().st_mtime_ns)
    oldest = min(each.stat().st_mtime_ns for each in objects if each.match("*.snapshot.lz4"))
    reached = []
    stamps = [each.stat().st_mtime_ns for each in objects if each.stat().st_mtime_ns >= oldest]
    for number, stamp in enumerate(chance.sample(stamps, min(len(stamps), 25))):
        output = tmp_path / f"at{number}.db"
        build.restore(output, f"file://{replica}", "-timestamp", moment(stamp))
        reached.append((stamp, check_counter(output)))
    reached.sort()
    assert [n for _, n in reached] == sorted(n for _, n in reached)
    check_restores(build, litestream, tmp_path / "app.db", f"file://{replica}", replica, tmp_path)


def test_retention_in_s3_and_over_old_generations(build, litestream, minio, tmp_path):
    bucket = minio.bucket()
    url = minio.url(bucket, "app")
    path = config(tmp_path, f"url: {url}", sync_interval="50ms", snapshot_interval="1s",
                  retention="2s", retention_check_interval="1s")
    env = minio.env(SQLSTREAM_CONFIG=str(path))
    database = tmp_path / "app.db"
    with Session(build, database, "", env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        first = app.status()["generation"]
        app.do("close")
        app.end()
    harness.run(["sqlite3", database, "insert into t values ('unseen')"])

    def keys():
        return set(minio.keys(bucket, "app/generations/"))

    before = keys()
    assert all(first in key for key in before)
    with Session(build, database, "", env) as app:
        def only_the_new_one():
            app.do("insert into t values (randomblob(1000))")
            left = keys()
            old = [key for key in left if first in key]
            new = [key for key in left if re.search(r"/0000000[1-9]\.snapshot", key)]
            return not old and new

        harness.wait_until(only_the_new_one, "the old generation's deletion")
        assert app.shipped() == 1
        status = app.status()
        assert status["generation"] != first
        assert not status["replicas"][0].get("error")
        app.do("close")
        app.end()
    check_restores(build, litestream, database, url, minio.litestream_replica(bucket, "app"),
                   tmp_path, env=env)


def test_programs_that_all_end_soon_tidy_the_replica(build, litestream, tmp_path):
    """None of them is there when something is due, or ships enough for a fold."""
    database, replica = tmp_path / "app.db", tmp_path / "replica"
    runs = 45
    path = config(tmp_path, f"path: {replica}")
    env = harness.clean_environment(SQLSTREAM_CONFIG=str(path))
    build.shell(database, None, "create table t(x);", env=env)
    for _ in range(runs):
        build.shell(database, None, "insert into t values (1);", env=env)
    assert list(replica.glob("generations/*/compacted/*")), "none was folded"
    path = config(tmp_path, f"path: {replica}", snapshot_interval="1s", retention="2s",
                  retention_check_interval="1s")
    until = time.monotonic() + 8
    while time.monotonic() < until:
        build.shell(database, None, "insert into t values (1);", env=env)
    assert len(generations(replica)) == 1
    assert snapshots_of(replica)[0] > 0, "the first one is past the retention"
    assert indexes_of(replica)[0] > 0
    check_restores(build, litestream, database, f"file://{replica}", replica, tmp_path)


def test_without_a_retention_nothing_is_deleted(build, tmp_path):
    replica = tmp_path / "replica"
    path = config(tmp_path, f"path: {replica}", retention="0", retention_check_interval="100ms",
                  snapshot_interval="100ms")
    env = harness.clean_environment(SQLSTREAM_CONFIG=str(path))
    with Session(build, tmp_path / "app.db", "", env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        # As from a process that was killed.
        unfinished = next(replica.glob("generations/*/snapshots")) / ".tmp-1-1-1"
        unfinished.write_bytes(b"a part")
        os.utime(unfinished, (time.time() - 2 * 86400,) * 2)
        for _ in range(3):
            before = len(snapshots_of(replica))
            app.do("insert into t values (1)")
            assert app.shipped() == 1
            harness.wait_until(lambda: len(snapshots_of(replica)) > before, "another snapshot")
        harness.wait_until(lambda: not unfinished.exists(), "what was left of an upload is gone")
        app.do("close")
        app.end()
    there = snapshots_of(replica)
    assert len(there) > 2 and there == list(range(len(there)))
    assert indexes_of(replica)[0] == 0


def test_an_idle_database_keeps_its_only_snapshot(build, tmp_path):
    replica = tmp_path / "replica"
    path = config(tmp_path, f"path: {replica}", retention="100ms", retention_check_interval="100ms")
    env = harness.clean_environment(SQLSTREAM_CONFIG=str(path))
    with Session(build, tmp_path / "app.db", "", env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        app.do("insert into t values (0)")
        assert app.shipped() == 1
        # The segment is older than the retention: a snapshot follows, and the first one goes.
        harness.wait_until(lambda: snapshots_of(replica) == [1], "one snapshot")
        harness.wait_until(lambda: indexes_of(replica) == [], "no segment")
        before = files_of(replica)
        time.sleep(1)
        assert files_of(replica) == before, "nothing while idle"
        app.do("insert into t values (1)")
        assert app.shipped() == 1
        app.do("close")
        app.end()
    build.restore(tmp_path / "restored.db", f"file://{replica}")
    harness.compare_databases(harness.checkpointed_copy(tmp_path / "app.db", tmp_path / "copy.db"),
                              tmp_path / "restored.db")


def test_a_replica_deleted_while_shipping_is_whole_again_with_the_next_snapshot(build, tmp_path):
    replica = tmp_path / "replica"
    path = config(tmp_path, f"path: {replica}", sync_interval="50ms", snapshot_interval="500ms")
    env = harness.clean_environment(SQLSTREAM_CONFIG=str(path))
    with Session(build, tmp_path / "app.db", "", env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        shutil.rmtree(replica)

        def whole():
            app.do("insert into t values (randomblob(500))")
            assert app.shipped() == 1
            return snapshots_of(replica)

        harness.wait_until(whole, "a snapshot")
        app.do("close")
        app.end()
    build.restore(tmp_path / "restored.db", f"file://{replica}")
    harness.compare_databases(tmp_path / "app.db", tmp_path / "restored.db")


def test_a_generation_that_another_database_let_go_begins_anew(build, tmp_path):
    """Two hosts with one replica: while one rests, the other's retention deletes what it has there."""
    replica = tmp_path / "replica"
    homes = [tmp_path / name for name in ("one", "two")]
    for home, options in zip(homes, ({}, {"retention": "1s"})):
        home.mkdir()
        config(home, f"path: {replica}", retention_check_interval="1s", **options)
    one, two = (Session(build, home / "app.db", "",
                        harness.clean_environment(SQLSTREAM_CONFIG=str(home / "sqlstream.yml"),
                                                  LD_PRELOAD=build.faults, FAULTS_HOST=home.name))
                for home in homes)  # fmt: skip
    with one, two:
        one.do("create table t(x)")
        assert one.shipped() == 1
        first = one.status()["generation"]
        two.do("create table t(x)")
        assert two.shipped() == 1

        def let_go():
            two.do("insert into t values (randomblob(100))")
            assert two.shipped() == 1
            return first not in generations(replica) or not list((replica / "generations" / first).rglob("*.lz4"))

        harness.wait_until(let_go, "the deletion of what rests")
        one.do("insert into t values (1)")
        assert one.shipped() == 1
        second = one.status()["generation"]
        one.do("insert into t values (2)")
        assert one.shipped() == 1
        for app in (one, two):
            app.do("close")
            app.end()
    assert second != first
    build.restore(tmp_path / "restored.db", f"file://{replica}", "-generation", second)
    harness.compare_databases(homes[0] / "app.db", tmp_path / "restored.db")


def test_what_another_database_on_this_host_has_is_left_to_it(build, tmp_path):
    """Two programs with one replica, where one rests: what it has there is no predecessor of the other's."""
    replica, log = tmp_path / "replica", tmp_path / "log"
    homes = [tmp_path / name for name in ("quiet", "busy")]
    for home in homes:
        home.mkdir()
        config(home, f"path: {replica}", retention="1s", retention_check_interval="1s")
    with Session(build, homes[0] / "app.db", "",
                 harness.clean_environment(SQLSTREAM_CONFIG=str(homes[0] / "sqlstream.yml"))) as quiet:
        quiet.do("create table t(x)")
        assert quiet.shipped() == 1
        first = quiet.status()["generation"]
        time.sleep(1.5)  # past the retention
        env = harness.clean_environment(SQLSTREAM_CONFIG=str(homes[1] / "sqlstream.yml"), SQLSTREAM_LOG=log)
        with Session(build, homes[1] / "app.db", "", env) as busy:
            busy.do("create table t(x)")

            def tidied():
                busy.do("insert into t values (randomblob(100))")
                assert busy.shipped() == 1
                return log.read_text().count("retention enforced") >= 2

            harness.wait_until(tidied, "deletions of its own")
            busy.do("close")
            busy.end()
        said = log.read_text()
        assert f"from {homes[0] / 'app.db'}" in said and "replica of its own" in said, said
        quiet.do("close")
        quiet.end()
    build.restore(tmp_path / "restored.db", f"file://{replica}", "-generation", first)
    harness.compare_databases(homes[0] / "app.db", tmp_path / "restored.db")


def test_a_bucket_that_was_emptied_while_the_database_rested(build, litestream, minio, tmp_path):
    bucket = minio.bucket()
    url = minio.url(bucket, "app")
    path = config(tmp_path, f"url: {url}", retention_check_interval="1s")
    database = tmp_path / "app.db"
    env = minio.env(SQLSTREAM_CONFIG=str(path))
    with Session(build, database, "", env) as app:
        app.do("create table t(x)")
        app.do("insert into t values (0)")
        assert app.shipped() == 1
        for key in minio.keys(bucket):
            minio.s3.delete_object(Bucket=bucket, Key=key)
        time.sleep(1.2)
        app.do("insert into t values (1)")
        assert app.shipped() == 1
        assert "/snapshots/" in " ".join(minio.keys(bucket))
        app.do("close")
        app.end()
    check_restores(build, litestream, database, url, minio.litestream_replica(bucket, "app"),
                   tmp_path, env=env)


def test_a_clock_that_was_ahead_hides_no_emptied_replica(build, tmp_path):
    replica = tmp_path / "replica"
    path = config(tmp_path, f"path: {replica}", retention_check_interval="1s")
    clock = tmp_path / "clock"
    clock.write_bytes(struct.pack("<q", 7200 * 10**9))
    env = harness.clean_environment(SQLSTREAM_CONFIG=str(path), LD_PRELOAD=str(build.faults), FAULTS_CLOCK=str(clock))
    with Session(build, tmp_path / "app.db", "", env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        with clock.open("r+b") as file:  # the process has it mapped
            file.write(struct.pack("<q", 0))
        shutil.rmtree(replica / "generations")
        time.sleep(1.2)
        app.do("insert into t values (1)")
        assert app.shipped() == 1
        app.do("close")
        app.end()
    build.restore(tmp_path / "restored.db", f"file://{replica}")
    harness.compare_databases(tmp_path / "app.db", tmp_path / "restored.db")


def notes_of(tmp_path):
    return {path: path.read_bytes() for path in tmp_path.glob(".app.db-sqlstream/replica-*")}


def test_a_note_from_before_a_later_snapshot_is_not_believed(build, litestream, tmp_path):
    """The note of where the replica ends is not fsynced: a crash of the machine takes it back to
    what it was before the last snapshot, behind which nothing may be written any more."""
    replica = tmp_path / "replica"
    path = config(tmp_path, f"path: {replica}")
    env = harness.clean_environment(SQLSTREAM_CONFIG=str(path))
    with Session(build, tmp_path / "app.db", "", env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        app.do("insert into t values (0)")
        assert app.shipped() == 1
        app.kill()
    notes = notes_of(tmp_path)
    config(tmp_path, f"path: {replica}", snapshot_interval="100ms")
    with Session(build, tmp_path / "app.db", "", env) as app:
        app.do("select * from t")
        harness.wait_until(lambda: snapshots_of(replica) == [0, 1], "a later snapshot")
        app.kill()
    assert notes and notes != notes_of(tmp_path)
    for note, content in notes.items():
        note.write_bytes(content)
    config(tmp_path, f"path: {replica}")
    with Session(build, tmp_path / "app.db", "", env) as app:
        app.do("insert into t values (1)")
        assert app.shipped() == 1
        app.do("close")
        app.end()
    assert len(generations(replica)) == 1
    check_restores(build, litestream, tmp_path / "app.db", f"file://{replica}", replica, tmp_path)


@pytest.mark.parametrize("in_outbox", [True, False])
def test_a_replica_that_lost_its_last_segments_is_not_continued_behind_them(build, litestream, tmp_path, in_outbox):
    """As one that was brought back from an older copy of the folder. What the outbox has is sent again."""
    replica, database = tmp_path / "replica", tmp_path / "app.db"
    path = config(tmp_path, f"path: {replica}", sync_interval="1ms")
    env = harness.clean_environment(SQLSTREAM_CONFIG=str(path))
    with Session(build, database, "", env) as app:
        app.do("create table t(x)")
        # Log files grow to 16 MiB; all but the current one are deleted when they were shipped.
        for size in (100, 100 if in_outbox else 17_000_000, 100):
            app.do(f"insert into t values (randomblob({size}))")
            assert app.shipped() == 1
        generation = app.status()["generation"]
        app.do("close")
        app.end()
    for segment in sorted(replica.glob("generations/*/wal/*"))[-1 if in_outbox else 0 :]:
        segment.unlink()
    with Session(build, database, "", env) as app:
        for i in range(2):
            app.do("insert into t values (randomblob(100))")
            assert app.shipped() == 1
        assert (app.status()["generation"] == generation) == in_outbox
        app.do("close")
        app.end()
    check_restores(build, litestream, database, f"file://{replica}", replica, tmp_path)


def test_a_fold_keeps_the_place_where_the_index_is_to_end(build, litestream, minio, tmp_path):
    """The store stops answering while a later snapshot waits for the segments before it."""
    bucket = minio.bucket()
    url = minio.url(bucket, "app")
    path = config(tmp_path, f"url: {url}", sync_interval="50ms", snapshot_interval="2s")
    path.write_text(path.read_text() + "  outbox-max-size: 64MiB\n")
    env = minio.env(SQLSTREAM_CONFIG=str(path))
    database = tmp_path / "app.db"
    with Session(build, database, "", env) as app:
        app.do("create table t(x)")
        app.do("insert into t values (0)")
        assert app.shipped() == 1
        app.do("insert into t values (1)")
        assert app.shipped() == 1
        minio.process.signal(signal.SIGSTOP)
        try:
            for _ in range(8):
                app.do("insert into t values (randomblob(3000000))")
                app.status()
            time.sleep(3)
            for _ in range(12):
                app.do("insert into t values (randomblob(3000000))")
                app.status()
            time.sleep(1)
        finally:
            minio.process.signal(signal.SIGCONT)
        assert app.shipped() == 1
        app.do("close")
        app.end()
    check_restores(build, litestream, database, url, minio.litestream_replica(bucket, "app"),
                   tmp_path, env=env)


def test_a_deleted_database_is_shipped_to_its_end(build, tmp_path):
    """Its outbox is still there, and so is what a store that was away did not get."""
    replica, away = tmp_path / "replica", tmp_path / "away"
    database = tmp_path / "app.db"
    with Session(build, database, f"file://{replica}") as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        replica.rename(away)
        replica.write_text("in the way")
        app.do("insert into t values (1)")
        harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "an error")
        database.unlink()
        replica.unlink()
        away.rename(replica)
        harness.wait_until(lambda: indexes_of(replica), "the insert")
        app.end()
    build.restore(tmp_path / "restored.db", f"file://{replica}")
    assert harness.run(["sqlite3", tmp_path / "restored.db", "select * from t"]).stdout == "1\n"


def test_databases_deleted_and_created_anew_leave_one_outbox(build, tmp_path):
    """What was captured of one goes when it is shipped, by whomever has the next of that name open."""
    replica, away = tmp_path / "replica", tmp_path / "away"
    database, outbox = tmp_path / "app.db", tmp_path / ".app.db-sqlstream"
    url = f"file://{replica}"

    def one_more(app, i):
        app.do("create table t(x)")
        app.do(f"insert into t values ({i})")
        assert app.shipped() == 1
        harness.wait_until(lambda: len(list(outbox.glob("*.log"))) == 1, "the old one's files to go")
        return app.status()["generation"]

    def delete():
        for suffix in ("", "-wal", "-shm"):
            (tmp_path / f"app.db{suffix}").unlink(missing_ok=True)

    with Session(build, database, url) as app:
        one_more(app, 1)
        app.do("close")
        app.end()
    kept = {path.name for path in outbox.iterdir() if path.suffix != ".log"}
    delete()
    with Session(build, database, url) as app:
        generation = one_more(app, 2)
        replica.rename(away)
        replica.write_text("in the way")
        app.do("insert into t values (20)")
        harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "an error")
        app.kill()
    delete()
    replica.unlink()
    away.rename(replica)
    with Session(build, database, url) as app:
        assert one_more(app, 3) != generation
        app.do("close")
        app.end()
    assert {path.name for path in outbox.iterdir() if path.suffix != ".log"} == kept
    assert len(generations(replica)) == 3
    build.restore(tmp_path / "restored.db", url, "-generation", generation)
    said = harness.run(["sqlite3", tmp_path / "restored.db", "select * from t"]).stdout
    assert said == "2\n20\n"


def test_a_snapshot_gives_way_to_a_filling_outbox(build, tmp_path):
    """What a copy in the making holds back must not end the generation, nor stop replication."""
    replica = tmp_path / "replica"
    database = tmp_path / "app.db"
    path = config(tmp_path, f"path: {replica}", sync_interval="20ms")
    env = harness.clean_environment(SQLSTREAM_CONFIG=str(path))
    with Session(build, database, "", env) as app:
        app.do("create table t(x)")
        for _ in range(50):
            app.do("insert into t values (randomblob(4000000))")
        assert app.shipped() == 1
        app.do("close")
        app.end()
    config(tmp_path, f"path: {replica}", sync_interval="20ms", snapshot_interval="200ms")
    path.write_text(path.read_text() + "  outbox-max-size: 8MiB\n")
    with Session(build, database, "", env) as app:
        for _ in range(60):
            app.do("update t set x = randomblob(400000) where rowid = 1 + abs(random()) % 50")
        assert app.shipped(60000) == 1, app.status()
        app.do("close")
        app.end()
    build.restore(tmp_path / "restored.db", f"file://{replica}")
    harness.compare_databases(harness.checkpointed_copy(database, tmp_path / "copy.db"),
                              tmp_path / "restored.db")


def damage_metadata(content):
    return content[:40] + bytes([content[40] ^ 1]) + content[41:]


@pytest.mark.parametrize("which, kept", [
    ("wal", "the outbox without its note"),  # what the note knows is not read
    ("wal", "nothing"),
    ("snapshots", "the outbox"),
    ("snapshots", "the outbox without its note"),
    ("snapshots", "nothing"),
])
def test_damage_where_a_replica_ends_begins_a_new_generation(build, litestream, tmp_path, which, kept):
    """Found when it is looked for where to go on; what is committed then is shipped all the same."""
    database, replica, log = tmp_path / "app.db", tmp_path / "replica", tmp_path / "log"
    url, outbox = f"file://{replica}", tmp_path / ".app.db-sqlstream"
    with Session(build, database, url) as app:
        for statement in ("create table t(x)", "insert into t values (1)"):
            app.do(statement)
            assert app.shipped() == 1
        app.do("close")
        app.end()
    [generation] = generations(replica)
    if which == "snapshots":
        shutil.rmtree(replica / "generations" / generation / "wal")
    damaged = max((replica / "generations" / generation / which).iterdir())
    damaged.write_bytes(damage_metadata(damaged.read_bytes()))
    if kept == "nothing":
        shutil.rmtree(outbox)
    elif kept == "the outbox without its note":
        [note] = outbox.glob("replica-*")
        note.unlink()
    env = harness.clean_environment(SQLSTREAM_LOG=str(log))
    with Session(build, database, url, env) as app:
        app.do("insert into t values (2)")
        assert app.shipped() == 1
        app.do("close")
        app.end()
    said = log.read_text()
    assert f"the metadata of the object {url}/{damaged.relative_to(replica)} is damaged" in said, said
    assert "a restore of" in said and "reaches only what is before it" in said, said
    assert len(generations(replica)) == 2
    check_restores(build, litestream, database, url, replica, tmp_path)


@pytest.mark.parametrize("number", [0, 1, 15, 28, 29])
def test_damaged_metadata_is_in_the_way_of_nothing_before_it(build, minio, tmp_path, number):
    """What a restore advises works, and so does each moment before that."""
    bucket = minio.bucket()
    url, output = minio.url(bucket, "app", sync_interval="1ms", compaction="false"), tmp_path / "restored.db"
    with Session(build, tmp_path / "app.db", url, minio.env()) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        for i in range(30):
            app.do(f"insert into t values ({i})")
            assert app.shipped() == 1
        app.do("close")
        app.end()
    segments = [key for key in minio.keys(bucket, "app/") if "/wal/" in key]
    assert len(segments) == 30
    commits = [int(re.search(rb'"last":(\d+)', minio.get(bucket, key))[1]) for key in segments]
    minio.put(bucket, segments[number], damage_metadata(minio.get(bucket, segments[number])))

    def restore(*flags, check=True):
        output.unlink(missing_ok=True)
        return build.restore(output, url, *flags, env=minio.env(), check=check)

    def rows():
        return int(harness.run(["sqlite3", output, "select count(*) from t"]).stdout)

    refused = restore(check=False)
    assert refused.returncode == 1
    advice = re.search(r"-generation \w+ -timestamp \S+", refused.stderr)[0]
    warned = restore(*advice.split())
    assert rows() == number
    assert segments[number].removeprefix("app/") in warned.stderr
    for n in {0, number // 2, number - 1} & set(range(number)):
        restore("-timestamp", moment(commits[n]))
        assert rows() == n + 1
