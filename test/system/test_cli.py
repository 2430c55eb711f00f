"""The command line beside the real Litestream 0.3.13: tables, exit codes, and texts people grep for."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from types import SimpleNamespace

import pytest

import harness

LISTS = ("generations", "snapshots", "wal")


def rows(text):
    return [line.split() for line in text.splitlines()]


def without_lag(table):
    """The lag of a replica named by URL depends on when it is asked."""
    at = table[0].index("lag") if "lag" in table[0] else None
    return [[cell for i, cell in enumerate(row) if i != at] for row in table]


def write_config(file, database, *replicas, head=""):
    """A litestream.yml for one database; replicas are dicts."""
    entries = "".join(
        "      -\n" + "".join(f"        {k}: {json.dumps(v)}\n" for k, v in replica.items())
        for replica in replicas
    )
    file.write_text(
        f"{head}dbs:\n  - path: {database}\n    monitor-interval: 50ms\n    replicas:\n{entries}"
    )
    return file


@pytest.fixture(scope="module")
def world(minio, tmp_path_factory):
    """A database that the stock tool replicated to a bucket and a folder, twice."""
    binary = harness.TEST_HOME / "bin/litestream"
    if not binary.exists():
        pytest.skip(f"{binary} is missing: ./check builds it")
    folder = tmp_path_factory.mktemp("cli").resolve()
    database, replica = folder / "app.db", folder / "replica"
    s3 = {**minio.litestream_replica(minio.bucket(), "app"), "sync-interval": "100ms"}
    file = {"type": "file", "path": str(replica), "name": "disk", "sync-interval": "100ms"}
    config = write_config(folder / "litestream.yml", database, s3, file)
    segments = 0
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t(x)")
        for round in range(2):
            # Without its own memory it begins another generation.
            subprocess.run(["rm", "-rf", folder / ".app.db-litestream"], check=True)
            with harness.Process(
                [binary, "replicate", "-config", config], log=folder / "litestream.log"
            ) as process:
                for _ in range(3):
                    connection.execute("INSERT INTO t VALUES (randomblob(5000))")
                    segments += 1
                    for count in (
                        lambda: len(list(replica.glob("generations/*/wal/*.lz4"))),
                        lambda: sum("/wal/" in key for key in minio.keys(s3["bucket"])),
                    ):
                        harness.wait_until(
                            lambda: count() >= segments, f"a segment: {process.said()}"
                        )
                process.stop()
            time.sleep(0.05)
    return SimpleNamespace(
        folder=folder, database=database, config=config, s3=s3, file=file, stock=binary,
        url=f"file://{replica}", replica=replica,
    )  # fmt: skip


def both(build, world, *arguments, env=None, check=True):
    """Runs the same with sqlstream and the stock tool."""
    run = lambda program: harness.run([program, *arguments], env=env, check=check)
    return run(build.sqlstream), run(world.stock)


# Tables


@pytest.mark.parametrize("command", LISTS)
@pytest.mark.parametrize(
    "flags", [[], ["-replica", "disk"], ["--replica=s3"], ["-no-expand-env"]], ids=str
)
def test_lists_of_a_database_match(build, world, command, flags):
    ours, stock = both(build, world, command, "-config", world.config, *flags, world.database)
    assert rows(ours.stdout) == rows(stock.stdout)
    assert len(rows(ours.stdout)) > 2
    assert {row[0] for row in rows(ours.stdout)[1:]} <= {"s3", "disk"}


@pytest.mark.parametrize("command", LISTS)
def test_lists_of_a_url_match(build, world, command):
    ours, stock = both(build, world, command, world.url)
    assert without_lag(rows(ours.stdout)) == without_lag(rows(stock.stdout))
    assert len(rows(ours.stdout)) > 2
    empty = [result.stdout for result in both(build, world, command, f"file://{world.folder}/none")]
    assert rows(empty[0]) == rows(empty[1]) and len(rows(empty[0])) == 1


def test_a_list_of_an_s3_url_matches(build, world, minio):
    url = f"s3://{world.s3['bucket']}.localhost:{minio.port}/app"
    for command in LISTS:
        ours, stock = both(build, world, command, url, env=minio.env())
        assert without_lag(rows(ours.stdout)) == without_lag(rows(stock.stdout))
        assert len(rows(ours.stdout)) > 2


def test_wal_of_one_generation_matches(build, world):
    generation = sorted((world.replica / "generations").iterdir())[0].name
    ours, stock = both(
        build, world, "wal", "-config", world.config, "-generation", generation, world.database
    )
    assert rows(ours.stdout) == rows(stock.stdout)
    assert {row[1] for row in rows(ours.stdout)[1:]} == {generation}


def test_databases_match(build, world, tmp_path):
    config = tmp_path / "c.yml"
    config.write_text(
        f"dbs:\n- path: {tmp_path}/two.db\n  replicas:\n  - url: s3://b/x\n  - path: {tmp_path}/r\n"
        f"- path: {tmp_path}/none.db\n- path: {tmp_path}/one.db\n  replicas: [{{name: n, url: 'file://{tmp_path}/q'}}]\n"
        "addr: ':9090'\n"
    )
    ours, stock = both(build, world, "databases", "-config", config)
    assert rows(ours.stdout) == rows(stock.stdout) and len(rows(ours.stdout)) == 4
    by_variable, _ = both(build, world, "databases", env=harness.clean_environment(LITESTREAM_CONFIG=config))
    assert by_variable.stdout == ours.stdout
    listed = json.loads(harness.run([build.sqlstream, "databases", "-json", "-config", config]).stdout)
    assert listed[0] == {"path": f"{tmp_path}/two.db", "replicas": ["s3", "file"]}
    assert listed[1]["replicas"] == []


@pytest.mark.parametrize("command", LISTS)
def test_json_has_the_columns_as_keys(build, world, command):
    arguments = [build.sqlstream, command, "-config", world.config, world.database]
    table = rows(harness.run(arguments).stdout)
    listed = json.loads(harness.run([*arguments, "-json"]).stdout)
    assert [list(entry) for entry in listed] == [table[0]] * (len(table) - 1)
    assert [[str(cell) for cell in entry.values()] for entry in listed] == table[1:]
    assert all(isinstance(entry.get("size", 0), int) for entry in listed)


def test_one_replica_that_fails_hides_no_other(build, world, tmp_path):
    config = write_config(
        tmp_path / "c.yml", world.database, {**world.s3, "endpoint": "http://127.0.0.1:1"}, world.file,
        head="logging: {stderr: true}\n",
    )  # fmt: skip
    result = harness.run(
        [build.sqlstream, "wal", "-config", config, world.database], check=False
    )
    assert result.returncode == 1
    assert {row[0] for row in rows(result.stdout)[1:]} == {"disk"}
    assert "replica=s3" in result.stderr and "127.0.0.1:1" in result.stderr


# Exit codes and texts

WRONG = [
    [],
    ["nosuchcommand"],
    ["-nosuchflag"],
    ["generations", "-nosuchflag", "URL"],
    ["restore", "-o"],
    ["databases", "extra"],
    *([command] for command in (*LISTS, "restore")),
    *([command, "URL", "URL"] for command in (*LISTS, "restore")),
    *([command, "-config", "CONFIG", "URL"] for command in (*LISTS, "restore")),
    *([command, "-config", "CONFIG", "/no/such.db"] for command in (*LISTS, "restore")),
    *([command, "-config", "/no/such.yml", "DB"] for command in LISTS),
    *([command, "-config", "CONFIG", "-replica", "other", "DB"] for command in LISTS),
    ["databases", "-config", "/no/such.yml"],
    ["restore", "URL"],
    ["restore", "-o", "OUT", "EMPTY"],
    ["restore", "-o", "OUT", "-if-replica-exists", "EMPTY"],
    ["restore", "-o", "DB", "URL"],
    ["restore", "-o", "DB", "-if-db-not-exists", "URL"],
    ["restore", "-config", "CONFIG", "DB"],
    ["restore", "-config", "CONFIG", "-if-db-not-exists", "DB"],
    ["restore", "-o", "OUT", "-timestamp", "yesterday", "URL"],
    ["restore", "-o", "OUT", "-index", "zzz", "URL"],
    ["restore", "-o", "OUT", "-parallelism", "many", "URL"],
    ["restore", "-o", "OUT", "-generation", "0123456789abcdef", "URL"],
    ["restore", "-o", "OUT", "-timestamp", "2001-01-01T00:00:00Z", "URL"],
]
TEXTS = (
    "unknown command",
    "flag provided but not defined: -nosuchflag",
    "flag needs an argument: -o",
    "too many arguments",
    "cannot specify a replica URL and the -config flag",
    "database not found in config: /no/such.db",
    "config file not found: /no/such.yml",
    'replica "other" not found for database ',
    "output path required",
    "cannot restore, output path already exists",
    "no matching backups found",
    "database already exists, skipping",
    "invalid -timestamp",
    "must specify in ISO 8601",
)


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_exit_codes_and_texts_are_those_of_litestream(build, world, tmp_path, words):
    names = {
        "URL": world.url, "EMPTY": f"file://{tmp_path}/none", "CONFIG": world.config,
        "DB": world.database, "OUT": tmp_path / "out.db",
    }  # fmt: skip
    ours, stock = both(build, world, *(names.get(word, word) for word in words), check=False)
    assert ours.returncode == stock.returncode
    said = (stock.stdout + stock.stderr).replace('\\"', '"').replace("\\u00a0", " ")
    for text in TEXTS:
        if text in said:
            assert text in ours.stdout + ours.stderr
    if "required" in said:
        assert "required" in ours.stderr


def test_help_is_a_failure_only_through_a_link_named_litestream(build, world, tmp_path):
    link = tmp_path / "litestream"
    link.symlink_to(build.sqlstream)
    for words in (["help"], ["-h"], *([c, "-h"] for c in (*LISTS, "restore", "databases", "version"))):
        ours = harness.run([link, *words], check=False)
        stock = harness.run([world.stock, *words], check=False)
        assert ours.returncode == stock.returncode == 1
        assert ours.stdout.startswith("usage: litestream")
        # Every flag it has is there.
        flags = set(re.findall(r"^\s(-[a-z-]+)", stock.stdout, re.M))
        assert flags <= set(re.findall(r"^  (-[a-z-]+)", ours.stdout, re.M))
        assert harness.run([build.sqlstream, *words]).stdout.startswith("usage: sqlstream")
    ours = harness.run([link, "wal", world.url])
    assert ours.stdout == harness.run([world.stock, "wal", world.url]).stdout


@pytest.mark.parametrize("command", [*LISTS, "restore", "databases", "version", "nosuchcommand"])
def test_a_wrong_flag_shows_the_usage_on_stderr(build, command):
    result = harness.run([build.sqlstream, command, "-nosuchflag"], check=False)
    assert result.returncode == 1 and result.stdout == ""
    assert "usage: sqlstream" in result.stderr


def test_commands_of_our_own_exit_with_2(build):
    for words in (["run"], ["run", "-nosuchflag"]):
        result = harness.run([build.sqlstream, *words], check=False)
        assert result.returncode == 2 and "usage: sqlstream run" in result.stderr
    result = harness.run([build.sqlstream_restore, "-nosuchflag"], check=False)
    assert result.returncode == 2 and "usage: sqlstream-restore" in result.stderr


# Restore


def content(database):
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT rowid, x FROM t").fetchall()


@pytest.mark.parametrize(
    "flags",
    [[], ["-replica", "disk"], ["--replica=s3", "-parallelism=2"], ["-v"], ["-json"]],
    ids=str,
)
def test_restores_a_database_of_the_configuration(build, world, tmp_path, flags):
    output = tmp_path / "out.db"
    harness.run(
        [build.sqlstream, "restore", "-config", world.config, *flags, "-o", output, world.database]
    )
    stock = tmp_path / "stock.db"
    harness.run([world.stock, "restore", "-config", world.config, "-o", stock, world.database])
    assert content(output) == content(stock) and len(content(output)) == 6


def test_restores_to_the_databases_own_path(build, world, tmp_path):
    config = write_config(tmp_path / "c.yml", tmp_path / "app.db", world.file)
    arguments = [build.sqlstream, "restore", "-config", config, tmp_path / "app.db"]
    harness.run(arguments)
    assert len(content(tmp_path / "app.db")) == 6
    assert "already exists" in harness.run(arguments, check=False).stderr
    harness.run([*arguments[:2], "-if-db-not-exists", *arguments[2:]])


def test_restores_a_database_of_the_environment(build, tmp_path):
    """Named as where it is replicated: no configuration file is needed."""
    database, pattern = tmp_path / "app.db", f"file://{tmp_path}/replicas/{{name}}"
    env = harness.clean_environment(SQLSTREAM_REPLICA_URL=pattern)
    build.shell(database, "", "create table t(x); insert into t values (1); select sqlstream_wait(30000);", env=env)
    database.rename(tmp_path / "lost")
    said = harness.run([build.sqlstream, "restore", database], env=env)
    assert said.returncode == 0
    assert harness.run(["sqlite3", database, "select x from t"]).stdout == "1\n"
    listed = harness.run([build.sqlstream, "generations", database], env=env).stdout
    assert len(listed.splitlines()) == 2
    other = tmp_path / "other.db"
    refused = harness.run([build.sqlstream, "restore", other], env=env, check=False)
    assert refused.returncode == 1 and "other.db" in refused.stderr
    refused = harness.run([build.sqlstream, "restore", "-o", f"{tmp_path}/new/", database], env=env, check=False)
    assert refused.returncode == 1 and "names a folder, not a file" in refused.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("order", [1, -1])
def test_takes_the_replica_with_the_latest_data_and_names_it(build, tmp_path, order):
    database = tmp_path / "app.db"
    for name, value in (("old", 1), ("new", 2)):
        (tmp_path / name).mkdir()
        time.sleep(0.01)
        build.shell(
            tmp_path / name / "app.db", f"file://{tmp_path}/{name}-replica",
            f"CREATE TABLE t(x); INSERT INTO t VALUES ({value}); SELECT sqlstream_wait(10000);",
        )
    names = ["old", "new", "empty"][::order]
    config = write_config(
        tmp_path / "c.yml", database,
        *({"name": name, "path": f"{tmp_path}/{name}-replica"} for name in names),
    )  # fmt: skip
    said = harness.run([build.sqlstream, "restore", "-config", config, database])
    assert content(database) == [(1, 2)]
    generation = next((tmp_path / "new-replica/generations").iterdir()).name
    assert f"replica=new generation={generation}" in said.stdout
    assert "from replica new" in said.stdout
    harness.run([build.sqlstream, "restore", "-config", config, "-o", tmp_path / "o", "-replica", "old", database])
    assert content(tmp_path / "o") == [(1, 1)]
    # A generation is looked for in all of them.
    generation = next((tmp_path / "old-replica/generations").iterdir()).name
    result = harness.run(
        [build.sqlstream, "restore", "-config", config, "-o", tmp_path / "g", "-generation", generation,
         "-json", database],
    )  # fmt: skip
    assert json.loads(result.stdout)["replica"] == "old"
    # A moment, too: the other one had not begun yet.
    moment = json.loads(result.stdout)["commit_time"]
    result = harness.run(
        [build.sqlstream, "restore", "-config", config, "-o", tmp_path / "t", "-timestamp", moment,
         "-json", database],
    )  # fmt: skip
    assert json.loads(result.stdout)["replica"] == "old"
    # With one that cannot be asked nobody knows which is the latest.
    config.write_text(config.read_text() + "      - {name: away, bucket: b, endpoint: '127.0.0.1:1', access-key-id: k, secret-access-key: s}\n")
    result = harness.run(
        [build.sqlstream, "restore", "-config", config, "-o", tmp_path / "z", database], check=False
    )
    assert result.returncode == 1 and "-replica" in result.stderr and "away" in result.stderr


# Where the log goes


@pytest.mark.parametrize(
    "head, flags, there",
    [
        ("", [], "stdout"),
        ("logging: {stderr: true}\n", [], "stderr"),
        ("", ["-json"], "stderr"),
    ],
)
def test_the_log_goes_where_litestreams_goes(build, world, tmp_path, head, flags, there):
    config = write_config(
        tmp_path / "c.yml", world.database, world.file, head=f"no-such-key: 1\n{head}"
    )
    skip = ["restore", "-config", config, "-if-db-not-exists", world.database]
    result = harness.run([build.sqlstream, *skip, *flags])
    elsewhere = {"stdout": "stderr", "stderr": "stdout"}[there]
    assert "database already exists, skipping" in getattr(result, there)
    assert "already exists" not in getattr(result, elsewhere)
    # About the file itself nothing is said in the middle of a table.
    assert "no-such-key" in result.stderr and "no-such-key" not in result.stdout
    if not flags:
        assert "already exists" in getattr(harness.run([world.stock, *skip]), there)
    # Without a configuration it is stderr.
    result = harness.run(
        [build.sqlstream, "restore", "-if-db-not-exists", "-o", world.database, world.url]
    )
    assert "already exists" in result.stderr and result.stdout == ""


def test_the_log_has_the_configured_form(build, world, tmp_path):
    config = write_config(
        tmp_path / "c.yml", world.database, world.file, head="logging: {type: json, stderr: true}\n"
    )
    skip = [build.sqlstream, "restore", "-config", config, "-if-db-not-exists", world.database]
    assert json.loads(harness.run(skip).stderr)["level"] == "INFO"
    config.write_text(config.read_text().replace("type: json", "level: error"))
    assert harness.run(skip).stderr == ""


# Settings


def test_config_shows_every_setting_with_its_origin(build, tmp_path):
    config = write_config(
        tmp_path / "c.yml", tmp_path / "app.db",
        {"bucket": "b", "path": "p", "secret-access-key": "hush-hush", "access-key-id": "hush-id"},
        {"url": f"file://{tmp_path}/r", "sync-interval": "$SYNC"},
        head="logging: {stderr: true}\n",
    )  # fmt: skip
    env = harness.clean_environment(
        SQLSTREAM_CONFIG=config, SYNC="250ms", AWS_REGION="eu-west-1",
        SQLSTREAM_REPLICA_URL="file:///backup/{path}",
    )  # fmt: skip
    listed = json.loads(harness.run([build.sqlstream, "config", "-json"], env=env).stdout)
    found = {(s["replica"], s["setting"]): (s["value"], s["origin"]) for s in listed}
    assert found["", "file"] == (str(config), "environment variable SQLSTREAM_CONFIG")
    assert found["", "stderr"] == ("true", f"{config}:1")
    assert found["s3", "region"] == ("eu-west-1", "environment variable AWS_REGION")
    assert found["s3", "secret-access-key"] == ("***", f"{config}:9")
    assert found["s3", "retention"] == ("24h0m0s", "default")
    assert found["file", "sync-interval"] == ("250ms", f"{config}:13 $SYNC")
    assert found["", "replica"] == ("file:///backup/{path}", "environment variable SQLSTREAM_REPLICA_URL")
    table = harness.run([build.sqlstream, "config", "-config", config], env=env)
    assert "hush" not in table.stdout + table.stderr
    assert rows(table.stdout)[0] == ["database", "replica", "setting", "value", "origin"]
    assert "$SYNC" not in harness.run(
        [build.sqlstream, "config", "-config", config, "-no-expand-env"], env=env, check=False
    ).stdout
    result = harness.run([build.sqlstream, "config", "-nosuchflag"], check=False)
    assert result.returncode == 2 and "usage: sqlstream config" in result.stderr


def test_config_of_one_database_without_a_file(build, tmp_path):
    if any(os.path.exists(f"/etc/{name}.yml") for name in ("sqlstream", "litestream")):
        pytest.skip("this machine has a configuration file")
    env = harness.clean_environment(
        SQLSTREAM_REPLICA_URL="s3://bkt/{name}", AWS_REGION="eu-west-1",
        AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="hush-hush",
    )  # fmt: skip
    result = harness.run([build.sqlstream, "config", "-json", tmp_path / "app.db"], env=env)
    assert "hush" not in result.stdout + result.stderr
    found = {(s["replica"], s["setting"]): (s["value"], s["origin"]) for s in json.loads(result.stdout)}
    places = "looked for in SQLSTREAM_CONFIG, LITESTREAM_CONFIG, /etc/sqlstream.yml, /etc/litestream.yml"
    assert found["", "file"] == ("none", places)
    variable = "environment variable SQLSTREAM_REPLICA_URL"
    assert found["s3", "bucket"] == ("bkt", variable) and found["s3", "path"] == ("app.db", variable)
    assert found["s3", "region"] == ("eu-west-1", "environment variable AWS_REGION")
    assert found["s3", "secret-access-key"] == ("***", "environment variable AWS_SECRET_ACCESS_KEY")
    assert found["s3", "sync-interval"] == ("1s", "default")
    # Without a database, what every one gets; without a replica, that there is none.
    listed = json.loads(harness.run([build.sqlstream, "config", "-json"], env=env).stdout)
    assert ("(others)", "s3://bkt/{name}") in {(s["database"], s["value"]) for s in listed}
    bare = harness.run([build.sqlstream, "config", "-json", tmp_path / "app.db"], env=harness.clean_environment())
    assert {"database": str(tmp_path / "app.db"), "replica": "", "setting": "replica", "value": "none",
            "origin": "default"} in json.loads(bare.stdout)  # fmt: skip


def test_config_of_one_database_of_a_file(build, tmp_path):
    config = tmp_path / "c.yml"
    config.write_text(f"dbs:\n- {{path: {tmp_path}/a.db, replica: /none/a}}\n- {{path: {tmp_path}/b.db}}\n")
    env = harness.clean_environment(SQLSTREAM_REPLICA_URL="file:///env/{name}")

    def databases(*words):
        said = harness.run([build.sqlstream, "config", "-json", "-config", config, *words], env=env).stdout
        return {s["database"]: s["value"] for s in json.loads(said) if s["setting"] == "path"}

    assert databases() == {f"{tmp_path}/a.db": "/none/a"}
    assert databases(tmp_path / "a.db") == {f"{tmp_path}/a.db": "/none/a"}
    assert databases(tmp_path / "b.db") == {f"{tmp_path}/b.db": "/env/b.db"}
    assert databases(tmp_path / "c.db") == {f"{tmp_path}/c.db": "/env/c.db"}


# Bad input: one sentence, and 1


def sentence(build, *arguments, env=None, program=None):
    result = harness.run([program or build.sqlstream, *arguments], env=env, check=False)
    assert result.returncode == 1
    assert result.stdout == "" and len(result.stderr.splitlines()) == 1, result
    return result.stderr


@pytest.mark.parametrize(
    "text, says",
    [
        ("dbs: [\n", ["line", "column", "broken YAML"]),
        ("dbs:\n- path: a\n   b: c\n", ["line 3 column 5"]),
        ("dbs:\n- {path: /none/a, replica: /x}\n- path: /none/./a\n", ["line 3", "/none/a is given twice"]),
        (
            "dbs:\n- {path: /none/a, replica: /x/y}\n- {path: /none/b, replica: /x//y}\n",
            ["line 3", "/x/y", "already one of /none/a"],
        ),
        ("dbs:\n- path: /tmp\n", ["line 2", "/tmp is a folder"]),
        ("dbs:\n- path: /srv/$NOT_SET/a.db\n", ["line 2", "NOT_SET is not set"]),
        ("dbs:\n- path: /a\n  replicas:\n  - url: s3://$NOT_SET/a\n", ["line 4", "NOT_SET"]),
        ("dbs:\n- path: /a\n  replicas:\n  - type: sftp\n    host: x\n", ["line 4", "sftp"]),
        ("dbs:\n- path: /a\n  replica:\n    url: s3://b/x\n    age: {recipients: [r]}\n", ["line 5", "age"]),
    ],
    ids=lambda value: None if isinstance(value, list) else value.splitlines()[-1],
)
def test_a_configuration_that_cannot_be(build, tmp_path, text, says):
    config = tmp_path / "c.yml"
    config.write_text(text)
    for command in (["databases"], ["config"], ["wal", "/none/a"], ["restore", "/none/a"]):
        said = sentence(build, *command, "-config", config)
        assert all(part in said for part in (str(config), *says)), said


def test_a_configuration_that_is_not_there(build, tmp_path):
    missing = tmp_path / "no.yml"
    for command in ("databases", "config"):
        assert f"config file not found: {missing}" in sentence(build, command, "-config", missing)
        env = harness.clean_environment(SQLSTREAM_CONFIG=missing)
        assert f"config file not found: {missing}" in sentence(build, command, env=env)
    assert f"{tmp_path}: Is a directory" in sentence(build, "databases", "-config", tmp_path)
    if not any(os.path.exists(f"/etc/{name}.yml") for name in ("sqlstream", "litestream")):
        said = sentence(build, "restore", "/none/a.db")
        assert "/etc/sqlstream.yml, /etc/litestream.yml" in said


def test_a_configuration_that_must_not_be_read(build, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can take another user's place")
    tmp_path.chmod(0o755)
    config = tmp_path / "c.yml"
    config.write_text("dbs: []\n")
    config.chmod(0o600)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if subprocess.run([*nobody, build.sqlstream, "version"], capture_output=True).returncode != 0:
        pytest.skip("another user cannot run what was built here")
    # Its folders may be closed to others, too: it is handed the name that is open to it.
    result = harness.run([*nobody, build.sqlstream, "databases", "-config", config], check=False)
    assert result.returncode == 1 and f"{config}: Permission denied" in result.stderr


@pytest.mark.parametrize(
    "flags, says",
    [
        (["-timestamp", "yesterday"], ["yesterday", "2000-01-01T00:00:00Z"]),
        (["-parallelism", "0"], ["-parallelism", "from 1", '"0"']),
        (["-parallelism", "many"], ["-parallelism", "many"]),
        (["-index", "xyz"], ["-index", "hexadecimal", "xyz"]),
        (["-generation", "new"], ["-generation", "hexadecimal", "new"]),
        (["-index", "1", "-timestamp", "2026-01-01T00:00:00Z"], ["index & timestamp"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_values_that_cannot_be(build, tmp_path, flags, says):
    for program, command in ((build.sqlstream, ["restore"]), (build.sqlstream_restore, [])):
        said = sentence(build, *command, *flags, "-o", tmp_path / "o", "file:///x", program=program)
        assert all(part in said for part in says), said


def test_a_database_that_the_configuration_lacks(build, tmp_path):
    config = write_config(tmp_path / "c.yml", tmp_path / "app.db", {"path": f"{tmp_path}/r"})
    for command in (*LISTS, "restore"):
        said = sentence(build, command, "-config", config, tmp_path / "other.db")
        assert f"database not found in config: {tmp_path}/other.db" in said
    config.write_text(f"logging: {{stderr: true, level: error}}\ndbs: [{{path: {tmp_path}/app.db}}]\n")
    assert "has no replica" in sentence(build, "wal", "-config", config, tmp_path / "app.db")


def into(build, output, *words):
    """Runs a command with a standard output of its own kind."""
    return subprocess.run(
        [build.sqlstream, *words], stdout=output, stderr=subprocess.PIPE, text=True,
        env=harness.clean_environment(),
    )  # fmt: skip


def many_databases(folder):
    config = folder / "many.yml"
    config.write_text("dbs:\n" + "".join(f"- {{path: /none/{n}, replica: /r/{n}}}\n" for n in range(2000)))
    return config


def test_says_when_its_output_cannot_be_written(build, world, tmp_path):
    for words in (["wal", world.url], ["databases", "-config", many_databases(tmp_path)]):
        with open("/dev/full", "wb") as full:
            result = into(build, full, *words)
        assert result.returncode == 1 and "cannot write to the standard output" in result.stderr


def test_ends_silently_when_nobody_reads_its_output(build, world, tmp_path):
    for words in (["wal", world.url], ["databases", "-config", many_databases(tmp_path)]):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb") as pipe:
            result = into(build, pipe, *words)
        assert result.returncode == -signal.SIGPIPE and result.stderr == ""


def test_no_file_takes_the_place_of_a_closed_stream(build, tmp_path, processes):
    database = tmp_path / "app.db"
    script = f'exec "{build.sqlstream}" replicate "{database}" "{tmp_path}/replica" <&- >&- 2>&-'
    process = harness.Process(["bash", "-c", script])
    processes.append(process)
    with closing(sqlite3.connect(database)) as db:
        db.executescript("pragma journal_mode = wal; create table t(a); insert into t values (1)")
        harness.wait_until(lambda: list(tmp_path.glob("replica/generations/*/snapshots/*")), "the snapshot")
        assert {os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)} == {"/dev/null"}
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def test_a_folder_is_no_database(build, tmp_path):
    env = harness.clean_environment(SQLSTREAM_REPLICA_URL=tmp_path / "replica")
    config = write_config(tmp_path / "c.yml", tmp_path / "app.db", {"path": f"{tmp_path}/r"})
    for words in (
        *([command, tmp_path] for command in ("status", "sync", "verify", "config")),
        *([command, "-config", config, tmp_path] for command in (*LISTS, "restore")),
        ["replicate", tmp_path, f"file://{tmp_path}/replica"],
    ):
        assert f"{tmp_path} is a folder" in sentence(build, *words, env=env)


def test_a_url_is_no_database(build, tmp_path):
    """As with the arguments of replicate in the wrong order."""
    env = harness.clean_environment(SQLSTREAM_REPLICA_URL=tmp_path / "replica")
    url = f"file://{tmp_path}/replica"
    for words in (*([command, url] for command in ("status", "sync", "verify", "config")),
                  ["replicate", url, tmp_path / "app.db"]):  # fmt: skip
        assert "a replica URL stands where the database's path is expected" in sentence(build, *words, env=env)


def test_a_restore_is_logged_with_litestreams_keys(build, world, tmp_path):
    ours, stock = (
        harness.run([program, "restore", "-config", world.config, "-o", tmp_path / name, world.database])
        for program, name in ((build.sqlstream, "ours.db"), (world.stock, "stock.db"))
    )
    for message in ("restoring snapshot", "restoring wal files", "downloaded wal", "applied wal", "renaming database"):
        # Of the lines for each index, the first: how many there are is the stock tool's affair.
        line = next(line for line in stock.stdout.splitlines() if message in line)
        keys = re.findall(r" (?:db|replica|generation|index|index_min|index_max)=\S+", line)
        line = next(line for line in ours.stdout.splitlines() if message in line)
        assert set(keys) <= set(re.findall(r" [a-z_]+=\S+", line)), line
