"""The restore command on replicas that stock Litestream wrote, its errors, and `sqlstream run`."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest

import harness
from test_local_faults import file_system


def connect(database):
    connection = sqlite3.connect(database, isolation_level=None, timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x BLOB)")
    return connection


def segments(replica):
    return sorted(replica.glob("generations/*/wal/*.wal.lz4"))


def snapshots(replica):
    return sorted(replica.glob("generations/*/snapshots/*.snapshot.lz4"))


def write_replica(litestream, database, replica, rounds=3, rows=200):
    """Lets the stock tool replicate a workload; every round ends up in a segment of its own."""
    with closing(connect(database)) as connection, litestream.replicate(database, replica) as process:
        harness.wait_until(lambda: snapshots(replica), f"a snapshot: {process.said()}")
        for number in range(rounds):
            before = len(segments(replica))
            connection.execute("BEGIN")
            for _ in range(rows):
                connection.execute("INSERT INTO t(x) VALUES (randomblob(500))")
            connection.execute("UPDATE t SET x = randomblob(300) WHERE id % 7 = ?", (number % 7,))
            connection.execute("COMMIT")
            harness.wait_until(
                lambda before=before: len(segments(replica)) > before, "a segment of the round"
            )
        assert process.stop() in (0, -signal.SIGTERM)


@pytest.fixture
def replica(litestream, tmp_path):
    folder = tmp_path / "replica"
    write_replica(litestream, tmp_path / "source.db", folder)
    return folder


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "app.db"


def fails(build, *arguments, env=None):
    """Runs `sqlstream …`, which must fail with one sentence; returns it."""
    result = harness.run([build.sqlstream, *arguments], env=env, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stdout == ""
    sentences = [line for line in result.stderr.splitlines() if not line.startswith("time=")]
    assert len(sentences) == 1, result.stderr
    return sentences[0]


def test_reads_what_litestream_wrote(build, litestream, tmp_path, output):
    database, folder = tmp_path / "source.db", tmp_path / "replica"
    with closing(connect(database)) as connection, litestream.replicate(database, folder) as process:
        harness.wait_until(lambda: snapshots(folder), f"a snapshot: {process.said()}")
        # Until several WALs of it were written, with shrinks in between.
        for number in range(400):
            connection.execute("BEGIN")
            for _ in range(40):
                connection.execute("INSERT INTO t(x) VALUES (randomblob(abs(random()) % 3000))")
            connection.execute("UPDATE t SET x = randomblob(99) WHERE id % 50 = ?", (number % 50,))
            connection.execute("COMMIT")
            if number % 130 == 129:
                connection.execute("DELETE FROM t WHERE id % 3 = 0")
                connection.execute("VACUUM")
            time.sleep(0.005)
        process.stop()
    assert len({file.name.split("_")[0] for file in segments(folder)}) > 1
    build.restore(output, f"file://{folder}")
    stock = tmp_path / "stock.db"
    litestream.restore(stock, folder)
    assert output.read_bytes() == stock.read_bytes()
    harness.integrity_check(output)


def test_each_moment_of_a_litestream_replica(build, litestream, tmp_path, output):
    folder = tmp_path / "replica"
    write_replica(litestream, tmp_path / "source.db", folder, rounds=4, rows=50)
    rows = []
    for file in segments(folder):
        stamp = file.stat().st_mtime_ns
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stamp // 10**9))
        output.unlink(missing_ok=True)
        build.restore(output, f"file://{folder}", "-timestamp", f"{moment}.{stamp % 10**9:09}Z")
        harness.integrity_check(output)
        with closing(sqlite3.connect(output)) as connection:
            rows.append(connection.execute("SELECT count(*) FROM t").fetchone()[0])
    assert rows == sorted(rows) and rows[-1] == 200 and len(set(rows)) >= 4


def test_says_as_json_what_was_reached(build, replica, output):
    result = build.restore(output, f"file://{replica}", "-json")
    said = json.loads(result.stdout)
    generation = next((replica / "generations").iterdir()).name
    assert said["output"] == str(output)
    assert said["generation"] == generation
    assert said["position"].startswith(f"{generation}/0000")
    assert said["commit_time"].endswith("Z")
    assert said["pages"] * said["page_size"] == output.stat().st_size
    assert all(line.startswith("time=") for line in result.stderr.splitlines()), result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        lambda output, url: ["-o", output, url],
        lambda output, url: [url, "-o", output],
        lambda output, url: [f"-o={output}", "-v", url],
        lambda output, url: [f"--o={output}", url, "--parallelism", "2", "-json=false"],
        lambda output, url: ["--o", output, "--", url],
    ],
)
def test_flags_are_understood_as_in_litestream(build, replica, output, arguments):
    harness.run([build.sqlstream, "restore", *arguments(output, f"file://{replica}")])
    harness.integrity_check(output)


def test_the_standalone_program(build, replica, output):
    harness.run([build.sqlstream_restore, "-o", output, f"file://{replica}"])
    harness.integrity_check(output)
    needed = harness.run(["ldd", build.sqlstream_restore]).stdout
    assert "libsqlite3" not in needed


def test_refuses_what_exists(build, replica, output):
    output.write_bytes(b"precious")
    said = fails(build, "restore", "-o", output, f"file://{replica}")
    assert "cannot restore, output path already exists" in said and str(output) in said
    assert output.read_bytes() == b"precious"
    harness.run(
        [build.sqlstream, "restore", "-if-db-not-exists", "-o", output, f"file://{replica}"]
    )
    assert output.read_bytes() == b"precious"


def test_several_at_once_that_may_find_the_database(build, replica, tmp_path):
    """The containers of one volume start together: whoever comes second has what it wanted."""
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        command = [build.sqlstream, "restore", "-if-db-not-exists", "-o", folder / "app.db", f"file://{replica}"]
        started = [
            subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)
        ]
        said = [process.communicate(timeout=60) for process in started]
        assert [process.returncode for process in started] == [0] * 6, said
        assert [path.name for path in folder.iterdir()] == ["app.db"]
        harness.integrity_check(folder / "app.db")


def test_refuses_to_mix_with_a_wal_left_behind(build, litestream, tmp_path):
    """The classic accident: after kill -9 the main file is removed, its -wal is not."""
    database, folder = tmp_path / "app.db", tmp_path / "replica"
    writer = subprocess.Popen(
        ["/usr/bin/python3", "-c", f"""
