"""`sqlstream sync` and `sqlstream verify`: what they promise, and what they refuse."""

import json
import re
import signal
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest

import harness
from test_lifecycle import Session


def write_config(file, database, *urls, **settings):
    """A configuration file of one database."""
    entry = {"path": str(database), "replicas": [{"url": url, "name": f"r{i}"} for i, url in enumerate(urls)]}
    file.write_text(json.dumps({"dbs": [{**entry, **settings}]}))
    return file


@pytest.fixture(params=["file", "s3"])
def world(request, build, tmp_path):
    """A database, its configuration file and its two replicas."""
    env = harness.clean_environment()
    urls = [f"file://{tmp_path}/replica-{i}" for i in range(2)]
    if request.param == "s3":
        minio = request.getfixturevalue("minio")
        env, urls[0] = minio.env(), minio.url(minio.bucket(), "app")
    database = tmp_path / "app.db"
    config = write_config(tmp_path / "c.yml", database, *urls)

    def tool(*words, check=True, **more):
        command, *rest = words
        return harness.run([build.sqlstream, command, "-config", config, *rest], env={**env, **more}, check=check)

    return SimpleNamespace(
        build=build, folder=tmp_path, database=database, config=config, urls=urls, env=env, tool=tool
    )


def plain(database, sql, parameters=()):
    """Another program, without sqlstream."""
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        return db.execute(sql, parameters).fetchall()


def check_replicas(world):
    """Every replica restores to the database."""
    source = harness.checkpointed_copy(world.database, world.folder / "source.db")
    for i, url in enumerate(world.urls):
        restored = world.folder / f"restored-{i}.db"
        world.build.restore(restored, url, env=world.env)
        harness.compare_databases(source, restored)


def test_sync_ships_what_another_program_committed(world):
    plain(world.database, "create table t(x)")
    plain(world.database, "pragma journal_mode=wal")
    plain(world.database, "insert into t values (1)")
    said = world.tool("sync", world.database)
    assert (said.stdout, said.stderr) == ("", "")
    plain(world.database, "insert into t values (2)")
    world.tool("sync", world.database)
    check_replicas(world)


def test_sync_waits_for_the_process_that_ships(world):
    env = {**world.env, "SQLSTREAM_CONFIG": str(world.config)}
    with Session(world.build, world.database, "", env=env) as session:
        session.do("create table t(x)")
        for i in range(8):
            session.do(f"insert into t values ({i})")
            session.do(f"insert into t values (randomblob(30000))")
            world.tool("sync", world.database)
            for j, url in enumerate(world.urls):
                restored = world.folder / f"r-{i}-{j}.db"
                world.build.restore(restored, url, env=world.env)
                assert plain(restored, "select count(*) from t") == [(2 * i + 2,)]
        assert session.status()["shipping"] == "this process"
        session.end()


@pytest.mark.parametrize("command", ["sync", "verify", "status"])
def test_variables_of_the_configuration_are_left_when_asked(build, tmp_path, command):
    # Each command has the VFS read the file as it does itself.
    database = tmp_path / "app.db"
    plain(database, "create table t(x)")
    config = write_config(tmp_path / "c.yml", database, f"file://{tmp_path}/$NAME")
    env = harness.clean_environment(NAME="expanded")
    run = lambda *flags: harness.run([build.sqlstream, command, "-config", config, *flags, database], env=env)
    run("-no-expand-env")
    if command != "status":
        assert (tmp_path / "$NAME/generations").is_dir() and not (tmp_path / "expanded").exists()
        run()
        assert (tmp_path / "expanded/generations").is_dir()
    else:
        assert f"{tmp_path}/$NAME" in run("-no-expand-env", "-json").stdout
        assert f"{tmp_path}/expanded" in run("-json").stdout


def test_sync_of_an_empty_database_has_nothing_to_do(world):
    world.database.touch()
    world.tool("sync", world.database)


def test_sync_says_how_far_it_is_when_the_time_is_over(world, tmp_path):
    plain(world.database, "create table t(x)")
    # A file where the second replica's folder would be.
    (tmp_path / "replica-1").write_text("")
    said = world.tool("sync", "-timeout", "500ms", world.database, check=False)
    assert said.returncode == 1
    last = said.stderr.splitlines()[-1]
    assert last.startswith(f"sqlstream: {world.database} was not in every replica within 500ms: ")
    assert "replica r1 is not known to have anything" in last
    assert f"{tmp_path}/replica-1" in last and "replica r0" not in last
    (tmp_path / "replica-1").unlink()
    world.tool("sync", world.database)
    check_replicas(world)


@pytest.mark.parametrize(
    "words, code, text",
    [
        ([], 1, "database path or replica URL required"),
        (["a", "b"], 1, "too many arguments"),
        (["-no-such", "a"], 2, "flag provided but not defined"),
        (["-timeout", "soon", "a"], 1, "-timeout must be a duration"),
        (["/no/such/place.db"], 1, "no replica is configured for /no/such/place.db"),
    ],
)
def test_sync_refuses_in_one_sentence(build, tmp_path, words, code, text):
    config = write_config(tmp_path / "c.yml", tmp_path / "missing.db", f"file://{tmp_path}/r")
    said = harness.run([build.sqlstream, "sync", "-config", config, *words], check=False)
    assert said.returncode == code and text in said.stderr
    assert code == 2 or said.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["sync", "verify"])
