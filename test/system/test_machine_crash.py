"""The machine ends: of the database, the WAL and the outbox an arbitrary part of what was not synced
is lost, and the -shm. A run writes a journal of all its changes; states of a crash are made from it."""

import fcntl
import os
import random
import shutil
import sqlite3
import struct
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import faults
import harness
from test_crash_points import SHELL, Place, acknowledged, check_every_position
from test_kill import LARGE_OBJECTS, finish, started_large
from test_lifecycle import Session
from test_stopped import FLOCK, SHIPPING
from test_workloads import PYTHON, check_restores

WORKERS = 2
RUNS = 12
STATES = 30  # of each run
WHOLLY = 10  # one in so many is looked at in all its moments
LONG = 20  # times as many with --long
F_OFD_SETLK = 37
ENTRY = struct.Struct("=8sIIQQQQqq")


@dataclass
class Change:
    """One entry of the journal, see test/faults/faults.cc."""

    kind: str
    path: Path
    other: Path
    offset: int
    data: bytes
    device: int
    inode: int
    mtime: int
    ctime: int


def read_journal(file):
    bytes_ = file.read_bytes()
    at = 0
    while at < len(bytes_):
        kind, path, other, offset, size, *identity = ENTRY.unpack_from(bytes_, at)
        at += ENTRY.size
        kind = kind.rstrip(b"\0").decode()
        texts = bytes_[at : at + path], bytes_[at + path : at + path + other]
        at += path + other
        data = bytes_[at : at + size] if kind == "write" else b""
        at += len(data)
        if kind == "punch":
            data = bytes(size)
        yield Change(kind, *(Path(text.decode()) for text in texts), offset, data, *identity)


class Files:
    """Paths and contents, changed as the journal says. A folder and a FIFO are None and ""."""

    def __init__(self):
        self.files = {}
        self.times = {}  # where one was set

    def apply(self, change):
        path = change.path
        if change.kind == "create":
            self.files[path] = bytearray()
        elif change.kind in ("mkdir", "mkfifo"):
            self.files[path] = None if change.kind == "mkdir" else ""
        elif change.kind in ("unlink", "rmdir"):
            self.files.pop(path, None)
        elif change.kind == "rename":
            self.files[change.other] = self.files.pop(path)
            if path in self.times:
                self.times[change.other] = self.times.pop(path)
        elif change.kind == "times":
            self.times[path] = change.mtime
        elif change.kind == "truncate" and path in self.files:
            content = self.files[path]
            del content[change.offset :]
            content.extend(bytes(change.offset - len(content)))
        elif change.kind == "write" and path in self.files:
            content = self.files[path]
            content.extend(bytes(max(0, change.offset - len(content))))
            content[change.offset : change.offset + len(change.data)] = change.data
        elif change.kind == "punch" and path in self.files:
            content = self.files[path]
            end = min(len(content), change.offset + len(change.data))
            content[change.offset : end] = bytes(max(0, end - change.offset))

    def write(self):
        for path, content in sorted(self.files.items()):
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
            elif content == "":
                os.mkfifo(path)
            else:
                path.write_bytes(content)
                if path in self.times:
                    os.utime(path, ns=(self.times[path], self.times[path]))


def survivors(chance, changes):
    """Of the changes to one file (and the syncs), those that a crash leaves: all up to the last sync,
    and some of the rest: the first few of them, or of the writes any."""
    synced = max((i for i, change in enumerate(changes) if change.kind == "sync"), default=-1)
    durable, rest = changes[: synced + 1], changes[synced + 1 :]
    kept = rest[: chance.choice((0, len(rest), chance.randint(0, len(rest))))]
    if chance.random() < 0.3:
        kept = [change for change in rest if change.kind != "write" or chance.random() < 0.5]
    return durable + kept


def crash(chance, journal, place, least):
    """Makes the state of a crash at a random change, the `least`th or later; what stat then says of
    the database."""
    until = journal[: chance.randint(least, len(journal))]
    outbox = place.under / ".app.db-sqlstream"
    left = Files()
    files = {}
    for change in until:
        if change.path == place.under:
            for changes in files.values():
                changes.append(change)  # a sync of the folder is one of the names in it
        elif place.replica in (change.path, *change.path.parents):
            left.apply(change)  # on another machine
        elif not change.path.name.endswith("-shm"):
            files.setdefault(change.path, []).append(change)
    identity = None
    cut = chance.choice((None, chance.randint(0, len(until))))  # one for the whole outbox, or many
    position = {id(change): i for i, change in enumerate(until)}
    for path, changes in files.items():
        if outbox in (path, *path.parents):
            kept = (
                survivors(chance, changes)
                if cut is None
                else [change for change in changes if position[id(change)] <= cut]
            )
            if path == outbox or any(change.kind == "mkfifo" for change in changes):
                kept = changes
        else:
            kept = survivors(chance, changes)
        for change in kept:
            left.apply(change)
        if path == place.database and path in left.files:
            # The times are synced apart from the content (fdatasync), or reach the disk before it.
            identity = chance.choice((kept[-1], chance.choice(changes), changes[-1]))
    shutil.rmtree(place.under)
    place.under.mkdir()
    left.write()
    if place.database not in left.files:
        return None
    return f"{identity.device} {identity.inode} {identity.mtime} {identity.ctime} {place.database}"


