"""kill -9 at each call that changes a file: of the database, the outbox and the replica."""

import os
import random
import shutil
import signal
import sqlite3
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timezone

import pytest

import faults
import harness

WORKERS = 2
IN_CI = 400  # points; all of them with --long
MOMENTS = 6  # that are restored, of each generation
SHELL = ["sqlite3", "-batch", "-bail", ":memory:"]


class Place:
    """A database with its outbox, a replica in a folder, and what the faults leave beside them."""

    def __init__(self, build, folder):
        self.build = build
        self.folder = folder
        self.under = folder / "under"
        self.under.mkdir(parents=True)
        self.faults = faults.Faults(build.faults, self.under, folder)
        self.database = self.under / "app.db"
        self.replica = self.under / "replica"
        self.url = f"file://{self.replica}"
        self.uri = build.uri(self.database, f"{self.url}?sync-interval=1ms")
        self.script = faults.workload(build, self.uri)

    def run(self, check=True, **settings):
        return harness.run(
            SHELL, input=self.script, check=check, env=self.faults.env(no_sync=1, **settings)
        )

    def generations(self):
        return sorted(path.name for path in self.replica.glob("generations/*"))

    def has_snapshot(self):
        return any(self.replica.glob("generations/*/snapshots/*.lz4"))

    def restored_state(self, name):
        """Restores; which commit it is."""
        output = self.folder / name
        self.build.restore(output, self.url)
        harness.integrity_check(output)
        with closing(sqlite3.connect(f"file:{output}?immutable=1", uri=True)) as db:
            return faults.check_state(db)


def acknowledged(output):
    """The last commit that was reported as shipped."""
    lines = [line.split("|") for line in output.splitlines() if line.startswith("shipped")]
    assert all(line[2] == "1" for line in lines), lines
    return max((int(line[1]) for line in lines), default=0)


