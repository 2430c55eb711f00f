"""Disks that are full or broken, descriptors that run out, clocks that jump, files that are taken
away: the application sees what it would see without sqlstream, and replication recovers by itself."""

import os
import resource
import shutil
import sqlite3
import struct
import time
from contextlib import closing, contextmanager, nullcontext
from datetime import datetime, timedelta, timezone

import pytest

import faults
import harness
from test_lifecycle import Session, generations
from test_sync_verify import write_config
from test_workloads import PYTHON, check_restores

SQL = "insert into t values (randomblob(2000))"


class Place:
    """A database, its outbox and its replica, for programs whose calls are made to fail."""

    def __init__(self, build, folder):
        self.build, self.folder = build, folder
        self.under = folder / "under"
        self.under.mkdir()
        self.database = self.under / "app.db"
        self.outbox = self.under / ".app.db-sqlstream"
        self.replica = self.under / "replica"
        self.url = f"file://{self.replica}?sync-interval=10ms"
        self.errors = folder / "errors"
        self.errors.write_text("")
        self.clock = folder / "clock"
        self.clock.write_bytes(bytes(8))
        self.log = folder / "log"
        self.env = faults.Faults(build.faults, self.under, folder).env(
            errors=self.errors, clock=self.clock
        )

    def fail(self, *lines):
        """From now on; nothing: no more."""
        new = self.folder / "errors.new"
        new.write_text("".join(line + "\n" for line in lines))
        new.rename(self.errors)

    def set_clock(self, seconds):
        """In place: programs have the file mapped."""
        with open(self.clock, "r+b") as file:
            file.write(struct.pack("q", seconds * 10**9))

    def session(self):
        return Session(self.build, self.database, self.url, self.env)

    def lines(self, level):
        text = self.log.read_text() if self.log.exists() else ""
        return [line for line in text.splitlines() if f"level={level}" in line]


@pytest.fixture
def place(build, tmp_path):
    return Place(build, tmp_path)


@pytest.fixture
def plain(build, tmp_path):
    """For the same without sqlstream."""
    (tmp_path / "plain").mkdir()
    return Place(build, tmp_path / "plain")


def whole(build, litestream, place):
    check_restores(build, litestream, place.database, place.url, place.replica, place.folder)


OUTBOX_FAULTS = [
    "ENOSPC write", "EIO write", "EIO read", "EIO *", "EMFILE open", "EROFS *", "EDQUOT truncate",
]  # fmt: skip


@pytest.mark.parametrize("fault", OUTBOX_FAULTS)
@pytest.mark.parametrize("when", ["from the beginning", "while it runs"])
def test_a_fault_in_the_outbox_is_no_fault_of_the_application(build, litestream, place, fault, when):
    early = when == "from the beginning"
    if early:
        place.fail(f"{fault} {place.outbox}")
    with place.session() as app:
        assert app.do("create table t(x)") == []
        if not early:
            assert app.shipped() == 1
            place.fail(f"{fault} {place.outbox}")
        for i in range(30):
            assert app.do(SQL) == []
            if i % 5 == 4:
                assert app.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
        assert app.do("select count(*) from t") == [[30]]
        place.fail()
        assert app.do(SQL) == []
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    captures = [line for line in place.lines("ERROR") if "cannot capture" in line]
    assert len(captures) <= 1, "once: " + "\n".join(captures)
    assert len(place.lines("ERROR")) <= 3, "\n".join(place.lines("ERROR"))
    whole(build, litestream, place)


def test_damage_in_the_outbox_before_its_tail(build, litestream, place):
    """What is captured and not shipped yet is the only copy: it ends the generation."""
    with place.session() as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        before = app.status()["generation"]
        place.fail(f"EIO write {place.replica}")
        log = max(place.outbox.glob("*.log"))
        at = log.stat().st_size + 168 + 3 * 8  # in the first image of the next record
        for _ in range(3):
            assert app.do(SQL) == []
            assert app.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
        harness.wait_until(lambda: place.lines("ERROR"), "the store's fault to be told")
        with open(log, "r+b") as file:
            file.seek(at)
            file.write(b"damaged")
        place.fail()
        assert app.do(SQL) == []
        assert app.shipped(60000) == 1
        assert app.status()["generation"] != before
        app.do("close")
        app.end()
    assert any("generation ended" in line and "damaged" in line for line in place.lines("WARN"))
    whole(build, litestream, place)


def ends_generation(place, why):
    """Said at once, not only found out by the next capture."""
    return any(f"generation ended: {why}" in line for line in place.lines("WARN"))


def test_a_write_outside_wal_mode(build, litestream, place):
    with place.session() as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        assert app.do("pragma journal_mode=delete") == [["delete"]]
        assert app.do(SQL) == []
        assert ends_generation(place, "the database was written outside WAL mode")
        assert app.do("pragma journal_mode=wal") == [["wal"]]
        assert app.do(SQL) == [] and app.shipped(60000) == 1
        app.do("close")
        app.end()
    assert len(generations(place.replica)) == 2
    whole(build, litestream, place)


