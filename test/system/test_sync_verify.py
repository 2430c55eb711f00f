"""`sqlstream sync` and `sqlstream verify`: what they promise, and what they refuse."""

import json
import os
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
        for i in range(20):
            session.do(f"insert into t values ({i})")
            session.do(f"insert into t values (randomblob(30000))")
            world.tool("sync", world.database)
            for j, url in enumerate(world.urls):
                restored = world.folder / f"r-{i}-{j}.db"
                world.build.restore(restored, url, env=world.env)
                assert plain(restored, "select count(*) from t") == [(2 * i + 2,)]
        assert session.status()["shipping"] == "this process"
        session.end()


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
    assert last.startswith(f"sqlstream: {world.database} was not in every replica within 500ms: replica r1 has nothing")
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


def test_sync_creates_no_database(build, tmp_path):
    config = write_config(tmp_path / "c.yml", tmp_path / "missing.db", f"file://{tmp_path}/r")
    said = harness.run([build.sqlstream, "sync", "-config", config, tmp_path / "missing.db"], check=False)
    assert said.returncode == 1 and "unable to open database file" in said.stderr
    assert not (tmp_path / "missing.db").exists()
