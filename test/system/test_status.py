"""`sqlstream status`: how replication stands, seen by a process that has no part in it."""

import json
import os
import signal
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest

import harness
from test_lifecycle import Session, Unread
from test_sync_verify import plain, write_config


class Place:
    """A database of a configuration file, and what status says of it."""

    def __init__(self, build, folder, *urls, env=None):
        self.build, self.folder, self.database = build, folder, folder / "app.db"
        self.config = write_config(folder / "c.yml", self.database, *urls)
        self.env = env or harness.clean_environment()

    def session(self):
        env = {**self.env, "SQLSTREAM_CONFIG": str(self.config)}
        return Session(self.build, self.database, "", env=env)

    def unread(self):
        env = {**self.env, "SQLSTREAM_CONFIG": str(self.config)}
        return Unread(self.build, self.database, env=env)

    def tool(self, *words, check=True):
        return harness.run(
            [self.build.sqlstream, words[0], "-config", self.config, *words[1:]], env=self.env, check=check
        )

    def status(self, *words):
        return json.loads(self.tool("status", "-json", *words).stdout)

    def files(self):
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.stat().st_size)
            for path in [self.folder, *self.folder.rglob("*")]
        }


def has_wal_reset_fix(version):
    """Of 3.7.0 and later."""
    return version >= (3, 51, 3) or any(
        version[:2] == fixed[:2] and version >= fixed for fixed in ((3, 44, 6), (3, 50, 7))
    )


@pytest.fixture
def place(build, tmp_path):
    return Place(build, tmp_path, f"file://{tmp_path}/r0", f"file://{tmp_path}/r1")


@pytest.mark.parametrize("ask", ["function", "pragma", "wait"])
def test_a_connection_that_has_read_nothing_knows_what_others_committed(place, ask):
    """It has no wal-index before SQLite reads for the first time."""
    with place.session() as first:
        first.do("create table t(x)")
        assert first.shipped() == 1
        first.do("close")
        first.end()
    with place.unread() as app, closing(sqlite3.connect(place.database, isolation_level=None)) as stock:
        stock.execute("insert into t values (1)")
        if ask == "wait":
            assert app.ask("select sqlstream_wait(30000)") == "1"
        else:
            question = "pragma sqlstream_status" if ask == "pragma" else "select sqlstream_status()"
            in_sync = lambda: [one["in_sync"] for one in json.loads(app.ask(question))["replicas"]]  # noqa: E731
            assert in_sync() != [True, True]
            harness.wait_until(lambda: in_sync() == [True, True], "the shipping")
        output = place.folder / "restored.db"
        place.build.restore(output, f"file://{place.folder}/r0")
        with closing(sqlite3.connect(output)) as db:
            assert db.execute("select count(*) from t").fetchone() == (1,)


def test_what_cannot_be_read_is_not_said_to_be_in_the_replica(place):
    with place.session() as first:
        first.do("create table t(x)")
        assert first.shipped() == 1
        first.do("close")
        first.end()
    with closing(sqlite3.connect(place.database, isolation_level=None)) as stock:
        stock.execute("pragma locking_mode=exclusive")
        stock.execute("insert into t values (1)")
        with place.unread() as app:
            assert app.ask("select sqlstream_wait(10)") == "0"
            for question in ("pragma sqlstream_status", "select sqlstream_status()"):
                assert not any(one["in_sync"] for one in json.loads(app.ask(question))["replicas"])
            stock.close()
            assert app.ask("select sqlstream_wait(30000)") == "1"


def test_the_status_inside_a_program_tells_the_whole_lag(place):
    (place.folder / "r0").write_text("no folder")
    with place.session() as session:
        session.do("create table t(x)")
        begun = time.monotonic()
        while time.monotonic() < begun + 3:
            session.do("insert into t values (1)")
            time.sleep(0.02)
        lag = session.status()["replicas"][0]["lag_ms"]
        # The two clocks do not go at quite the same speed.
        assert 2900 <= lag <= (time.monotonic() - begun + 1) * 1000
        session.kill()


