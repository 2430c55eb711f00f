"""kill -9 at each call of the store: before it arrives there, in the middle of its body, and when it was carried out
but not answered."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Callable

import pytest

import faults
import harness
from fault_proxy import FaultProxy
from test_crash_points import SHELL, WORKERS, acknowledged

IN_CI = 6  # points of each kind, at most; all of them with --long


def begin(build, uri):
    return f".load {build.extension.with_suffix('')}\n.open {uri}\n{faults.PAGES}\n{faults.SCHEMA}\n"


def enough_to_compact(build, uri):
    return begin(build, uri) + (faults.STEP + faults.SHIPPED) * 45 + "\n"


def slow_enough_to_expire(build, uri):
    return begin(build, uri) + f"{faults.STEP}{faults.SHIPPED}\n.shell sleep 0.15\n" * 6


def fill(database):
    """Content for a snapshot of two parts, that faults.check_state() takes."""
    with closing(sqlite3.connect(database)) as db:
        db.executescript(faults.SCHEMA)
        db.executemany("insert into many values (?, randomblob(1000000))", [(i,) for i in range(1, 11)])
        db.execute("update total set many = 10")
        db.commit()


@dataclass
class Workload:
    """`counted`: which calls, as for FaultProxy.add(); `options` of the replica; `in_ci`: points of each kind."""

    script: Callable
    filled: bool = False
    counted: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    in_ci: int = IN_CI


OFTEN = {name: "100ms" for name in ("snapshot_interval", "retention", "retention_check_interval")}
WORKLOADS = {
    "all": Workload(faults.workload),
    "parts of a snapshot": Workload(faults.workload, filled=True, counted={"path": "uploads|uploadId="}),
    "compaction": Workload(enough_to_compact),
    "snapshots and deletions": Workload(slow_enough_to_expire, options=OFTEN, in_ci=1),
    "deletions": Workload(slow_enough_to_expire, counted={"path": "[?&]delete"}, options=OFTEN, in_ci=2),
}


def before(request, kill):
    request.receive()
    kill()


def in_body(request, kill):
    """The request's, where it has one, else the answer's."""
    if request.length():
        request.carry_out(cut=True)
    else:
        request.send(*request.carry_out(), cut=True)
        request.wfile.flush()
    kill()


def after(request, kill):
    request.carry_out()
    kill()


class Place:
    """A database that is replicated to a path of its own in a bucket, through a proxy of its own."""

    def __init__(self, build, minio, bucket, folder, workload):
        self.build, self.minio, self.bucket, self.folder = build, minio, bucket, folder
        self.counted = workload.counted
        folder.mkdir(parents=True)
        self.database = folder / "app.db"
        if workload.filled:
            fill(self.database)
        self.proxy = FaultProxy(minio)
        self.url = self.proxy.url(bucket, folder.name, sync_interval="1ms", **workload.options)
        self.env = minio.env(SQLSTREAM_LOG=folder / "log", SQLSTREAM_LOG_LEVEL="debug")
        self.script = workload.script(build, build.uri(self.database, self.url))

    def run(self, act=None, point=1):
        """Runs the workload, and calls act(request, kill) instead of serving call `point`. Whether it was killed, and
        what it said."""
        shell = subprocess.Popen(
            SHELL, env=self.env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

        def strike(request):
            act(request, shell.kill)
            request.reset()

        fault = self.proxy.add(strike, skip=point - 1, times=1 if act else 0, **self.counted)
        said, _ = shell.communicate(self.script, timeout=120)
        self.proxy.clear()
        # What is on its way when the program ends is not waited for.
        assert shell.returncode in (0, -signal.SIGKILL if fault.struck else 0), said
        return shell.returncode != 0, said

    def count(self):
        """Runs the workload; how many calls there were."""
        uncounted = 1 << 30
        fault = self.proxy.add(None, skip=uncounted, **self.counted)
        self.run()
        return uncounted - fault.skip

    def keys(self):
        return self.minio.keys(self.bucket, f"{self.folder.name}/")

    def restored_state(self, name):
        """Restores; which commit it is."""
        output = self.folder / name
        self.build.restore(output, self.minio.url(self.bucket, self.folder.name), env=self.env)
        harness.integrity_check(output)
        with closing(sqlite3.connect(f"file:{output}?immutable=1", uri=True)) as db:
            return faults.check_state(db)

    def check(self):
        """Everything is in the replica, all objects were written once, and a killed process cost no generation."""
        copy = harness.checkpointed_copy(self.database, self.folder / "expected.db")
        self.restored_state("after.db")
        harness.compare_databases(copy, self.folder / "after.db")
        self.proxy.check_contents(self.bucket, self.keys())
        assert len({key.split("/")[2] for key in self.keys()}) == 1, self.keys()


def crash_and_go_on(place, act, point):
    """Whether it was killed at all: the number of calls is not the same in each run."""
    killed, said = place.run(act, point)
    shipped = acknowledged(said)
    if any("/snapshots/" in key for key in place.keys()):
        assert place.restored_state("crashed.db") >= shipped
    else:
        assert shipped == 0
    _, said = place.run()
    acknowledged(said)
    place.check()
    return killed


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("act", [before, in_body, after])
def test_killed_at_each_call_of_the_store(build, minio, tmp_path, request, workload, act):
    seed = int(os.environ.get("SQLSTREAM_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    bucket = minio.bucket()

    def at(name):
        return Place(build, minio, bucket, tmp_path / name, WORKLOADS[workload])

    whole = at("whole")
    count = whole.count()
    assert count
    whole.check()
    whole.proxy.stop()
    points = list(range(1, count + 1))
    if not request.config.getoption("--long"):
        every = -(-count // WORKLOADS[workload].in_ci)
        points = points[random.Random(seed).randrange(every) :: every]
    print(count, "calls, killed at", len(points))
    failed = {}

    def visit(point):
        place = at(f"at{point}")
        try:
            killed = crash_and_go_on(place, act, point)
            shutil.rmtree(place.folder)
            return killed
        except Exception as error:
            failed[point] = error
            return True
        finally:
            place.proxy.stop()

    with ThreadPoolExecutor(WORKERS) as pool:
        killed = sum(pool.map(visit, points))
    for point, error in sorted(failed.items()):
        print(f"--- killed at {point}: {tmp_path}/at{point}\n{error}")
    assert not failed, sorted(failed)
    # The last calls of a run may not come in another one.
    assert killed >= len(points) * 2 // 3