def random_script(chance, place):
    """Sessions of commits and checkpoints; in some of them nothing is shipped but at their end."""
    uri = {
        interval: place.build.uri(place.database, f"{place.url}?sync-interval={interval}")
        for interval in ("1ms", "1h")
    }
    lines = [f".load {place.build.extension.with_suffix('')}"]
    synchronous = chance.choice(("normal", "normal", "full"))
    for session in range(chance.randint(1, 3)):
        lines.append(f".open :memory:\n.open {uri[chance.choice(('1ms', '1h'))]}\n{faults.PAGES}")
        lines.append(f"pragma synchronous = {synchronous};")
        if session == 0:
            lines.append(faults.SCHEMA)
        for _ in range(chance.randint(1, 8)):
            lines.append(
                chance.choice(
                    (faults.STEP, faults.STEP, faults.STEP * 4, faults.MANY, faults.FEW)
                    + (faults.SHIPPED,)
                    + tuple(
                        f"pragma wal_checkpoint({mode});"
                        for mode in ("passive", "full", "restart", "truncate")
                    )
                )
            )
    return "\n".join(lines) + "\n"


def check_one_state(chance, journal, place, number, least=1):
    identity = crash(chance, journal, place, least)
    settings = {"identity": identity} if identity else {}
    script = random_script(chance, place) + faults.SHIPPED + "\n"
    (place.folder / "log").unlink(missing_ok=True)
    boot = place.folder / "boot"
    boot.write_text(f"{number:08x}-the-boot-after-the-crash\n")
    result = harness.run(
        SHELL, input=script, env=place.faults.env(no_sync=1, boot_id=boot, **settings)
    )
    acknowledged(result.stdout)
    for file in ("expected.db", "after.db"):
        (place.folder / file).unlink(missing_ok=True)
    copy = harness.checkpointed_copy(place.database, place.folder / "expected.db")
    place.restored_state("after.db")
    harness.compare_databases(copy, place.folder / "after.db")
    return len(place.generations())


def check_one_run(build, litestream, folder, seed, states):
    """Seeds of states that were not right, with why; how many generations the others have."""
    chance = random.Random(seed)
    place = Place(build, folder)
    journal_file, boot = folder / "journal", folder / "boot"
    boot.write_text("feedbeef-the-first-boot\n")
    script = random_script(chance, place) + ".exit\n"
    harness.run(SHELL, input=script, env=place.faults.env(journal=journal_file, boot_id=boot))
    journal = list(read_journal(journal_file))
    failed, generations = {}, []
    for number in range(states):
        own = f"{seed}/{number}"
        try:
            generations.append(check_one_state(random.Random(own), journal, place, number))
            if number % WHOLLY == 0:
                check_every_position(place, litestream, random.Random(own))
        except Exception:
            failed[own] = traceback.format_exc()
            shutil.copyfile(folder / "log", folder / f"failed-{number}.log")
            shutil.copytree(place.under, folder / f"failed-{number}", ignore=lambda _, names: [
                name for name in names if name == "wake"
            ])
    return failed, generations


def test_whatever_a_machine_loses_nothing_diverges(build, litestream, tmp_path, request):
    seed = int(os.environ.get("SQLSTREAM_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    runs = RUNS * (LONG if request.config.getoption("--long") else 1)

    def visit(number):
        return check_one_run(build, litestream, tmp_path / f"run{number}", f"{seed}/{number}", STATES)

    failed, counted = {}, []
    with ThreadPoolExecutor(WORKERS) as pool:
        for run_failed, generations in pool.map(visit, range(runs)):
            failed.update(run_failed)
            counted += generations
    for name, why in failed.items():
        print(f"--- {name}\n{why}")
    assert not failed, sorted(failed)
    print({n: counted.count(n) for n in sorted(set(counted))}, "states by generations")
    # It is not that every crash ends a generation, nor that none does.
    assert 1 in counted and 2 in counted


def without_the_last_record(log):
    """As if the machine had not written it. See "The outbox" in doc/internals.md."""
    content = log.read_bytes()
    at = previous = 512
    while at < len(content):
        assert content[at : at + 4] == b"SOB1"
        pages, page_size = struct.unpack_from("<II", content, at + 16)
        previous, at = at, at + 168 + pages * (8 + page_size)
    log.write_bytes(content[:previous])


def test_a_batch_of_which_a_part_was_shipped_is_lost(build, litestream, tmp_path):
    """Captured again, together with one more commit, it is another: the objects that are in the replica
    must not be continued with its pages."""
    # On a busy machine all of it can be there before this process looks again.
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        database, replica = folder / "app.db", folder / "replica"
        url = f"file://{replica}"
        process = started_large(build, database, url, harness.clean_environment())
        try:
            harness.wait_until(lambda: len(list(replica.glob("generations/*/wal/*.lz4"))) >= 2, "parts")
        finally:
            process.kill()
            process.communicate()
        if len(list(replica.glob("generations/*/wal/*.lz4"))) < LARGE_OBJECTS:
            break
    else:
        raise AssertionError("all of it was shipped already, each time")
    without_the_last_record(sorted(folder.glob(".app.db-sqlstream/*.log"))[-1])
    writer = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('pragma wal_autocheckpoint = 0').fetchall()\n"
        "db.execute('update large set x = zeroblob(1048576)')\n"
        "os._exit(0)\n"
    )
    harness.run([PYTHON, "-c", writer, database])
    with open(folder / ".app.db-sqlstream/lock", "r+b") as role:
        # Nobody can ship: first it is captured.
        wanted = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, SHIPPING, 1, 0)
        fcntl.fcntl(role, F_OFD_SETLK, wanted)
        build.shell(database, url, "select count(*) from small;")
    finish(build, database, url)
    assert len(list(replica.glob("generations/*"))) == 2
    check_restores(build, litestream, database, url, replica, folder)


