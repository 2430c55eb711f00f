"""The classic accident: a copy of a database that replicates over the one it was made from."""

import shutil

import pytest

import harness
from test_lifecycle import Session, generations


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
    return sorted(path for path in replica.rglob("*") if path.is_file())


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
    before = files_of(replica)
    log = tmp_path / "log"
    env = harness.clean_environment(SQLSTREAM_LOG=str(log))
    url = f"file://{replica}" + ("?exclusive=true" if exclusive else "")
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
        assert set(before) < set(files_of(replica))
        assert len(generations(replica)) == 2


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
