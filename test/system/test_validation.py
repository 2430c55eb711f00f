"""`validation-interval`: whoever ships a database proves that its replica restores."""

import json
import os
import sqlite3
from contextlib import closing

import pytest

import harness
from test_lifecycle import Session


@pytest.fixture(params=["file", "s3"])
def world(request, build, tmp_path):
    return World(request, build, tmp_path)


class World:
    """A database that is validated all the time, and a way to damage its replica."""

    def __init__(self, request, build, folder):
        self.build, self.database = build, folder / "app.db"
        self.outbox = folder / ".app.db-sqlstream"
        self.minio = request.getfixturevalue("minio") if request.param == "s3" else None
        self.bucket = self.minio.bucket() if self.minio else None
        self.replica = folder / "replica"
        url = self.minio.url(self.bucket, "app") if self.minio else f"file://{self.replica}"
        self.url = f"{url}{'&' if '?' in url else '?'}validation-interval=200ms&sync-interval=20ms"
        self.env = self.minio.env() if self.minio else harness.clean_environment()

    def session(self):
        return Session(self.build, self.database, self.url, env=self.env)

    def segments(self):
        if self.minio:
            return [key for key in self.minio.keys(self.bucket) if "/wal/" in key]
        return sorted(self.replica.glob("generations/*/wal/*"))

    def read(self, segment):
        return self.minio.get(self.bucket, segment) if self.minio else segment.read_bytes()

    def write(self, segment, content):
        if self.minio:
            self.minio.put(self.bucket, segment, content)
        else:
            segment.write_bytes(content)

    def delete(self, segment):
        if self.minio:
            self.minio.s3.delete_object(Bucket=self.bucket, Key=segment)
        else:
            segment.unlink()

    def left(self):
        return [name for name in os.listdir(self.outbox) if "validation" in name]


def replica_of(session):
    return session.status()["replicas"][0]


def wait_for_news(session, before=None):
    """Until another good validation than that of `before` has ended."""
    known = (before or {}).get("verified")
    harness.wait_until(lambda: replica_of(session).get("verified") not in (None, known), "a validation")
    return replica_of(session)


def test_a_whole_replica_is_verified_again_and_again(world):
    with world.session() as session:
        session.do("create table t(x)")
        assert session.shipped() == 1
        first = wait_for_news(session)
        second = wait_for_news(session, first)
        assert second["verified"] > first["verified"] and "verify_error" not in second
        # Nobody is kept from anything by it.
        session.do("insert into t values (1)")
        with closing(sqlite3.connect(world.database, timeout=0, isolation_level=None)) as other:
            other.execute("insert into t values (2)")
        assert session.do("pragma wal_checkpoint(truncate)") == [[0, 0, 0]]
        session.end()
    assert world.left() == []


@pytest.mark.parametrize("harm", ["damaged", "cut off"])
def test_a_replica_that_does_not_restore_is_reported_until_it_does(world, harm):
    with world.session() as session:
        session.do("create table t(x)")
        for i in range(3):
            session.do(f"insert into t values ({i})")
            assert session.shipped() == 1
        good = wait_for_news(session)
        segment = world.segments()[-1]
        content = world.read(segment)
        if harm == "damaged":
            world.write(segment, content[:-20] + bytes(20))
        else:
            world.delete(segment)
        harness.wait_until(lambda: "verify_error" in replica_of(session), "the damage to be noticed")
        bad = replica_of(session)
        # What shipping says of itself is another matter.
        assert ("damaged" if harm == "damaged" else "is missing") in bad["verify_error"]
        assert bad["verify_error_since"] >= good["verified"] and "error" not in bad
        said = harness.run(
            [world.build.sqlstream, "status", "-json", world.database],
            env={**world.env, "SQLSTREAM_REPLICA_URL": world.url},
        ).stdout
        assert json.loads(said)[0]["verify_error"] == bad["verify_error"]
        table = harness.run(
            [world.build.sqlstream, "status", world.database],
            env={**world.env, "SQLSTREAM_REPLICA_URL": world.url},
        ).stdout
        assert f"verification failed: {bad['verify_error']} (since " in table
        world.write(segment, content)
        harness.wait_until(lambda: "verify_error" not in replica_of(session), "the damage to be over")
        wait_for_news(session, bad)
        session.end()
    assert world.left() == []