import sqlite3, time
c = sqlite3.connect({str(database)!r}, isolation_level=None)
c.execute("PRAGMA journal_mode=WAL")
c.execute("CREATE TABLE t(x)")
while True:
    c.execute("INSERT INTO t VALUES (randomblob(1000))")
    time.sleep(0.001)
"""],
        env=harness.clean_environment(),
    )  # fmt: skip
    try:
        harness.wait_until(database.exists, "the database")
        with litestream.replicate(database, folder):
            harness.wait_until(lambda: segments(folder), "a segment")
    finally:
        writer.kill()
        writer.wait()
    database.unlink()
    wal = database.with_name("app.db-wal")
    before = wal.read_bytes()
    assert before
    said = fails(build, "restore", "-o", database, f"file://{folder}")
    assert str(wal) in said and "move it away" in said
    assert wal.read_bytes() == before and not database.exists()
    wal.rename(tmp_path / "aside")
    database.with_name("app.db-shm").unlink(missing_ok=True)
    build.restore(database, f"file://{folder}")
    harness.integrity_check(database)


def test_says_when_there_is_nothing(build, tmp_path, output):
    url = f"file://{tmp_path}/nowhere"
    assert "no matching backups found" in fails(build, "restore", "-o", output, url)
    harness.run([build.sqlstream, "restore", "-if-replica-exists", "-o", output, url])
    assert not output.exists()


@pytest.mark.parametrize("flags", [[], ["-if-replica-exists"]], ids=str)
def test_says_that_a_newer_litestream_wrote_it(build, tmp_path, output, flags):
    """It is no empty replica: who took it for one would begin an empty database."""
    level = tmp_path / "replica/ltx/0"
    level.mkdir(parents=True)
    (level / "0000000000000001-0000000000000001.ltx").write_bytes(b"LTX1")
    said = fails(build, "restore", *flags, "-o", output, f"file://{tmp_path}/replica")
    assert "was written by Litestream 0.5 or newer" in said and not output.exists()


@pytest.mark.parametrize("kind", ["snapshots", "wal"])
def test_says_that_it_is_encrypted(build, replica, output, kind):
    """As litestream does with an age section: nothing is damaged."""
    for file in replica.glob(f"generations/*/{kind}/*.lz4"):
        file.write_bytes(b"age-encryption.org/v1\n-> X25519 AAAA\n" + bytes(100))
    said = fails(build, "restore", "-o", output, f"file://{replica}")
    assert said.endswith(".lz4 is encrypted with age; restore it with litestream")


def test_names_a_generation_that_is_not_there(build, replica, output):
    said = fails(
        build, "restore", "-generation", "0123456789abcdef", "-o", output, f"file://{replica}"
    )
    assert "0123456789abcdef" in said and next((replica / "generations").iterdir()).name in said


@pytest.mark.parametrize(
    "flag, value", [("-generation", "0123456789abcdef"), ("-timestamp", "2001-01-01T00:00:00Z")]
)
@pytest.mark.parametrize("replicas", [["REPLICA"], ["REPLICA", "EMPTY"], ["EMPTY", "REPLICA"]], ids=str)
def test_a_replica_that_exists_is_no_missing_one(build, replica, output, tmp_path, flag, value, replicas):
    """Nothing of it matches, but who waits for a backup's absence must not be told of that."""
    names = {"REPLICA": str(replica), "EMPTY": str(tmp_path / "empty")}
    entries = [{"path": names[name], "name": name} for name in replicas]
    config = tmp_path / "c.yml"
    config.write_text(json.dumps({"dbs": [{"path": "/none/app.db", "replicas": entries}]}))
    said = fails(build, "restore", "-config", config, "-if-replica-exists", flag, value, "-o", output, "/none/app.db")
    assert "no matching backups found: " in said and not output.exists()