def check_every_position(place, litestream, chance):
    """Each index and moment restores, with the stock tool, to a state that was committed, and none goes
    back; each snapshot alone is, in every page, what the index before it ends with."""
    for generation in place.generations():
        folder = place.replica / "generations" / generation
        snapshots = sorted(folder.glob("snapshots/*.lz4"))
        segments = sorted(folder.glob("wal/*.lz4"))
        if not snapshots:
            assert not segments
            continue

        def restored(name, *arguments):
            output = place.folder / name
            output.unlink(missing_ok=True)
            litestream.restore(output, place.replica, "-generation", generation, *arguments)
            harness.integrity_check(output)
            with closing(sqlite3.connect(f"file:{output}?immutable=1", uri=True)) as db:
                return faults.check_state(db)

        indexes = sorted({file.name[:8] for file in segments} | {file.name[:8] for file in snapshots})
        ends = [restored(f"index-{index}.db", "-index", index) for index in indexes]
        assert ends == sorted(ends)
        for file in snapshots[1:]:
            image = place.folder / "image.db"
            harness.run(["lz4", "-d", "-f", "-q", file, image])
            before = f"{int(file.name[:8], 16) - 1:08x}"
            harness.compare_databases(place.folder / f"index-{before}.db", image)
        first = snapshots[0].stat().st_mtime_ns
        times = {file.stat().st_mtime_ns // 1_000_000 for file in segments + snapshots}
        times = sorted(time for time in times if time * 1_000_000 >= first)
        chosen = sorted(chance.sample(times, min(MOMENTS, len(times))))
        reached = []
        for time in chosen:
            moment = datetime.fromtimestamp(time // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
            reached.append(restored("moment.db", "-timestamp", f"{moment}.{time % 1000:03}Z"))
        assert reached == sorted(reached)


def crash_and_go_on(build, folder, point, half):
    """Whether it was killed at all: the number of calls is not the same in each run."""
    place = Place(build, folder)
    settings = {"half": 1} if half else {}
    result = place.run(check=False, kill=point, log=folder / "calls", **settings)
    assert result.returncode in (0, -signal.SIGKILL), result.stderr
    shipped = acknowledged(result.stdout)
    if place.has_snapshot():
        assert place.restored_state("crashed.db") >= shipped
    else:
        assert shipped == 0

    acknowledged(place.run().stdout)
    copy = harness.checkpointed_copy(place.database, folder / "expected.db")
    place.restored_state("after.db")
    harness.compare_databases(copy, folder / "after.db")
    # A killed process costs no generation. The kernel leaves no half of a header behind; where the
    # test does, it may.
    torn = half and f"\n{point} write " in (folder / "calls").read_text()
    assert len(place.generations()) <= (2 if torn else 1), place.generations()
    return result.returncode != 0


def visit_each(points, tmp_path, crash):
    """Calls crash(folder, point) for all of them, several at once, and says how many were true. The
    folders of those that failed stay."""
    failed = {}

    def visit(point):
        folder = tmp_path / f"at{point}"
        try:
            return crash(folder, point)
        except Exception:
            failed[point] = traceback.format_exc()
            return True
        finally:
            if point not in failed:
                shutil.rmtree(folder)

    with ThreadPoolExecutor(WORKERS) as pool:
        crashed = sum(pool.map(visit, points))
    for point, error in sorted(failed.items()):
        print(f"--- killed at {point}: {tmp_path}/at{point}\n{error}")
    assert not failed, sorted(failed)
    return crashed


@pytest.mark.parametrize("half", [False, True], ids=["before", "half"])
def test_killed_at_each_call(build, tmp_path, request, half):
    seed = int(os.environ.get("SQLSTREAM_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    whole = Place(build, tmp_path / "whole")
    whole.run(log=tmp_path / "calls")
    faults.check_kinds(tmp_path / "calls")
    count = whole.faults.count()
    assert whole.restored_state("whole.db") > 10
    points = list(range(1, count + 1))
    if not request.config.getoption("--long"):
        every = max(1, count // IN_CI)
        points = points[random.Random(seed).randrange(every) :: every]
    print(count, "calls, killed at", len(points))
    killed = visit_each(points, tmp_path, lambda folder, point: crash_and_go_on(build, folder, point, half))
    # The last calls of a run may not come in another one.
    assert killed >= len(points) * 9 // 10


def script_of_overwriting(place, mode):
    """A backup of what was there at the last reset is copied over the file; who comes then sees it."""
    copy = ".system env -u LD_PRELOAD cp"
    backup = place.folder / "backup.db"
    reopen = f".open {place.uri}\n{faults.PAGES}"
    return "\n".join([
        f".load {place.build.extension.with_suffix('')}\n{reopen}", faults.SCHEMA,
        faults.STEP * 3, "pragma wal_checkpoint(truncate);", f"{copy} {place.database} {backup}",
        faults.STEP * 3, faults.SHIPPED, f"pragma wal_checkpoint({mode});", faults.SHIPPED,
        f"{copy} {backup} {place.database}",
        f".connection 1\n{reopen}", "select n from total;", faults.STEP, faults.SHIPPED,
        ".connection close 0", faults.STEP, faults.SHIPPED,
    ]) + "\n"  # fmt: skip


@pytest.mark.parametrize("mode", ["passive", "truncate"])
def test_killed_while_it_is_noticed_that_the_file_was_overwritten(build, tmp_path, request, mode):
    go_on = f"{faults.STEP}{faults.SHIPPED}"

    def make(folder):
        place = Place(build, folder)
        place.script = script_of_overwriting(place, mode)
        return place

    def crash(folder, point):
        place = make(folder)
        result = place.run(check=False, kill=point, log=folder / "calls")
        assert result.returncode in (0, -signal.SIGKILL), result.stderr
        if place.has_snapshot():
            place.restored_state("crashed.db")
        place.script = f".load {build.extension.with_suffix('')}\n.open {place.uri}\n{faults.SCHEMA}{go_on}"
        acknowledged(place.run().stdout)
        copy = harness.checkpointed_copy(place.database, folder / "expected.db")
        place.restored_state("after.db")
        harness.compare_databases(copy, folder / "after.db")
        return result.returncode != 0

    whole = make(tmp_path / "whole")
    whole.run(log=tmp_path / "calls")
    faults.check_kinds(tmp_path / "calls")
    said = (whole.folder / "log").read_text()
    assert "generation ended: the database file was overwritten" in said, said
    assert len(whole.generations()) == 2 and whole.restored_state("whole.db") == 5
    count = whole.faults.count()
    points = list(range(1, count + 1))
    if not request.config.getoption("--long"):
        points = points[:: max(1, count // 150)]
    print(count, "calls, killed at", len(points))
    assert visit_each(points, tmp_path, crash) >= len(points) * 9 // 10
