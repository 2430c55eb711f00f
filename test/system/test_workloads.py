"""Every kind of writing, restored by sqlstream and by the stock litestream, byte for byte."""

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

import harness

WORKLOADS = Path(__file__).with_name("workloads.py")
PYTHON = "/usr/bin/python3"  # the distribution's build can load extensions

NAMES = [
    "inserts",
    "updates",
    "deletes",
    "ddl",
    "blobs",
    "huge_transaction",
    "without_rowid",
    "rollback_and_savepoints",
    "cache_spill",
    "savepoint_behind_a_spill",
    "vacuum",
    "auto_vacuum_full",
    "auto_vacuum_incremental",
    "shrink_and_grow",
    "checkpoints_by_the_application",
    "checkpoints_by_another_process",
    "reader_holds_a_snapshot",
    "wal_delete_wal",
    "exclusive_after_wal",
    "threads",
    "processes",
    "open_and_close",
    "inserts:page_size=512",
    "shrink_and_grow:page_size=1024",
    "updates:page_size=65536",
    "updates:wal_autocheckpoint=0",
    "updates:wal_autocheckpoint=1",
    "threads:wal_autocheckpoint=20",
    "updates:synchronous=full",
]


def run_workload(build, database, replica, name, env=None):
    result = harness.run([PYTHON, WORKLOADS, build.extension, database, replica, name], env=env)
    said = json.loads(result.stdout)
    assert said["shipped"] == 1, said
    return said


def check_restores(build, litestream, database, url, replica, folder, env=None):
    """Restored by both tools: every byte, and what SQLite says of it."""
    ours = folder / "ours.db"
    build.restore(ours, url, env=env)
    harness.compare_databases(database, ours)
    harness.integrity_check(ours)
    theirs = folder / "theirs.db"
    litestream.restore(theirs, replica)
    harness.compare_databases(database, theirs)
    harness.integrity_check(theirs)


@pytest.mark.parametrize("name", NAMES)
def test_on_a_file_replica(build, litestream, tmp_path, name):
    database = tmp_path / "app.db"
    replica = tmp_path / "replica"
    run_workload(build, database, f"file://{replica}", name)
    check_restores(build, litestream, database, f"file://{replica}", replica, tmp_path)


@pytest.mark.parametrize("name", ["updates", "vacuum", "processes", "huge_transaction"])
def test_on_s3(build, litestream, minio, tmp_path, name):
    database = tmp_path / "app.db"
    bucket = minio.bucket()
    url = minio.url(bucket, "app")
    run_workload(build, database, url, name, env=minio.env())
    check_restores(build, litestream, database, url, minio.litestream_replica(bucket, "app"),
                   tmp_path, env=minio.env())


def test_attached_databases_are_replicated_each(build, litestream, tmp_path):
    database = tmp_path / "app.db"
    replica = tmp_path / "replica"
    run_workload(build, database, f"file://{replica}", "attach")
    check_restores(build, litestream, database, f"file://{replica}", replica, tmp_path)
    second = tmp_path / "app.db2"
    other = tmp_path / "other"
    other.mkdir()
    check_restores(build, litestream, second, f"file://{replica}2", tmp_path / "replica2", other)
