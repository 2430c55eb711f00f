"""A writer among several, to be killed. What commit n does follows from n alone, whoever makes it:

    python3 numbered_commits.py EXTENSION URI REPORTS SEED

commits to a database with SCHEMA until it is killed, and writes a line "n" to the descriptor REPORTS for each commit that returned.
`Model` tells what a database must hold after any of them.
"""

import hashlib
import os
import random
import sqlite3
import sys
import time
from contextlib import closing, suppress

CELLS = 300
KEPT = 500  # rows of the log
CHECKPOINTS = ("passive", "full", "restart", "truncate")

SCHEMA = """
begin immediate;
create table log(n integer primary key, chain blob not null);
create table cells(id integer primary key, n, data);
insert into log values (0, x'');
commit;
"""


def changes(n):
    """Cells and their new content, None where it is deleted: mostly one, sometimes a megabyte."""
    chance = random.Random(n)
    count, most = chance.choices([(1, 400), (6, 4000), (CELLS, 9000)], [80, 18, 1])[0]
    return {
        chance.randrange(CELLS): chance.randbytes(chance.randrange(most)) if chance.random() < 0.8 else None
        for _ in range(count)
    }  # fmt: skip


def chained(before, n, changed):
    """The checksum of all commits up to n."""
    return hashlib.sha256(before + repr((n, sorted(changed.items()))).encode()).digest()


class Model:
    """The content after any number of commits; asked for ever later ones only."""

    def __init__(self):
        self.n, self.cells, self.chains = 0, {}, [b""]

    def advance(self, n):
        while self.n < n:
            self.n += 1
            changed = changes(self.n)
            self.chains.append(chained(self.chains[-1], self.n, changed))
            for cell, data in changed.items():
                self.cells.pop(cell, None)
                if data is not None:
                    self.cells[cell] = (self.n, data)

    def check(self, db):
        """An open connection: it holds what a commit left, no older one than before. Its number."""
        log = db.execute("select n, chain from log order by n").fetchall()
        n = log[-1][0]
        assert n >= self.n, f"commit {n} after {self.n}"
        self.advance(n)
        assert log == [(i, self.chains[i]) for i in range(max(0, n - KEPT), n + 1)]
        cells = {cell: (by, data) for cell, by, data in db.execute("select id, n, data from cells")}
        assert cells == self.cells
        return n


def commit(db):
    """Makes the next commit; its number."""
    db.execute("begin immediate")
    n, chain = db.execute("select n, chain from log order by n desc limit 1").fetchone()
    n += 1
    changed = changes(n)
    db.execute("insert into log values (?, ?)", (n, chained(chain, n, changed)))
    db.execute("delete from log where n < ?", (n - KEPT,))
    for cell, data in changed.items():
        if data is None:
            db.execute("delete from cells where id = ?", (cell,))
        else:
            db.execute("insert or replace into cells values (?, ?, ?)", (cell, n, data))
    db.execute("commit")
    return n


def open_database(uri, chance):
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60)
    db.execute(f"pragma wal_autocheckpoint = {chance.choice((0, 1, 10, 100, 1000))}").fetchall()
    db.execute(f"pragma synchronous = {chance.choice(('off', 'normal'))}")
    return db


def write(uri, reports, chance):
    """A while of one connection."""
    with closing(open_database(uri, chance)) as db:
        while True:
            step = chance.random()
            if step < 0.03:
                db.execute(f"pragma wal_checkpoint({chance.choice(CHECKPOINTS)})").fetchall()
            elif step < 0.035:
                # Another writer's transaction may be in its way.
                with suppress(sqlite3.OperationalError):
                    db.execute("vacuum")
            elif step < 0.05:
                db.execute("begin immediate")
                db.execute("update cells set data = 'never'")
                db.execute("rollback")
            elif step < 0.06:
                return
            else:
                os.write(reports, b"%d\n" % commit(db))
                time.sleep(chance.random() ** 4 * 0.02)


def main():
    extension, uri, reports, seed = sys.argv[1:]
    chance = random.Random(int(seed))
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(extension.removesuffix(".so"))
    while True:
        write(uri, int(reports), chance)


if __name__ == "__main__":
    main()
