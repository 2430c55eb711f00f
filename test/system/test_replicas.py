"""Several replicas of one database: each has its own progress, and none waits for another."""

import json

import pytest

import harness
from test_hostile import (COMPACTED, GOOD_SEGMENT, PREFIX, SEGMENT, SNAPSHOT, Bucket, credentials, database, segment,
                          serving, snapshot, write_replica)  # fmt: skip
from test_lifecycle import Session
from test_sync_verify import write_config


@pytest.mark.parametrize("down", ["s3", "file"])
def test_one_that_is_down_holds_no_other_back(build, own_minio, litestream, tmp_path, down):
    database, folder = tmp_path / "app.db", tmp_path / "replicas/file"
    bucket = own_minio.bucket()
    urls = {"s3": own_minio.url(bucket, "app"), "file": f"file://{folder}"}
    config = write_config(tmp_path / "c.yml", database, *urls.values(), **{"sync-interval": "50ms"})
    env = own_minio.env(SQLSTREAM_CONFIG=str(config), SQLSTREAM_LOG=str(tmp_path / "log"))

    def replicas(session):
        return dict(zip(urls, session.status()["replicas"]))

    def both_in_sync(session):
        return all(replica["in_sync"] for replica in replicas(session).values())

    with Session(build, database, "", env=env) as session:
        session.do("create table t(x)")
        harness.wait_until(lambda: both_in_sync(session), "both replicas")
        if down == "s3":
            own_minio.stop()
        else:
            folder.parent.rename(tmp_path / "away")
            folder.parent.write_text("a file where the folder was")
        up = "file" if down == "s3" else "s3"
        for i in range(5):
            session.do(f"insert into t values ({i})")
            harness.wait_until(lambda: replicas(session)[up]["in_sync"], f"{up} to have commit {i}")
        harness.wait_until(lambda: "error" in replicas(session)[down], f"{down} to be noticed")
        now = replicas(session)
        assert not now[down]["in_sync"] and now[down]["sequence"] < now[up]["sequence"]
        assert "error" not in now[up]
        # From outside it looks the same, and what is there restores to the last commit.
        seen = json.loads(harness.run([build.sqlstream, "status", "-json", "-config", config], env=env).stdout)
        lag = {name: replica["lag_ms"] for name, replica in zip(urls, seen)}
        assert lag[up] == 0 and lag[down] > 0
        build.restore(tmp_path / "meanwhile.db", urls[up], env=env)
        copy = harness.run(["sqlite3", tmp_path / "meanwhile.db", "select count(*) from t"])
        assert copy.stdout == "5\n"

        if down == "s3":
            own_minio.start()
        else:
            folder.parent.unlink()
            (tmp_path / "away").rename(folder.parent)
        assert session.shipped(60000) == 1
        assert both_in_sync(session)
        assert replicas(session)["s3"]["generation"] == replicas(session)["file"]["generation"]
        session.end()
    source = harness.checkpointed_copy(database, tmp_path / "source.db")
    for name, stock in (("s3", own_minio.litestream_replica(bucket, "app")), ("file", folder)):
        build.restore(tmp_path / f"{name}.db", urls[name], env=env)
        harness.compare_databases(source, tmp_path / f"{name}.db")
        litestream.restore(tmp_path / f"{name}-stock.db", stock)
        harness.compare_databases(source, tmp_path / f"{name}-stock.db")