def test_a_wal_beside_a_database_that_was_emptied(build, litestream, place):
    """SQLite deletes it when it opens the database."""
    with place.session() as app:
        app.do("create table t(x)")
        assert app.do(SQL) == [] and app.shipped() == 1
        app.kill()
    os.truncate(place.database, 0)
    with place.session() as app:
        app.do("create table t(x)")
        assert ends_generation(place, "the WAL beside an empty database was deleted")
        assert app.do(SQL) == [] and app.shipped(60000) == 1
        app.do("close")
        app.end()
    assert len(generations(place.replica)) == 2
    whole(build, litestream, place)


def end_generation(place):
    """By what nobody can account for: the next one has a file of its own in the outbox."""
    harness.run(["sqlite3", place.database, f"{SQL}; pragma wal_checkpoint(restart); {SQL};"])


@pytest.mark.parametrize("fault", ["EIO read", "EMFILE open"])
def test_a_fault_in_the_outbox_of_who_ships_what_another_captured(build, litestream, place, fault):
    with place.session() as shipping, Session(build, place.database, place.url) as other:
        shipping.do("create table t(x)")
        assert shipping.shipped() == 1
        assert other.do(SQL) == [] and other.shipped() == 1
        assert shipping.status()["shipping"] == "this process"
        place.fail(f"{fault} {place.outbox}")
        end_generation(place)
        assert other.do(SQL) == []
        harness.wait_until(lambda: place.lines("ERROR"), "the fault to be told")
        assert shipping.do(SQL) == []
        place.fail()
        assert other.shipped(60000) == 1
        assert shipping.shipped(60000) == 1
        harness.wait_until(lambda: "error" not in shipping.status(), "the fault to be over")
        for app in (other, shipping):
            app.do("close")
            app.end()
    assert len(place.lines("ERROR")) <= 2, "\n".join(place.lines("ERROR"))
    whole(build, litestream, place)


def test_what_is_shipped_is_told_to_others_when_that_can_be_noted_again(build, place):
    with place.session() as shipping, Session(build, place.database, place.url) as other:
        shipping.do("create table t(x)")
        assert shipping.shipped() == 1
        assert other.do(SQL) == [] and other.shipped() == 1
        [note] = place.outbox.glob("replica-*")
        place.fail(f"EIO * {note}")
        assert other.do(SQL) == []
        assert shipping.shipped() == 1
        assert other.shipped(0) == 0
        place.fail()
        assert other.shipped(20000) == 1


@pytest.mark.parametrize("fault", ["EIO read", "EMFILE open"])
def test_a_fault_in_the_outbox_of_who_takes_the_shipping_over(build, litestream, place, fault):
    with Session(build, place.database, place.url) as first, place.session() as second:
        first.do("create table t(x)")
        assert first.shipped() == 1
        assert second.do(SQL) == [] and second.shipped() == 1
        assert second.status()["shipping"] == "another process"
        place.fail(f"{fault} {place.outbox}/0")
        end_generation(place)
        assert first.do(SQL) == []
        first.kill()
        harness.wait_until(lambda: place.lines("ERROR"), "the fault to be told")
        assert second.do(SQL) == []
        place.fail()
        assert second.shipped(60000) == 1
        harness.wait_until(lambda: "error" not in second.status(), "the fault to be over")
        second.do("close")
        second.end()
    assert len(place.lines("ERROR")) <= 2, "\n".join(place.lines("ERROR"))
    whole(build, litestream, place)


def test_an_outbox_where_no_pipe_can_be_made(build, litestream, place):
    """As on some network file systems; here something else is in its place."""
    (place.outbox / "wake").mkdir(parents=True)
    with place.session() as app:
        app.do("create table t(x)")
        for _ in range(3):
            assert app.do(SQL) == []
        harness.wait_until(lambda: app.status().get("error"), "the fault to be told")
        status = app.status()
        assert status["shipping"] == "none"
        assert "wake" in status["error"] and "outbox-dir" in status["error"]
        (place.outbox / "wake").rmdir()
        assert app.shipped(60000) == 1
        assert "error" not in app.status()
        app.do("close")
        app.end()
    assert len(place.lines("ERROR")) == 1, "\n".join(place.lines("ERROR"))
    whole(build, litestream, place)


DATABASE_FAULTS = [
    "ENOSPC write {database}", "EIO write {database}", "EIO sync {database}",
    "ENOSPC write {database}-wal", "EIO write {database}-wal", "EIO truncate {database}-wal",
    "EROFS write {database}", "EROFS truncate {database}", "EMFILE open {database}",
    "EIO read {database} {database}-",
]  # fmt: skip

SHM_FAULTS = [
    "EMFILE open {database}-shm", "EROFS open {database}-shm", "EIO write {database}-shm",
    "ENOSPC write {database}-shm", "ENOMEM map {database}-shm",
]  # fmt: skip

STATEMENTS = [
    SQL, "pragma wal_checkpoint(full)", SQL, "update t set x = zeroblob(300)",
    "pragma wal_checkpoint(truncate)", "pragma shrink_memory", SQL, "select count(*) from t",
]  # fmt: skip


