"""The harness itself, with the stock programs alone: a comparison that cannot fail proves nothing."""

import shutil
import sqlite3
from contextlib import closing

import pytest

import harness


def write_rows(database, rows):
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x BLOB)")
        with connection:
            connection.executemany(
                "INSERT INTO t(x) VALUES (randomblob(?))", [(200,) for _ in range(rows)]
            )


@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
def test_stock_litestream_round_trip(tls, request, litestream, tmp_path):
    minio = request.getfixturevalue("minio_tls" if tls else "minio")
    replica = minio.litestream_replica(minio.bucket(), "some/app.db")
    database, restored = tmp_path / "app.db", tmp_path / "restored.db"
    write_rows(database, 100)
    if tls:
        # The stock writer knows no CA file: give it the system's way.
        litestream_env = harness.clean_environment(SSL_CERT_FILE=minio.ca_file)
    else:
        litestream_env = harness.clean_environment()
    config = litestream.config(database, replica)
    with harness.Process(
        [litestream.binary, "replicate", "-config", config],
        env=litestream_env,
        log=tmp_path / "litestream.log",
    ) as process:
        harness.wait_until(
            lambda: any("/snapshots/" in key for key in minio.keys(replica["bucket"])),
            f"a snapshot:\n{process.said()}",
        )
        process.stop()
    litestream.restore(restored, replica)
    harness.integrity_check(restored)
    with closing(sqlite3.connect(restored)) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (100,)


def test_comparing_finds_one_flipped_bit(tmp_path):
    database, copy = tmp_path / "a.db", tmp_path / "b.db"
    write_rows(database, 500)
    shutil.copyfile(database, copy)
    harness.compare_databases(database, copy)
    data = bytearray(copy.read_bytes())
    data[9000] ^= 1
    copy.write_bytes(data)
    with pytest.raises(AssertionError, match=r"in page 3 of \d+ at byte 808"):
        harness.compare_databases(database, copy)
    copy.write_bytes(database.read_bytes()[:-4096])
    with pytest.raises(AssertionError, match="has .* bytes"):
        harness.compare_databases(database, copy)


def test_checkpointed_copy_holds_what_was_in_the_wal(tmp_path):
    database, crashed = tmp_path / "a.db", tmp_path / "crashed.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("CREATE TABLE t(x)")
        connection.commit()
        shutil.copyfile(database, crashed)
        shutil.copyfile(f"{database}-wal", f"{crashed}-wal")
    with pytest.raises(AssertionError, match="not empty"):
        harness.compare_databases(database, crashed)
    copy = harness.checkpointed_copy(crashed, tmp_path / "copy.db")
    harness.compare_databases(database, copy)
    harness.integrity_check(copy)


def test_an_integrity_check_finds_damage(tmp_path):
    database = tmp_path / "a.db"
    write_rows(database, 500)
    data = bytearray(database.read_bytes())
    data[8192:8292] = bytes(100)
    database.write_bytes(data)
    with pytest.raises((AssertionError, sqlite3.DatabaseError)):
        harness.integrity_check(database)


def test_minio_keeps_port_and_data_over_a_restart(own_minio):
    bucket = own_minio.bucket()
    own_minio.put(bucket, "a/b", b"content")
    endpoint = own_minio.endpoint
    own_minio.stop()
    own_minio.start()
    assert own_minio.endpoint == endpoint
    assert own_minio.keys(bucket) == ["a/b"]
    assert own_minio.get(bucket, "a/b") == b"content"


def test_nothing_of_the_machines_settings_reaches_a_program(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("SQLSTREAM_CONFIG", "/etc/mine.yml")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    env = harness.clean_environment(MORE=1)
    assert not {"AWS_SECRET_ACCESS_KEY", "SQLSTREAM_CONFIG", "HTTPS_PROXY"} & env.keys()
    assert env["MORE"] == "1"