def test_an_error_that_another_process_saw_is_gone_once_it_is_mended(place):
    (place.folder / "r0").write_text("no folder")
    with place.session() as session:
        session.do("create table t(x)")
        harness.wait_until(
            lambda: "Not a directory" in place.status()[0].get("error", ""), "the error to be noted"
        )
        session.kill()
    (place.folder / "r0").unlink()
    with place.session() as session:
        session.do("select * from t")
        assert session.shipped() == 1
        harness.wait_until(lambda: "error" not in place.status()[0], "the note of the success")
        assert "error_since" not in place.status()[0]
        session.do("close")
        session.end()


def test_in_sync(place):
    with place.session() as session:
        session.do("create table t(x)")
        assert session.shipped() == 1
        inside = session.status()
        assert inside["sqlite"] == sqlite3.sqlite_version
        assert inside["sqlite_wal_reset_bug"] == (not has_wal_reset_fix(sqlite3.sqlite_version_info))
        for entry, replica in zip(place.status(), inside["replicas"], strict=True):
            assert (entry["sqlite"], entry["sqlite_wal_reset_bug"]) == (
                inside["sqlite"], inside["sqlite_wal_reset_bug"]
            )
            assert (entry["database"], entry["state"], entry["lag_ms"]) == (str(place.database), "replicating", 0)
            for key in ("generation", "index", "offset", "sequence", "url"):
                assert entry[key] == replica[key]
            assert (entry["replica"], entry["shipping"]) == (replica["name"], True)
            assert entry["outbox_bytes"] == inside["outbox_bytes"]
            assert entry["last_commit"] == inside["last_commit"]
            assert (entry["pid"], entry["snapshot"]) == (session.process.pid, replica["snapshot"])
        session.end()
    assert [(entry["lag_ms"], entry["shipping"]) for entry in place.status()] == [(0, False)] * 2


def test_table(place):
    with place.session() as session:
        session.do("create table t(x)")
        assert session.shipped() == 1
        session.end()
    head, *rows = [line.split() for line in place.tool("status").stdout.splitlines()]
    assert head == "database replica state lag generation position outbox snapshot sqlite shipping error".split()
    generation = place.status()[0]["generation"]
    for i, row in enumerate(rows):
        assert row[:5] == [str(place.database), f"r{i}", "replicating", "0s", generation]
        assert row[5].startswith("00000000:0000") and row[-2] == "none"
    assert len(rows) == 2
    assert place.tool("status", place.database).stdout == place.tool("status").stdout


def test_lag_counts_from_the_first_commit_that_is_not_shipped(place):
    with place.session() as session:
        session.do("create table t(x)")
        assert session.shipped() == 1
        # The second replica's folder turns into a file.
        os.rename(place.folder / "r1", place.folder / "away")
        (place.folder / "r1").write_text("")
        begun = time.time()
        session.do("insert into t values (1)")
        harness.wait_until(lambda: place.status()[1]["lag_ms"] > 0 and place.status()[0]["lag_ms"] == 0, "a lag")
        time.sleep(1.2)
        session.do("insert into t values (2)")
        harness.wait_until(lambda: place.status()[0]["lag_ms"] == 0, "the other replica")
        asked = time.time()
        lag = place.status()[1]["lag_ms"] / 1000
        assert asked - begun - 1 < lag < time.time() - begun + 0.1
        said = place.tool("status", "-max-lag", "1s", check=False)
        assert said.returncode == 1
        (line,) = said.stderr.splitlines()
        assert line.startswith(f"sqlstream: replica r1 of {place.database} is behind by ")
        assert line.endswith(", more than 1s") and len(said.stdout.splitlines()) == 3
        place.tool("status", "-max-lag", "1h")
        error = harness.wait_until(lambda: place.status()[1].get("error"), "the error")
        assert f"{place.folder}/r1" in error and place.status()[1]["error_since"]
        assert error in place.tool("status").stdout and "error" not in place.status()[0]
        # When all of it is gone, too.
        session.kill()
    assert place.status()[1]["lag_ms"] >= lag * 1000
    (place.folder / "r1").unlink()
    os.rename(place.folder / "away", place.folder / "r1")
    place.tool("sync", place.database)
    place.tool("status", "-max-lag", "0s")


