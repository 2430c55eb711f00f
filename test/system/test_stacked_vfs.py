"""Another VFS above the shim, or beneath it: SQLite's own ones, which apsw brings along."""

import sqlite3
from contextlib import closing

import pytest

import harness
from test_shim import apsw_python  # noqa: F401  (a fixture)

PROGRAM = """
import json, os, random, sys, apsw, apsw.sqlite_extra
extension, folder, beneath, above, reserved = sys.argv[1:]
loader = apsw.Connection(":memory:")
if beneath != "-":
    apsw.sqlite_extra.load(loader, beneath)
loader.enable_load_extension(True)
loader.load_extension(extension)
if above != "-":
    apsw.sqlite_extra.load(loader, above)
assert apsw.vfs_names().index("sqlstream") == (above != "-"), apsw.vfs_names()

def do(sql, *values):
    return list(app.execute(sql, values))

def status():
    return json.loads(do("pragma sqlstream_status")[0][0])

app = apsw.Connection(folder + "/app.db")
app.reserve_bytes(reserve=int(reserved))
do("create table t(i integer primary key, x)")
if reserved != "0":
    # Not sqlstream's to turn on; and what is written meanwhile can be read.
    do("insert into t values (-1, 'before')")
    assert status()["state"] == "paused" and "journal_mode=WAL" in status()["error"], status()
    assert do("pragma integrity_check") == [("ok",)]
    do("pragma journal_mode = wal")
for opened in range(2):
    for i in range(300):
        do("insert into t values (null, ?)", os.urandom(random.randint(1, 3000)))
        if i % 7 == 0:
            do("update t set x = ? where i = ?", os.urandom(500), i // 2)
        if i % 40 == 0:
            do(f"pragma wal_checkpoint({('passive', 'full', 'restart', 'truncate')[i // 40 % 4]})")
    assert do("select sqlstream_wait(30000)") == [(1,)]
    assert do("pragma integrity_check") == [("ok",)]
    assert do("pragma journal_mode") == [("wal",)]
    app.close()
    app = apsw.Connection(folder + "/app.db")
"""

READ_AGAIN = """
import sys, apsw, apsw.sqlite_extra
apsw.sqlite_extra.load(apsw.Connection(":memory:"), "cksumvfs")
def count():
    with apsw.Connection(sys.argv[1]) as db:
        print(list(db.execute("select count(*) from t")))
try:
    count()
except apsw.IOError as error:
    print(error)
    db = apsw.Connection(sys.argv[1])
    list(db.execute("pragma checksum_verification = off"))
    list(db.execute("vacuum"))
    db.close()
    count()
"""


def rows(database):
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        return db.execute("select * from t order by i").fetchall()


@pytest.mark.parametrize("beneath, above, reserved", [
    ("-", "vfsstat", 0),
    ("-", "tmstmpvfs", 0),
    ("-", "tmstmpvfs", 16),
    ("-", "cksumvfs", 8),
    ("vfsstat", "-", 0),
    ("cksumvfs", "-", 8),
    ("cksumvfs", "tmstmpvfs", 0),
])  # fmt: skip
def test_stacked(build, apsw_python, tmp_path, beneath, above, reserved):  # noqa: F811
    replica = tmp_path / "replica"
    env = harness.clean_environment(SQLSTREAM_DEFAULT_VFS="1", SQLSTREAM_CONFIG="/dev/null",
                                    SQLSTREAM_REPLICA_URL=f"file://{replica}?sync-interval=20ms")  # fmt: skip
    harness.run([apsw_python, "-c", PROGRAM, build.extension, tmp_path, beneath, above, str(reserved)], env=env)
    assert len(list(replica.glob("generations/*"))) == 1
    restored = tmp_path / "restored.db"
    build.restore(restored, f"file://{replica}")
    written = rows(tmp_path / "app.db")
    assert len(written) == 600 + (reserved > 0)
    assert rows(restored) == written
    if "cksumvfs" in (beneath, above) and reserved:
        said = harness.run([apsw_python, "-c", READ_AGAIN, restored]).stdout.splitlines()
        assert len(said) == 2 and said[1] == f"[({len(written)},)]", said