def answers(place, url, fault, reopen=False):
    """What an application is told while the fault lasts, and afterwards. `reopen`: it has nothing open
    when the fault begins."""
    with closing(sqlite3.connect(place.database)) as db:
        db.execute("pragma journal_mode = wal")
    said = []
    with Session(place.build, place.database, url, place.env) as app:
        said.append(app.do("create table t(x)"))
        said += [app.do(SQL) for _ in range(3)]
        if url != "-":
            assert app.shipped() == 1
        if reopen:
            app.do("close")
        place.fail(fault.format(database=place.database))
        said += [app.do("open") for _ in range(3)] if reopen else [app.do(each) for each in STATEMENTS]
        place.fail()
        if reopen:
            said.append(app.do("open"))
        said.append(app.do(SQL))
        said.append(app.do("select count(*) from t"))
        said.append(app.do("pragma wal_checkpoint(truncate)"))
        if url != "-":
            assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    return said


@pytest.mark.parametrize("fault", DATABASE_FAULTS)
def test_a_fault_in_the_database_is_told_as_without_sqlstream(build, litestream, place, plain, fault):
    told = answers(plain, "-", fault)
    # SQLite has all its files open by then; only sqlstream opens one.
    assert any("error" in answer for answer in told) == (not fault.startswith("EMFILE"))
    assert answers(place, place.url, fault) == told
    whole(build, litestream, place)


@pytest.mark.parametrize("fault", SHM_FAULTS)
def test_a_fault_in_the_shared_memory_is_told_as_without_sqlstream(build, litestream, place, plain, fault):
    told = answers(plain, "-", fault, reopen=True)
    assert any("error" in answer for answer in told)
    assert answers(place, place.url, fault, reopen=True) == told
    whole(build, litestream, place)


def test_a_database_that_cannot_be_read_for_the_snapshot(build, litestream, place):
    """The application has what it needs in its cache. The store is away until then."""
    place.replica.touch()
    with place.session() as app:
        app.do("create table t(x)")
        for _ in range(20):
            assert app.do(SQL) == []
        assert app.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
        place.fail(f"EIO read {place.database} {place.database}-")
        place.replica.unlink()

        def told():
            return "cannot read the database" in str(app.status()["replicas"][0].get("error"))

        harness.wait_until(told, "the fault to be told")
        assert app.do(SQL) == []
        assert app.do("select count(*) from t") == [[21]]
        assert not place.replica.exists() or not any(place.replica.glob("generations/*/snapshots/*.lz4"))
        place.fail()
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    assert len(place.lines("ERROR")) <= 3, "\n".join(place.lines("ERROR"))
    whole(build, litestream, place)


def test_a_clock_that_jumps_back_an_hour(build, litestream, place):
    """Commit times never run backwards, and nothing waits for the hour to pass."""
    with place.session() as app:
        app.do("create table t(x)")
        assert app.do(SQL) == [] and app.shipped() == 1
        before = app.status()
        place.set_clock(-3600)
        for _ in range(10):
            assert app.do(SQL) == []
            assert app.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
            assert app.shipped() == 1
        after = app.status()
        assert after["generation"] == before["generation"]
        assert after["last_commit"] == before["last_commit"]
        place.set_clock(3600)
        assert app.do(SQL) == [] and app.shipped() == 1
        ahead = datetime.fromisoformat(app.status()["last_commit"]) - datetime.now(timezone.utc)
        assert ahead > timedelta(minutes=50)
        app.do("close")
        app.end()
    times = [path.stat().st_mtime_ns for path in sorted(place.replica.glob("generations/*/wal/*"))]
    assert len(times) > 10 and times == sorted(times)
    whole(build, litestream, place)


def test_the_lag_behind_a_clock_that_was_ahead(build, place):
    """Commits count as made in the future until it has come; monitoring must not wait for that."""
    place.set_clock(6 * 3600)
    with place.session() as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        place.set_clock(0)
        place.replica.rename(place.folder / "away")
        place.replica.write_text("")
        assert app.do(SQL) == []
        harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "an error")
        time.sleep(2)
        assert app.status()["replicas"][0]["lag_ms"] >= 2000
        for _ in range(2):
            said = harness.run(
                [build.sqlstream, "status", "-max-lag", "1s", place.database],
                env=harness.clean_environment(SQLSTREAM_REPLICA_URL=place.url), check=False,
            )  # fmt: skip
            assert said.returncode == 1, said
            if app.process.poll() is None:
                app.kill()


