"""`sqlstream replicate`: applications with plain SQLite, replicated from outside."""

import fcntl
import json
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

import harness
from test_local_faults import file_system
from test_workloads import WORKLOADS

PAGE, FRAME = 4096, 4096 + 24

PLAIN_WORKLOADS = [
    "inserts",
    "updates",
    "deletes",
    "ddl",
    "blobs",
    "huge_transaction",
    "without_rowid",
    "rollback_and_savepoints",
    "cache_spill",
    "vacuum",
    "auto_vacuum_full",
    "auto_vacuum_incremental",
    "shrink_and_grow",
    "checkpoints_by_the_application",
    "reader_holds_a_snapshot:journal_mode=wal",
    "threads",
    "processes",
    "open_and_close",
    "inserts:page_size=512",
    "updates:page_size=65536",
    "updates:wal_autocheckpoint=0",
    "updates:wal_autocheckpoint=1",
    "threads:wal_autocheckpoint=20",
    "updates:synchronous=full",
]


class World:
    """A database, its replica, and the programs that share them."""

    def __init__(self, build, litestream, folder, processes, *, minio=None):
        self.build, self.litestream, self.folder, self.processes = build, litestream, folder, processes
        self.database = folder / "app.db"
        if minio:
            bucket = minio.bucket()
            self.env, self.url = minio.env(), minio.url(bucket, "app")
            self.stock_replica = minio.litestream_replica(bucket, "app")
        else:
            self.env, self.url = harness.clean_environment(), f"file://{folder}/replica"
            self.stock_replica = folder / "replica"
        self.count = 0

    def replicate(self, *words, **more):
        """Starts it; it has taken hold of the database when this returns, if there is one."""
        self.count += 1
        process = harness.Process(
            [self.build.sqlstream, "replicate", *(words or (self.database, self.url))],
            env={**self.env, **more}, log=self.folder / f"replicate-{self.count}.log",
        )  # fmt: skip
        self.processes.append(process)
        awaited = "msg=following" if self.database.exists() else "initialized db"
        harness.wait_until(lambda: awaited in process.said(), "the first lines of the log")
        return process

    def captured(self):
        """A replica that has a snapshot: capturing has begun."""
        harness.wait_until(lambda: self.generations(), "the snapshot")

    def plain(self, name, seed=1):
        harness.run([sys.executable, WORKLOADS, "-", self.database, "-", name, str(seed)], timeout=300)

    def connect(self):
        db = sqlite3.connect(self.database, isolation_level=None, timeout=60)
        db.execute("pragma synchronous = normal")
        return db

    def end(self, process):
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.said()
        assert "sqlstream shut down" in process.said()

    def one_generation(self, process):
        """Nothing was missed since it took hold of the database. What appears under a writer that goes on at
        once may be reset before that, even before the generation's snapshot is in the replica."""
        began, _, followed = process.said().partition("msg=following")
        assert "generation ended" not in followed, process.said()
        assert 1 <= len(self.generations()) <= 1 + began.count("generation ended"), process.said()

    def generations(self):
        said = harness.run([self.build.sqlstream, "generations", self.url], env=self.env, check=False)
        return [line.split()[1] for line in said.stdout.splitlines()[1:]]

    def status(self):
        env = {**self.env, "SQLSTREAM_REPLICA_URL": self.url}
        return json.loads(harness.run([self.build.sqlstream, "status", "-json", self.database], env=env).stdout)[0]

    def check(self, name="restored"):
        """Both tools restore what the database is now, byte for byte."""
        folder = self.folder / name
        folder.mkdir()
        expected = harness.checkpointed_copy(self.database, folder / "expected.db")
        ours, theirs = folder / "ours.db", folder / "theirs.db"
        self.build.restore(ours, self.url, env=self.env)
        harness.compare_databases(expected, ours)
        harness.integrity_check(ours)
        self.litestream.restore(theirs, self.stock_replica)
        harness.compare_databases(expected, theirs)


@pytest.fixture
def world(build, litestream, tmp_path, processes):
    return World(build, litestream, tmp_path, processes)


@pytest.fixture
def s3_world(build, litestream, tmp_path, processes, minio):
    return World(build, litestream, tmp_path, processes, minio=minio)