def test_a_note_from_before_the_crash_proves_nothing(build, litestream, tmp_path):
    """The outbox lost what the note of the replica's end counts. What is captured then has the same
    sequences, and is not in the replica."""
    database, replica, boot = tmp_path / "app.db", tmp_path / "replica", tmp_path / "boot"
    url = f"file://{replica}?sync-interval=1ms"
    env = faults.Faults(build.faults, tmp_path, tmp_path).env(boot_id=boot)
    boot.write_text("feedbeef-the-first-boot\n")
    with Session(build, database, url, env=env) as app:
        app.do("create table t(x)")
        for number in range(3):
            app.do(f"insert into t values ({number})")
            assert app.shipped() == 1
        app.kill()
    for _ in range(2):
        without_the_last_record(tmp_path / ".app.db-sqlstream/0000000000000001.log")
    boot.write_text("0badcafe-the-next-boot\n")
    away = tmp_path / "away"
    replica.rename(away)
    replica.write_text("a file where the folder was")
    with Session(build, database, url, env=env) as app, Session(build, database, url, env=env) as other:
        app.do("insert into t values (3)")
        assert app.shipped(1000) == 0
        assert other.shipped(1000) == 0
        replica.unlink()
        away.rename(replica)
        assert app.shipped() == 1
        assert other.shipped() == 1
    finish(build, database, url)
    assert len(list(replica.glob("generations/*"))) == 2
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_what_was_shipped_before_the_crash_acknowledges_no_generation_after_it(build, litestream, tmp_path):
    """The outbox lost what the replica has, and a new generation goes on with the sequences of the old one,
    as far as the replica had them, while it can't write its snapshot."""
    database, replica, boot = tmp_path / "app.db", tmp_path / "replica", tmp_path / "boot"
    errors = tmp_path / "errors"
    url = f"file://{replica}?sync-interval=1ms"
    env = faults.Faults(build.faults, tmp_path, tmp_path).env(boot_id=boot, errors=errors)
    boot.write_text("feedbeef-the-first-boot\n")
    errors.write_text("")
    with Session(build, database, url, env=env) as app:
        app.do("create table t(x)")
        for number in range(5):
            app.do(f"insert into t values ({number})")
            assert app.shipped() == 1
        app.kill()
    for _ in range(3):
        without_the_last_record(tmp_path / ".app.db-sqlstream/0000000000000001.log")
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("insert into t values ('without the shim')")
    boot.write_text("0badcafe-the-next-boot\n")
    [old] = replica.glob("generations/*")
    away = tmp_path / "away"
    replica.rename(away)
    replica.write_text("a file where the folder was")
    with (
        Session(build, database, url, env=env) as app,
        Session(build, database, url, env=env) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        app.do("pragma sqlstream_sync = 60000")
        waiting = pool.submit(app.do, "insert into t values (5)")
        harness.wait_until(lambda: other.do("select max(x = 5) from t") == [[1]], "the commit that waits")
        for number in range(6, 10):
            other.do(f"insert into t values ({number})")
            assert other.shipped(100) == 0
        errors.write_text(f"EIO * {replica}/generations/ {old}\n")
        replica.unlink()
        away.rename(replica)
        harness.wait_until(
            lambda: f"{replica}/generations/" in other.status()["replicas"][0].get("error", ""), "a try"
        )
        assert not waiting.done()
        errors.write_text("")
        waiting.result()
        assert other.shipped() == 1
    finish(build, database, url)
    assert len(list(replica.glob("generations/*"))) == 2
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_the_states_are_what_was_written(build, tmp_path):
    """With nothing lost, the journal makes the very files that are there."""
    place = Place(build, tmp_path)
    place.run(journal=tmp_path / "journal")
    left = Files()
    for change in read_journal(tmp_path / "journal"):
        left.apply(change)
    files = {path: bytes(content) for path, content in left.files.items() if content}
    assert files[place.database] == place.database.read_bytes()
    for path, content in files.items():
        if not path.name.endswith("-shm"):
            assert path.read_bytes() == content, path
    with closing(sqlite3.connect(place.database)) as db:
        assert faults.check_state(db) > 10