def test_one_bucket_and_path_on_two_servers(build, minio, own_minio, tmp_path):
    """Two replicas: what one has says nothing of the other, in the programs that follow either."""
    database, bucket = tmp_path / "app.db", minio.bucket()
    own_minio.s3.create_bucket(Bucket=bucket)
    urls = [server.url(bucket, "app") for server in (minio, own_minio)]
    config = write_config(tmp_path / "c.yml", database, *urls, **{"sync-interval": "10ms"})
    env = minio.env(SQLSTREAM_CONFIG=str(config))
    with Session(build, database, "", env=env) as session:
        session.do("create table t(x)")
        assert session.shipped(60000) == 1
        own_minio.stop()
        for number in range(3):
            session.do(f"insert into t values ({number})")
            harness.wait_until(lambda: session.status()["replicas"][0]["in_sync"], "the one that is there")
        session.kill()
    own_minio.start()
    for number in range(3):
        with Session(build, database, "", env=env) as session:
            session.do(f"insert into t values ({number})")
            assert session.shipped(60000) == 1
            session.kill()
    source = harness.checkpointed_copy(database, tmp_path / "source.db")
    for number, url in enumerate(urls):
        build.restore(tmp_path / f"{number}.db", url, env=env)
        harness.compare_databases(source, tmp_path / f"{number}.db")


# Which of them is restored


LATER = 2 * 10**18  # than what the objects that are made say of themselves
OLDER = {SNAPSHOT: snapshot()}
NEWER = {SNAPSHOT: snapshot(), SEGMENT: segment(GOOD_SEGMENT, last=LATER)}


def damaged(content):
    """In what it says of itself."""
    return content[:20] + b"x" + content[21:]


def restore(build, folder, urls, *flags):
    """Exit code and what was said; the replicas are r0, r1, …"""
    config = write_config(folder / "c.yml", folder / "app.db", *urls)
    said = harness.run([build.sqlstream, "restore", "-config", config, *flags, folder / "app.db"],
                       env=credentials(), check=False)  # fmt: skip
    return said.returncode, said.stdout + said.stderr


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("listed", [0, 1000], ids=["empty", "gone"])
def test_the_latest_data_behind_a_compacted_object_that_cannot_be_used(build, tmp_path, listed, turned):
    older = write_replica(tmp_path / "older", OLDER)
    objects = {PREFIX + key: body for key, body in NEWER.items()} | ({} if listed else {PREFIX + COMPACTED: b""})
    sizes = {key: len(body) for key, body in objects.items()} | {PREFIX + COMPACTED: listed}
    with serving(Bucket(objects, sizes)) as newer:
        urls = [f"file://{older}", newer][:: -1 if turned else 1]
        code, said = restore(build, tmp_path, urls)
    assert code == 0, said
    assert "restoring without compacted segments" in said, said
    assert (tmp_path / "app.db").read_bytes() == database()[:4096] + b"w" * 4096


def test_the_latest_data_behind_a_first_snapshot_that_is_damaged(build, tmp_path):
    objects = {SNAPSHOT: damaged(snapshot()), "snapshots/00000001.snapshot.lz4": snapshot(database(3), last=LATER)}
    newer, older = write_replica(tmp_path / "newer", objects), write_replica(tmp_path / "older", OLDER)
    code, said = restore(build, tmp_path, [f"file://{older}", f"file://{newer}"])
    assert code == 0, said
    assert (tmp_path / "app.db").read_bytes() == database(3)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("other", [{}, OLDER], ids=["empty", "older"])
@pytest.mark.parametrize("damage", ["snapshot", "segment", "not a folder"])
def test_one_that_may_have_the_latest_data_is_not_passed_over(build, tmp_path, damage, other, turned):
    bad, good = tmp_path / "bad", write_replica(tmp_path / "good", other)
    if damage == "not a folder":
        bad.write_text("")
    else:
        key = SNAPSHOT if damage == "snapshot" else SEGMENT
        write_replica(bad, NEWER | {key: damaged(NEWER[key])})
    urls = [f"file://{bad}", f"file://{good}"][:: -1 if turned else 1]
    code, said = restore(build, tmp_path, urls, "-if-replica-exists")
    assert code == 1 and not (tmp_path / "app.db").exists(), said
    assert f"name it with -replica (this is r{int(turned)})" in said and str(bad) in said, said
    # As it says.
    code, said = restore(build, tmp_path, urls, "-if-replica-exists", "-replica", f"r{1 - turned}")
    assert code == 0 and (tmp_path / "app.db").exists() == bool(other), said