def test_a_database_that_is_not_there_is_not_created(build, tmp_path, command):
    config = write_config(tmp_path / "c.yml", tmp_path / "missing.db", f"file://{tmp_path}/r")
    said = harness.run([build.sqlstream, command, "-config", config, tmp_path / "missing.db"], check=False)
    assert said.returncode == 1 and f"there is no database {tmp_path}/missing.db" in said.stderr
    assert not (tmp_path / "missing.db").exists()


# verify


def leftovers(world):
    """What a verification could leave behind."""
    return sorted(path.name for path in world.folder.iterdir() if "verify" in path.name)


def token(database):
    ((value,),) = plain(database, "select token from _sqlstream_verification where id = 1")
    return value


@pytest.fixture
def filled(world):
    plain(world.database, "create table t(x)")
    plain(world.database, "with n(i) as (select 1 union all select i + 1 from n where i < 300)"
          " insert into t select randomblob(3000) from n")
    return world


@pytest.mark.parametrize("flags", [[], ["-full"]], ids=str)
def test_verify_proves_every_replica(filled, flags):
    said = filled.tool("verify", *flags, filled.database)
    lines = said.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        f"verified {filled.database}, replica r{i}" for i in range(2)
    ]
    assert said.stderr == "" and leftovers(filled) == []
    first = token(filled.database)
    filled.tool("verify", *flags, filled.database)
    assert token(filled.database) != first
    assert plain(filled.database, "select count(*) from _sqlstream_verification") == [(1,)]
    check_replicas(filled)


def test_verify_beside_a_process_that_ships_and_writes(filled):
    env = {**filled.env, "SQLSTREAM_CONFIG": str(filled.config)}
    with Session(filled.build, filled.database, "", env=env) as session:
        for i in range(3):
            session.do(f"insert into t values (randomblob({i} * 10000))")
            said = filled.tool("verify", "-full", filled.database)
            assert said.stdout.count("verified") == 2
        session.end()
    check_replicas(filled)


@pytest.mark.parametrize("pause", [0.01, 0.001])
def test_verify_full_while_another_program_writes(filled, pause):
    """Compared is a moment that both have, however fast it passes; where there is none, writers
    wait for it."""
    writer = (
        "import sqlite3, sys, time\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    db.execute('update t set x = randomblob(2500) where rowid = 1 + abs(random()) % 300')\n"
        f"    time.sleep({pause})\n"
    )
    filled.tool("sync", filled.database)
    log = filled.folder / "log"
    with harness.Process(["/usr/bin/python3", "-c", writer, filled.database], log=log) as process:
        harness.wait_until(lambda: "ready" in process.said(), "the writer")
        for _ in range(5):
            assert filled.tool("verify", "-full", filled.database).stdout.count("verified") == 2
        assert process.popen.poll() is None
        process.kill()


def test_verify_without_a_write_leaves_the_database_alone(filled):
    filled.tool("sync", filled.database)
    state = lambda: {
        path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in filled.folder.glob("app.db*")
    }
    before = state()
    filled.tool("verify", "-no-write", filled.database)
    assert state() == before
    filled.tool("verify", "-no-write", "-full", filled.database)
    assert plain(filled.database, "select name from sqlite_schema") == [("t",)]


def test_what_a_killed_verify_left_behind_is_removed_by_the_next(filled):
    """It is the database's whole content: until then only its owner may read it."""
    for _ in range(20):
        with harness.Process(
            [filled.build.sqlstream, "verify", "-config", filled.config, filled.database], env=filled.env
        ) as process:
            while process.popen.poll() is None and not leftovers(filled):
                pass
            process.signal(signal.SIGKILL)
            process.wait()
        left = leftovers(filled)
        if left:
            break
    assert [(filled.folder / name).stat().st_mode & 0o777 for name in left] == [0o600]
    filled.tool("verify", filled.database)
    assert leftovers(filled) == []


@pytest.mark.parametrize("flags", [[], ["-full"]], ids=str)
def test_verify_notices_that_a_restore_gives_another_database(filled, flags):
    filled.tool("sync", filled.database)
    assert filled.tool("verify", "-no-write", *flags, filled.database).stdout.count("verified") == 2
    other = filled.folder / "other.db"
    plain(other, "create table u(y)")
    config = write_config(filled.folder / "other.yml", other, *filled.urls)
    harness.run([filled.build.sqlstream, "sync", "-config", config, other], env=filled.env)
    said = filled.tool("verify", "-no-write", *flags, filled.database, check=False)
    assert said.returncode == 1 and said.stdout == ""
    assert len(re.findall("a restore takes generation .{16}, and the database ships .{16};", said.stderr)) == 2