@pytest.mark.parametrize("name", PLAIN_WORKLOADS)
def test_every_kind_of_writing(world, name):
    process = world.replicate()
    world.plain(name)
    world.end(process)
    world.check()
    world.one_generation(process)


@pytest.mark.parametrize("name", ["updates", "vacuum", "processes", "checkpoints_by_the_application"])
def test_on_s3(s3_world, name):
    process = s3_world.replicate()
    s3_world.plain(name)
    s3_world.end(process)
    s3_world.check()
    s3_world.one_generation(process)


def test_says_what_it_does(world):
    process = world.replicate()
    lines = process.said().splitlines()
    assert lines[0].endswith(f"level=INFO msg=sqlstream version={version(world.build)}")
    assert lines[1].endswith(f'level=INFO msg="initialized db" path={world.database}')
    assert lines[2].endswith(
        'level=INFO msg="replicating to" name=file type=file sync-interval=1s '
        f"path={world.folder}/replica"
    )
    world.end(process)
    assert 'msg="signal received, sqlstream shutting down"' in process.said()


def version(build):
    return harness.run([build.sqlstream, "version"]).stdout.strip()


def test_an_existing_database_in_delete_mode(world):
    with closing(world.connect()) as db:
        db.execute("create table t(a)")
        db.executemany("insert into t values (?)", [(os.urandom(1000),) for _ in range(500)])
        assert db.execute("pragma journal_mode").fetchall() == [("delete",)]
        process = world.replicate()
        world.captured()
        db.execute("insert into t values (1)")
        assert db.execute("pragma journal_mode").fetchall() == [("wal",)]
    world.end(process)
    world.check()


def test_a_database_that_comes_later_in_a_folder_that_comes_later(world):
    world.database = world.folder / "later" / "still" / "app.db"
    process = world.replicate()
    world.database.parent.mkdir(parents=True)
    world.plain("inserts")
    world.captured()
    world.end(process)
    world.check()


def test_says_once_what_it_waits_for(world):
    process = world.replicate()
    harness.wait_until(lambda: "there is no database yet; waiting for it" in process.said(), "the first line")
    world.database.write_bytes(b"no database" * 100)
    harness.wait_until(lambda: f"{world.database} is not a database" in process.said(), "the second line")
    world.database.unlink()
    world.plain("inserts")
    world.captured()
    world.end(process)
    assert process.said().count("waiting for") == 2
    world.check()


def errors(process):
    return [line for line in process.said().splitlines() if "level=ERROR" in line]


NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_says_once_that_its_user_cannot_create_files_beside_the_database(world, mode):
    for parent in world.folder.parents:
        if parent != parent.parent and not os.stat(parent).st_mode & 0o001:
            os.chmod(parent, os.stat(parent).st_mode | 0o011)
    os.chmod(world.folder, 0o755)
    folder, replica = world.folder / "ro", Path(world.url.removeprefix("file://"))
    world.database = folder / "app.db"
    for path in (folder, replica):
        path.mkdir()
        os.chown(path, NOBODY, NOBODY)
    with closing(world.connect()) as db:
        db.execute(f"pragma journal_mode = {mode}")
        db.execute("create table t(a)")
    os.chown(world.database, NOBODY, NOBODY)
    folder.chmod(0o555)
    run = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    run += [world.build.sqlstream, "replicate", world.database, world.url]
    process = harness.Process(run, env=world.env, log=world.folder / "said")
    world.processes.append(process)
    harness.wait_until(lambda: errors(process), "the error")
    time.sleep(2)  # it tries again meanwhile
    (line,) = errors(process)
    assert f"cannot replicate {world.database}: this user cannot create files in its folder" in line
    folder.chmod(0o755)
    harness.wait_until(lambda: "msg=following" in process.said(), "its end")
    world.captured()
    world.end(process)
    assert errors(process) == [line]
    world.check()


@pytest.mark.parametrize("how", ["exclusive:wal", "exclusive:delete", "transaction:delete"])
def test_says_once_that_another_program_holds_the_database(world, how):
    how, mode = how.split(":")
    with closing(world.connect()) as db:
        if how == "exclusive":
            db.execute("pragma locking_mode = exclusive")
        db.execute(f"pragma journal_mode = {mode}")
        db.execute("create table t(a)")
        if how == "transaction":
            db.execute("begin")
        db.execute("select * from t").fetchall()
        process = harness.Process([world.build.sqlstream, "replicate", world.database, world.url],
                                  env=world.env, log=world.folder / "said")  # fmt: skip
        world.processes.append(process)
        harness.wait_until(lambda: errors(process), "the error")
        time.sleep(2)  # it tries again meanwhile
        (line,) = errors(process)
        assert f"cannot replicate {world.database}: another program holds it" in line
    harness.wait_until(lambda: "msg=following" in process.said(), "its end")
    world.captured()
    world.end(process)
    assert errors(process) == [line]
    world.check()


