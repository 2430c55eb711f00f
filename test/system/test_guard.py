"""The classic accident: a copy of a database that replicates over the one it was made from."""

import hashlib
import os
import shutil
import time

import pytest

import faults
import harness
from test_lifecycle import Session, generations
from test_workloads import check_restores


@pytest.fixture
def production(build, tmp_path):
    """A database that was replicated, and its replica."""
    folder, replica = tmp_path / "production", tmp_path / "replica"
    folder.mkdir()
    with Session(build, folder / "app.db", f"file://{replica}") as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        app.do("close")
        app.end()
    return folder, replica


def files_of(replica):
    """What is in each."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in replica.rglob("*") if path.is_file()}


def check_generation(build, database, replica, generation, output):
    """It restores to this database, whatever newer ones there are."""
    build.restore(output, f"file://{replica}", "-generation", generation)
    harness.compare_databases(database, output)


@pytest.mark.parametrize("with_outbox", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_copy_is_warned_of_or_refused(build, tmp_path, production, with_outbox, exclusive):
    folder, replica = production
    copy = tmp_path / "development"
    copy.mkdir()
    shutil.copy2(folder / "app.db", copy / "app.db")
    if with_outbox:
        shutil.copytree(folder / ".app.db-sqlstream", copy / ".app.db-sqlstream",
                        ignore=shutil.ignore_patterns("wake"))
    before, [generation] = files_of(replica), generations(replica)
    log = tmp_path / "log"
    env = harness.clean_environment(SQLSTREAM_LOG=str(log))
    url = f"file://{replica}" + ("?exclusive=true" if exclusive else "")
    for _ in range(2):  # what is noted of a refusal does not help the next time
        with Session(build, copy / "app.db", url, env) as app:
            app.do("insert into t values ('development')")
            if exclusive:
                harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "a refusal")
                error = app.status()["replicas"][0]["error"]
                assert error.startswith("not replicating:") and str(folder / "app.db") in error
                assert app.shipped(100) == 0
            else:
                assert app.shipped() == 1
            app.do("close")
            app.end()
    said = log.read_text()
    assert str(folder / "app.db") in said and str(copy / "app.db") in said, said
    if exclusive:
        assert files_of(replica) == before
    else:
        # Beside what was there, which still restores.
        assert before.items() < files_of(replica).items()
        assert len(generations(replica)) == 2
    check_generation(build, folder / "app.db", replica, generation, tmp_path / "restored.db")


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_copy_on_another_host_with_its_outbox(build, litestream, tmp_path, exclusive, closed):
    """All of it is copied, to the same path, and the first host goes on meanwhile."""
    here, replica = tmp_path / "data", tmp_path / "replica"
    here.mkdir()
    host = faults.Faults(build.faults, here, tmp_path)
    boot = tmp_path / "boot"
    boot.write_text("feedbeef-another-machine\n")
    database, url = here / "app.db", f"file://{replica}?sync-interval=10ms"
    with Session(build, database, url, host.env(host="first")) as app:
        app.do("create table t(x)")
        app.do("insert into t values ('both')")
        assert app.shipped() == 1
        if closed:
            app.do("close")
            app.end()
        else:
            app.kill()
    second = tmp_path / "second"
    shutil.copytree(here, second, ignore=shutil.ignore_patterns("wake"))
    with Session(build, database, url, host.env(host="first")) as app:
        app.do("insert into t values ('first')")
        assert app.shipped() == 1
        generation = app.status()["generation"]
        app.do("close")
        app.end()
    here.rename(tmp_path / "first")
    second.rename(here)
    before, newest = files_of(replica), generations(replica)
    (tmp_path / "log").unlink()
    if exclusive:
        url += "&exclusive=true"
    with Session(build, database, url, host.env(host="second", boot_id=boot)) as app:
        app.do("insert into t values ('second')")
        if exclusive:
            harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "a refusal")
            assert "by host first" in app.status()["replicas"][0]["error"]
        else:
            assert app.shipped() == 1
        app.do("close")
        app.end()
    said = (tmp_path / "log").read_text()
    assert f"by host first from {database}" in said and "this is host second" in said, said
    if exclusive:
        assert files_of(replica) == before
        database = tmp_path / "first" / "app.db"
    else:
        assert before.items() < files_of(replica).items()  # nothing of the first one's is touched
        assert len(generations(replica)) == len(newest) + 1
    check_generation(build, tmp_path / "first" / "app.db", replica, generation, tmp_path / "restored.db")
    check_restores(build, litestream, database, url, replica, tmp_path)


def test_the_database_itself_is_not_warned_of(build, tmp_path, production):
    folder, replica = production
    log = tmp_path / "log"
    env = harness.clean_environment(SQLSTREAM_LOG=str(log))
    for _ in range(2):
        with Session(build, folder / "app.db", f"file://{replica}?exclusive=true", env) as app:
            app.do("insert into t values (1)")
            assert app.shipped() == 1
            app.do("close")
            app.end()
        shutil.rmtree(folder / ".app.db-sqlstream")  # and from the store alone
    assert "last written" not in log.read_text()


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_host_that_comes_back(build, tmp_path, exclusive):
    """Another one took over meanwhile. Its own outbox says that the replica is its own."""
    here, replica, log = tmp_path / "data", tmp_path / "replica", tmp_path / "log"
    url = f"file://{replica}?sync-interval=10ms"

    def start(name, url):
        """On the machine of that name, which has its own disk."""
        disk = tmp_path / name
        disk.rename(here) if disk.exists() else here.mkdir()
        if generations(replica) and not (here / "app.db").exists():
            build.restore(here / "app.db", url)
        log.unlink(missing_ok=True)
        return Session(build, here / "app.db", url, faults.Faults(build.faults, here, tmp_path).env(host=name))

    def write(name, sql):
        with start(name, url) as app:
            app.do(sql)
            assert app.shipped() == 1
            app.end()
        here.rename(tmp_path / name)
        return [line for line in log.read_text().splitlines() if "was last written" in line]

    assert write("first", "create table t(x)") == []
    assert write("first", "insert into t values ('first')") == []
    assert len(write("second", "insert into t values ('second')")) == 1
    assert write("second", "insert into t values ('again')") == []
    if not exclusive:
        (said,) = write("first", "insert into t values ('back')")
        assert "by host second" in said and "this is host first" in said
        return
    before = files_of(replica)
    with start("first", url + "&exclusive=true") as app:
        app.do("insert into t values ('back')")
        harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "a refusal")
        # That the other one goes on is no news.
        newest = max(before, key=lambda path: path.stat().st_mtime_ns)
        for _ in range(4):
            later = newest.stat().st_mtime + 2
            os.utime(newest, (later, later))
            time.sleep(1)
        assert "by host second" in app.status()["replicas"][0]["error"]
        app.do("close")
        app.end()
    assert files_of(replica) == before
    assert log.read_text().count("level=ERROR") == 1, log.read_text()