def test_a_generation_of_a_clock_that_was_ahead_is_not_the_newest_for_that(build, place):
    """Nor where its successor's outbox is new, or its first snapshot is gone; of several replicas, too."""
    place.url += "&snapshot-interval=1s"

    def write(*values):
        with place.session() as app:
            for value in values:
                assert app.do(f"insert into t values ('{value}')") == [] and app.shipped() == 1
            app.end()

    def restored(name, *arguments, **env):
        output = place.folder / name
        harness.run([build.sqlstream, "restore", "-o", output, *arguments],
                    env={**harness.clean_environment(), **env})  # fmt: skip
        with closing(sqlite3.connect(output)) as db:
            return [x for (x,) in db.execute("select x from t")]

    def write_without_the_shim(sql):
        with closing(sqlite3.connect(place.database)) as db, db:
            db.execute(sql)

    write_without_the_shim("create table t(x)")
    place.set_clock(86400)
    write("ahead")
    place.set_clock(0)
    (first,) = generations(place.replica)
    older = place.folder / "older"
    shutil.copytree(place.replica, older)
    write_without_the_shim("insert into t values ('plain')")
    write("right")
    (second,) = set(generations(place.replica)) - {first}
    expected = ["ahead", "plain", "right"]
    assert restored("right.db", f"file://{place.replica}") == expected

    newer, database, config = (place.folder / name for name in ("newer", "new.db", "c.yml"))
    shutil.copytree(place.replica, newer)
    config.write_text(
        f"dbs:\n  - path: {database}\n    restore-if-missing: true\n    replicas:\n"
        f"      - {{url: 'file://{older}', name: older}}\n"
        f"      - {{url: 'file://{newer}', name: newer}}\n"
    )
    assert restored("several.db", database, SQLSTREAM_CONFIG=str(config)) == expected
    said = harness.run(
        [PYTHON, "-c", READ, build.extension.with_suffix(""), f"file:{database}?vfs=sqlstream"],
        env={**harness.clean_environment(), "SQLSTREAM_CONFIG": str(config)},
    )
    assert said.stdout == f"{expected}\n"

    shutil.rmtree(place.replica / "generations" / second)
    shutil.rmtree(place.outbox)
    with place.session() as app:
        assert app.do("insert into t values ('anew')") == [] and app.shipped() == 1
        (third,) = set(generations(place.replica)) - {first}
        folder = place.replica / "generations" / third / "snapshots"
        harness.wait_until(
            lambda: app.do("insert into t values ('more')") or len(list(folder.iterdir())) > 1,
            "a later snapshot",
        )
        assert app.shipped() == 1
        expected = [x for (x,) in app.do("select x from t")]
        app.end()
    (folder / "00000000.snapshot.lz4").unlink()
    assert restored("anew.db", f"file://{place.replica}") == expected


READ = """
import sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
print([x for (x,) in sqlite3.connect(sys.argv[2], uri=True).execute("select x from t")])
"""


def objects_of(place, pattern="*"):
    return set(place.replica.glob(f"generations/*/{pattern}/*.lz4"))


def test_a_clock_that_jumps_ahead_and_back_deletes_nothing(place):
    """What is past the retention is told by the times that the replica's file system gave its files."""
    place.url += "&snapshot-interval=200ms&retention=1h&retention-check-interval=1s"
    with place.session() as app:
        app.do("create table t(x)")
        commits = 0

        def commit():
            nonlocal commits
            commits += 1
            assert app.do(SQL) == [] and app.shipped() == 1
            time.sleep(0.1)

        def until(count):
            while len(objects_of(place, "snapshots")) < count:
                commit()

        until(3)
        before = objects_of(place)
        place.set_clock(3 * 24 * 3600)
        until(6)
        place.set_clock(0)
        for _ in range(20):
            commit()
        assert before <= objects_of(place), before - objects_of(place)
        app.do("close")
        app.end()


def test_a_clock_that_was_ahead_once_does_not_keep_everything(build, litestream, place):
    """Commit times never run backwards, and the files' follow them."""
    place.url += "&snapshot-interval=200ms&retention=1s&retention-check-interval=1s"
    place.set_clock(30 * 24 * 3600)
    with place.session() as app:
        app.do("create table t(x)")
        assert app.do(SQL) == [] and app.shipped() == 1
        place.set_clock(0)

        def first(kind):
            return min((int(path.name[:8], 16) for path in objects_of(place, kind)), default=None)

        def deleted():
            assert app.do(SQL) == [] and app.shipped() == 1
            return first("snapshots") > 1

        harness.wait_until(deleted, "the deletion of the first snapshots")
        harness.wait_until(lambda: first("wal") is None or first("wal") >= first("snapshots"), "… and their segments'")
        app.do("close")
        app.end()
    whole(build, litestream, place)


CLOSE_AND_WRITE = """
import sqlite3, sys, time
COARSE = 5  # CLOCK_REALTIME_COARSE, which files are stamped with
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
db = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None)
db.execute("create table if not exists t(x)")
db.execute("insert into t values (randomblob(2000))")
assert db.execute("select sqlstream_wait(60000)").fetchone() == (1,)
stock = sqlite3.connect(sys.argv[3], uri=True, isolation_level=None)
tick = time.clock_gettime(COARSE)
while time.clock_gettime(COARSE) == tick:
    pass
db.close()
if sys.argv[4] == "a write":
    stock.execute("pragma synchronous = off")
    stock.execute("update t set x = zeroblob(2000)")
stock.close()
"""


@pytest.mark.parametrize("then", ["a write", "nothing"])
@pytest.mark.parametrize("times", ["the kernel's", "coarse"])
@pytest.mark.parametrize("settable", [True, False], ids=["settable", "another's"])
def test_a_write_right_after_the_close(build, litestream, place, times, then, settable):
    """Without the shim: it is told by the file's times, also where several writes get the same one (ramfs), and where
    they cannot be set since the owner is another."""
    with file_system(place.under, kind="ramfs") if times == "coarse" else nullcontext():
        if not settable:
            place.fail(f"EPERM times {place.database}")
        stock = f"file:{place.database}?vfs=unix"
        program = [PYTHON, "-c", CLOSE_AND_WRITE, build.extension, build.uri(place.database, place.url), stock, then]
        for _ in range(2):
            harness.run(program, env=place.env)
            if not settable:
                status = place.database.stat()
                assert status.st_mtime_ns == status.st_ctime_ns
        with place.session() as app:
            assert app.do("select count(*) from t where x = zeroblob(2000)") == [[2 * (then == "a write")]]
            assert app.do(SQL) == [] and app.shipped(60000) == 1
            app.do("close")
            app.end()
        assert len(generations(place.replica)) == (3 if then == "a write" else 1)
        whole(build, litestream, place)