def test_a_held_database_is_told_of_at_the_end_at_the_latest(world):
    with closing(world.connect()) as db:
        db.execute("create table t(a)")
        db.execute("begin exclusive")
        result = execute(world, "true")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (result.stdout + result.stderr).count("another program holds it") == 1


def test_every_checkpoint_of_the_application_comes_to_its_end(world):
    """A reader that never left would make FULL, RESTART and TRUNCATE busy."""
    process = world.replicate()
    with closing(world.connect()) as db:
        db.execute("create table t(a)")
        world.captured()
        for i in range(40):
            for _ in range(25):
                db.execute("insert into t values (?)", (os.urandom(500),))
            mode = ("full", "restart", "truncate")[i % 3]
            busy, _, _ = db.execute(f"pragma wal_checkpoint({mode})").fetchone()
            assert busy == 0, (i, mode)
    world.end(process)
    world.check()
    assert len(world.generations()) == 1, process.said()


def wal_pages(database):
    return (os.stat(f"{database}-wal").st_size - 32) // FRAME


@pytest.mark.parametrize("autocheckpoint", [1000, 0])
def test_the_wal_stays_bounded_under_load(world, autocheckpoint):
    config = world.folder / "replicate.yml"
    config.write_text(
        f"dbs:\n  - path: {world.database}\n    max-checkpoint-page-count: 2000\n"
        f"    replicas:\n      - url: {world.url}\n"
    )
    process = world.replicate("-config", config)
    largest = 0
    with closing(world.connect()) as db:
        db.execute("create table t(a)")
        world.captured()
        db.execute(f"pragma wal_autocheckpoint = {autocheckpoint}")
        for i in range(150_000):
            db.execute("insert into t values (?)", (i,))
            if i % 100 == 0:
                largest = max(largest, wal_pages(world.database))
    # Without resets it would be over 150,000.
    assert largest < 60_000
    world.end(process)
    world.check()
    assert len(world.generations()) == 1, process.said()


def test_a_wal_over_the_limit_is_checkpointed_when_the_writer_pauses(world):
    process = world.replicate()
    with closing(world.connect()) as db:
        db.execute("pragma wal_autocheckpoint = 0")
        db.execute("create table t(a)")
        world.captured()
        db.execute("begin")
        for _ in range(2500):
            db.execute("insert into t values (?)", (os.urandom(3000),))
        db.execute("commit")
        size = wal_pages(world.database)
        assert size > 1000

        def starts_anew():
            db.execute("insert into t values (1)")
            with open(f"{world.database}-wal", "rb") as wal:
                return wal.read(24)[16:24] != before

        with open(f"{world.database}-wal", "rb") as wal:
            before = wal.read(24)[16:24]
        harness.wait_until(starts_anew, "a WAL with new salts")
    world.end(process)
    world.check()
    assert len(world.generations()) == 1, process.said()


def test_stock_shells_that_come_and_go(world):
    """Each would be the last to close, and delete the WAL, if nobody else had it open."""
    process = world.replicate()
    run = ["sqlite3", "-cmd", ".timeout 20000", world.database]
    harness.run([*run, "create table t(a); pragma journal_mode = wal;"])
    for i in range(40):
        mode = ("passive", "full", "restart", "truncate")[i % 4]
        harness.run([*run, f"insert into t values (randomblob(3000)); pragma wal_checkpoint({mode});"])
    world.end(process)
    world.check()
    assert len(world.generations()) == 1, process.said()


