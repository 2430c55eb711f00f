"""What a process needs for its databases: neither a commit nor an open and close leaves memory, a descriptor or a
thread behind, and memory does not follow how much there is to ship."""

import json

import pytest

import harness
from slow_proxy import SlowProxy
from test_lifecycle import Session
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

# What was opened is let go some seconds after the last close, and what was begun in the background is done some
# time later: then for a while nothing falls.
def at_rest():
    least, falls = measure(), time.monotonic()
    while time.monotonic() < falls + 6:
        time.sleep(0.2)
        now = measure()
        if any(now[name] < least[name] for name in ("descriptors", "threads")):
            falls = time.monotonic()
        least = {name: min(least[name], now[name]) for name in now}
    return least

def run(work):
    work(range(int(warm_up)))
    before = at_rest()
    work(range(int(count)))
    print(json.dumps([before, at_rest()]))
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


# Who ships is another process; these see the wal-index, and let it go again.
BESIDE = """
def work(numbers):
    for i in numbers:
        with closing(opened()) as db:
            if i % 2:
                db.execute("insert or replace into t values (?, randomblob(100))", (i % 50,))
            else:
                db.execute("select count(*) from t").fetchone()
run(work)
"""


def growth(build, folder, script, warm_up, count, final=lambda: True, url=None, env=None):
    """What a process needed more after `count` times than after `warm_up` times. All it wrote is in the replica."""
    url = url or f"file://{folder}/replicaNUMBER?sync-interval=10ms"
    uri = build.uri(folder / "appNUMBER.db", url)
    said = harness.run(
        [PYTHON, "-c", BEGIN + script, build.extension, uri, str(warm_up), str(count)], env=env, timeout=3600
    ).stdout
    assert final()
    number = 0 if script is OPENS else ""
    restored = folder / "restored.db"
    build.restore(restored, url.replace("NUMBER", str(number)), env=env)
    copy = harness.checkpointed_copy(folder / f"app{number}.db", folder / "expected.db")
    harness.compare_databases(copy, restored)
    before, after = json.loads(said)
    print(before, after)
    return {name: after[name] - before[name] for name in before}


def test_nothing_grows_beside_a_process_that_ships(build, tmp_path):
    url = f"file://{tmp_path}/replica?sync-interval=10ms"
    with Session(build, tmp_path / "app.db", url) as shipping:
        shipping.do("create table t(i integer primary key, x)")
        assert shipping.shipped() == 1
        grown = growth(build, tmp_path, BESIDE, 100, 500, final=lambda: shipping.shipped(60000) == 1)
    assert grown["memory"] < 2 << 20
    assert grown["descriptors"] <= 0
    assert grown["threads"] <= 0


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


@pytest.mark.parametrize(
    "script, warm_up, count, most_memory",
    [(COMMITS, 10_000, 50_000, 8 << 20), (OPENS, 200, 600, 4 << 20)],
    ids=["commits", "opens"],
)
def test_nothing_grows_over_tls(build, minio_tls, tmp_path, request, script, warm_up, count, most_memory):
    times = 10 if request.config.getoption("--long") else 1
    url = minio_tls.url(minio_tls.bucket(), "replicaNUMBER", sync_interval="10ms")
    grown = growth(build, tmp_path, script, warm_up, count * times, url=url, env=minio_tls.env())
    assert grown["memory"] < most_memory
    assert grown["descriptors"] <= 16, "connections are kept for a while, as many as were needed at once"
    assert grown["threads"] <= 0


BUSY = """
import json, sqlite3, sys, time
uri, extension = sys.argv[1:]
if extension:
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(extension.removesuffix(".so"))
db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60)
db.execute("pragma journal_mode = wal")
db.execute("pragma synchronous = off")
db.execute("create table t(i integer primary key, x)")

def overwrite(mebibytes, in_commits_of):
    for first in range(0, 256 * mebibytes, in_commits_of):
        db.execute("insert or replace into t with recursive n(i) as (values (?) union all select i + 1 from n "
                   "limit ?) select i, randomblob(3900) from n", (first, in_commits_of))
        if in_commits_of < 100:
            shipped()

def shipped():
    if extension:
        assert db.execute("select sqlstream_wait(120000)").fetchone() == (1,)

def snapshot():
    status = db.execute("pragma sqlstream_status").fetchone() if extension else None
    return json.loads(status[0])["replicas"][0]["snapshot"] if status else None

overwrite(150, 38400)
shipped()
first = snapshot()
overwrite(150, 250)
overwrite(150, 38400)
shipped()
while extension and snapshot() == first:
    time.sleep(0.1)  # so much was shipped that there is another one
overwrite(16, 64)  # to be folded, beside what follows
if extension:
    time.sleep(2)
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM")))
"""


def peak_of_a_busy_process(uri, extension="", env=None):
    """MiB, over a snapshot, a backlog, a large transaction, and folds; all of it noise."""
    said = harness.run([PYTHON, "-c", BUSY, uri, extension], env=env, timeout=600).stdout
    return int(said) / 1024


def test_memory_does_not_follow_what_is_to_be_shipped(build, minio, tmp_path):
    usual = peak_of_a_busy_process(f"file:{tmp_path}/plain.db")
    bucket = minio.bucket()
    database = tmp_path / "app.db"
    url = minio.url(bucket, "app", sync_interval="50ms")
    with SlowProxy(minio.port, rate=40 << 20) as proxy:
        uri = build.uri(database, url.replace(f":{minio.port}", f":{proxy.port}"))
        peak = peak_of_a_busy_process(uri, build.extension, minio.env())
    print(f"{usual:.1f} MiB with plain SQLite, {peak:.1f} with a replica")
    assert any("/compacted/" in key for key in minio.keys(bucket))
    restored = tmp_path / "restored.db"
    build.restore(restored, url, env=minio.env())
    harness.compare_databases(database, restored)
    assert peak < usual + 56