@pytest.mark.parametrize("how", ["removed", "replaced", "removed with its WAL"])
def test_a_database_file_taken_away_under_an_open_connection(build, litestream, place, how):
    """What goes on in the old file is nobody's; the one that has its name then is replicated."""
    database = place.database
    with place.session() as app:
        app.do("create table t(x)")
        assert app.do(SQL) == [] and app.shipped() == 1
        if how == "replaced":
            other = place.folder / "other.db"
            with closing(sqlite3.connect(other)) as db:
                db.execute("create table t(x)")
                db.execute("insert into t values ('another')")
                db.commit()
            os.replace(other, database)
        else:
            database.unlink()
        if how != "removed":
            for suffix in ("-wal", "-shm"):
                (place.under / f"app.db{suffix}").unlink()
        for _ in range(3):
            app.do(SQL)  # SQLite may tell that its file is gone, or not
        app.do("close")
        app.end()
    # SQLite itself must not find a WAL of the file that is gone.
    for suffix in ("-wal", "-shm"):
        (place.under / f"app.db{suffix}").unlink(missing_ok=True)
    with place.session() as app:
        app.do("create table if not exists t(x)")
        assert app.do("insert into t values ('the new file')") == []
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    assert len(generations(place.replica)) > 1
    whole(build, litestream, place)


def copy_over(backup, database):
    """Into the same file, whoever has it open."""
    with open(database, "r+b") as file:
        file.write(backup.read_bytes())
        file.truncate()


@pytest.mark.parametrize("when", ["closed", "killed", "killed, beside its WAL"])
def test_a_backup_copied_over_the_file(build, litestream, place, when):
    """The same inode, and often the same size."""
    with place.session() as app:
        app.do("create table t(x)")
        assert app.do(SQL) == [] and app.shipped() == 1
        assert app.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
        backup = shutil.copyfile(place.database, place.folder / "backup.db")
        app.do("update t set x = zeroblob(2000)")
        if "beside" in when:
            assert app.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
            app.do("create table if not exists another(x)")
        assert app.shipped() == 1
        if when == "closed":
            app.do("close")
            app.end()
        else:
            app.kill()
    if "beside" not in when:
        for suffix in ("-wal", "-shm"):
            (place.under / f"app.db{suffix}").unlink(missing_ok=True)
    copy_over(backup, place.database)
    with place.session() as app:
        assert app.do("select x = zeroblob(2000) from t") == [[0]]
        app.do(SQL)
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    assert len(generations(place.replica)) == 2
    whole(build, litestream, place)


FILL = (
    "insert into t with recursive n(i) as (select 1 union all select i + 1 from n where i < 500)"
    " select i, randomblob(300) from n"
)


def copy_over_another(place):
    """Of the same size, in which each row is another."""
    backup = shutil.copyfile(place.database, place.folder / "backup.db")
    with closing(sqlite3.connect(backup)) as db:
        db.execute("update t set i = -i")
        db.commit()
    copy_over(backup, place.database)


def check_another(build, litestream, place):
    """It is what the program goes on with, and what its second generation restores to."""
    assert len(generations(place.replica)) == 2
    whole(build, litestream, place)
    with closing(sqlite3.connect(place.database)) as db:
        assert db.execute("select count(*) from t where i < 0").fetchone()[0] == 500


def fill_and_checkpoint(app):
    """500 rows in the file, one behind it in the WAL, and all in the replica."""
    app.do("create table t(i, x)")
    app.do(FILL)
    assert app.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
    app.do("insert into t values (501, 'behind it')")
    assert app.shipped() == 1


@pytest.mark.parametrize("mode", ["passive", "truncate"])
@pytest.mark.parametrize("who", ["this process", "another process"])
def test_a_backup_copied_over_the_file_while_it_is_open(build, litestream, place, mode, who):
    """SQLite does not notice, and neither the WAL nor its index tells."""
    with place.session() as app:
        app.do("create table t(i, x)")
        app.do(FILL)
        assert app.do(f"pragma wal_checkpoint({mode})")[0][0] == 0
        assert app.shipped() == 1
        copy_over_another(place)
        commit = "insert into t values (501, 'behind it')"
        if who == "this process":
            app.do("pragma shrink_memory")
            app.do(commit)
        else:
            with place.session() as other:
                other.do(commit)
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    check_another(build, litestream, place)


def test_a_backup_copied_over_the_file_of_an_exclusive_program(build, litestream, place):
    """No lock tells of a checkpoint's end there: the next commit does."""
    with place.session() as app:
        app.do("create table t(i, x)")
        app.do("create table later(x)")
        app.do(FILL)
        app.do("pragma locking_mode=exclusive")
        assert app.do("pragma wal_checkpoint")[0][0] == 0
        app.do("insert into later values ('behind the checkpoint')")
        assert app.shipped() == 1
        copy_over_another(place)
        app.do("pragma shrink_memory")
        app.do("insert into later values ('behind the copy')")
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    check_another(build, litestream, place)


