"""A commit through the VFS reaches the store and is restored, byte for byte: with sqlstream and with
the stock litestream."""

import sqlite3
from contextlib import closing

import pytest

import harness

WORKLOAD = """
CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
  INSERT INTO t(x) SELECT randomblob(300) FROM n;
UPDATE t SET x = randomblob(900) WHERE id % 3 = 0;
DELETE FROM t WHERE id % 5 = 0;
CREATE INDEX tx ON t(x);
"""


def check_restored(build, litestream, database, url, replica, env, folder):
    expected = harness.checkpointed_copy(database, folder / "expected.db")
    build.restore(folder / "ours.db", url, env=env)
    litestream.restore(folder / "stock.db", replica)
    for restored in (folder / "ours.db", folder / "stock.db"):
        harness.compare_databases(expected, restored)
        harness.integrity_check(restored)


def test_folder(build, litestream, tmp_path):
    database, folder = tmp_path / "app.db", tmp_path / "replica"
    build.shell(database, f"file://{folder}", WORKLOAD)
    check_restored(
        build, litestream, database, f"file://{folder}", folder, harness.clean_environment(), tmp_path
    )


@pytest.mark.parametrize("style", ["path", "virtual-host"])
@pytest.mark.parametrize("server", ["minio", "minio_tls"])
def test_minio(server, style, request, build, litestream, tmp_path):
    minio = request.getfixturevalue(server)
    bucket = minio.bucket()
    options = {}
    if style == "virtual-host":
        options = {"endpoint": minio.virtual_host_endpoint, "force_path_style": "false"}
    url, env = minio.url(bucket, "a/app.db", **options), minio.env()
    database = tmp_path / "app.db"
    build.shell(database, url, WORKLOAD, env=env)
    # A second process goes on where the first ended.
    build.shell(database, url, "INSERT INTO t(x) VALUES ('second');", env=env)
    generations = {key.split("/")[3] for key in minio.keys(bucket, "a/app.db/generations/")}
    assert len(generations) == 1
    check_restored(
        build, litestream, database, url, minio.litestream_replica(bucket, "a/app.db"), env, tmp_path
    )


def test_replica_from_a_litestream_configuration(build, litestream, minio, tmp_path):
    bucket = minio.bucket()
    database = tmp_path / "app.db"
    replica = minio.litestream_replica(bucket, "app")
    config = litestream.config(database, replica)
    # The credentials are in the file, as in any litestream.yml; the application names no replica.
    env = harness.clean_environment(SQLSTREAM_CONFIG=config)
    build.shell(database, None, WORKLOAD, env=env)
    check_restored(
        build, litestream, database, minio.url(bucket, "app"), replica, minio.env(), tmp_path
    )


def test_replica_from_the_environment(build, litestream, minio, tmp_path):
    bucket = minio.bucket()
    database = tmp_path / "my app.db"
    env = minio.env(SQLSTREAM_REPLICA_URL=minio.url(bucket, "all/{name}"))
    build.shell(database, None, WORKLOAD, env=env)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (400,)
    check_restored(
        build,
        litestream,
        database,
        minio.url(bucket, "all/my%20app.db"),
        minio.litestream_replica(bucket, "all/my app.db"),
        minio.env(),
        tmp_path,
    )