def test_commits_that_nobody_captured(place):
    with place.session() as session:
        session.do("create table t(x)")
        assert session.shipped() == 1
        session.end()
    assert [entry["lag_ms"] for entry in place.status()] == [0, 0]
    with closing(sqlite3.connect(place.database, isolation_level=None)) as db:
        db.execute("insert into t values (1)")
        assert all(entry["lag_ms"] > 0 for entry in place.status())
        # In the file, and no WAL is left.
    assert not os.path.exists(f"{place.database}-wal")
    assert all(entry["lag_ms"] > 0 for entry in place.status())
    place.tool("sync", place.database)
    assert [entry["lag_ms"] for entry in place.status()] == [0, 0]


def test_commits_that_another_program_writes_beside_one_that_replicates(place):
    with place.session() as session:
        session.do("create table t(x)")
        assert session.shipped() == 1
        time.sleep(1)  # until it looks no more for what it committed itself
        with closing(sqlite3.connect(place.database, isolation_level=None)) as db:
            db.execute("insert into t values (1)")
            assert all(entry["lag_ms"] > 0 for entry in place.status())
            # A checkpoint alone is no commit.
            session.do("insert into t values (2)")
            assert session.shipped() == 1
            db.execute("pragma wal_checkpoint(restart)").fetchall()
            assert [entry["lag_ms"] for entry in place.status()] == [0, 0]
            db.execute("pragma wal_checkpoint(truncate)").fetchall()
            assert [entry["lag_ms"] for entry in place.status()] == [0, 0]
            db.execute("insert into t values (3)")
            db.execute("pragma wal_checkpoint(truncate)").fetchall()
            assert all(entry["lag_ms"] > 0 for entry in place.status())
            assert session.shipped() == 1
            assert [entry["lag_ms"] for entry in place.status()] == [0, 0]
        session.end()


def test_databases_in_every_state(place, tmp_path):
    def state():
        (entry, _) = place.status()
        return entry["state"], entry["lag_ms"]

    assert state() == ("no database", None)
    place.tool("status", "-max-lag", "0s")
    place.database.touch()
    assert state() == ("waiting", 0)
    plain(place.database, "create table t(x)")
    assert state() == ("waiting", None)
    assert place.tool("status", "-max-lag", "99h", check=False).returncode == 1
    place.tool("sync", place.database)
    assert state() == ("replicating", 0)
    with place.session() as session:
        session.do("pragma journal_mode=delete")
        assert state()[0] == "paused"
        session.end()


def test_it_disturbs_nothing(place):
    """Not one file is created, changed or touched; nor is anybody waited for."""
    plain(place.database, "create table t(x)")
    before = place.files()
    place.status()
    assert place.files() == before
    with place.session() as session:
        session.do("insert into t values (randomblob(100000))")
        assert session.shipped() == 1
        place.status()
        harness.wait_until(lambda: (first := place.files()) == (time.sleep(0.2), place.files())[1], "quiet")
        session.process.send_signal(signal.SIGSTOP)
        before = place.files()
        assert [entry["lag_ms"] for entry in place.status()] == [0, 0]
        assert place.files() == before
        session.process.send_signal(signal.SIGCONT)
        session.do("insert into t values (1)")
        assert session.shipped() == 1
        session.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_somebody_who_may_only_read(place):
    plain(place.database, "create table t(x)")
    place.tool("sync", place.database)
    for path in [place.folder, *place.folder.rglob("*")]:
        os.chmod(path, 0o755 if path.is_dir() else 0o644)
    # The test's own folders lie below one that only root may enter: see through a mount of its own.
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", place.build.sqlstream, "status",
               "-json", "-config", place.config]  # fmt: skip
    for folder in place.folder.parents:
        if folder != folder.parent and not os.stat(folder).st_mode & 0o001:
            os.chmod(folder, os.stat(folder).st_mode | 0o011)
    said = harness.run(command, check=False)
    assert said.returncode == 0, said.stderr
    assert [entry["lag_ms"] for entry in json.loads(said.stdout)] == [0, 0]


