"""Who ships, where one of two processes has a fault: the other one does, and neither ends for it."""

import subprocess
import time

import pytest

import harness
from test_endings import program  # noqa: F401
from test_lifecycle import Session
from test_local_faults import Place, whole


@pytest.fixture
def place(build, tmp_path):
    return Place(build, tmp_path)


def no_descriptors(place):
    """For whoever has place.env: the log files, which are named by their first batch, cannot be opened."""
    place.fail(*(f"EMFILE open {place.outbox}/{digit}" for digit in "0123456789abcdef"))


def begin_next_log_file(session, place):
    """Log files grow to 16 MiB: behind the batch of the first of these commits the next one begins."""
    before = set(place.outbox.glob("0*"))
    assert session.do("insert into t values (randomblob(17000000))") == []

    def begun():
        assert session.do("insert into t values (1)") == []
        return set(place.outbox.glob("0*")) - before

    harness.wait_until(begun, "the next log file")


def blind(app, other, place):
    """`app` ships, and cannot open what `other` has begun."""
    app.do("create table t(x)")
    assert app.shipped() == 1
    assert other.do("select count(*) from t") == [[0]]
    no_descriptors(place)
    begin_next_log_file(other, place)


def test_who_ships_closes_the_database_while_it_cannot_look(build, litestream, place):
    """It has nothing to do with it any more by what it knows, and is in nobody's way."""
    with place.session() as app, Session(build, place.database, place.url) as other:
        blind(app, other, place)
        harness.wait_until(lambda: place.lines("ERROR"), "the fault to be told")
        app.do("close")
        time.sleep(4)  # then it is let go
        place.fail()
        assert other.shipped(60000) == 1
        app.end()
        other.do("close")
        other.end()
    whole(build, litestream, place)


def test_who_ships_can_look_no_more(build, litestream, place):
    """It leaves the role to others, for as long as that is so."""
    with place.session() as app, Session(build, place.database, place.url) as other:
        blind(app, other, place)
        assert other.shipped(60000) == 1
        assert other.status()["shipping"] == "this process"
        assert len(place.lines("ERROR")) <= 3
        place.fail()
        for session in (app, other):
            assert session.do("insert into t values (4)") == []
            assert session.shipped(60000) == 1
        for session in (app, other):
            session.do("close")
            session.end()
    whole(build, litestream, place)


def test_who_takes_the_role_cannot_open_the_outbox(build, litestream, place):
    """It leaves the role to others."""
    with Session(build, place.database, place.url) as first:
        first.do("create table t(x)")
        assert first.shipped() == 1
        with place.session() as app:
            assert app.do("select count(*) from t") == [[0]]
            harness.wait_until(lambda: app.status()["shipping"] == "another process", "it to watch")
            no_descriptors(place)
            begin_next_log_file(first, place)
            first.kill()
            harness.wait_until(lambda: place.lines("ERROR"), "the fault to be told")
            with Session(build, place.database, place.url) as other:
                other.do("insert into t values (2)")
                assert other.shipped(60000) == 1
                other.do("close")
                other.end()
            place.fail()
            assert app.do("insert into t values (3)") == []
            assert app.shipped(60000) == 1
            app.do("close")
            app.end()
    whole(build, litestream, place)


def test_a_program_whose_end_takes_long_holds_nothing_back(build, place, program):  # noqa: F811
    """Its other exit handlers may run for as long as they like."""
    command = [program, build.extension, build.uri(place.database, place.url), "lingers"]
    with subprocess.Popen(
        [str(part) for part in command], env=harness.clean_environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as ending:  # fmt: skip
        assert ending.stdout.readline() == "at its end\n"
        build.shell(place.database, place.url, "create table other(x);")
        restored = place.folder / "restored.db"
        build.restore(restored, place.url)
        assert harness.run(["sqlite3", restored, ".tables"]).stdout.split() == ["other", "t"]
        assert ending.poll() is None
        ending.stdin.close()
        assert ending.wait(60) == 0
