"""A database that does not exist is restored when it is opened: wholly, once, or not at all."""

import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from contextlib import closing

import pytest

import harness
from test_lifecycle import Session
from test_workloads import PYTHON

ROWS = 400


def program(build, uri, *statements):
    """The source of a program that opens `uri` and prints what statements give."""
    return (
        "import sqlite3\n"
        "loader = sqlite3.connect(':memory:')\n"
        "loader.enable_load_extension(True)\n"
        f"loader.load_extension({str(build.extension.with_suffix(''))!r})\n"
        f"db = sqlite3.connect({uri!r}, uri=True, isolation_level=None, timeout=60)\n"
        f"for sql in {statements!r}:\n"
        "    print(db.execute(sql).fetchall())\n"
    )


class World:
    """A database that was replicated, and is lost."""

    def __init__(self, build, folder, url, env):
        self.build, self.folder, self.url, self.env = build, folder, url, env
        self.database, self.source = folder / "app.db", folder / "source.db"
        self.log = folder / "log"
        source = folder / "first" / "app.db"
        source.parent.mkdir()
        with Session(build, str(source), url, env=env) as session:
            session.do("create table t(x)")
            session.do(f"with n(i) as (select 1 union all select i + 1 from n where i < {ROWS}) "
                       "insert into t select randomblob(3000) from n")
            assert session.shipped() == 1
            session.do("insert into t values ('last')")
            assert session.shipped() == 1
            session.end()
        harness.checkpointed_copy(source, self.source)

    def uri(self, database=None, replica=None, **parameters):
        parameters = {"restore": "if-missing", **parameters}
        parameters = {name.replace("_", "-"): value for name, value in parameters.items()}
        return self.build.uri(database or self.database, replica or self.url, **parameters)

    def open(self, *statements, uri=None, check=True, **env):
        return harness.run(
            [PYTHON, "-c", program(self.build, uri or self.uri(), *statements)],
            env={**self.env, "SQLSTREAM_LOG": str(self.log), **env}, check=check,
        )  # fmt: skip

    def start(self, *statements, uri=None):
        return subprocess.Popen(
            [PYTHON, "-c", program(self.build, uri or self.uri(), *statements)],
            env={**self.env, "SQLSTREAM_LOG": str(self.log)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def left_behind(self):
        return [p.name for p in self.folder.iterdir() if "restor" in p.name]

    def check(self, database=None):
        database = database or self.database
        harness.compare_databases(self.source, harness.checkpointed_copy(database, self.folder / "copy.db"))
        assert self.left_behind() == []

    def refused(self, **more):
        """An open that fails, with what the log says."""
        said = self.open("select 1", check=False, **more)
        assert said.returncode != 0 and "unable to open database file" in said.stderr
        assert not self.database.exists() and self.left_behind() == []
        (line,) = [l for l in self.log.read_text().splitlines() if "cannot restore the database" in l]
        self.log.unlink()
        return line


@pytest.fixture(params=["file", "s3"])
def world(request, build, tmp_path):
    if request.param == "file":
        return World(build, tmp_path, f"file://{tmp_path}/replica", harness.clean_environment())
    minio = request.getfixturevalue("minio")
    return World(build, tmp_path, minio.url(minio.bucket(), "app"), minio.env())


@pytest.fixture
def local(build, tmp_path):
    return World(build, tmp_path, f"file://{tmp_path}/replica", harness.clean_environment())


COUNT = "select count(*), max(x = 'last') from t"
ALL = f"[({ROWS + 1}, 1)]\n"


def test_what_is_missing_is_restored(world):
    assert world.open(COUNT).stdout == ALL
    world.check()
    # Once: what is written later is not undone.
    assert world.open("insert into t values (1)", COUNT).stdout.endswith(f"[({ROWS + 2}, 1)]\n")
    assert world.open(COUNT).stdout == f"[({ROWS + 2}, 1)]\n"


def test_it_replicates_on(world):
    world.open("insert into t values ('behind')", "select sqlstream_wait(60000)")
    restored = world.folder / "again.db"
    world.build.restore(restored, world.url, env=world.env)
    with closing(sqlite3.connect(restored)) as db:
        assert db.execute("select count(*), max(x = 'behind') from t").fetchall() == [(ROWS + 2, 1)]


def test_from_the_configuration(world):
    config = world.folder / "c.yml"
    entry = {"path": str(world.database), "replicas": [{"url": world.url}], "restore-if-missing": True}
    config.write_text(json.dumps({"dbs": [entry]}))
    uri = f"file:{world.database}?vfs=sqlstream"
    assert world.open(COUNT, uri=uri, SQLSTREAM_CONFIG=str(config)).stdout == ALL
    world.check()
    # Through the stock shell, which knows nothing of it.
    for suffix in ("", "-wal", "-shm"):
        world.database.with_name(f"app.db{suffix}").unlink(missing_ok=True)
    said = harness.run(
        ["sqlite3", world.database, COUNT.replace(", max(x = 'last')", "")],
        env={**world.env, "LD_PRELOAD": str(world.build.preload), "SQLSTREAM_DEFAULT_VFS": "1",
             "SQLSTREAM_CONFIG": str(config)},
    )  # fmt: skip
    assert said.stdout == f"{ROWS + 1}\n"


def test_not_unless_it_is_wanted(local):
    assert local.open("create table n(x)", uri=local.build.uri(local.database, local.url)).stdout == "[]\n"
    (local.folder / "two").mkdir()
    config = local.folder / "c.yml"
    entry = {"path": str(local.folder / "two/app.db"), "replica": local.url, "restore-if-missing": True}
    config.write_text(json.dumps({"dbs": [entry]}))
    uri = f"file:{local.folder}/two/app.db?vfs=sqlstream&restore=never"
    assert local.open("create table n(x)", uri=uri, SQLSTREAM_CONFIG=str(config)).stdout == "[]\n"


def test_only_where_a_database_would_be_created(local):
    for mode in ("ro", "rw"):
        said = local.open("select 1", uri=local.uri(mode=mode), check=False)
        assert "unable to open" in said.stderr and not local.database.exists()
    assert local.left_behind() == []


def test_a_copy_of_another_database_replicates_to_its_own_place(world):
    own = f"file://{world.folder}/own"
    copy = world.folder / "copy" / "dev.db"
    copy.parent.mkdir()
    uri = world.uri(copy, own, restore_from=world.url)
    world.open("insert into t values ('development')", "select sqlstream_wait(60000)", uri=uri)
    for url, rows in ((own, ROWS + 2), (world.url, ROWS + 1)):
        restored = world.folder / f"restored-{rows}.db"
        world.build.restore(restored, url, env=world.env)
        with closing(sqlite3.connect(restored)) as db:
            assert db.execute("select count(*) from t").fetchall() == [(rows,)]


def test_a_copy_that_replicates_nowhere(local):
    config = local.folder / "c.yml"
    config.write_text(json.dumps({"dbs": [{"path": str(local.database), "restore-from": local.url}]}))
    uri = f"file:{local.database}?vfs=sqlstream"
    said = local.open(COUNT, "select sqlstream_status()", uri=uri, SQLSTREAM_CONFIG=str(config)).stdout
    assert said.startswith(ALL) and "not replicated" in said
    local.check()
    local.database.unlink()
    uri += f"&restore-from={local.url}"
    assert local.open(COUNT, uri=uri, SQLSTREAM_CONFIG=os.devnull).stdout == ALL


@pytest.mark.parametrize("compacted", [False, True])
def test_of_several_replicas_the_one_with_the_latest_data(local, compacted):
    older = local.folder / "older"
    config = local.folder / "c.yml"
    entry = {"path": str(local.database), "restore-if-missing": True,
             "replicas": [{"url": f"file://{older}", "name": "older"}, {"url": local.url, "name": "newer"}]}  # fmt: skip
    config.write_text(json.dumps({"dbs": [entry]}))
    harness.run(["cp", "-a", local.folder / "replica", older])
    for segment in older.glob("generations/*/wal/*"):
        segment.unlink()
    if compacted:  # in which nothing is, of all there is
        (folder,) = (local.folder / "replica").glob("generations/*")
        index, offset = max((folder / "wal").iterdir()).name.split(".")[0].split("_")
        (folder / "compacted").mkdir()
        (folder / f"compacted/{index}_00000000_{int(offset, 16) + 1:08x}_1.wal.lz4").touch()
    assert local.open(COUNT, uri=f"file:{local.database}?vfs=sqlstream", SQLSTREAM_CONFIG=str(config)).stdout == ALL
    assert ("restoring without compacted segments" in local.log.read_text()) == compacted


def test_nothing_in_the_replica_is_a_new_database(local):
    uri = local.uri(replica=f"file://{local.folder}/never")
    assert local.open("create table n(x)", "select sqlstream_wait(60000)", uri=uri).stdout == "[]\n[(1,)]\n"
    assert "a new database begins: no matching backups found" in local.log.read_text()
    assert local.left_behind() == []


# Never an empty database in its place


def test_a_damaged_object(local):
    (snapshot,) = (local.folder / "replica").glob("generations/*/snapshots/*")
    content = bytearray(snapshot.read_bytes())
    content[len(content) // 2] ^= 1
    snapshot.write_bytes(content)
    assert "is damaged" in local.refused()


def test_a_wal_without_its_database(local):
    wal = local.folder / "app.db-wal"
    wal.write_bytes(b"something")
    assert f"{wal} exists" in local.refused()
    assert wal.read_bytes() == b"something"


def test_a_store_that_refuses_or_cannot_be_reached(build, minio, tmp_path):
    world = World(build, tmp_path, minio.url(minio.bucket(), "app"), minio.env())
    assert "secret access key is wrong" in world.refused(AWS_SECRET_ACCESS_KEY="another")
    gone = world.url.split("?")[0] + f"?endpoint=http://127.0.0.1:{harness.free_port()}&region=us-east-1"
    said = world.refused(uri=world.uri(replica=gone))
    assert "no connection to" in said
    assert "does not exist" in world.refused(uri=world.uri(replica=minio.url("no-such-bucket", "app")))
    assert world.open(COUNT).stdout == ALL


@pytest.mark.parametrize(
    "parameters, text",
    [
        ({"restore": "always"}, "restore must be if-missing or never"),
        ({"restore_from": "nonsense"}, "it is not a URL"),
        ({"replica": "gs://bucket/x"}, "are not supported"),
    ],
    ids=str,
)
def test_parameters_that_cannot_be(local, parameters, text):
    assert text in local.refused(uri=local.uri(**parameters))


def test_a_configuration_that_cannot_be(local):
    config = local.folder / "c.yml"
    config.write_text(json.dumps({"dbs": [{"path": str(local.database), "restore-if-missing": True}]}))
    uri = f"file:{local.database}?vfs=sqlstream&restore=if-missing"
    assert "restore-if-missing needs a replica or restore-from" in local.refused(uri=uri, SQLSTREAM_CONFIG=str(config))


@pytest.mark.parametrize("name", ["SQLSTREAM_CONFIG", "LITESTREAM_CONFIG"])
@pytest.mark.parametrize("replica", [False, True])
def test_a_named_configuration_that_cannot_be_read(local, name, replica):
    # It may have asked for a restore: nothing is created.
    missing = local.folder / "gone.yml"
    uri = local.build.uri(local.database, local.url if replica else None)
    assert f"config file not found: {missing}" in local.refused(uri=uri, **{name: str(missing)})
    assert not local.database.exists()
    never = local.build.uri(local.database, local.url if replica else None, restore="never")
    assert local.open("create table n(x)", uri=never, **{name: str(missing)}).stdout == "[]\n"


def test_an_outbox_of_the_configuration_counts_for_a_replica_of_the_uri(local):
    outbox = local.folder / "outbox"
    config = local.folder / "c.yml"
    entry = {"path": str(local.database), "outbox-dir": str(outbox), "replica": f"{local.folder}/other"}
    config.write_text(json.dumps({"dbs": [entry]}))
    said = local.open(
        "insert into t values ('behind')", "select sqlstream_wait(60000)", "select sqlstream_status()",
        SQLSTREAM_CONFIG=str(config),
    ).stdout  # fmt: skip
    assert f'"outbox":"{outbox}"' in said and f'"url":"{local.url}"' in said
    assert list(outbox.glob("*.log")) and not (local.folder / "other").exists()


# Several at once, and ends in the middle


class Gate:
    """In front of MinIO: what asks for a snapshot waits until the gate is opened."""

    def __init__(self, minio):
        self.minio, self.asked, self.opened = minio, 0, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.minio.port))
            for ends in ((client, server, True), (server, client, False)):
                threading.Thread(target=self.copy, args=ends, daemon=True).start()

    def copy(self, source, to, requests):
        try:
            while data := source.recv(65536):
                if requests and b".snapshot.lz4 HTTP" in data.split(b"\r\n")[0]:
                    self.asked += 1
                    self.opened.wait()
                to.sendall(data)
            to.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was killed


@pytest.fixture
def gated(build, minio, tmp_path):
    """A lost database whose restore waits at a gate."""
    world = World(build, tmp_path, minio.url(minio.bucket(), "app"), minio.env())
    world.gate = Gate(minio)
    world.url = world.url.replace(f":{minio.port}", f":{world.gate.port}")
    yield world
    world.gate.opened.set()


def said(process):
    try:
        return process.communicate(timeout=60)[0]
    finally:
        process.kill()


def wait_for_waiter(world, count=1):
    waiting = lambda: world.log.read_text().count("waiting for another process") == count
    harness.wait_until(waiting, "the others to wait")


def test_of_two_one_restores_and_the_other_waits(gated):
    first = gated.start(COUNT)
    harness.wait_until(lambda: gated.gate.asked == 1, "the restore")
    second = gated.start(COUNT)
    wait_for_waiter(gated)
    assert not gated.database.exists()
    gated.gate.opened.set()
    assert (said(first), said(second)) == (ALL, ALL)
    assert gated.log.read_text().count("database restored") == 1
    gated.check()


def test_killed_in_the_middle(gated):
    process = gated.start(COUNT)
    harness.wait_until(lambda: gated.gate.asked == 1, "the restore")
    assert len(gated.left_behind()) == 2 and not gated.database.exists()
    process.kill()
    process.communicate()
    # What it left is no database, and in nobody's way.
    assert not gated.database.exists()
    gated.gate.opened.set()
    assert gated.open(COUNT).stdout == ALL
    gated.check()


def test_who_waits_takes_over_from_one_that_is_killed(gated):
    first = gated.start(COUNT)
    harness.wait_until(lambda: gated.gate.asked == 1, "the restore")
    others = [gated.start(COUNT) for _ in range(3)]
    wait_for_waiter(gated, 3)
    first.kill()
    first.communicate()
    harness.wait_until(lambda: gated.gate.asked == 2, "another one")
    gated.gate.opened.set()
    assert [said(other) for other in others] == [ALL] * 3
    assert gated.log.read_text().count("database restored") == 1
    gated.check()


def test_many_at_once(local):
    processes = [local.start(COUNT) for _ in range(8)]
    assert [said(process) for process in processes] == [ALL] * 8
    assert local.log.read_text().count("database restored") == 1
    local.check()


def test_killed_at_any_moment(local):
    seed = int(os.environ.get("SQLSTREAM_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"SQLSTREAM_TEST_SEED={seed}")
    chance = random.Random(seed)
    whole = 0
    for _ in range(25):
        process = local.start(COUNT)
        time.sleep(chance.uniform(0.02, 0.2))
        process.kill()
        process.communicate()
        if local.database.exists():
            whole += 1
            harness.checkpointed_copy(local.database, local.folder / "copy.db")
            harness.compare_databases(local.source, local.folder / "copy.db")
        for path in local.folder.glob("app.db*"):
            path.unlink()
        shutil.rmtree(local.folder / ".app.db-sqlstream", ignore_errors=True)
    print(f"{whole} of 25 were whole")
    assert local.open(COUNT).stdout == ALL
    local.check()
