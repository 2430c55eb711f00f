"""Faults in programs under test, by the preloaded test/faults/faults.cc; and the workload whose every
state tells whether it was committed."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import harness


@dataclass
class Faults:
    """What to preload, and where it counts and writes. `under`: the only files that count."""

    library: Path
    under: Path
    folder: Path

    def env(self, **settings):
        """An environment with faults: kill=7 is FAULTS_KILL=7."""
        named = {f"FAULTS_{name.upper()}": value for name, value in settings.items()}
        return harness.clean_environment(
            LD_PRELOAD=self.library, FAULTS_UNDER=self.under, FAULTS_COUNT=self.folder / "count",
            SQLSTREAM_LOG=self.folder / "log", SQLSTREAM_LOG_LEVEL="debug", **named,
        )

    def count(self):
        """Calls so far."""
        return struct.unpack("q", (self.folder / "count").read_bytes())[0]


def check_kinds(log, more=()):
    """Each kind of call that a run with a replica in a folder makes was seen, and so was `more`."""
    expected = {
        "create", "write", "truncate", "unlink", "rename", "mkdir", "mkfifo", "times", "mode", "lock", "sync", *more,
    }  # fmt: skip
    if os.geteuid() == 0:
        expected.add("owner")  # SQLite gives its files the database's
    missing = expected - {line.split()[1] for line in log.read_text().splitlines()}
    assert not missing, missing


PAGES = "pragma page_size = 512; pragma cache_size = 10; pragma wal_autocheckpoint = 0;"

SCHEMA = """
begin immediate;
create table if not exists total(id integer primary key, n, sum, many);
create table if not exists c(n integer primary key, data);
create table if not exists many(n integer primary key, data);
insert or ignore into total values (1, 0, 0, 0);
commit;
"""

# One transaction; its content follows from its number.
STEP = """
begin immediate;
insert into c select n + 1, printf('%.*c', (n + 1) * 131 % 700, char(97 + (n + 1) % 26)) from total;
update total set n = n + 1, sum = sum + (n + 1) * 131 % 700;
commit;
"""

# One that does not fit the cache, so that frames reach the WAL before it commits.
MANY = """
begin immediate;
insert into many with recursive i(n) as (select 1 union all select n + 1 from i where n < 60)
  select (select coalesce(max(n), 0) from many) + n, printf('%.*c', 300, 'm') from i;
update total set many = (select count(*) from many);
commit;
"""

FEW = "begin immediate; delete from many where n > 7; update total set many = (select count(*) from many); commit; vacuum;"

SHIPPED = "select 'shipped', n, sqlstream_wait(30000) from total;"


def workload(build, uri):
    """A script for the sqlite3 shell. Run again it goes on from whatever state there is."""

    def checkpoint(mode):
        return f"pragma wal_checkpoint({mode});"

    reopen = f".open {uri}\n{PAGES}"
    steps = [
        f".load {build.extension.with_suffix('')}\n{reopen}", SCHEMA,
        STEP * 3, SHIPPED, checkpoint("passive"), STEP * 2, checkpoint("full"), STEP,
        checkpoint("restart"), STEP, SHIPPED, checkpoint("truncate"), STEP, MANY, SHIPPED,
        f".open :memory:\n{reopen}", STEP * 2, FEW, STEP, SHIPPED,
        f".connection 1\n{reopen}", STEP, checkpoint("truncate"), STEP, ".connection close 0",
        MANY, checkpoint("passive"), STEP, SHIPPED, STEP,
    ]  # fmt: skip
    return "\n".join(steps) + "\n"


def check_state(db):
    """An open connection: what is seen is what a commit left. Its number, 0 before the first."""
    tables = {name for (name,) in db.execute("select name from sqlite_schema where type = 'table'")}
    if not tables:
        return 0
    assert tables == {"total", "c", "many"}
    [(n, total, many)] = db.execute("select n, sum, many from total")
    rows = db.execute("select n, data from c order by n").fetchall()
    assert rows == [(i, chr(97 + i % 26) * (i * 131 % 700)) for i in range(1, n + 1)]
    assert total == sum(i * 131 % 700 for i in range(1, n + 1))
    assert db.execute("select n from many order by n").fetchall() == [(i,) for i in range(1, many + 1)]
    return n
