"""Several replicas of one database: each has its own progress, and none waits for another."""

import json

import pytest

import harness
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
