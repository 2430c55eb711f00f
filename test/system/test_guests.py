"""Unmodified programs with the shim in them: test/guests/run, which says what is asserted. Here a part of
each guest's tests, with -long all of them."""

import importlib.util
import sys
from importlib.machinery import SourceFileLoader

import pytest

import harness

RUNNER = harness.ROOT / "test/guests/run"
HOUR = 3600


def play(build, folder, name, *options, env=None):
    done = harness.run([sys.executable, RUNNER, "-build", build.dir, "-folder", folder, *options, name],
                       env=env, check=False, timeout=2 * HOUR)  # fmt: skip
    print(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


@pytest.mark.parametrize("name", ["apsw", "django", "go", "puma", "sqlalchemy"])
def test_guest(build, tmp_path, name):
    play(build, tmp_path / "guests", name)


def test_gunicorn_with_a_bucket(build, minio, tmp_path):
    replica = minio.url(minio.bucket(), "{path}", sync_interval="100ms")
    play(build, tmp_path / "guests", "gunicorn", "-replica", replica, env=minio.env())


@pytest.mark.long
@pytest.mark.parametrize("name", ["apsw", "django", "go", "sqlalchemy"])
def test_all_of_a_guest(build, tmp_path, name):
    play(build, tmp_path / "guests", name, "-long")


@pytest.fixture(scope="module")
def runner():
    loader = SourceFileLoader("guests_run", str(RUNNER))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("plain, shimmed, failures", [
    ({"a": "passed"}, {"a": "passed"}, 0),
    ({"a": "failed"}, {"a": "failed"}, 0),
    ({"a": "passed"}, {"a": "failed"}, 1),
    ({"a": "passed"}, {"a": "skipped"}, 1),
    ({"a": "passed"}, {}, 1),
    ({"a": "skipped"}, {"a": "failed"}, 1),
    ({}, {"a": "failed"}, 1),
    ({"named": "passed"}, {"named": "failed"}, 0),
    ({"named": "passed"}, {"named": "passed"}, 1),
])  # fmt: skip
def test_what_counts_as_a_new_failure(runner, plain, shimmed, failures):
    assert len(runner.new_failures(plain, shimmed, {"named": "a reason"})) == failures


@pytest.mark.parametrize("plain, shimmed, named_failed, failures", [
    ([0, 1], [0, 1], False, 0),
    ([0, 0], [0, 1], False, 1),
    ([0, 0], [0, 1], True, 0),
    ([0], [-11], True, 1),
    ([1], [139], True, 1),
    ([1], [0], False, 1),
])  # fmt: skip
def test_what_counts_as_another_end(runner, plain, shimmed, named_failed, failures):
    assert len(runner.new_statuses(plain, shimmed, named_failed)) == failures


def test_a_guest_that_ships_nothing_fails(build, runner, tmp_path):
    """And one whose database was written without the shim."""
    place = runner.Place(build, tmp_path / "shim", f"file://{tmp_path}/replicas/{{path}}", False)
    place.run(["sqlite3", place.data / "app.db", "create table t(x)"])
    compared, restored, wrong = runner.check_replicas(place)
    assert (compared, restored) == (0, 0)
    assert [sentence.split()[-1] for sentence in wrong] == ["captured", "shipped", "restored"]


def test_a_guest_one_of_whose_programs_ships_nothing_fails(build, runner, tmp_path):
    """Though another did, and for the same database."""
    place = runner.Place(build, tmp_path / "shim", f"file://{tmp_path}/replicas/{{path}}", False)
    database = place.data / "app.db"
    place.run(place.preloaded(["sqlite3", database, "create table t(x)", "select sqlstream_wait(50000)",
                               "insert into t values (1)"]))  # fmt: skip
    place.run(place.preloaded(["sqlite3", database, "select * from t"]))
    compared, _, wrong = runner.check_replicas(place)
    assert compared == 1
    assert len(wrong) == 1 and wrong[0].endswith("select * from t: no segment was shipped")


def test_a_guest_that_takes_a_database_out_of_wal_mode_fails(build, runner, tmp_path):
    place = runner.Place(build, tmp_path / "shim", f"file://{tmp_path}/replicas/{{path}}", False)
    for name, last in ("kept.db", "select 1"), ("left.db", "pragma journal_mode = delete"):
        shipped = "select sqlstream_wait(50000)"
        shell = ["sqlite3", place.data / name, "create table t(x)", shipped, "insert into t values (1)", shipped, last]
        place.run(place.preloaded(shell))
    compared, restored, wrong = runner.check_replicas(place)
    assert (compared, restored) == (1, 0)
    assert wrong == [f"{place.data}/left.db was taken out of WAL mode"]
