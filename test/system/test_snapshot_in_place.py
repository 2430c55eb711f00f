"""Snapshots that are read from the database file itself, while others write and checkpoint it."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import faults
import harness
import overwriting
from slow_proxy import SlowProxy
from test_lifecycle import Session
from test_workloads import PYTHON

PROGRAM = Path(overwriting.__file__)


class Place:
    """A database whose store is slow, programs that write it, and what they say."""

    def __init__(self, build, litestream, minio, folder, rate=8 << 20, replicas=("app",), outbox=None,
                 **options):
        self.build, self.litestream, self.minio, self.folder = build, litestream, minio, folder
        self.database = folder / "app.db"
        self.stop_file = folder / "stop"
        self.log = folder / "log"
        self.proxy = SlowProxy(minio.port, rate=rate)
        self.bucket = minio.bucket()
        self.replica = replicas[0]
        bound = f"  outbox-max-size: {outbox}\n" if outbox else ""
        text = f"dbs:\n- path: {self.database}\n{bound}  replicas:\n"
        for replica in replicas:
            url = minio.url(self.bucket, replica).replace(f":{minio.port}", f":{self.proxy.port}")
            text += f"  - url: {url}\n    name: {replica}\n    sync-interval: 100ms\n"
            for name, value in options.items():
                text += f"    {name.replace('_', '-')}: {value}\n"
        self.config = folder / "sqlstream.yml"
        self.config.write_text(text)
        self.env = minio.env(SQLSTREAM_CONFIG=self.config, SQLSTREAM_LOG=self.log)
        self.seed = int(os.environ.get("SQLSTREAM_TEST_SEED", random.randrange(1 << 30)))
        print("seed", self.seed)
        self.programs = []
        overwriting.create(self.database)

    def start(self, number=0, shim=True, **more):
        arguments = [self.build.uri(self.database) if shim else f"file:{self.database}",
                     str(self.seed + number), self.stop_file]
        program = subprocess.Popen(
            [PYTHON, PROGRAM, *arguments, *([self.build.extension] if shim else [])],
            env={**self.env, **more}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )
        self.programs.append(program)
        return program

    def said(self, what):
        return len(re.findall(what, self.log.read_text())) if self.log.exists() else 0

    def snapshots(self, replica=None):
        beginning = f"{replica or self.replica}/"
        return [key for key in self.minio.keys(self.bucket)
                if key.startswith(beginning) and "/snapshots/" in key]

    def saved(self):
        """Bytes of the disk that pages saved take."""
        return (self.folder / ".app.db-sqlstream/old-pages").stat().st_blocks * 512

    def let_go(self):
        self.proxy.held = False
        self.proxy.rate = 100 << 20

    def finish(self):
        self.stop_file.touch()
        for program in self.programs:
            said, _ = program.communicate(timeout=120)
            assert program.returncode == 0 and said in ("1\n", "0\n"), said

    def close(self):
        for program in self.programs:
            if program.poll() is None:
                program.kill()
                program.wait()
        self.proxy.stop()

    def restored(self, name, *arguments):
        output = self.folder / f"{self.replica}-{name}"
        replica = self.minio.litestream_replica(self.bucket, self.replica)
        self.litestream.restore(output, replica, *arguments)
        return output

    def check(self):
        """Each snapshot is the state at the end of the index before it; each moment's state was
        committed, and none goes back."""
        keys = self.snapshots()
        generation = keys[-1].split("/")[2]
        indexes = [int(re.search(r"([0-9a-f]{8})\.snapshot", key)[1], 16)
                   for key in keys if generation in key]
        for index in indexes[1:]:
            # By the snapshots and segments before it, and by itself alone.
            before = self.restored(f"before{index}.db", "-generation", generation, "-index",
                                   str(index - 1))
            image = self.folder / f"image{index}.db"
            key = f"{self.replica}/generations/{generation}/snapshots/{index:08x}.snapshot.lz4"
            lz4 = self.folder / "image.lz4"
            lz4.write_bytes(self.minio.get(self.bucket, key))
            harness.run(["lz4", "-d", "-f", "-q", lz4, image])
            overwriting.check(image)
            harness.compare_databases(before, image)
        listed = self.minio.s3.list_objects_v2(Bucket=self.bucket, Prefix=f"{self.replica}/")["Contents"]
        stamps = sorted(item["LastModified"] for item in listed if generation in item["Key"])
        first = min(item["LastModified"] for item in listed
                    if generation in item["Key"] and "/snapshots/" in item["Key"])
        stamps = [stamp for stamp in stamps if stamp >= first]
        chosen = random.Random(self.seed).sample(stamps, min(8, len(stamps)))
        reached = []
        for number, stamp in enumerate(sorted(chosen)):
            moment = stamp.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
            output = self.restored(f"at{number}.db", "-generation", generation, "-timestamp", moment)
            reached.append(overwriting.check(output))
        assert reached == sorted(reached)
        copy = harness.checkpointed_copy(self.database, self.folder / "copy.db")
        harness.compare_databases(copy, self.restored("newest.db"))
        return indexes

    def windows(self):
        """From when to when each snapshot that was written was in the making."""
        ends = {"begin snapshot in place": [], "snapshot written": []}
        for line in self.log.read_text().splitlines():
            for what, times in ends.items():
                if f'msg="{what}"' in line:
                    times.append(datetime.fromisoformat(re.search(r"time=(\S+)", line)[1]))
        return list(zip(*ends.values()))

    def stamps(self, generation):
        """When the store got the generation's segments."""
        prefix = f"{self.replica}/generations/{generation}/wal/"
        pages = self.minio.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return sorted(item["LastModified"] for page in pages for item in page["Contents"])