def test_another_generation_that_a_restore_takes_is_reported(world, tmp_path):
    """Of another database that replicates to the same place."""
    (tmp_path / "other").mkdir()
    with world.session() as session:
        session.do("create table t(x)")
        assert session.shipped() == 1
        wait_for_news(session)
        shipped = replica_of(session)["generation"]
        with Session(world.build, tmp_path / "other" / "app.db", world.url, env=world.env) as other:
            other.do("create table t(x)")
            assert other.shipped() == 1
            taken = replica_of(other)["generation"]
            other.end()
        harness.wait_until(lambda: "verify_error" in replica_of(session), "it to be noticed")
        error = replica_of(session)["verify_error"]
        assert taken in error and f"not generation {shipped}" in error
        # In S3 times have whole seconds, and what was committed later is the newer one.
        session.do("insert into t values (1)")
        assert session.shipped() == 1
        harness.wait_until(lambda: "verify_error" not in replica_of(session), "it to be over")
        session.end()


def test_the_log_has_a_line_for_each_change_of_the_answer(build, tmp_path):
    database, replica, log = tmp_path / "app.db", tmp_path / "replica", tmp_path / "log"
    config = tmp_path / "c.yml"
    config.write_text(json.dumps({"dbs": [{"path": str(database), "replicas": [
        {"path": str(replica), "validation-interval": "100ms", "sync-interval": "20ms"}]}]}))  # fmt: skip
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("pragma journal_mode=wal")
        db.execute("create table t(x)")
        with harness.Process([build.sqlstream, "replicate", "-config", config], log=log) as process:
            status = lambda: json.loads(
                harness.run([build.sqlstream, "status", "-json", "-config", config]).stdout
            )[0]
            harness.wait_until(lambda: "verified" in status(), "a validation")
            (snapshot,) = replica.glob("generations/*/snapshots/*")
            content = snapshot.read_bytes()
            snapshot.write_bytes(content[:-30] + bytes(30))
            harness.wait_until(lambda: "verify_error" in status(), "the damage to be noticed")
            bad = status()
            (note,) = (tmp_path / ".app.db-sqlstream").glob("replica-*")
            for _ in range(3):  # others find the same
                before = note.stat().st_mtime_ns
                harness.wait_until(lambda: note.stat().st_mtime_ns != before, "another validation")
            snapshot.write_bytes(content)
            harness.wait_until(lambda: "verify_error" not in status(), "the damage to be over")
            process.stop()
    said = log.read_text()
    assert said.count("verification failed for") == 1 and said.count("replica verified") == 2
    assert f"verification failed for {database}, replica file: " in said
    assert bad["verify_error"].split(" ")[0] in said
    # The restores themselves are nobody's business.
    assert "restoring snapshot" not in said and "applied wal" not in said


def test_what_a_killed_validation_left_is_removed(build, tmp_path):
    database, url = tmp_path / "app.db", f"file://{tmp_path}/replica"
    with Session(build, database, url) as session:
        session.do("create table t(x)")
        assert session.shipped() == 1
        session.end()
    outbox = tmp_path / ".app.db-sqlstream"
    left = [outbox / "validation-0", outbox / ".validation-0.sqlstream-restore-0123456789abcdef"]
    for file in left:
        file.write_text("half of a database")
    with Session(build, database, url) as session:
        session.do("insert into t values (1)")
        assert session.shipped() == 1
        assert not any(file.exists() for file in left)
        session.end()