def test_verify_all_databases(world):
    other = world.folder / "other.db"
    for database in (world.database, other):
        plain(database, "create table t(x)")
    databases = [
        {"path": str(world.database), "replicas": [{"url": world.urls[0]}]},
        {"path": str(other), "replicas": [{"url": f"file://{world.folder}/other"}]},
        {"path": str(world.folder / "none.db")},
    ]
    world.config.write_text(json.dumps({"dbs": databases}))
    said = world.tool("verify", "-all", "-full")
    assert said.stdout.count("verified") == 2 and f"verified {other}, replica file" in said.stdout
    # One that fails hides no other.
    other.unlink()
    said = world.tool("verify", "-all", check=False)
    assert said.returncode == 1 and said.stdout.count("verified") == 1
    assert f"verification failed for {other}: " in said.stderr


def damage(path):
    """Flips a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def failure(world, *flags):
    said = world.tool("verify", "-timeout", "20s", *flags, world.database, check=False)
    assert said.returncode == 1
    assert said.stdout.count("verified") == 1 and "replica r0" in said.stdout
    assert leftovers(world) == []
    (line,) = [line for line in said.stderr.splitlines() if line.startswith("sqlstream: ")]
    head = f"sqlstream: verification failed for {world.database}, replica r1: "
    assert line.startswith(head)
    return line[len(head):]


def test_verify_finds_a_damaged_object(filled):
    filled.tool("sync", filled.database)
    (snapshot,) = (filled.folder / "replica-1").glob("generations/*/snapshots/*")
    damage(snapshot)
    assert "is damaged" in failure(filled)
    assert "is damaged" in failure(filled, "-no-write")


def test_verify_finds_a_missing_object(filled):
    for _ in range(3):
        filled.tool("verify", filled.database)
    segments = sorted((filled.folder / "replica-1").glob("generations/*/wal/*"))
    segments[-2].unlink()
    assert "a WAL segment is missing" in failure(filled)


def test_verify_without_a_write_finds_that_the_end_is_missing(filled):
    """What is left is whole: only what was shipped tells that there was more."""
    for _ in range(3):
        filled.tool("verify", filled.database)
    replica = filled.folder / "replica-1"
    last = sorted(replica.glob("generations/*/wal/*"))[-1]
    filled.tool("verify", "-no-write", filled.database)
    last.unlink()
    said = failure(filled, "-no-write")
    position = last.name.split(".")[0].replace("_", ":")
    assert re.fullmatch(
        f"it has an older state: it ends at .*, but the segment at {last.parent.parent.name}/{position} "
        "was written, too", said
    ), said


def test_verify_full_finds_a_page_that_differs(filled, tmp_path):
    """A replica of another database, whole in itself."""
    filled.tool("sync", filled.database)
    (snapshot,) = (filled.folder / "replica-1").glob("generations/*/snapshots/*")
    restored = tmp_path / "of-replica.db"
    filled.build.restore(restored, filled.urls[1], env=filled.env)
    content = bytearray(restored.read_bytes())
    # A byte inside a blob on the last page: nothing but a comparison can find it.
    content[-100] ^= 1
    (tmp_path / "image").write_bytes(content)
    harness.run(["lz4", "-f", "-q", tmp_path / "image", snapshot])
    filled.tool("verify", "-no-write", filled.database)
    pages = len(content) // harness.page_size_of(content)
    assert failure(filled, "-no-write", "-full") == f"page {pages} is not as in the database"


def test_verify_finds_a_damaged_database(filled):
    """The replica is as good as the database: the integrity check says what is wrong with both."""
    plain(filled.database, "create index i on t(x)")
    plain(filled.database, "pragma wal_checkpoint(truncate)")
    content = bytearray(filled.database.read_bytes())
    size = harness.page_size_of(content)
    ((root,),) = plain(filled.database, "select rootpage from sqlite_schema where name = 'i'")
    content[(root - 1) * size + 8 : root * size] = bytes(size - 8)
    filled.database.write_bytes(content)
    said = filled.tool("verify", filled.database, check=False)
    assert said.returncode == 1
    assert said.stderr.count("the integrity check of what was restored says: ") == 2


def test_verify_says_when_the_store_takes_nothing(filled):
    (filled.folder / "replica-1").write_text("")
    said = filled.tool("verify", "-timeout", "500ms", filled.database, check=False)
    assert said.returncode == 1 and said.stdout == ""
    assert f"verification failed for {filled.database}: {filled.database} was not in every replica" in said.stderr


def test_verify_puts_its_file_where_tmpdir_says(filled, tmp_path):
    said = filled.tool("verify", filled.database, check=False, TMPDIR="/no/such/folder")
    assert said.returncode == 1 and said.stderr.count("cannot restore to /no/such/folder/.app.db-verify: ") == 2
    filled.tool("verify", filled.database, TMPDIR=tmp_path)


@pytest.mark.parametrize("words", [["-all", "x.db"], [], ["a", "b"]], ids=str)
def test_verify_refuses(world, words):
    said = world.tool("verify", *words, check=False)
    assert said.returncode == 1 and said.stderr.count("\n") == 1
