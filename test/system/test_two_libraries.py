"""Two SQLite libraries in one process: the distribution's, which Python's sqlite3 uses, and the one
that apsw carries. Each has the extension registered with it.

SQLite's own locks are the process's, so they do not keep two libraries apart: an application that
opens one database with both has to take turns, as these programs do, and close both at its end."""

import shutil

import pytest

import harness
from test_shim import apsw_python  # noqa: F401  (a fixture)
from test_workloads import check_restores

OPEN = """
import json, os, random, sqlite3, sys, threading, urllib.parse, apsw
*extensions, folder = sys.argv[1:]
assert apsw.sqlite_lib_version() != sqlite3.sqlite_version

class Debian:
    def __init__(self, name):
        self.db = sqlite3.connect(uri(name), uri=True, isolation_level=None, timeout=60,
                                  check_same_thread=False)
    def do(self, sql, *values):
        return self.db.execute(sql, values).fetchall()
    def close(self):
        self.db.close()

class Apsw:
    def __init__(self, name):
        self.db = apsw.Connection(uri(name), flags=apsw.SQLITE_OPEN_URI
                                  | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        self.db.set_busy_timeout(60000)
    def do(self, sql, *values):
        return list(self.db.execute(sql, values))
    def close(self):
        self.db.close()

def uri(name):
    query = urllib.parse.urlencode({"vfs": "sqlstream",
                                    "replica": f"file://{folder}/{name}-replica?sync-interval=20ms"})
    return f"file:{folder}/{name}?{query}"

def write(app, i):
    app.do("insert into t values (?, ?)", i, os.urandom(random.randint(1, 3000)))
    if i % 7 == 0:
        app.do("delete from t where i = ?", i - 5)
    if i % 40 == 0:
        mode = ("passive", "full", "restart", "truncate")[i // 40 % 4]
        app.do(f"pragma wal_checkpoint({mode})")

def shipped(app):
    assert app.do("select sqlstream_wait(30000)") == [(1,)]

def generation(app):
    return json.loads(app.do("pragma sqlstream_status")[0][0])["generation"]

loaders = [sqlite3.connect(":memory:"), apsw.Connection(":memory:")]
for loader, extension in zip(loaders, (extensions * 2)[:2]):
    loader.enable_load_extension(True)
    loader.load_extension(extension)
"""

IN_TURN = OPEN + """
first = None
for turn in range(12):
    app = (Debian, Apsw)[turn % 2]("app.db")
    app.do("create table if not exists t(i, b)")
    for i in range(50):
        write(app, i)
    shipped(app)
    first = first or generation(app)
    assert generation(app) == first
    app.close()
"""

BOTH_OPEN = OPEN + """
apps = [Debian("app.db"), Apsw("app.db")]
apps[0].do("create table t(i, b)")
turn = threading.Lock()
failed = []

def work(number):
    try:
        for i in range(200):
            with turn:
                write(apps[number % 2], i)
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
assert apps[0].do("select count(*) from t") == apps[1].do("select count(*) from t")
for app in apps: shipped(app)
assert generation(apps[0]) == generation(apps[1])
for app in apps: app.close()
"""

APART = OPEN + """
failed = []

def work(kind, name):
    try:
        app = kind(name)
        app.do("create table t(i, b)")
        for i in range(300):
            write(app, i)
        shipped(app)
        app.close()
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=work, args=(kind, f"{kind.__name__}{number}.db"))
           for kind in (Debian, Apsw) for number in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
"""


@pytest.fixture(params=["one copy", "a copy each"])
def extensions(request, build, tmp_path):
    """With a copy each, they have nothing in common but the process."""
    if request.param == "one copy":
        return [build.extension]
    copy = tmp_path / "another.so"
    shutil.copy(build.extension, copy)
    return [build.extension, copy]


def play(extensions, interpreter, folder, program):
    harness.run([interpreter, "-c", program, *extensions, folder])


def check(build, litestream, folder, name="app.db"):
    replica = folder / f"{name}-replica"
    assert len(list(replica.glob("generations/*"))) == 1
    restored = folder / f"{name}-restored"
    restored.mkdir()
    check_restores(build, litestream, folder / name, f"file://{replica}", replica, restored)


def test_they_open_one_database_in_turn(build, litestream, apsw_python, extensions, tmp_path):  # noqa: F811
    play(extensions, apsw_python, tmp_path, IN_TURN)
    check(build, litestream, tmp_path)


def test_both_have_it_open_and_threads_take_turns(build, litestream, apsw_python, extensions, tmp_path):  # noqa: F811
    play(extensions, apsw_python, tmp_path, BOTH_OPEN)
    check(build, litestream, tmp_path)


def test_each_has_databases_of_its_own_at_the_same_time(build, litestream, apsw_python, extensions, tmp_path):  # noqa: F811
    play(extensions, apsw_python, tmp_path, APART)
    for name in ("Debian0.db", "Debian1.db", "Apsw0.db", "Apsw1.db"):
        check(build, litestream, tmp_path, name)
