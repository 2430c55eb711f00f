"""A machine that was cloned while it ran: both have the same outbox, the same frames in the WAL, and go on with the
same generation. What either of them ships is there, or a restore says that it is not."""

import contextlib
import re
import shutil
import struct

import pytest

import faults
import harness
from fault_proxy import FaultProxy
from test_lifecycle import Session, generations

HOURS = 3 * 3600  # a later snapshot is asked for every two, and the replica looked at after one of rest


class Machine:
    """A database that says it is the same file as the first one's, and a clock."""

    def __init__(self, build, home, folder, first=None):
        self.build, self.home, self.database = build, home, home / "app.db"
        folder.mkdir()
        self.log, self.clock = folder / "log", folder / "clock"
        self.clock.write_bytes(bytes(8))
        settings = {"clock": self.clock, "steady": self.clock, "host": "machine"}
        if first:
            of = first.stat()
            settings["identity"] = f"{of.st_dev} {of.st_ino} {of.st_mtime_ns} {of.st_ctime_ns} {self.database}"
        self.env = faults.Faults(build.faults, home, folder).env(**settings)

    @contextlib.contextmanager
    def session(self, url, env=None):
        with Session(self.build, self.database, url, {**self.env, **(env or {})}) as app:
            app.do("pragma wal_autocheckpoint = 0")
            assert app.do("select count(*) from t") == [[20]]
            assert app.shipped() == 1
            yield app
            app.do("close")
            app.end()

    def forward(self, seconds):
        with open(self.clock, "r+b") as file:
            file.write(struct.pack("q", seconds * 10**9))

    def said(self):
        return self.log.read_text()


def clone(build, tmp_path, url, env=None):
    """Two machines; the first one was killed, then cloned."""
    here, there = tmp_path / "one", tmp_path / "two"
    here.mkdir()
    with Session(build, here / "app.db", url, {**harness.clean_environment(), **(env or {})}) as app:
        app.do("pragma wal_autocheckpoint = 0")
        app.do("create table t(i integer primary key, who, data)")
        for i in range(20):
            app.do(f"insert into t values ({i}, 'both', randomblob(900))")
            if i in (0, 19):  # what was noted before the last is there, so that a later snapshot can be due
                assert app.shipped() == 1
        generation = app.status()["generation"]
        app.kill()
    shutil.copytree(here, there, ignore=shutil.ignore_patterns("wake"))
    one = Machine(build, here, tmp_path / "one-s")
    return one, Machine(build, there, tmp_path / "two-s", one.database), generation


def commit(app, who):
    for i in range(5):
        app.do(f"update t set who = '{who}', data = randomblob(900) where i = {i}")
    assert app.shipped() == 1


def check(machine, folder, url, *arguments, env=None):
    """The replica restores to what this machine has."""
    restored = folder / "restored.db"
    machine.build.restore(restored, url, *arguments, env=env)
    source = harness.checkpointed_copy(machine.database, folder / "source.db")
    harness.compare_databases(source, restored)
    harness.integrity_check(restored)
    for file in (restored, source):
        file.unlink()


def test_a_later_snapshot_of_the_one_does_not_hide_what_the_other_wrote(build, tmp_path):
    replica = tmp_path / "replica"
    url = f"file://{replica}?sync-interval=10ms"
    one, two, generation = clone(build, tmp_path, url)
    with two.session(url + "&snapshot-interval=2h"), one.session(url) as app:
        commit(app, "one")
        two.forward(HOURS)
        later = f"generations/{generation}/snapshots/00000001*"
        harness.wait_until(lambda: len(generations(replica)) == 2 or list(replica.glob(later)), "a snapshot")
        commit(app, "one")
        assert app.status()["generation"] == generation
        check(one, tmp_path, url.split("?")[0], "-generation", generation)
    assert "generation ended" in two.said()


def test_what_is_written_behind_a_later_snapshot_of_the_other_is_shipped_again(build, tmp_path):
    """It was quiet when that landed. The replica is looked at again as after any rest."""
    replica = tmp_path / "replica"
    url = f"file://{replica}?sync-interval=10ms"
    one, two, generation = clone(build, tmp_path, url)
    with two.session(url + "&snapshot-interval=2h"), one.session(url) as app:
        two.forward(HOURS)
        harness.wait_until(lambda: list(replica.glob("generations/*/snapshots/00000001*")), "a later snapshot")
        one.forward(HOURS)
        commit(app, "one")
        check(one, tmp_path, url.split("?")[0])
        assert app.status()["generation"] == generation


@pytest.fixture
def through(minio):
    proxy = FaultProxy(minio)
    yield proxy
    proxy.stop()


def snapshots_of(minio, bucket, generation):
    return [int(key.split("/")[-1][:8], 16) for key in minio.keys(bucket, f"app/generations/{generation}/snapshots/")]


def test_what_is_written_during_the_upload_of_the_others_snapshot(build, minio, through, tmp_path):
    bucket = minio.bucket()
    url, env = through.url(bucket, "app", sync_interval="10ms"), minio.env()
    one, two, generation = clone(build, tmp_path, url, env)
    keys = {name: value for name, value in env.items() if name.startswith("AWS_")}
    with one.session(url, keys) as app:

        def written_meanwhile(request):
            commit(app, "one")
            request.send(*request.carry_out())

        with two.session(url + "&snapshot-interval=2h", keys):
            # Where the index ends is asked before it ends, and when the snapshot is about to land.
            fault = through.add(written_meanwhile, "GET", r"start-after=.*wal%2F", skip=1)
            two.forward(HOURS)
            harness.wait_until(lambda: fault.struck or 1 in snapshots_of(minio, bucket, generation), "the end")
            harness.wait_until(lambda: "generation ended" in two.said() or
                               1 in snapshots_of(minio, bucket, generation), "what comes of it")  # fmt: skip
        assert snapshots_of(minio, bucket, generation) == [0]
        check(one, tmp_path, minio.url(bucket, "app"), "-generation", generation, env=env)


def test_a_later_snapshot_that_is_there_and_not_of_this_history(build, minio, through, tmp_path):
    bucket = minio.bucket()
    url = through.url(bucket, "app", sync_interval="10ms", snapshot_interval="1s")
    database = tmp_path / "app.db"

    def another_first(request):
        key = re.search(r"/(app/[^?]*)", request.path)[1]
        minio.put(bucket, key, minio.get(bucket, key.replace("00000001", "00000000")))
        request.send(*request.carry_out())

    with Session(build, database, url, minio.env()) as app:
        app.do("create table t(x)")
        app.do("insert into t values (0)")
        assert app.shipped() == 1
        generation = app.status()["generation"]
        through.add(another_first, "PUT", "00000001.snapshot")

        def goes_on():
            app.do("insert into t values (randomblob(100))")
            assert app.shipped() == 1
            return app.status()["generation"] != generation or snapshots_of(minio, bucket, generation)[-1] > 1

        harness.wait_until(goes_on, "another generation")
        assert app.status()["generation"] != generation
        app.do("close")
        app.end()
    restored = tmp_path / "restored.db"
    build.restore(restored, minio.url(bucket, "app"), env=minio.env())
    harness.compare_databases(database, restored)
    # Of the one that ended either the snapshot tells, or a segment that does not follow it.
    restored.unlink()
    build.restore(restored, minio.url(bucket, "app"), "-generation", generation, env=minio.env(), check=False)
    if restored.exists():
        harness.integrity_check(restored)