@pytest.mark.parametrize("who", ["this process", "another process"])
def test_a_backup_copied_over_the_file_soon_after_a_recovery(build, litestream, place, who):
    """Which leaves the WAL's index as the first checkpoint of a stock program has it meanwhile; then
    one of ours begins at once."""
    with place.session() as app:
        fill_and_checkpoint(app)
        app.kill()
    with place.session() as app:
        app.do("insert into t values (502, 'recovered')")
        assert app.shipped() == 1
        app.do("insert into t values (503, 'the recovery is known')")
        assert app.shipped() == 1
        copy_over_another(place)
        commands = ["insert into t values (504, 'behind it')", "pragma wal_checkpoint(passive)"]
        if who == "this process":
            app.do("pragma shrink_memory")
            for command in commands:
                app.do(command)
        else:
            with place.session() as other:
                for command in commands:
                    other.do(command)
                other.end()
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    assert len(generations(place.replica)) == 2
    whole(build, litestream, place)


def test_a_backup_copied_over_the_file_after_a_checkpoint_that_failed(build, litestream, place):
    """Of a disk that was full: it wrote some pages, and the file has them."""
    with place.session() as app:
        fill_and_checkpoint(app)
        place.fail(f"ENOSPC write {place.database}")
        assert "error" in app.do("pragma wal_checkpoint(passive)")
        place.fail()
        copy_over_another(place)
        app.do("pragma shrink_memory")
        app.do("insert into t values (502, 'behind the copy')")
        assert app.do("pragma wal_checkpoint(passive)")[0][0] == 0
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    assert len(generations(place.replica)) == 2
    whole(build, litestream, place)


@pytest.mark.parametrize("why", ["it is kept", "the last checkpoint failed"])
def test_a_backup_copied_over_a_closed_file_beside_its_wal(build, litestream, place, why):
    """The WAL is of the other file, and the next program takes it for this one's."""
    if why == "it is kept":
        sql = f"create table t(i, x); {FILL}; select sqlstream_wait(60000);"
        build.shell(place.database, place.url, f"{sql}\n.filectrl persist_wal 1\n", env=place.env)
    else:
        with place.session() as app:
            fill_and_checkpoint(app)
            place.fail(f"ENOSPC write {place.database}")
            app.do("close")
            place.fail()
            app.end()
    assert (place.under / "app.db-wal").stat().st_size > 0
    copy_over_another(place)
    with place.session() as app:
        app.do("insert into t values (502, 'behind the copy')")
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    assert len(generations(place.replica)) == 2
    whole(build, litestream, place)


def test_a_last_checkpoint_that_fails_leaves_a_wal_that_counts(build, litestream, place):
    """The database is closed, but not all of it is in its file; the first snapshot comes later."""
    place.replica.touch()  # the store is away
    with place.session() as app:
        app.do("create table t(i, x)")
        app.do(FILL)
        place.fail(f"ENOSPC write {place.database}")
        app.do("close")
        place.fail()
        assert (place.under / "app.db-wal").stat().st_size > 100000
        app.kill()
    place.replica.unlink()
    with place.session() as app:
        assert app.do("select count(*) from t") == [[500]]
        assert app.shipped(60000) == 1
        app.do("insert into t values (501, 'later')")
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    whole(build, litestream, place)


BREAKS_OFF = """
import os, resource, signal, sqlite3, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma wal_autocheckpoint=0")
db.execute("update t set v = 1")
resource.setrlimit(resource.RLIMIT_FSIZE, (50 * 4096, resource.RLIM_INFINITY))
try:
    db.execute("pragma wal_checkpoint").fetchall()
except sqlite3.OperationalError as error:
    print(error, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_foreign_checkpoint_that_breaks_off_while_a_generation_is_begun(build, litestream, place):
    """The file is half of the one state and half of the other then, and nobody writes it any more."""
    place.fail(f"WAIT times {place.database}")
    with place.session() as app:
        numbers = "with recursive i(n) as (select 1 union all select n + 1 from i where n < 400)"
        app.do(f"create table t as {numbers} select n, 0 as v, zeroblob(900) as pad from i")
        time.sleep(1)  # the background is about to take the file for the generation's first state
        said = harness.run([PYTHON, "-c", BREAKS_OFF, place.database], check=False)
        assert said.returncode == -9 and "disk I/O error" in said.stdout
        place.fail()
        time.sleep(1)
        early = place.folder / "early.db"
        if build.restore(early, place.url, check=False).returncode == 0:
            with closing(sqlite3.connect(early)) as db:
                assert db.execute("select count(distinct v) from t").fetchone() == (1,)
        assert app.do("select sum(v) from t") == [[400]]
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    whole(build, litestream, place)


def test_a_program_that_still_has_the_old_file_open(build, litestream, place):
    """It is told, and is not in the way of those that have the new one."""
    with place.session() as old, closing(sqlite3.connect(place.folder / "next.db")) as next_one:
        next_one.execute("create table t(x)")
        next_one.commit()
        old.do("create table t(x)")
        assert old.do(SQL) == [] and old.shipped() == 1
        for suffix in ("-wal", "-shm"):
            (place.under / f"app.db{suffix}").unlink()
        os.replace(place.folder / "next.db", place.database)
        assert old.do(SQL) == []
        status = old.status()
        assert status["state"] == "paused" and "moved, deleted or replaced" in status["error"]
        assert not status["replicas"][0]["in_sync"]
        assert old.shipped(100) == 0
        with place.session() as new:
            for i in range(20):
                assert new.do(f"insert into t values ('new {i}')") == []
                old.do(SQL)
            # The old one has been shipping, and leaves that to the new one.
            assert new.shipped(60000) == 1
            assert new.status()["replicas"][0]["in_sync"]
            assert old.status()["state"] == "paused"
            old.do("close")
            old.end()
            new.do("insert into t values ('last')")
            assert new.shipped(60000) == 1
            new.do("close")
            new.end()
    assert len(generations(place.replica)) == 2
    whole(build, litestream, place)


def test_a_writer_without_the_extension_mixes_in(build, litestream, place):
    """Beside an open connection its commits are captured, too; a reset that came unseen is noticed."""
    with place.session() as app:
        app.do("create table t(x)")
        for i in range(30):
            assert app.do(SQL) == []
            sql = f"insert into t values ('stock {i}')"
            if i % 3 == 0:
                sql += f"; pragma wal_checkpoint({('passive', 'restart', 'truncate')[i // 3 % 3]})"
            harness.run(["sqlite3", "-cmd", ".timeout 20000", place.database, sql])
        assert app.do("select count(*) from t") == [[60]]
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    whole(build, litestream, place)


LIMITED = """
import os, resource, signal, sqlite3, sys
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (6 << 20, 6 << 20))
read, write = os.pipe()
os.dup2(write, 2)
os.close(write)
os.close(read)
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
db = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None)
db.execute("create table t(x)")
for i in range(1500):
    db.execute("insert into t values (randomblob(20000))")
    db.execute("delete from t where rowid < ?", (i - 20,))
