"""Workloads on one database, run as a program: an application that knows nothing of replication.

    python3 workloads.py EXTENSION DATABASE REPLICA_URL WORKLOAD [SEED]

prints what sqlstream_wait() said at the end and exits 0 when all that was committed is shipped.

    python3 workloads.py - DATABASE - WORKLOAD [SEED]

is the same without sqlstream inside.
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
from contextlib import closing


class App:
    """How the application opens its database."""

    def __init__(self, extension, database, replica):
        self.extension = extension
        self.database = database
        self.replica = replica
        loader = sqlite3.connect(":memory:")
        loader.enable_load_extension(True)
        loader.load_extension(extension.removesuffix(".so"))
        self.loader = loader

    def uri(self, database=None, replica=None):
        """Without a replica the configuration decides."""
        query = {"vfs": "sqlstream", "replica": replica or self.replica}
        query = urllib.parse.urlencode({key: value for key, value in query.items() if value})
        return f"file:{urllib.parse.quote(database or self.database)}?{query}"

    def open(self, **options):
        options.setdefault("isolation_level", None)
        options.setdefault("timeout", 60)
        db = sqlite3.connect(self.uri(), uri=True, **options)
        # What most applications in WAL mode choose; one fsync per commit would only slow the tests.
        db.execute("pragma synchronous = normal")
        return db

    def stock(self, sql):
        """Another process, without the shim."""
        return subprocess.run(
            ["sqlite3", "-cmd", ".timeout 20000", self.database, sql],
            check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        ).stdout


class PlainApp(App):
    """An application without sqlstream."""

    def __init__(self, database):
        self.extension, self.database, self.replica = "-", database, "-"

    def uri(self, database=None, replica=None):
        return f"file:{urllib.parse.quote(database or self.database)}"


def fill(db, rows, size=100):
    db.execute("create table if not exists t(id integer primary key, a, b)")
    for _ in range(rows):
        db.execute("insert into t(a, b) values (?, ?)", (random.random(), os.urandom(size)))


def inserts(app, db):
    fill(db, 3000)


def updates(app, db):
    fill(db, 500)
    for _ in range(3000):
        db.execute("update t set a = ?, b = ? where id = ?",
                   (random.random(), os.urandom(120), random.randint(1, 500)))


def deletes(app, db):
    fill(db, 2000)
    for _ in range(1500):
        db.execute("delete from t where id = ?", (random.randint(1, 2000),))


def ddl(app, db):
    for i in range(40):
        db.execute(f"create table d{i}(x, y)")
        db.execute(f"create index d{i}_x on d{i}(x)")
        db.executemany(f"insert into d{i} values (?, ?)", [(k, str(k)) for k in range(200)])
        if i % 3 == 0:
            db.execute(f"drop index d{i}_x")
        if i % 4 == 0:
            db.execute(f"alter table d{i} add column z default 7")
        if i % 5 == 0:
            db.execute(f"drop table d{i}")


def blobs(app, db):
    db.execute("create table blobs(id integer primary key, data)")
    for i in range(12):
        db.execute("insert into blobs(data) values (?)", (os.urandom(3_000_000 + i),))
    db.execute("update blobs set data = zeroblob(5000000) where id % 3 = 0")
    db.execute("delete from blobs where id % 4 = 0")


def huge_transaction(app, db):
    """Over 8 MiB of pages in one commit: one batch, several objects."""
    fill(db, 10)
    db.execute("create table h(x)")
    db.execute("begin")
    for _ in range(1500):
        db.execute("insert into h values (?)", (os.urandom(40_000),))
    db.execute("commit")
    fill(db, 10)


def without_rowid(app, db):
    db.execute("create table w(k text primary key, v) without rowid")
    for i in range(2000):
        db.execute("insert or replace into w values (?, ?)", (str(random.randint(0, 900)), i))


def rollback_and_savepoints(app, db):
    fill(db, 200)
    for i in range(100):
        db.execute("begin")
        fill_rows(db, 20)
        db.execute("savepoint s")
        fill_rows(db, 20)
        db.execute("rollback to s" if i % 2 else "release s")
        fill_rows(db, 5)
        db.execute("rollback" if i % 3 == 0 else "commit")


def fill_rows(db, rows):
    for _ in range(rows):
        db.execute("insert into t(a, b) values (?, ?)", (random.random(), os.urandom(100)))


def cache_spill(app, db):
    db.execute("pragma cache_size = 10")
    fill(db, 100)
    for i in range(4):
        db.execute("begin")
        fill_rows(db, 3000)
        db.execute("update t set a = ? where id % 2 = 0", (i,))
        db.execute("rollback" if i == 1 else "commit")


def savepoint_behind_a_spill(app, db):
    """Some SQLites leave the frames of such commits without salts and checksums."""
    fill(db, 1)
    db.execute("create table u(n)")
    db.execute("insert into u values (0)")
    db.execute("pragma cache_size = 5")
    db.execute("pragma wal_autocheckpoint = 0")
    for i in range(40):
        db.execute("begin")
        db.execute("savepoint s")
        for _ in range(60):
            db.execute("insert into t(b) values (?)", (os.urandom(3000),))
        db.execute("update t set b = randomblob(2000) where id % 3 = 0")
        db.execute("rollback to s")
        db.execute("update u set n = n + 1")
        db.execute("commit")


def vacuum(app, db):
    fill(db, 3000)
    for i in range(3):
        db.execute("delete from t where id % 3 = ?", (i % 3,))
        db.execute("vacuum")
        fill_rows(db, 300)


def auto_vacuum_full(app, db):
    fill(db, 3000)
    for i in range(20):
        db.execute("delete from t where id % 20 = ?", (i,))
        fill_rows(db, 20)


def auto_vacuum_incremental(app, db):
    fill(db, 3000)
    for i in range(10):
        db.execute("delete from t where id % 10 = ?", (i,))
        db.execute("pragma incremental_vacuum(20)").fetchall()
        fill_rows(db, 30)


def shrink_and_grow(app, db):
    fill(db, 2000)
    for _ in range(5):
        db.execute("delete from t where id > 100")
        db.execute("vacuum")
        fill_rows(db, 2000)


def checkpoints_by_the_application(app, db):
    fill(db, 50)
    for i in range(60):
        fill_rows(db, 30)
        mode = ("passive", "full", "restart", "truncate")[i % 4]
        db.execute(f"pragma wal_checkpoint({mode})").fetchall()


def checkpoints_by_another_process(app, db):
    fill(db, 50)
    for i in range(16):
        fill_rows(db, 40)
        db.execute("select sqlstream_wait(20000)").fetchall()
        mode = ("passive", "full", "restart", "truncate")[i % 4]
        app.stock(f"pragma wal_checkpoint({mode})")


def reader_holds_a_snapshot(app, db):
    fill(db, 100)
    with closing(app.open()) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from t").fetchall()
        fill_rows(db, 4000)
        reader.execute("commit")
    fill_rows(db, 2000)


def wal_delete_wal(app, db):
    fill(db, 300)
    assert db.execute("pragma journal_mode = delete").fetchone()[0] == "delete"
    fill_rows(db, 50)
    status = json.loads(db.execute("pragma sqlstream_status").fetchone()[0])
    assert status["state"] == "paused", status
    assert db.execute("pragma journal_mode = wal").fetchone()[0] == "wal"
    fill_rows(db, 300)


def exclusive_after_wal(app, db):
    fill(db, 300)
    db.execute("pragma locking_mode = exclusive").fetchall()
    fill_rows(db, 4000)
    db.execute("pragma wal_checkpoint(restart)").fetchall()
    fill_rows(db, 500)
    db.execute("pragma locking_mode = normal").fetchall()
    db.execute("select count(*) from t").fetchall()
    fill_rows(db, 100)


def threads(app, db):
    fill(db, 10)

    def work():
        with closing(app.open()) as own:
            for _ in range(200):
                own.execute("insert into t(a, b) values (?, ?)", (random.random(), os.urandom(100)))

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert db.execute("select count(*) from t").fetchone()[0] == 10 + 8 * 200


def processes(app, db):
    fill(db, 10)
    children = [
        subprocess.Popen([sys.executable, __file__, app.extension, app.database, app.replica,
                          "fill_only", str(i)], stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL)
        for i in range(4)
    ]
    for child in children:
        assert child.wait(timeout=120) == 0
    assert db.execute("select count(*) from t").fetchone()[0] == 10 + 4 * 300


def fill_only(app, db):
    for _ in range(300):
        db.execute("insert into t(a, b) values (?, ?)", (random.random(), os.urandom(100)))


def attach(app, db):
    fill(db, 100)
    other = app.database + "2"
    db.execute("attach ? as other", (app.uri(other, app.replica + "2"),))
    db.execute("create table other.o(x, y)")
    for i in range(300):
        db.execute("begin")
        db.execute("insert into other.o values (?, ?)", (i, os.urandom(200)))
        db.execute("insert into t(a, b) values (?, ?)", (i, os.urandom(200)))
        db.execute("commit")


def counter(app, db):
    """Until killed: each commit leaves a row whose content follows from its number, and a total over
    all rows; then says the number."""
    db.execute("create table if not exists c(n integer primary key, data)")
    db.execute("create table if not exists total(id integer primary key, n, sum)")
    db.execute("insert or ignore into total values (1, 0, 0)")
    n = db.execute("select n from total").fetchone()[0]
    print(n, flush=True)
    while True:
        n += 1
        data = random.Random(n).randbytes(n % 700)
        db.execute("begin immediate")
        db.execute("insert into c values (?, ?)", (n, data))
        db.execute("update total set n = ?, sum = sum + ?", (n, len(data) * n % 9973))
        if n % 40 == 0:
            db.execute("update c set data = data where n % 50 = ?", (n % 50,))
        db.execute("commit")
        print(n, flush=True)
        if random.random() < 0.02:
            mode = random.choice(("passive", "full", "restart", "truncate"))
            db.execute(f"pragma wal_checkpoint({mode})").fetchall()
        if random.random() < 0.005:
            db.close()
            db = app.open()


def exclusive_before_wal(app, db):
    fill(db, 100)
    db.execute("select sqlstream_wait(20000)").fetchall()
    db.close()
    db = sqlite3.connect(app.uri(), uri=True, isolation_level=None)
    db.execute("pragma locking_mode = exclusive").fetchall()
    fill_rows(db, 100)
    status = json.loads(db.execute("pragma sqlstream_status").fetchone()[0])
    assert status["state"] == "paused" and "locking_mode" in status["error"], status
    db.close()
    db = app.open()
    fill_rows(db, 50)
    return db


def run_in_child(app, statements):
    ended = 1
    try:
        db = app.open()
        for statement in statements:
            db.execute(statement).fetchall()
        ended = 0
    finally:
        os._exit(ended)


def commands(app, db):
    """Runs each line of standard input as SQL; answers with the rows as JSON. "open" opens one more
    connection and goes on with it, "close" closes the newest; "fork" begins a child that lives on, "fork SQL;SQL"
    one that runs these over a connection of its own, and answers with how it ended."""
    stack = [db]
    print("ready", flush=True)
    for line in sys.stdin:
        line = line.strip()
        if line == "open":
            try:
                stack.append(app.open())
                answer = []
            except sqlite3.Error as error:
                answer = {"error": str(error)}
        elif line == "close":
            stack.pop().close()
            answer = []
        elif line == "fork":
            # A child that lives on and never uses SQLite.
            answer = [os.fork()]
            if answer == [0]:
                os.close(0)
                os.close(1)
                time.sleep(60)
                os._exit(0)
        elif line.startswith("fork "):
            child = os.fork()
            if child == 0:
                run_in_child(app, line.removeprefix("fork ").split(";"))
            answer = [os.waitpid(child, 0)[1]]
        else:
            try:
                answer = stack[-1].execute(line).fetchall()
            except sqlite3.Error as error:
                answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    os._exit(0)


def bursts(app, db):
    """For each line of standard input a commit of some MiB, and one line said of it. In between it
    waits outside of SQLite: only its threads of replication are at work."""
    db.execute("pragma wal_autocheckpoint = 0").fetchall()
    db.execute("create table if not exists v(id integer primary key, b)")
    rows = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000) "
    print("ready", flush=True)
    for _ in sys.stdin:
        db.execute(rows + "insert or replace into v select i, randomblob(3000) from n")
        print("committed", flush=True)
    os._exit(0)


def exclusive_over_a_left_wal(app, db):
    """A process is killed with frames in its WAL; the next one goes on in them, unseen."""
    fill(db, 100)
    db.execute("select sqlstream_wait(20000)").fetchall()
    db.close()
    left = subprocess.Popen([sys.executable, __file__, app.extension, app.database, app.replica,
                             "die_with_a_wal"], stdin=subprocess.DEVNULL)
    assert left.wait() == 9
    db = sqlite3.connect(app.uri(), uri=True, isolation_level=None)
    db.execute("pragma locking_mode = exclusive").fetchall()
    db.execute("create table u(x)")
    db.execute("insert into u values ('unseen')")
    db.close()
    db = app.open()
    fill_rows(db, 5)
    assert db.execute("select * from u").fetchall() == [("unseen",)]
    return db


def die_with_a_wal(app, db):
    fill_rows(db, 7)
    db.execute("select sqlstream_wait(20000)").fetchall()
    os._exit(9)


def fill_nothing(app, db):
    db.execute("select count(*) from sqlite_master").fetchall()


def open_and_close(app, db):
    fill(db, 20)
    db.close()
    for _ in range(60):
        with closing(app.open()) as own:
            fill_rows(own, 3)
    return app.open()


SETUP = {
    "auto_vacuum_full": "pragma auto_vacuum = full",
    "auto_vacuum_incremental": "pragma auto_vacuum = incremental",
}


def main():
    extension, database, replica, name = sys.argv[1:5]
    seed = int(sys.argv[5]) if len(sys.argv) > 5 else 1
    random.seed(seed)
    plain = extension == "-"
    app = PlainApp(database) if plain else App(extension, database, replica)
    db = app.open()
    workload, _, option = name.partition(":")
    for pragma in filter(None, [SETUP.get(workload), *option.split(",")]):
        db.execute(pragma if pragma.startswith("pragma") else "pragma " + pragma).fetchall()
    db = globals()[workload](app, db) or db
    if plain:
        db.close()
        return 0
    shipped = db.execute("select sqlstream_wait(30000)").fetchone()[0]
    print(json.dumps({"shipped": shipped,
                      "status": json.loads(db.execute("pragma sqlstream_status").fetchone()[0])}))
    db.close()
    app.loader.close()
    return 0 if shipped else 1


if __name__ == "__main__":
    sys.exit(main())
