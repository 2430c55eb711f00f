"""An application that overwrites much of a large database and checkpoints in every way; what it commits
follows from a sum in it.

    python3 overwriting.py URI SEED STOP [EXTENSION]

runs until the file STOP exists. Without EXTENSION it is a program that knows nothing of sqlstream.
"""

import os
import random
import sqlite3
import sys
import time

ROWS = int(os.environ.get("ROWS", "6000"))


def create(database, rows=ROWS):
    with sqlite3.connect(database, isolation_level=None) as db:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = off")
        db.execute("begin")
        db.execute("create table t(i integer primary key, step, x)")
        db.execute("create table total(id integer primary key, n, sum)")
        db.execute("insert into total values (1, 0, 0)")
        for first in range(0, rows, 1000):
            db.executemany(
                "insert into t values (?, 0, randomblob(3900))",
                ((i,) for i in range(first, min(first + 1000, rows))),
            )
        db.execute("commit")
    db.close()


def check(database):
    """Any state that was committed passes; its number."""
    uri = f"file:{database}?immutable=1&mode=ro"
    db = sqlite3.connect(uri, uri=True)
    n, total = db.execute("select n, sum from total").fetchone()
    assert db.execute("select coalesce(sum(step), 0) from t").fetchone()[0] == total, n
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    db.close()
    return n


def step(db, chance):
    db.execute("begin immediate")
    n = db.execute("select n + 1 from total").fetchone()[0]
    first = chance.randrange(ROWS)
    rows = f"i between {first} and {first + chance.choice((1, 5, 60))}"
    before = db.execute(f"select coalesce(sum(step), 0) from t where {rows}").fetchone()[0]
    if chance.random() < 0.1:
        db.execute(f"delete from t where {rows}")
    elif chance.random() < 0.1:
        size = 1 + chance.randrange(8000)
        db.execute(f"insert or replace into t select i, {n}, randomblob({size}) from t where {rows}")
    else:
        db.execute(f"update t set step = {n}, x = randomblob(3900) where {rows}")
    after = db.execute(f"select coalesce(sum(step), 0) from t where {rows}").fetchone()[0]
    db.execute("update total set n = ?, sum = sum + ?", (n, after - before))
    db.execute("commit")


def run(uri, seed, stop, vacuums):
    chance = random.Random(seed)
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60)
    db.execute("pragma synchronous = normal")
    db.execute("pragma wal_autocheckpoint = 300")
    while not os.path.exists(stop):
        step(db, chance)
        if chance.random() < 0.03:
            mode = chance.choice(("passive", "full", "restart", "truncate"))
            db.execute(f"pragma wal_checkpoint({mode})").fetchall()
        if vacuums and chance.random() < 0.003:
            db.execute("vacuum")
        time.sleep(0.002)
    print(db.execute("select sqlstream_wait(60000)").fetchone()[0] if len(sys.argv) > 4 else 0)
    db.close()


if __name__ == "__main__":
    if len(sys.argv) > 4:
        loader = sqlite3.connect(":memory:")
        loader.enable_load_extension(True)
        loader.load_extension(sys.argv[4].removesuffix(".so"))
    run(sys.argv[1], int(sys.argv[2]), sys.argv[3], os.environ.get("VACUUMS") == "1")
