"""kill -9 and the machine's end within a snapshot in place: at each call that changes a file, of another
process that overwrites what is not copied yet and of the one that copies."""

import os
import random
import shutil
import signal
import sqlite3
import sys
import traceback
from contextlib import closing

import pytest

import faults
import harness
from test_crash_points import SHELL, Place, acknowledged, check_every_position, visit_each
from test_machine_crash import check_one_state, read_journal
from test_workloads import PYTHON

IN_CI = 8  # points of each kind; all of them with --long
STATES = 8  # after the machine's end, of each kind; with --long 20 times as many
STEPS = 4000  # in the database from the beginning: it is read in three pieces

EARLY = "begin immediate; update many set data = hex(randomblob(150)) where n <= 20; commit;"
LATE = "begin immediate; update many set data = hex(randomblob(150)) where n > 180; commit;"
CUT = """
begin immediate;
delete from many where n > 200;
update total set many = (select count(*) from many);
commit;
pragma incremental_vacuum;
"""
BY_HAND = "pragma wal_autocheckpoint = 0;"
NOTHING_COPIED = [
    EARLY, faults.STEP, "pragma wal_checkpoint(passive);", LATE, faults.STEP,
    "pragma wal_checkpoint(restart);", faults.STEP,
]  # fmt: skip
A_PIECE_COPIED = [
    LATE, CUT, faults.STEP, "pragma wal_checkpoint(passive);", faults.MANY,
    "pragma wal_checkpoint(truncate);", LATE, faults.STEP, "pragma wal_checkpoint(full);",
]  # fmt: skip


def create(database):
    """Also run as a program, so that what it does is in the journal."""
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.executescript(f"pragma page_size = 1024; pragma auto_vacuum = incremental; {faults.SCHEMA}")
        db.execute("begin")
        rows = ((n, chr(97 + n % 26) * (n * 131 % 700)) for n in range(1, STEPS + 1))
        db.executemany("insert into c values (?, ?)", rows)
        db.execute("update total set n = ?, sum = (select sum(length(data)) from c)", (STEPS,))
        db.execute("commit")
        db.executescript(faults.MANY * 4 + "pragma journal_mode = wal")


class Window(Place):
    """A snapshot that is held open while two processes, the copying one being one of them, overwrite,
    cut off and checkpoint; all of their calls have numbers. `later`: not the first snapshot, but
    the next one."""

    def __init__(self, build, folder, later):
        super().__init__(build, folder)
        self.held = folder / "held"
        self.later = later
        url = f"{self.url}?sync-interval=1ms" + ("&snapshot-interval=200ms" if later else "")
        uri = build.uri(self.database, url)
        self.opened = f".load {build.extension.with_suffix('')}\n.open {uri}\n{BY_HAND}\n"
        self.pages = self.under / ".app.db-sqlstream/old-pages"

    def hold(self, call):
        """Such calls on what is to be a snapshot wait."""
        where = f"{self.replica}/generations/*/snapshots" if self.later else self.replica
        return f".shell echo WAIT {call} {where} > {self.held}\n"

    def until(self, test):
        """Waits for it, for 10 s at most."""
        wait = f"for i in $(seq 500); do {test} && break; sleep 0.02; done"
        return f".shell ({wait}) > {self.folder}/waits 2>&1 < /dev/null\n"

    def another(self, name, statements):
        """What another process does, which is not held."""
        file = self.folder / name
        file.write_text(self.opened + "\n".join(statements) + "\n")
        return f".shell env -u FAULTS_ERRORS {' '.join(SHELL)} < {file}\n"

    def window(self):
        own = f"{faults.STEP}{EARLY}\npragma wal_checkpoint(passive);\n"
        first = self.opened + faults.STEP
        begun = first + faults.SHIPPED + "\n" + self.hold("create") + faults.STEP
        written = f"test $(ls {self.replica}/generations/*/snapshots/*.lz4 | wc -l) -gt {int(self.later)}"
        return (
            (begun if self.later else self.hold("create") + first)
            + self.until(f"test -e {self.pages}") + self.another("nothing-copied", NOTHING_COPIED) + own
            + self.hold("write") + self.another("a-piece-copied", A_PIECE_COPIED) + own
            + f".shell : > {self.held}\n{faults.STEP}{faults.SHIPPED}\n"
            + self.until(written) + faults.STEP + faults.SHIPPED + "\n"
        )  # fmt: skip

    def run_window(self, **settings):
        self.held.touch()
        env = self.faults.env(no_sync=1, errors=self.held, **settings)
        result = harness.run(SHELL, input=self.window(), check=False, env=env)
        assert result.returncode in (0, -signal.SIGKILL), result.stderr
        return result

    def said(self, what):
        return (self.folder / "log").read_text().count(what)