assert db.execute("select sqlstream_wait(60000)").fetchone() == (1,)
db.close()
"""


def test_limits_that_would_end_a_program_end_none(build, litestream, place):
    """More goes through the outbox than a file may have, and what the log is written to is gone: SIGXFSZ, SIGPIPE."""
    env = harness.clean_environment(SQLSTREAM_LOG="stderr")
    harness.run([PYTHON, "-c", LIMITED, build.extension, build.uri(place.database, place.url)], env=env)
    assert len(generations(place.replica)) == 1
    whole(build, litestream, place)


def leave_descriptors(app, count):
    """As many may the program open from now on, as far as this limit is for it to tell; None: as before."""
    pid = app.process.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit, free = 0, 0
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    while count is not None and (free < count or limit in taken):
        free += limit not in taken
        limit += 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most if count is None else limit, most))


def write_without_descriptors(app):
    """SQLite has what it needs."""
    for _ in range(10):
        assert app.do(SQL) == []
    assert app.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
    assert app.do(SQL) == []
    assert app.do("select count(*) from t") == [[11]]


@pytest.mark.parametrize("count", range(9))
def test_descriptors_that_run_out(build, litestream, place, count):
    """For pipes and for whatever else is opened, with the outbox to begin with."""
    with closing(sqlite3.connect(place.database)) as db:
        db.execute("pragma journal_mode = wal")
    place.outbox.touch()  # so that nothing of it is open yet
    with place.session() as app:
        app.do("create table t(x)")
        harness.wait_until(lambda: place.lines("ERROR"), "something in the outbox's place to be told")
        leave_descriptors(app, count)
        place.outbox.unlink()
        write_without_descriptors(app)

        def told():
            status = app.status()
            said = str(status.get("error")) + str(status["replicas"][0].get("error"))
            return "Too many open files" in said or "SQLite's error 14" in said

        harness.wait_until(told, "the lack to be told", 20)
        leave_descriptors(app, None)
        assert app.do(SQL) == []
        assert app.shipped(60000) == 1
        app.do("close")
        app.end()
    assert len(place.lines("ERROR")) <= 8, "\n".join(place.lines("ERROR"))
    assert len(generations(place.replica)) == 1
    whole(build, litestream, place)


def test_no_descriptor_for_a_socket(build, litestream, own_minio, place):
    """The store was away, and is back; but no connection to it can be made."""
    bucket = own_minio.bucket()
    url, env = own_minio.url(bucket, "app", sync_interval="10ms"), own_minio.env(SQLSTREAM_LOG=place.log)
    own_minio.stop()
    with Session(build, place.database, url, env) as app:
        app.do("create table t(x)")

        def error():
            return app.status()["replicas"][0].get("error", "")

        harness.wait_until(error, "the store's absence to be told")
        leave_descriptors(app, 0)
        own_minio.start()
        write_without_descriptors(app)
        harness.wait_until(lambda: "Too many open files" in error(), "the lack to be told")
        leave_descriptors(app, None)
        assert app.do(SQL) == []
        assert app.shipped(60000) == 1
        assert error() == ""
        app.do("close")
        app.end()
    assert len(place.lines("ERROR")) <= 2, "\n".join(place.lines("ERROR"))
    replica = own_minio.litestream_replica(bucket, "app")
    check_restores(build, litestream, place.database, url, replica, place.folder, env=env)


LAST_DESCRIPTORS = """
import os, resource, sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
before = resource.getrlimit(resource.RLIMIT_NOFILE)
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, before[1]))
db = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None)
resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, before[1]))
db.execute("create table t(x)")
for i in range(10):
    db.execute("insert into t values (randomblob(2000))")
