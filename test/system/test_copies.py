"""Databases that are copied by SQLite's own means: VACUUM INTO, the backup API, .dump; and
transactions over several replicated databases."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest

import harness
from test_lifecycle import Session, generations
from test_workloads import check_restores

CONTENT = (
    "create table t(id integer primary key, a, b);"
    "create index ta on t(a);"
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000) "
    "insert into t select i, random(), randomblob(200) from n;"
    "delete from t where id % 3 = 0;"
)


class Place:
    """A database, with its replica beside it."""

    def __init__(self, folder, name):
        self.database = folder / name
        self.replica = folder / f"{name}-replica"
        self.url = f"file://{self.replica}"
        self.restored = folder / f"{name}-restored"

    def check(self, build, litestream):
        self.restored.mkdir()
        check_restores(build, litestream, self.database, self.url, self.replica, self.restored)

    def rows(self):
        with closing(sqlite3.connect(f"file:{self.database}?immutable=1", uri=True)) as db:
            return db.execute("select * from t order by id").fetchall()


@pytest.fixture
def source(build, tmp_path):
    place = Place(tmp_path, "app.db")
    build.shell(place.database, place.url, CONTENT)
    return place


@pytest.fixture
def copy(tmp_path):
    return Place(tmp_path, "copy.db")


def is_wal(database):
    return database.read_bytes()[18:20] == b"\2\2"


# --- VACUUM INTO


def test_vacuum_into_a_file_that_is_not_replicated(build, litestream, source, copy):
    build.shell(source.database, source.url,
                f"vacuum into '{copy.database}'; insert into t values (10000, 1, 2);")
    assert len(copy.rows()) == len(source.rows()) - 1
    harness.integrity_check(copy.database)
    assert not is_wal(copy.database)
    assert not copy.database.with_name(".copy.db-sqlstream").exists()
    assert len(generations(source.replica)) == 1
    source.check(build, litestream)


def test_vacuum_into_a_replicated_database(build, litestream, source, copy):
    uri = build.uri(copy.database, copy.url)
    build.shell(source.database, source.url, f"vacuum into '{uri}'; insert into t values (10000, 1, 2);")
    assert len(generations(source.replica)) == 1
    source.check(build, litestream)
    assert len(copy.rows()) == len(source.rows()) - 1
    # Whoever opens it next goes on with it.
    build.shell(copy.database, copy.url, "insert into t values (10001, 1, 2);")
    copy.check(build, litestream)


# --- The backup API


def test_backup_out_of_a_replicated_database(build, litestream, source, copy):
    build.shell(source.database, source.url,
                f".backup {copy.database}\ninsert into t values (10000, 1, 2);")
    assert len(copy.rows()) == len(source.rows()) - 1
    assert len(generations(source.replica)) == 1
    source.check(build, litestream)
    # The copy is a database of its own, which can be replicated as it is.
    build.shell(copy.database, copy.url, "insert into t values (10001, 1, 2);")
    copy.check(build, litestream)


@pytest.mark.parametrize("page_size", [4096, 1024])
@pytest.mark.parametrize("wal", [False, True])
def test_restore_into_a_new_replicated_database(build, litestream, copy, tmp_path, page_size, wal):
    plain = tmp_path / "plain.db"
    mode = "pragma journal_mode = wal;" if wal else ""
    harness.run(["sqlite3", plain], input=f"pragma page_size = {page_size};{mode}{CONTENT}")
    build.shell(copy.database, copy.url, f".restore {plain}\ninsert into t values (10001, 1, 2);")
    with closing(sqlite3.connect(plain)) as db:
        assert copy.rows()[:-1] == db.execute("select * from t order by id").fetchall()
    copy.check(build, litestream)


def test_restore_over_a_replicated_database(build, litestream, source, tmp_path):
    plain = tmp_path / "plain.db"
    harness.run(["sqlite3", plain], input="create table t(id integer primary key, x);"
                                          "insert into t values (1, 'restored');")
    build.shell(source.database, source.url,
                f"insert into t values (10000, 1, 2);\n.restore {plain}\n"
                "insert into t values (2, 'behind it');")
    assert source.rows() == [(1, "restored"), (2, "behind it")]
    source.check(build, litestream)


def test_backup_in_steps_while_the_source_is_written(build, litestream, source, copy):
    program = (
        "import sqlite3, sys\n"
        "loader = sqlite3.connect(':memory:')\n"
        "loader.enable_load_extension(True)\n"
        "loader.load_extension(sys.argv[1])\n"
        "one, two, target = (sqlite3.connect(sys.argv[i], uri=True, isolation_level=None)\n"
        "                    for i in (2, 2, 3))\n"
        "def write(status, remaining, total):\n"
        "    if remaining > 20: one.execute('insert into t(a, b) values (?, randomblob(500))', (remaining,))\n"
        "    if remaining % 50 == 49: two.execute('insert into t(a) values (?)', (remaining,))\n"
        "one.backup(target, pages=5, progress=write)\n"
        "assert list(target.execute('select * from t')) == list(one.execute('select * from t'))\n"
        "assert target.execute('select sqlstream_wait(30000)').fetchone() == (1,)\n"
        "for db in (one, two, target): db.close()\n"
    )
    harness.run(["/usr/bin/python3", "-c", program, build.extension,
                 build.uri(source.database, source.url), build.uri(copy.database, copy.url)])
    assert source.rows() == copy.rows()
    assert len(generations(source.replica)) == 1
    source.check(build, litestream)
    copy.check(build, litestream)


# --- As text


def test_dumped_and_read_into_another(build, litestream, source, copy):
    text = build.shell(source.database, source.url, ".dump").stdout
    build.shell(copy.database, copy.url, text)
    assert copy.rows() == source.rows()
    assert len(generations(source.replica)) == 1
    source.check(build, litestream)
    copy.check(build, litestream)


# --- Several databases


def test_transactions_over_attached_databases(build, litestream, tmp_path):
    places = [Place(tmp_path, f"{name}.db") for name in ("main", "one", "two")]
    first, one, two = places
    with Session(build, first.database, first.url) as app:
        for place, name in ((one, "one"), (two, "two")):
            assert app.do(f"attach '{build.uri(place.database, place.url)}' as {name}") == []
        for name in ("main", "one", "two"):
            app.do(f"create table {name}.t(id integer primary key, n)")
            app.do(f"insert into {name}.t values (1, 0)")
        for i in range(120):
            app.do("begin")
            for name in ("main", "one", "two"):
                app.do(f"update {name}.t set n = n + 1 where id = 1")
                app.do(f"insert into {name}.t(n) values (randomblob(300))")
            app.do("rollback" if i % 4 == 3 else "commit")
            if i % 10 == 9:
                app.do(f"pragma {('main', 'one', 'two')[i % 3]}.wal_checkpoint(truncate)")
            if i == 60:
                app.do("detach two")
                assert app.do(f"attach '{build.uri(two.database, two.url)}' as two") == []
        for name in ("main", "one", "two"):
            status = json.loads(app.do(f"pragma {name}.sqlstream_status")[0][0])
            assert status["db"] == str(tmp_path / f"{name}.db")
        app.do("close")
        app.end()
    for place in places:
        build.shell(place.database, place.url, "select 1 from t;")
        assert len(place.rows()) == 91 and place.rows()[0] == (1, 90)
        assert len(generations(place.replica)) == 1
        place.check(build, litestream)


# --- Files larger than their database

CHUNKED = r"""
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
/* EXTENSION URI CHUNK SQL: runs SQL on a database whose file grows in chunks. */
int main(int argc, char **argv) {
  sqlite3 *db;
  char *error = 0;
  int chunk;
  if (argc != 5 || sqlite3_open(":memory:", &db)) return 1;
  sqlite3_enable_load_extension(db, 1);
  if (sqlite3_load_extension(db, argv[1], 0, &error)) { puts(error); return 1; }
  if (sqlite3_open_v2(argv[2], &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, 0))
    return 1;
  chunk = atoi(argv[3]);
  if (chunk && sqlite3_file_control(db, "main", SQLITE_FCNTL_CHUNK_SIZE, &chunk)) return 1;
  if (sqlite3_exec(db, argv[4], 0, 0, &error)) { puts(error); return 1; }
  return sqlite3_close(db);
}
"""
CHUNK = 1 << 20


@pytest.fixture(scope="module")
def chunked(build, tmp_path_factory):
    """Runs SQL in a program whose database grows in chunks."""
    folder = tmp_path_factory.mktemp("chunked")
    (folder / "chunked.c").write_text(CHUNKED)
    harness.run(["cc", "-o", folder / "chunked", folder / "chunked.c", "-lsqlite3"])
    return lambda uri, sql, chunk=CHUNK: harness.run(
        [folder / "chunked", build.extension, uri, chunk, sql]
    )


def compare_pages(database, restored):
    """The pages that the database says it has; there may be more of the file."""
    with open(database, "rb") as file:
        header = file.read(100)
    size = harness.page_size_of(header) * int.from_bytes(header[28:32], "big")
    assert database.read_bytes()[:size] == restored.read_bytes()[:size]
    harness.integrity_check(restored)
    return size


def check_larger(build, litestream, place):
    """Both readers. What is beyond the database in its file must not be in the restored one."""
    place.restored.mkdir()
    ours, theirs = place.restored / "ours.db", place.restored / "theirs.db"
    build.restore(ours, place.url)
    litestream.restore(theirs, place.replica)
    for restored in (ours, theirs):
        assert restored.stat().st_size == compare_pages(place.database, restored)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_file_that_is_larger_than_its_database(build, litestream, chunked, copy, mode):
    """Replication begins with it: the header tells the size."""
    chunked(copy.database, f"pragma journal_mode = {mode}; {CONTENT}")
    header = copy.database.read_bytes()[:100]
    assert copy.database.stat().st_size == CHUNK > int.from_bytes(header[28:32], "big") * 4096
    build.shell(copy.database, copy.url, "select count(*) from t;")
    check_larger(build, litestream, copy)


@pytest.mark.parametrize("kind", ["chunks", "padded"])
def test_small_commits_in_a_file_that_is_much_larger(build, litestream, chunked, copy, kind):
    """SQLite counts all of the file in a commit. To stock Litestream's checkpoint that is damage,
    where neither the file that it restores nor the WAL has the pages."""
    uri, chunk = build.uri(copy.database, copy.url), 16 * CHUNK if kind == "chunks" else 0
    chunked(uri, CONTENT, chunk)
    if kind == "padded":
        with open(copy.database, "ab") as file:
            file.write(bytes(16 * CHUNK))
    for i in range(3):
        chunked(uri, f"insert into t values ({10000 + i}, 1, 'small');", chunk)
        chunked(uri, f"update t set b = 'smaller' where id = {10000 + i};", chunk)
    assert copy.database.stat().st_size >= 16 * CHUNK
    check_larger(build, litestream, copy)
    harness.run(
        [build.sqlstream, "verify", "-full", copy.database],
        env=harness.clean_environment(SQLSTREAM_REPLICA_URL=copy.url),
    )
    # And where a generation begins with such a WAL.
    copy.restored.rename(copy.restored.with_name("before"))
    shutil.rmtree(copy.replica)
    shutil.rmtree(copy.database.with_name(f".{copy.database.name}-sqlstream"))
    chunked(uri, "insert into t values (20000, 1, 'small'); delete from t where id < 100;", chunk)
    check_larger(build, litestream, copy)


def test_a_replicated_database_that_grows_in_chunks(build, litestream, chunked, copy):
    uri = build.uri(copy.database, copy.url)
    chunked(uri, CONTENT)
    for i in range(5):
        chunked(uri, f"insert into t values ({10000 + i}, 1, randomblob(300000));"
                     "pragma wal_checkpoint(truncate);"
                     f"delete from t where id = {10000 + i - 1}; vacuum;")
    assert copy.database.stat().st_size % CHUNK == 0
    assert len(generations(copy.replica)) == 1
    check_larger(build, litestream, copy)
    # A database that shrinks again, and a program that knows nothing of chunks.
    build.shell(copy.database, copy.url, "delete from t where id > 50; vacuum;")
    copy.restored.rename(copy.restored.with_name("before"))
    check_larger(build, litestream, copy)