class Load:
    """A plain application in a process of its own that commits until it is killed."""

    SCRIPT = (
        "import sqlite3, sys, os\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n"
        "db.execute('pragma journal_mode = wal').fetchall()\n"
        "db.execute('pragma synchronous = normal')\n"
        "db.execute('create table if not exists load(id integer primary key, a)')\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    db.execute('insert into load(a) values (?)', (os.urandom(200),))\n"
        "    db.execute('update load set a = ? where id = abs(random()) % 1000', (os.urandom(200),))\n"
    )

    def __init__(self, database):
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT, database], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def commit(database):
    """A commit that was cut off behind its last frame comes back when the wal-index is built anew:
    another one in its place leaves no doubt."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=60)) as db:
        db.execute("create table if not exists committed(a)")
        db.execute("insert into committed values (1)")


def rows(database):
    with closing(sqlite3.connect(database, timeout=60)) as db:
        return db.execute("select count(*) from load").fetchone()[0]


def grow_by(database, count):
    start = rows(database)
    harness.wait_until(lambda: rows(database) >= start + count, f"{count} more commits")


def test_the_application_is_killed(world):
    process = world.replicate()
    for _ in range(5):
        load = Load(world.database)
        try:
            grow_by(world.database, random.randint(100, 3000))
        finally:
            load.kill()
    commit(world.database)
    world.end(process)
    world.check()
    assert len(world.generations()) == 1, process.said()


def test_it_is_killed_while_the_application_goes_on(world):
    process = world.replicate()
    load = Load(world.database)
    try:
        world.captured()
        # A fourth generation within a minute would wait some seconds for its beginning.
        for _ in range(2):
            grow_by(world.database, random.randint(100, 3000))
            process.kill()
            grow_by(world.database, random.randint(0, 3000))
            process = world.replicate()
        grow_by(world.database, 500)
    finally:
        load.kill()
    commit(world.database)
    world.end(process)
    world.check()


def test_killed_and_started_again_it_goes_on_in_the_same_generation(world):
    """The WAL still has what came meanwhile: nobody started it anew."""
    process = world.replicate()
    with closing(world.connect()) as db:
        db.execute("create table t(a)")
        world.captured()
        for _ in range(4):
            db.executemany("insert into t values (?)", [(os.urandom(100),) for _ in range(20)])
            process.kill()
            db.executemany("insert into t values (?)", [(os.urandom(100),) for _ in range(20)])
            process = world.replicate()
        db.execute("insert into t values (1)")
    world.end(process)
    world.check()
    assert len(world.generations()) == 1, process.said()


def write_lock_holder(database):
    """Who has SQLite's write lock, byte 120 of the -shm; 0: nobody."""
    asked = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 120, 1, 0)
    with open(f"{database}-shm", "rb") as shm:
        answer = struct.unpack("hhqqi4x", fcntl.fcntl(shm, fcntl.F_GETLK, asked))
    return 0 if answer[0] == fcntl.F_UNLCK else answer[4]


def stop_outside_of_sqlite(process, database):
    """One that is stopped with the write lock holds everybody, as any program with SQLite."""
    while True:
        process.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        if write_lock_holder(database) != process.pid:
            return
        process.signal(signal.SIGCONT)


def test_ended_in_the_pause_between_generations(world):
    world.plain("inserts")
    process = world.replicate()
    world.captured()
    world.end(process)
    # As if several generations had been begun just now: the next one would wait for a minute.
    with open(world.folder / ".app.db-sqlstream/control", "r+b") as control:
        control.seek(16)
        control.write(struct.pack("<qI", time.time_ns(), 12))
    # Nobody saw this: it is not of the same generation.
    with closing(world.connect()) as db:
        db.execute("create table unseen(x)")
        db.execute("pragma wal_checkpoint(truncate)")
    process = world.replicate()
    harness.wait_until(lambda: world.status()["state"] == "waiting", "the pause")
    assert len(world.generations()) == 1
    world.end(process)
    assert len(world.generations()) == 2, process.said()
    world.check()


def test_stopped_for_a_while(world):
    process = world.replicate()
    load = Load(world.database)
    try:
        world.captured()
        for _ in range(3):
            stop_outside_of_sqlite(process, world.database)
            grow_by(world.database, 3000)
            process.signal(signal.SIGCONT)
            grow_by(world.database, 500)
    finally:
        load.kill()
    commit(world.database)
    world.end(process)
    world.check()


