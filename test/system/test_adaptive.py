"""`adaptive`: a day's PUTs are bounded, and nobody who waits for a commit waits for that."""

import time

import harness
from test_lifecycle import Session, place  # noqa: F401

# One PUT an hour, none kept: the first snapshot takes it.
ADAPTIVE = "sync-interval=1ms&adaptive=24"


def test_a_day_of_puts_is_bounded_over_restarts(build, place, tmp_path):  # noqa: F811
    database, replica, url = place
    url = f"{url}?{ADAPTIVE}"

    def puts():
        return len(list(replica.glob("generations/*/*/*.lz4")))

    def commit(session):
        for number in range(40):
            session.do(f"insert into t values(randomblob({number}))")
            time.sleep(0.01)

    with Session(build, database, url) as session:
        session.do("create table t(x)")
        harness.wait_until(lambda: puts() == 1, "the snapshot")
        commit(session)
        assert puts() == 1
        assert session.status()["replicas"][0]["lag_ms"] > 0

        # Somebody waits, so it is sent; and taken from what comes.
        assert session.shipped() == 1
        assert puts() == 2
        commit(session)
        assert puts() == 2
        session.kill()

    with Session(build, database, url) as session:
        commit(session)
        assert puts() == 2
        assert session.shipped() == 1
        session.end()
    assert puts() == 3

    restored = tmp_path / "restored.db"
    build.restore(restored, url)
    harness.compare_databases(harness.checkpointed_copy(database, tmp_path / "copy.db"), restored)