def check_the_end(place):
    """Another run goes on, and the replica comes to be the database."""
    acknowledged(place.run().stdout)
    copy = harness.checkpointed_copy(place.database, place.folder / "expected.db")
    place.restored_state("after.db")
    harness.compare_databases(copy, place.folder / "after.db")


def crash_and_go_on(build, litestream, folder, later, point, half):
    """Whether a process was killed at all."""
    place = Window(build, folder, later)
    create(place.database)
    settings = {"half": 1} if half else {}
    result = place.run_window(kill=point, log=folder / "calls", **settings)
    calls = (folder / "calls").read_text()
    shipped = acknowledged(result.stdout)
    if place.has_snapshot():
        assert place.restored_state("crashed.db") >= shipped
    check_the_end(place)
    check_every_position(place, litestream, random.Random(point))
    torn = half and f"\n{point} write " in calls
    assert len(place.generations()) <= (2 if torn else 1), place.generations()
    return f"\n{point} " in calls


def in_the_window(lines, ending):
    """The number, from 1, of the line that begins the last file for saved pages."""
    return max(number for number, line in enumerate(lines, 1) if line.endswith(ending))


@pytest.fixture(params=[False, True], ids=["first", "later"])
def later(request):
    return request.param


@pytest.mark.parametrize("half", [False, True], ids=["before", "half"])
def test_killed_at_each_call(build, litestream, tmp_path, request, later, half):
    long = request.config.getoption("--long")
    seed = int(os.environ.get("SQLSTREAM_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    whole = Window(build, tmp_path / "whole", later)
    create(whole.database)
    assert whole.run_window(log=tmp_path / "calls").returncode == 0
    assert whole.said("local copy") == 0
    faults.check_kinds(tmp_path / "calls", more=["punch"])
    calls = (tmp_path / "calls").read_text().splitlines()
    saves = sum(call.endswith(f"write {whole.pages}") for call in calls)
    assert saves > 60, "pages that were not copied yet were overwritten"
    check_every_position(whole, litestream, random.Random(seed))
    points = list(range(in_the_window(calls, f"create {whole.pages}"), len(calls) + 1))
    if not long:
        every = max(1, len(points) // IN_CI)
        points = points[random.Random(seed).randrange(every) :: every]
    print(len(calls), "calls, killed at", len(points))
    killed = visit_each(
        points, tmp_path,
        lambda folder, point: crash_and_go_on(build, litestream, folder, later, point, half),
    )  # fmt: skip
    # The last calls of a run may not come in another one.
    assert killed >= len(points) * 8 // 10


def test_whatever_a_machine_loses_nothing_diverges(build, litestream, tmp_path, request, later):
    """What was not synced of the database, the WAL, the outbox and the saved pages is lost, each for
    itself, within the window."""
    seed = os.environ.get("SQLSTREAM_TEST_SEED", str(random.randrange(1 << 30)))
    print("seed", seed)
    place = Window(build, tmp_path / "run", later)
    journal_file, boot = place.folder / "journal", place.folder / "boot"
    boot.write_text("feedbeef-the-first-boot\n")
    env = place.faults.env(journal=journal_file)
    harness.run([PYTHON, __file__, place.database], env=env)
    assert place.run_window(journal=journal_file, boot_id=boot).returncode == 0
    assert place.said("local copy") == 0
    journal = list(read_journal(journal_file))
    least = in_the_window([f"{change.kind} {change.path}" for change in journal],
                          f"create {place.pages}")
    states = STATES * (20 if request.config.getoption("--long") else 1)
    failed = {}
    for number in range(states):
        own = random.Random(f"{seed}/{number}")
        try:
            check_one_state(own, journal, place, number, least)
            check_every_position(place, litestream, own)
        except Exception:
            failed[number] = traceback.format_exc()
            shutil.copytree(place.under, place.folder / f"failed-{number}",
                            ignore=lambda _, names: [name for name in names if name == "wake"])
    for number, error in failed.items():
        print(f"--- {seed}/{number}\n{error}")
    assert not failed, sorted(failed)


if __name__ == "__main__":
    create(sys.argv[1])