def test_beside_an_application_with_the_extension(world):
    """One that opens the database between a reset and its capture cannot prove it, and begins a new
    generation: one or several, the replica is whole."""
    process = world.replicate()
    world.plain("inserts")
    writers = [
        threading.Thread(target=world.plain, args=("fill_only", 2)),
        threading.Thread(
            target=harness.run,
            args=([PYTHON_WITH_EXTENSIONS, WORKLOADS, world.build.extension, world.database, world.url,
                   "fill_only", "3"],),
        ),
    ]  # fmt: skip
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    world.end(process)
    world.check()


PYTHON_WITH_EXTENSIONS = "/usr/bin/python3"


def test_another_file_takes_the_place(world):
    process = world.replicate()
    world.plain("inserts")
    harness.wait_until(lambda: len(world.generations()) == 1, "the first generation")
    other = world.folder / "other.db"
    with closing(sqlite3.connect(other, isolation_level=None)) as db:
        db.execute("create table other(a)")
        db.executemany("insert into other values (?)", [(i,) for i in range(1000)])
    for suffix in ("-wal", "-shm"):
        os.unlink(f"{world.database}{suffix}")
    os.rename(other, world.database)
    harness.wait_until(lambda: len(world.generations()) == 2, "the second generation")
    with closing(world.connect()) as db:
        db.execute("insert into other values (0)")
    world.end(process)
    world.check()