def test_a_store_that_goes_away_and_no_secret(build, own_minio, tmp_path):
    place = Place(build, tmp_path, own_minio.url(own_minio.bucket(), "app"))
    entry = json.loads(place.config.read_text())
    entry["dbs"][0]["replicas"][0].update(
        {"access-key-id": own_minio.user, "secret-access-key": own_minio.password}
    )
    place.config.write_text(json.dumps(entry))
    with place.session() as session:
        session.do("create table t(x)")
        assert session.shipped() == 1
        own_minio.stop()
        session.do("insert into t values (randomblob(200000))")
        (entry,) = harness.wait_until(
            lambda: [e for e in place.status() if e["lag_ms"] > 0 and e["outbox_bytes"] > 200000], "a lag"
        )
        said = place.tool("status").stdout + json.dumps(entry)
        assert own_minio.user not in said and own_minio.password not in said
        own_minio.start()
        assert session.shipped(60000) == 1
        assert [entry["lag_ms"] for entry in place.status()] == [0]
        session.end()


def test_watch_ends_when_it_is_behind(place):
    plain(place.database, "create table t(x)")
    place.tool("sync", place.database)
    watch = subprocess.Popen(
        [place.build.sqlstream, "status", "-json", "-watch", "-max-lag", "0s", "-config", place.config],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=place.env,
    )  # fmt: skip
    try:
        for _ in range(2):
            assert [entry["lag_ms"] for entry in json.loads(watch.stdout.readline())] == [0, 0]
        plain(place.database, "insert into t values (1)")
        out, err = watch.communicate(timeout=60)
        assert watch.returncode == 1 and err.count("is behind by") == 2
    finally:
        watch.kill()
        watch.wait()


def test_a_database_that_is_gone_is_beyond_any_limit(place):
    """One that was not created yet is not, unless it is asked for by name."""
    place.tool("status", "-max-lag", "1h")
    assert place.tool("status", "-max-lag", "1h", place.database, check=False).returncode == 1
    with place.session() as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        app.do("close")
        app.end()
    place.tool("status", "-max-lag", "1h")
    for suffix in ("", "-wal", "-shm"):
        place.database.with_name(place.database.name + suffix).unlink(missing_ok=True)
    said = place.tool("status", "-max-lag", "1h", check=False)
    assert said.returncode == 1 and f"there is no database {place.database}" in said.stderr


def test_an_outbox_that_cannot_be_read_hides_no_other_database(place):
    with place.session() as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        app.do("close")
        app.end()
    broken = place.folder / "broken.db"
    shutil.copy(place.database, broken)
    (place.folder / ".broken.db-sqlstream" / f"{1:016x}.log").mkdir(parents=True)
    config = json.loads(place.config.read_text())
    config["dbs"].insert(0, {"path": str(broken), "replica": {"url": f"file://{place.folder}/r2"}})
    place.config.write_text(json.dumps(config))
    first, *others = place.status()
    assert (first["database"], first["state"], first["lag_ms"]) == (str(broken), "unknown", None)
    assert first["error"] == f"cannot read the outbox {place.folder}/.broken.db-sqlstream: Is a directory"
    assert [entry["lag_ms"] for entry in others] == [0, 0]
    assert place.tool("status", "-max-lag", "1h", check=False).returncode == 1


def test_another_database_whose_folder_does_not_resolve_is_in_nobodys_way(place):
    (place.folder / "loop").symlink_to("loop")
    config = json.loads(place.config.read_text())
    config["dbs"].insert(0, {"path": f"{place.folder}/loop/other.db", "replica": {"url": f"file://{place.folder}/r2"}})
    place.config.write_text(json.dumps(config))
    with place.session() as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        assert [entry["state"] for entry in place.status()] == ["no database", "replicating", "replicating"]


@pytest.mark.parametrize(
    "words, code", [(["a", "b"], 1), (["/no/such.db"], 1), (["-max-lag", "soon"], 1), (["-nope"], 2)], ids=str
)
def test_refuses(place, words, code):
    assert place.tool("status", *words, check=False).returncode == code