def test_names_the_earliest_moment(build, replica, output):
    said = fails(
        build, "restore", "-timestamp", "2001-02-03T04:05:06+01:00", "-o", output,
        f"file://{replica}",
    )  # fmt: skip
    assert "2001-02-03T03:05:06Z" in said and "earliest moment" in said
    assert time.strftime("%Y-%m-%dT", time.gmtime(snapshots(replica)[0].stat().st_mtime)) in said


@pytest.mark.parametrize("which", [snapshots, segments])
def test_names_a_damaged_object(build, replica, output, which):
    file = which(replica)[-1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)
    said = fails(build, "restore", "-o", output, f"file://{replica}")
    assert str(file.relative_to(replica)) in said
    assert list(output.parent.iterdir()) == []


def test_says_how_far_it_can_go_without_a_segment(build, replica, output):
    lost = segments(replica)[-2]
    lost.unlink()
    said = fails(build, "restore", "-o", output, f"file://{replica}")
    assert "missing" in said
    assert list(output.parent.iterdir()) == []
    flags = said[said.index("-generation") :].split()
    build.restore(output, f"file://{replica}", *flags)
    harness.integrity_check(output)


def test_a_full_disk_leaves_nothing(build, replica, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    with file_system(folder, "64k"):
        said = fails(build, "restore", "-o", folder / "app.db", f"file://{replica}")
        assert "the disk is full" in said and str(folder) in said
        assert list(folder.iterdir()) == []


def test_a_limit_of_the_size_of_files_leaves_nothing(build, replica, output):
    limited = f"ulimit -f 1; exec {build.sqlstream} restore -o {output} file://{replica}"
    result = harness.run(["sh", "-c", limited], check=False)
    assert result.returncode == 1 and "larger than this process may write" in result.stderr
    assert list(output.parent.iterdir()) == []


def test_run_leaves_the_program_the_signals_that_it_ignores(build):
    result = harness.run([build.sqlstream, "run", "--", "grep", "SigIgn", "/proc/self/status"])
    assert int(result.stdout.split()[1], 16) & 0x7FFFFFFF == 0  # beyond are the C library's own


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(build, litestream, tmp_path, output, number):
    database, folder = tmp_path / "large.db", tmp_path / "replica"
    with closing(connect(database)) as connection:
        connection.execute("BEGIN")
        for _ in range(60):
            connection.execute("INSERT INTO t(x) VALUES (randomblob(1000000))")
        connection.execute("COMMIT")
    with litestream.replicate(database, folder):
        harness.wait_until(lambda: snapshots(folder), "a snapshot")
    for _ in range(20):
        with harness.Process(
            [build.sqlstream, "restore", "-parallelism", "1", "-o", output, f"file://{folder}"]
        ) as process:
            while process.popen.poll() is None and not list(output.parent.iterdir()):
                pass
            process.signal(number)
            code = process.wait()
        if code == -number:
            assert list(output.parent.iterdir()) == []
            return
        # It was faster: once more.
        output.unlink(missing_ok=True)
    pytest.fail("20 restores all ended before the signal")


def test_a_folder_that_is_not_there_is_made(build, litestream, replica, tmp_path):
    for folder in ("no/such", "none"):
        build.restore(tmp_path / folder / "app.db", f"file://{replica}")
        harness.integrity_check(tmp_path / folder / "app.db")
    said = fails(build, "restore", "-o", tmp_path / "none/app.db/app.db", f"file://{replica}")
    assert "could not create its folder, Not a directory" in said


def test_a_folder_that_was_made_in_vain_is_removed(build, replica, tmp_path):
    (next(replica.glob("generations/*/snapshots/*.lz4"))).write_bytes(b"damaged")
    fails(build, "restore", "-o", tmp_path / "no/such/app.db", f"file://{replica}")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("url", ["s3://", "s3://bucket/a?nosuchoption=1", "ftp://host/x"])
def test_a_malformed_url(build, output, url):
    said = fails(build, "restore", "-o", output, url)
    assert url.split("?")[0] in said


# Stores that refuse


def test_a_wrong_secret(build, minio, output):
    url = minio.url(minio.bucket(), "app.db")
    env = {**minio.env(), "AWS_SECRET_ACCESS_KEY": "not it"}
    said = fails(build, "restore", "-o", output, url, env=env)
    assert "s3://" in said and "not it" not in said and "secret" in said


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_key_without_its_other_half(build, minio, output, missing):
    said = fails(build, "restore", "-o", output, minio.url("some-bucket", "app"), env={**minio.env(), missing: ""})
    assert "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set" in said


def test_refuses_a_name_for_the_replica_of_a_url(build, replica, output):
    said = fails(build, "restore", "-o", output, "-replica", "disk", f"file://{replica}")
    assert "cannot specify a replica URL and the -replica flag" in said and not output.exists()


def test_the_output_may_be_in_the_home_folder(build, replica, output):
    env = harness.clean_environment(HOME=output.parent)
    build.restore(f"~/{output.name}", f"file://{replica}", env=env)
    harness.integrity_check(output)


def test_no_such_bucket(build, minio, output):
    url = minio.url("no-such-bucket", "app.db")
    said = fails(build, "restore", "-o", output, url, env=minio.env())
    assert "no-such-bucket" in said and "bucket" in said


def test_nothing_in_the_bucket(build, minio, output):
    url = minio.url(minio.bucket(), "app.db")
    said = fails(build, "restore", "-o", output, url, env=minio.env())
    assert "no matching backups found" in said


def test_a_certificate_that_cannot_be_verified(build, minio_tls, output):
    url = minio_tls.url(minio_tls.bucket(), "app.db", ca_file=None)
    said = fails(build, "restore", "-o", output, url, env=minio_tls.env())
    assert "certificate" in said


def test_a_litestream_replica_in_a_bucket(build, minio, litestream, tmp_path, output):
    database, entry = tmp_path / "source.db", minio.litestream_replica(minio.bucket(), "a/app.db")
    with closing(connect(database)) as connection, litestream.replicate(database, entry):
        for _ in range(50):
            connection.execute("INSERT INTO t(x) VALUES (randomblob(3000))")
        harness.wait_until(
            lambda: any("/wal/" in key for key in minio.keys(entry["bucket"])), "a segment"
        )
    build.restore(output, minio.url(entry["bucket"], "a/app.db"), env=minio.env())
    stock = tmp_path / "stock.db"
    litestream.restore(stock, entry)
    assert output.read_bytes() == stock.read_bytes()


# Listing


@pytest.mark.parametrize("command", ["generations", "snapshots", "wal"])
def test_lists_what_litestream_lists(build, litestream, replica, command):
    ours = harness.run([build.sqlstream, command, f"file://{replica}"]).stdout
    stock = harness.run([litestream.binary, command, f"file://{replica}"]).stdout
    rows = [line.split() for line in ours.splitlines()]
    expected = [line.split() for line in stock.splitlines()]
    if command == "generations":  # the lag depends on when it is asked
        rows = [row[:2] + row[3:] for row in rows]
        expected = [row[:2] + row[3:] for row in expected]
    assert rows == expected and len(rows) > 1


# sqlstream run


def test_version_and_help(build):
    version = harness.run([build.sqlstream, "version"]).stdout.strip()
    assert version and version[0].isdigit()
    assert "restore" in harness.run([build.sqlstream, "help"]).stdout
    assert "-timestamp" in harness.run([build.sqlstream, "help", "restore"]).stdout
    assert "-timestamp" in harness.run([build.sqlstream, "restore", "-help"]).stdout


def test_run_passes_the_exit_code_on_and_says_that_nothing_was_opened(build):
    result = harness.run(
        [build.sqlstream, "run", "--", "sh", "-c", "echo out; exit 7"], check=False
    )
    assert (result.returncode, result.stdout) == (7, "out\n")
    assert len(result.stderr.splitlines()) == 1 and "opened no database" in result.stderr


def test_run_opens_databases_through_the_vfs(build, tmp_path):
    database, replica = tmp_path / "app.db", tmp_path / "replica"
    result = harness.run(
        [build.sqlstream, "run", "-replica", f"file://{replica}/{{name}}", "--",
         "/usr/bin/python3", "-c",
         "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
         "c.execute('create table t(x)'); c.execute('insert into t values(42)'); c.commit();"
         "c.close()", database],
    )  # fmt: skip
    assert result.stderr == ""
    build.restore(tmp_path / "restored.db", f"file://{replica}/app.db")
    with closing(sqlite3.connect(tmp_path / "restored.db")) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [(42,)]


@pytest.mark.parametrize(
    "replica, env, says",
    [
        (None, {}, "level=WARN"),
        ("/dev/null/replica", {}, "level=ERROR"),
        ("/dev/null/replica", {"SQLSTREAM_LOG": ""}, None),
    ],
    ids=["none", "unusable", "silenced"],
)
def test_run_says_when_nothing_is_replicated(build, tmp_path, replica, env, says):
    """Nobody would know of it: hardly a program shows SQLite's log."""
    (tmp_path / "c.yml").write_text("")
    env = harness.clean_environment(SQLSTREAM_CONFIG=tmp_path / "c.yml", **env)
    flags = ["-replica", f"file://{replica}"] if replica else []
    result = harness.run([build.sqlstream, "run", *flags, "--", "sqlite3", tmp_path / "app.db",
                          "create table t(x)"], env=env)  # fmt: skip
    assert says in result.stderr if says else result.stderr == ""
    assert "level=INFO" not in result.stderr


def test_run_with_a_configuration_file(build, tmp_path):
    work, database = tmp_path / "work", tmp_path / "app.db"
    work.mkdir()
    (tmp_path / "c.yml").write_text(f"dbs: [{{path: {database}, replica: {tmp_path}/replica}}]\n")
    # Named from here, and found by a program that goes elsewhere.
    script = f'cd work && exec sqlite3 {database} "create table t(x); insert into t values (42)"'
    result = harness.run([build.sqlstream, "run", "-config", "c.yml", "--", "sh", "-c", script], cwd=tmp_path)
    assert result.stderr == ""
    build.restore(tmp_path / "restored.db", f"file://{tmp_path}/replica")
    with closing(sqlite3.connect(tmp_path / "restored.db")) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [(42,)]
    assert "config file not found" in fails(build, "run", "-config", tmp_path / "gone.yml", "--", "true")


def test_run_passes_signals_on(build, tmp_path):
    ready = tmp_path / "ready"
    script = f"trap 'exit 33' TERM; touch {ready}; while :; do sleep 0.05; done"
    with harness.Process([build.sqlstream, "run", "--", "sh", "-c", script]) as process:
        harness.wait_until(ready.exists, "the script")
        process.signal(signal.SIGTERM)
        assert process.wait() == 33


def test_a_copy_of_a_replica_whose_times_are_of_the_copying(build, tmp_path, output):
    database, replica = tmp_path / "app.db", tmp_path / "replica"
    for number in range(3):
        if number > 0:  # without the shim: another generation begins
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("INSERT INTO t VALUES ('plain')")
        sql = f"create table if not exists t(x);\ninsert into t values ({number});"
        build.shell(database, f"file://{replica}", sql)
    begun = sorted((path.stat().st_mtime_ns, path.parent.parent) for path in snapshots(replica))
    assert len(begun) == 3
    for number, (_, generation) in enumerate(reversed(begun)):
        for path in generation.glob("*/*"):
            os.utime(path, (number, number))
    build.restore(output, f"file://{replica}")
    harness.compare_databases(harness.checkpointed_copy(database, tmp_path / "copy.db"), output)


@pytest.mark.parametrize(
    "flag, words",
    [
        *(
            (flag, ["restore", flag, "", "URL"])
            for flag in ("-timestamp", "-index", "-generation", "-parallelism", "-config", "-replica", "-o")
        ),
        *((flag, ["run", flag, "", "--", "true"]) for flag in ("-replica", "-config")),
        ("-max-lag", ["status", "-max-lag", "", "DB"]),
        ("-timeout", ["sync", "-timeout=", "DB"]),
        ("-generation", ["wal", "-generation=", "DB"]),
    ],
)
def test_refuses_an_empty_value(build, tmp_path, flag, words):
    """As of a variable that is not set: the newest state, say, is not what was asked for."""
    names = {"URL": f"file://{tmp_path}", "DB": tmp_path / "app.db"}
    said = fails(build, *(names.get(word, word) for word in words))
    assert said == f"sqlstream: {flag} is empty: give it a value, or leave it out"


def test_run_refuses_a_static_program(build, tmp_path):
    source, program = tmp_path / "p.c", tmp_path / "program"
    source.write_text("int main(void) { return 0; }\n")
    harness.run(["gcc", "-static", "-o", program, source])
    said = fails(build, "run", "--", program)
    assert "statically linked" in said and str(program) in said
    script = tmp_path / "script"
    script.write_text(f"#!{program}\n")
    script.chmod(0o755)
    assert str(program) in fails(build, "run", "--", script)


def test_run_says_when_there_is_no_such_program(build):
    assert "no-such-program" in fails(build, "run", "--", "no-such-program")