def test_several_databases_of_a_configuration(world):
    databases = [world.folder / f"d{i}" / "app.db" for i in range(12)]
    for database in databases:
        database.parent.mkdir()
    config = world.folder / "replicate.yml"
    config.write_text("logging:\n  stderr: true\ndbs:\n" + "".join(
        f"  - path: {database}\n    replicas:\n      - path: {database.parent}/r\n" for database in databases
    ))  # fmt: skip
    process = world.replicate("-config", config)
    worlds = []
    for database in databases:
        own = World(world.build, world.litestream, database.parent, world.processes)
        own.database, own.url, own.stock_replica = database, f"file://{database.parent}/r", database.parent / "r"
        worlds.append(own)
    threads = [threading.Thread(target=own.plain, args=("inserts", i)) for i, own in enumerate(worlds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    world.end(process)
    said = process.said()
    for own in worlds:
        own.check()
        # What resets the WAL before it is held may cost a generation; nothing does from then on.
        before, followed, after = said.partition(f"msg=following db={own.database}\n")
        assert followed, said
        assert f"db={own.database} generation=" not in after, said


def context_switches(pid):
    """Of all threads: none wakes up when this stays as it is."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as status:
            total += sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
    return total


def test_idle_is_idle(world):
    process = world.replicate()
    world.plain("inserts")
    world.captured()

    def quiet():
        before = context_switches(process.pid)
        time.sleep(3)
        return context_switches(process.pid) == before

    harness.wait_until(quiet, "three seconds without a thread that wakes up")
    world.end(process)
    world.check()


# -exec


def execute(world, command, *words, env=None):
    return harness.run(
        [world.build.sqlstream, "replicate", "-exec", command, *(words or (world.database, world.url))],
        env={**world.env, **(env or {})}, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command, code",
    [("true", 0), ("sh -c 'exit 7'", 7), ("sh -c 'kill -9 $$'", 137), ("no-such-program", 1), ("sh -c 'x", 1)],
)
def test_exec_exits_as_the_program_does(world, command, code):
    result = execute(world, command)
    assert result.returncode == code, result.stdout + result.stderr


def test_exec_ships_what_the_program_wrote(s3_world):
    script = s3_world.folder / "app with spaces.py"
    script.write_text(
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('create table t(a)')\n"
        "for i in range(300): db.execute('insert into t values (?)', (sys.argv[2],))\n"
    )
    command = f"'{sys.executable}' \"{script}\" {s3_world.database} it\\'s\\ one"
    result = execute(s3_world, command)
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'msg="subprocess exited, sqlstream shutting down"' in result.stdout
    with closing(sqlite3.connect(s3_world.database)) as db:
        assert db.execute("select distinct a from t").fetchall() == [("it's one",)]
    s3_world.check()


def test_exec_of_the_configuration(world):
    config = world.folder / "replicate.yml"
    config.write_text(
        f"exec: sh -c 'exit 5'\ndbs:\n  - path: {world.database}\n    replicas:\n      - url: {world.url}\n"
    )
    run = [world.build.sqlstream, "replicate", "-config", config]
    assert harness.run(run, check=False).returncode == 5
    assert harness.run([*run, "-exec", "true"], check=False).returncode == 0


@pytest.mark.parametrize("number", ["TERM", "INT", "HUP", "USR1", "USR2", "QUIT"])
def test_exec_forwards_signals(world, number):
    command = f"sh -c 'trap \"echo got {number}; exit 3\" {number}; echo up; while :; do sleep 0.05; done'"
    process = world.replicate("-exec", command, world.database, world.url)
    harness.wait_until(lambda: "up\n" in process.said(), "the program")
    process.signal(getattr(signal, f"SIG{number}"))
    assert process.wait() == 3
    assert f"got {number}" in process.said()


def test_exec_as_the_first_process_collects_orphans(world):
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("no permission for namespaces here")
    # The orphans end while their new parent waits for the program.
    script = (
        "for i in 1 2 3; do (sh -c 'sleep 0.1' &) ; done; sleep 0.6; "
        "grep -l '^State:.Z' /proc/[0-9]*/status; echo looked; exit 4"
    )
    result = harness.run(
        [*unshare, world.build.sqlstream, "replicate", "-exec", f'sh -c "{script}"', world.database, world.url],
        check=False,
    )  # fmt: skip
    assert result.returncode == 4, result.stdout + result.stderr
    assert "looked" in result.stdout
    assert "/status" not in result.stdout


# The end


def test_a_second_signal_ends_it_at_once(build, litestream, own_minio, tmp_path, processes):
    world = World(build, litestream, tmp_path, processes, minio=own_minio)
    config = world.folder / "replicate.yml"
    config.write_text(
        f"dbs:\n  - path: {world.database}\n    shutdown-timeout: 1h\n    replicas:\n      - url: {world.url}\n"
    )
    process = world.replicate("-config", config)
    world.plain("updates")
    world.captured()
    own_minio.process.signal(signal.SIGSTOP)
    try:
        with closing(world.connect()) as db:
            db.execute("create table more(a)")
        process.signal(signal.SIGTERM)
        harness.wait_until(lambda: "signal received" in process.said(), "the first signal's line")

        def ends():
            process.signal(signal.SIGTERM)
            return process.popen.poll() is not None

        harness.wait_until(ends, "its end")
        assert process.wait() == 128 + signal.SIGTERM
    finally:
        own_minio.process.signal(signal.SIGCONT)
    again = world.replicate()
    world.end(again)
    world.check()


def test_signals_that_come_together_are_one(build, litestream, own_minio, tmp_path, processes):
    # As from timeout(1), which signals the process and then its group.
    world = World(build, litestream, tmp_path, processes, minio=own_minio)
    process = world.replicate()
    world.plain("updates")
    world.captured()
    own_minio.process.signal(signal.SIGSTOP)
    try:
        with closing(world.connect()) as db:
            db.execute("create table more(a)")
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGINT)
        harness.wait_until(lambda: "signal received" in process.said(), "the signals' line")
    finally:
        own_minio.process.signal(signal.SIGCONT)
    assert process.wait() == 0, process.said()
    world.check()


def test_a_replica_without_space_is_two_lines_in_the_log(world):
    replica = Path(world.url.removeprefix("file://"))
    replica.mkdir()
    with file_system(replica, "256k") as remount:
        process = world.replicate()
        with closing(world.connect()) as db:
            db.execute("pragma journal_mode = wal")
            db.execute("create table t(a)")
            world.captured()
            db.execute("insert into t values (randomblob(1000000))")
        harness.wait_until(lambda: "No space left" in process.said(), "the error")
        before = process.said()
        time.sleep(3)  # it tries again meanwhile
        assert process.said() == before
        remount("size=16m")
        harness.wait_until(lambda: "replica takes data again" in process.said(), "the end of it")
        world.end(process)
        assert process.said().count("level=ERROR") == process.said().count("takes data again") == 1
        world.check()


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["app.db"], "must specify at least one replica URL for app.db"),
        (["-config", "c.yml", "app.db", "file:///r"], "cannot specify a replica URL and the -config flag"),
        (["-config", "/no/such.yml"], "config file not found: /no/such.yml"),
    ],
)
def test_refusals(build, words, sentence):
    result = harness.run([build.sqlstream, "replicate", *words], check=False)
    assert result.returncode == 1
    assert sentence in result.stderr