@pytest.fixture
def place(build, litestream, minio, tmp_path):
    made = []

    def make(name="here", **options):
        folder = tmp_path / name
        folder.mkdir()
        made.append(Place(build, litestream, minio, folder, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def many(request):
    """How many snapshots are to be made by programs that write all the time."""
    return 8 if request.config.getoption("--long") else 3


def test_exact_while_two_processes_overwrite_and_checkpoint(place, many):
    here = place(snapshot_interval="1s")
    here.start(0)
    here.start(1)
    harness.wait_until(lambda: len(here.snapshots()) >= many, "snapshots", limit=240)
    here.finish()
    indexes = here.check()
    assert len(indexes) >= many - 1
    print(here.log.read_text()[-2000:])
    assert here.said("begin snapshot in place") >= many
    assert here.said("local copy") == 0, "all of them save what they overwrite"
    assert not (here.folder / ".app.db-sqlstream/old-pages").exists()


def test_every_index_and_moment_of_a_window_restores(place, request):
    """With the stock tool: right at the time of each segment, and just before it, while a later
    snapshot was copied and around its end, when the tool begins to choose it."""
    here = place(snapshot_interval="1s", rate=12 << 20)
    here.start(0)
    here.start(1)
    harness.wait_until(lambda: len(here.snapshots()) >= 2, "snapshots", limit=240)
    here.finish()
    assert here.said("local copy") == 0
    generation = here.snapshots()[-1].split("/")[2]
    indexes = here.check()
    ends = [overwriting.check(here.restored(f"index{index}.db", "-generation", generation, "-index",
                                            f"{index:08x}")) for index in indexes]
    # A snapshot that was due when the programs ended may have nothing behind it.
    assert ends[:-1] == sorted(set(ends[:-1])) and ends == sorted(ends), "each index has more"

    begun, ended = here.windows()[1]
    around = timedelta(milliseconds=500)
    stamps = [stamp for stamp in here.stamps(generation) if begun <= stamp <= ended + around]
    assert len([stamp for stamp in stamps if stamp <= ended]) >= 3, "segments were sent meanwhile"
    moments = sorted({at for stamp in stamps for at in (stamp, stamp - timedelta(milliseconds=1))})
    if not request.config.getoption("--long"):
        moments = moments[:: max(1, len(moments) // 16)]
    reached = []
    for moment in moments:
        text = moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        reached.append(overwriting.check(
            here.restored("moment.db", "-generation", generation, "-timestamp", text)))
        (here.folder / "app-moment.db").unlink()
    print(len(moments), "moments of", ended - begun, "restored:", reached)
    assert reached == sorted(reached)
    assert len(set(reached)) >= 3


def test_vacuum_cuts_off_what_is_not_copied_yet(place, many):
    here = place(snapshot_interval="1s")
    here.start(0, VACUUMS="1")
    here.start(1)
    harness.wait_until(lambda: len(here.snapshots()) >= many, "snapshots", limit=240)
    here.finish()
    here.check()


def test_two_replicas_make_snapshots_at_once(place):
    """One of them in place, the other one meanwhile of a local copy."""
    here = place(replicas=("app", "other"), snapshot_interval="1s")
    here.start(0)
    here.start(1)
    harness.wait_until(lambda: min(len(here.snapshots("app")), len(here.snapshots("other"))) >= 2,
                       "snapshots", limit=240)
    here.finish()
    for here.replica in ("app", "other"):
        here.check()
    assert here.said("begin snapshot in place") >= 1
    assert here.said("begin snapshot of a local copy") >= 1


def test_a_checkpoint_without_the_shim_is_noticed(place):
    here = place(snapshot_interval="1s")
    here.start(0)
    harness.wait_until(lambda: here.said("begin snapshot in place") >= 1, "the first snapshot")
    stock = here.start(1, shim=False)
    # A reset of its own ends the generation; then it takes longer each time until the next begins.
    harness.wait_until(lambda: here.said("begin snapshot of a local copy|generation ended") >= 1,
                       "one of them to notice", limit=120)
    stock.kill()
    stock.wait()
    here.programs.remove(stock)
    harness.wait_until(lambda: len(here.snapshots()) >= 2, "snapshots", limit=120)
    here.finish()
    here.check()


def test_killed_writers_leave_exact_snapshots(place, many):
    here = place(snapshot_interval="1s")
    chance = random.Random(here.seed)
    steady = here.start(0)
    begun = time.monotonic()
    while len(here.snapshots()) < many:
        assert time.monotonic() - begun < 240
        other = here.start(chance.randrange(1 << 20))
        time.sleep(chance.random() * 1.5)
        victim = chance.choice((other, other, steady))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        here.programs.remove(victim)
        if victim is steady:
            steady = other
        else:
            assert other.poll() is not None
    here.finish()
    here.check()


def in_the_window(here, **env):
    """A session whose first snapshot has begun and cannot go on: the store takes nothing more."""
    app = Session(here.build, here.database, "", {**here.env, **env})
    app.do("pragma wal_autocheckpoint = 0")
    app.do("update total set n = n + 1")
    harness.wait_until(lambda: here.said("begin snapshot in place") == 1, "the first snapshot")
    here.proxy.held = True
    return app


OVERWRITE = "update t set step = step + 1, x = randomblob(3900) where i > 4000"
COUNT = "update total set n = n + 1, sum = (select sum(step) from t)"


@pytest.mark.parametrize("then", ["the WAL begins anew", "nothing else"])
@pytest.mark.parametrize("who", ["a program without the shim", "a program with it"])
def test_a_checkpoint_alone_from_another_process(place, who, then):
    """Commits of ours go on, so that the generation does; only who brings them into the file differs."""
    here = place(rate=2 << 20)
    shim = who == "a program with it"
    with in_the_window(here) as app:
        first = app.status()["generation"]
        app.do(OVERWRITE)
        app.do(COUNT)
        checkpoint = "pragma wal_checkpoint(passive);"
        if shim:
            here.build.shell(here.database, "", checkpoint, env=here.env)
        else:
            harness.run(["sqlite3", here.database, checkpoint])
        assert here.saved() >= (4 << 20 if shim else 0)
        if then == "the WAL begins anew":
            app.do(COUNT)
        here.let_go()
        assert app.shipped(60000) == 1, app.status()
        assert app.status()["generation"] == first
        end(app)
    assert here.said("local copy") == (0 if shim else 1)
    check_first_image(here)
    here.check()


def end(app):
    """All that was committed is shipped, and the session's last connection closes."""
    assert app.shipped(60000) == 1, app.status()
    app.do("pragma wal_checkpoint(truncate)")
    app.do("close")
    app.end()


def check_first_image(here):
    """The snapshot alone, which no segment repairs."""
    lz4 = here.folder / "image.lz4"
    lz4.write_bytes(here.minio.get(here.bucket, here.snapshots()[0]))
    harness.run(["lz4", "-d", "-f", "-q", lz4, here.folder / "image.db"])
    overwriting.check(here.folder / "image.db")


def test_exclusive_mode_saves_what_it_overwrites(place):
    here = place(rate=2 << 20)
    with in_the_window(here) as app:
        app.do("pragma locking_mode = exclusive")
        app.do(OVERWRITE)
        app.do(COUNT)
        with pytest.raises(sqlite3.OperationalError):
            sqlite3.connect(here.database, timeout=0).execute("select * from total")
        assert app.do("pragma wal_checkpoint(passive)")[0][0] == 0
        assert here.saved() >= 4 << 20
        app.do(COUNT)
        here.let_go()
        end(app)
    assert here.said("local copy") == 0
    check_first_image(here)
    here.check()


def test_a_forked_child_saves_what_it_overwrites(place):
    """The snapshot is its parent's, and goes on there alone."""
    here = place(rate=2 << 20)
    with in_the_window(here) as app:
        assert app.do(f"fork {OVERWRITE};{COUNT};pragma wal_checkpoint(passive)") == [0]
        assert here.saved() >= 4 << 20
        here.let_go()
        end(app)
    assert here.said("local copy") == 0
    assert here.said("begin snapshot in place") == 1
    check_first_image(here)
    here.check()


@pytest.mark.parametrize("failing", [
    ["ENOSPC write"], ["EIO write"], ["EIO read"], ["EIO lock"], ["EIO write", "EIO unlink"],
    ["EMFILE open", "EIO unlink"],
], ids=", ".join)  # fmt: skip
def test_what_cannot_be_saved_costs_a_local_copy_and_nothing_else(place, failing):
    """The application's checkpoint goes on, and the replica is none the worse."""
    here = place(rate=2 << 20)
    errors = here.folder / "errors"
    errors.touch()
    fault = faults.Faults(here.build.faults, here.folder, here.folder)
    with in_the_window(here, **fault.env(errors=errors)) as app:
        first = app.status()["generation"]
        pages = here.folder / ".app.db-sqlstream/old-pages"
        errors.write_text("".join(f"{error} {pages}\n" for error in failing))
        app.do(OVERWRITE)
        app.do(COUNT)
        busy, frames, done = app.do("pragma wal_checkpoint(passive)")[0]
        assert busy == 0 and frames == done > 1000
        app.do(COUNT)
        app.do("pragma wal_checkpoint(truncate)")
        app.do(COUNT)
        here.let_go()
        assert app.shipped(60000) == 1, app.status()
        assert app.status()["generation"] == first
        end(app)
    assert here.said("begin snapshot of a local copy") == 1
    assert here.said("level=ERROR") == 0
    check_first_image(here)
    here.check()


def deleted_files(process):
    """Bytes of the disk that deleted files take which the process has open."""
    total = 0
    for file in Path(f"/proc/{process.pid}/fd").iterdir():
        if os.readlink(file).endswith("old-pages (deleted)"):
            total += file.stat().st_blocks * 512
    return total


@pytest.mark.parametrize("who", ["a checkpoint", "commits"])
def test_the_outbox_is_bounded_with_what_is_saved(place, who):
    """What is captured goes before: the snapshot gives way, and is taken again when it can be."""
    here = place(rate=2 << 20, outbox="14MiB" if who == "a checkpoint" else "20MiB")
    with in_the_window(here) as app:
        first = app.status()["generation"]
        app.do(OVERWRITE)
        app.do(COUNT)
        busy, frames, done = app.do("pragma wal_checkpoint(passive)")[0]
        assert busy == 0 and frames == done > 1000
        if who == "commits":
            assert here.saved() >= 4 << 20
            app.do(OVERWRITE)
            app.do(COUNT)
        harness.wait_until(lambda: here.said("void: the outbox reached outbox-max-size") == 1,
                           "no room")
        assert not (here.folder / ".app.db-sqlstream/old-pages").exists()
        assert deleted_files(app.process) <= 64 << 10, "the space is given back at once"
        here.let_go()
        assert app.shipped(60000) == 1, app.status()
        assert app.status()["generation"] == first
        end(app)
    assert here.said("takes more than outbox-max-size leaves") == 1
    assert here.said("begin snapshot in place") == 2
    assert here.said("local copy") == 0
    check_first_image(here)
    here.check()


def test_a_program_whose_files_are_limited_checkpoints_all_the_same(place):
    """What it saves lies a little further behind in its file than in the database."""
    here = place(rate=2 << 20)
    with in_the_window(here) as app:
        app.do(OVERWRITE)
        app.do(COUNT)
        limit = here.database.stat().st_size // 1024 + 16
        script = (f".load {here.build.extension.with_suffix('')}\n.open {here.build.uri(here.database)}\n"
                  "pragma wal_checkpoint(passive);\n")
        shell = harness.run(["bash", "-c", f"ulimit -f {limit}; exec sqlite3 -batch -bail :memory:"],
                            input=script, env=here.env)
        busy, frames, done = shell.stdout.split()[-1].split("|")
        assert busy == "0" and frames == done
        here.let_go()
        end(app)
    assert here.said("begin snapshot of a local copy") == 1
    check_first_image(here)
    here.check()


def test_what_was_saved_and_cannot_be_read_costs_a_local_copy(place):
    here = place(rate=2 << 20)
    errors = here.folder / "errors"
    errors.touch()
    fault = faults.Faults(here.build.faults, here.folder, here.folder)
    with in_the_window(here, **fault.env(errors=errors)) as app:
        app.do(OVERWRITE)
        app.do(COUNT)
        app.do("pragma wal_checkpoint(passive)")
        errors.write_text(f"EIO read {here.folder}/.app.db-sqlstream/old-pages\n")
        here.let_go()
        assert app.shipped(60000) == 1, app.status()
        assert "error" not in app.status()["replicas"][0]
        end(app)
    assert here.said("begin snapshot of a local copy") == 1
    assert here.said("level=ERROR") == 0
    check_first_image(here)
    here.check()


FEW = OVERWRITE.replace("4000", "5900")
CHECKPOINTS = "".join(
    f"pragma wal_autocheckpoint = 0; begin immediate; {FEW}; {COUNT}; commit; "
    f"pragma wal_checkpoint({mode});\n" for mode in ("passive", "truncate")
)


def killed_checkpoint(here, point):
    """Another process overwrites and checkpoints within the window, and is killed at its call `point`
    (0: not at all). How many calls it made."""
    with in_the_window(here) as app:
        fault = faults.Faults(here.build.faults, here.folder, here.folder)
        env = {**here.env, **fault.env(kill=point)} if point else {**here.env, **fault.env()}
        uri = here.build.uri(here.database)
        script = f".load {here.build.extension.with_suffix('')}\n.open {uri}\n{CHECKPOINTS}"
        shell = harness.run(["sqlite3", "-batch", "-bail", ":memory:"], input=script, env=env,
                            check=not point)
        assert shell.returncode == (-signal.SIGKILL if point else 0), shell.stderr
        here.let_go()
        app.do(COUNT)
        end(app)
    check_first_image(here)
    here.check()
    return fault.count()


def test_killed_at_the_calls_of_a_checkpoint_that_saves(place, request):
    whole = place("whole", rate=2 << 20)
    calls = killed_checkpoint(whole, 0)
    assert whole.said("local copy") == 0
    chance = random.Random(whole.seed)
    points = 30 if request.config.getoption("--long") else 3
    for point in sorted(chance.sample(range(20, calls), points)):
        print("killed at call", point, "of", calls)
        killed_checkpoint(place(f"at{point}", rate=2 << 20), point)