assert db.execute("pragma wal_checkpoint(truncate)").fetchone() == (0, 0, 0)
resource.setrlimit(resource.RLIMIT_NOFILE, before)
db.execute("insert into t values (randomblob(2000))")
again = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None)
assert again.execute("select count(*) from t").fetchone() == (11,)
assert again.execute("select sqlstream_wait(60000)").fetchone() == (1,)
again.close()
db.close()
"""


def test_a_database_that_takes_the_last_descriptors(build, litestream, place):
    """Of SQLite's own; epoll and eventfd are not to be had. The next connection replicates it."""
    with closing(sqlite3.connect(place.database)) as db:
        db.execute("pragma journal_mode = wal")
    env = harness.clean_environment(SQLSTREAM_LOG=place.log)
    uri = build.uri(place.database, place.url)
    harness.run([PYTHON, "-c", LAST_DESCRIPTORS, build.extension, uri], env=env)
    [line] = place.lines("ERROR")
    assert "not replicating until it is opened again" in line and "Too many open files" in line
    whole(build, litestream, place)


@contextmanager
def file_system(folder, size="20m", kind="tmpfs"):
    """A small one there; what mounts it anew with other options. Only who is not root may lack the right to."""
    mounted = harness.run(["mount", "-t", kind, "-o", f"size={size}", "none", folder], check=False)
    if mounted.returncode != 0:
        said = mounted.stderr.strip()
        # In a container root may lack the right to, too.
        not_allowed = "superuser" in said or "permission denied" in said or "not permitted" in said
        (pytest.skip if not_allowed else pytest.fail)(f"cannot mount a small file system: {said}")
    try:
        yield lambda options: harness.run(["mount", "-o", f"remount,{options}", folder])
    finally:
        harness.run(["umount", "-l", folder])


@pytest.mark.parametrize("outbox", ["beside it", "on another"])
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_on_a_read_only_file_system(build, litestream, place, mode, outbox):
    """It is told as without sqlstream, and replicated when it can be written. The outbox and the replica may be
    on one that can be written all the time."""
    if outbox == "on another":
        place.outbox, place.replica = place.folder / "outbox", place.folder / "replica"
        place.url = f"file://{place.replica}"
        config = write_config(place.folder / "c.yml", place.database, place.url, **{"outbox-dir": str(place.outbox)})
        place.env["SQLSTREAM_CONFIG"] = str(config)
        uri = build.uri(place.database)
    else:
        uri = build.uri(place.database, place.url)
    load = f".load {build.extension.with_suffix('')}"

    def answers(first, database, uri, remount):
        with closing(sqlite3.connect(database)) as db:
            db.execute(f"pragma journal_mode = {mode}")
            db.execute("create table t(x)")
        script = f"{first}\n.open {uri}\nselect count(*) from t;\ninsert into t values (1);\nselect count(*) from t;\n"
        said = []
        for options in ("ro", "rw"):
            remount(options)
            result = harness.run(["sqlite3", "-batch", ":memory:"], input=script, env=place.env, check=False)
            said.append((result.stdout, result.stderr, result.returncode))
        return said

    with file_system(place.under) as remount:
        database = place.under / "plain.db"
        plain = answers(".mode list", database, f"file:{database}", remount)
        assert "rror" in plain[0][1] and plain[1] == ("0\n1\n", "", 0)
        assert answers(load, place.database, uri, remount) == plain
        assert len(place.lines("ERROR")) <= 1, "\n".join(place.lines("ERROR"))
        assert (place.outbox / "control").exists()
        whole(build, litestream, place)


def test_an_outbox_on_a_read_only_file_system(build, litestream, place, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    with file_system(small) as remount:
        place.outbox.symlink_to(small)
        remount("ro")
        with place.session() as app:
            app.do("create table t(x)")
            for _ in range(10):
                assert app.do(SQL) == []
            assert app.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
            harness.wait_until(lambda: "Read-only file system" in app.status().get("error", ""), "it to be told")
            remount("rw")
            assert app.do(SQL) == []
            assert app.shipped(60000) == 1
            assert "error" not in app.status()
            app.do("close")
            app.end()
        assert len(place.lines("ERROR")) == 1, "\n".join(place.lines("ERROR"))
        whole(build, litestream, place)


def test_an_outbox_on_a_full_file_system(build, litestream, place, tmp_path):
    """A real one: a tmpfs of 300 KiB."""
    small = tmp_path / "small"
    small.mkdir()
    with file_system(small, "300k") as remount:
        place.outbox.symlink_to(small)
        with place.session() as app:
            app.do("create table t(x)")
            for i in range(40):
                assert app.do("insert into t values (randomblob(20000))") == []
                if i % 10 == 9:
                    assert app.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
            assert app.do("select count(*) from t") == [[40]]
            # Once per change of state: what was shipped makes room for a while.
            again = sum("capturing again" in line for line in place.lines("INFO"))
            assert len(place.lines("ERROR")) <= 2 * (1 + again) <= 8, "\n".join(place.lines("ERROR"))
            remount("size=20m")
            app.do(SQL)
            assert app.shipped(60000) == 1
            app.do("close")
            app.end()
        whole(build, litestream, place)
