"""A process that lives long: neither a commit nor an open and close leaves memory, a descriptor or a thread behind."""

import json

import pytest

import harness
from test_workloads import PYTHON

BEGIN = """
import ctypes, json, os, sqlite3, sys, time
from contextlib import closing
extension, uri, warm_up, count = sys.argv[1:]
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension.removesuffix(".so"))

def opened(number=""):
    db = sqlite3.connect(uri.replace("NUMBER", str(number)), uri=True, isolation_level=None, timeout=60)
    db.execute("pragma synchronous = off")
    return db

def shipped(db):
    assert db.execute("select sqlstream_wait(60000)").fetchone() == (1,)

def entries(folder):
    return len(os.listdir(f"/proc/self/{folder}"))

def measure():
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    return {"memory": resident, "descriptors": entries("fd"), "threads": entries("task")}

def run(work):
    work(range(int(warm_up)))
    before = measure()
    work(range(int(count)))
    # What was opened is let go a while after the last close.
    for _ in range(3000):
        if entries("fd") <= before["descriptors"]:
            break
        time.sleep(0.02)
    print(json.dumps([before, measure()]))
"""

COMMITS = """
with closing(opened()) as db:
    db.execute("create table t(i integer primary key, x)")
    db.executemany("insert into t values (?, zeroblob(100))", ((i,) for i in range(500)))
    def work(numbers):
        for i in numbers:
            db.execute("update t set x = randomblob(100) where i = ?", (i * 7919 % 500,))
        shipped(db)
    run(work)
"""

OPENS = """
def work(numbers):
    for i in numbers:
        with closing(opened(i % 20)) as db:
            db.execute("create table if not exists t(i integer primary key, x)")
            db.execute("insert or replace into t values (?, randomblob(100))", (i % 50,))
            if i % 50 == 0:
                with closing(opened(i % 20)) as other:
                    other.execute("select count(*) from t").fetchone()
                    shipped(other)
run(work)
"""


def growth(build, folder, script, warm_up, count):
    """What a process needed more after `count` times than after `warm_up` times. All it wrote is in the replica."""
    url = f"file://{folder}/replicaNUMBER?sync-interval=10ms"
    uri = build.uri(folder / "appNUMBER.db", url)
    said = harness.run(
        [PYTHON, "-c", BEGIN + script, build.extension, uri, str(warm_up), str(count)], timeout=3600
    ).stdout
    number = 0 if script is OPENS else ""
    restored = folder / "restored.db"
    build.restore(restored, f"file://{folder}/replica{number}")
    harness.compare_databases(folder / f"app{number}.db", restored)
    before, after = json.loads(said)
    print(before, after)
    return {name: after[name] - before[name] for name in before}


@pytest.mark.parametrize(
    "script, warm_up, count, most_memory",
    [(COMMITS, 20_000, 100_000, 8 << 20), (OPENS, 200, 1000, 4 << 20)],
    ids=["commits", "opens"],
)
def test_nothing_grows(build, tmp_path, request, script, warm_up, count, most_memory):
    times = 10 if request.config.getoption("--long") else 1
    grown = growth(build, tmp_path, script, warm_up, count * times)
    assert grown["memory"] < most_memory
    assert grown["descriptors"] <= 0
    assert grown["threads"] <= 0
