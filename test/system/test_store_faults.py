"""A store that fails in every way we know: nothing is lost, nothing is written twice with other content, it goes on
by itself, and neither memory nor the outbox grows without bound."""

import json
import os
import sqlite3
import struct
import threading
import time
from contextlib import closing

import pytest

import harness
from fault_proxy import (
    FaultProxy,
    answer_late,
    cut_body,
    late,
    lose_after,
    lose_before,
    refuse,
    reset_in_body,
    wrong_etag,
)
from test_lifecycle import Session
from test_sync_verify import write_config

MOST_MEMORY = 160 << 20  # of Python, SQLite and the shim


class Place:
    """A database that is replicated to a bucket through a proxy with faults."""

    def __init__(self, build, minio, folder):
        self.build, self.minio, self.folder = build, minio, folder
        self.database, self.bucket = folder / "app.db", minio.bucket()
        self.proxy = FaultProxy(minio)
        self.log = folder / "log"

    def url(self, **options):
        return self.proxy.url(self.bucket, "app", **{"sync-interval": "20ms", **options})

    def session(self, url=None, **env):
        env = {**self.minio.env(SQLSTREAM_LOG=self.log), **env}
        return Session(self.build, self.database, url or self.url(), env=env)

    def check(self, session):
        """Ends the session, and looks at all it left."""
        assert resident(session.process.pid) < MOST_MEMORY
        session.do("close")
        session.end()
        self.proxy.check_contents(self.bucket, self.minio.keys(self.bucket))
        source = harness.checkpointed_copy(self.database, self.folder / "source.db")
        restored = self.folder / "restored.db"
        self.build.restore(restored, self.minio.url(self.bucket, "app"), env=self.minio.env())
        harness.compare_databases(source, restored)
        harness.integrity_check(restored)


def resident(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.fixture
def place(build, minio, tmp_path):
    place = Place(build, minio, tmp_path)
    yield place
    place.proxy.stop()


# --- While segments are written

# No wrong ETag: only those of parts are read, as an object's need not be its MD5. Its content is compared with the hash
# that was signed by the service, and with the checksums in it by who reads it.
SEGMENT_FAULTS = {
    "lost before": (lose_before, 3),
    "lost after": (lose_after, 3),
    "reset in the body": (reset_in_body, 3),
    "500": (refuse(500, "InternalError"), 3),
    "500, Retry-After": (refuse(500, "InternalError", retry_after=1), 1),
    "503": (refuse(503, "ServiceUnavailable"), 3),
    "SlowDown": (refuse(503, "SlowDown"), 3),
    "SlowDown, Retry-After": (refuse(503, "SlowDown", retry_after=1), 1),
    "SlowDown, Retry-After out of reach": (refuse(503, "SlowDown", retry_after=3600), 2),
    "429": (refuse(429, "TooManyRequests"), 3),
    "429, Retry-After": (refuse(429, "TooManyRequests", retry_after=1), 1),
    "403": (refuse(403, "AccessDenied"), 1),
    "400": (refuse(400, "MalformedSomething"), 1),
    "507": (refuse(507, "XMinioStorageFull"), 1),
    "late": (late(0.3), 1),
}


@pytest.mark.parametrize("name", SEGMENT_FAULTS)
def test_segments(place, name):
    act, times = SEGMENT_FAULTS[name]
    with place.session() as app:
        app.do("create table t(i integer primary key, x)")
        assert app.shipped() == 1
        generation = app.status()["generation"]
        faults = [place.proxy.add(act, "PUT", "/wal/", skip=skip, times=times) for skip in (0, 1)]
        for i in range(30):
            app.do(f"insert into t values ({i}, randomblob(2000))")
            if i % 10 == 9:
                assert app.shipped(60000) == 1
        assert all(fault.struck > 0 for fault in faults)
        assert app.status()["generation"] == generation
        assert not app.status()["replicas"][0].get("error")
        place.check(app)


@pytest.mark.parametrize(
    "act", [lose_before, lose_after, reset_in_body, cut_body, refuse(503, "SlowDown"), late(0.3)],
    ids=["lost before", "lost after", "reset in the body", "cut body", "SlowDown", "late"],
)  # fmt: skip
def test_asking_where_the_replica_ends(place, act):
    """After an answer was lost, what asks for the truth fails as well."""
    place.proxy.page_size = 1
    with place.session() as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        generation = app.status()["generation"]
        # Given up by the store at once, so that the replica is asked.
        refused = place.proxy.add(refuse(400, "Refused"), "PUT", "/wal/", skip=1)
        fault = place.proxy.add(act, "GET", times=2)
        for i in range(5):
            app.do(f"insert into t values ({i})")
            assert app.shipped(60000) == 1
        assert refused.struck == 1 and fault.struck == 2
        assert app.status()["generation"] == generation
        place.check(app)


# --- While a snapshot of several parts is written


@pytest.mark.parametrize(
    "act, method, path",
    [
        (lose_before, "PUT", "partNumber=2"),
        (lose_after, "PUT", "partNumber=1&"),
        (reset_in_body, "PUT", "partNumber=2"),
        (refuse(503, "SlowDown"), "PUT", "partNumber="),
        (refuse(403, "AccessDenied"), "PUT", "partNumber=2"),
        (wrong_etag, "PUT", "partNumber=2"),
        (lose_after, "POST", "uploads="),
        (lose_before, "POST", "uploadId="),
        (lose_after, "POST", "uploadId="),
        (refuse(200, "InternalError"), "POST", "uploadId="),
    ],
    ids=["lost part", "part whose answer was lost", "reset part", "SlowDown", "403", "wrong ETag", "begun twice",
         "lost completion", "completion whose answer was lost", "500 after a 200"],
)  # fmt: skip
def test_snapshots(place, act, method, path):
    with closing(sqlite3.connect(place.database)) as db:
        db.execute("create table t(x)")
        db.executemany("insert into t values (randomblob(100000))", [()] * 110)
        db.commit()
    fault = place.proxy.add(act, method, path)
    with place.session() as app:
        app.do("insert into t values (1)")
        assert app.shipped(60000) == 1
        assert fault.struck == 1
        app.do("insert into t values (2)")
        assert app.shipped(60000) == 1
        assert len({key.split("/")[2] for key in place.minio.keys(place.bucket)}) == 1
        place.check(app)


# --- While restoring


@pytest.fixture(scope="module")
def history(build, minio, tmp_path_factory):
    """A replica with a snapshot and many segments."""
    place = Place(build, minio, tmp_path_factory.mktemp("history"))
    with place.session() as app:
        app.do("create table t(i integer primary key, x)")
        for i in range(15):
            app.do(f"insert into t values ({i}, randomblob(20000))")
            assert app.shipped() == 1
        app.do("close")
        app.end()
    yield place
    place.proxy.stop()


@pytest.mark.parametrize(
    "act, times",
    [(lose_before, 8), (lose_after, 8), (reset_in_body, 8), (cut_body, 8), (refuse(500, "InternalError"), 8),
     (refuse(503, "SlowDown", retry_after=1), 1), (refuse(429, "TooManyRequests"), 8), (late(0.1), 8)],
    ids=["lost before", "lost after", "reset in the body", "cut body", "500", "SlowDown", "429", "late"],
)  # fmt: skip
def test_restores(history, tmp_path, act, times):
    history.proxy.page_size = 1
    fault = history.proxy.add(act, "GET", times=times, every=3)
    history.build.restore(tmp_path / "out.db", history.url(), env=history.minio.env())
    assert fault.struck == times
    harness.compare_databases(history.database, tmp_path / "out.db")


# --- Credentials that change


def write_credentials(file, key, token=None):
    text = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n"
    fresh = file.with_suffix(".new")
    fresh.write_text(text + (f"aws_session_token = {token}\n" if token else ""))
    fresh.replace(file)


@pytest.mark.parametrize(
    "old, new, refusal, says",
    [
        (("old", None), ("new", None), refuse(403, "InvalidAccessKeyId"), "access key id"),
        (("id", "first"), ("id", "second"), refuse(400, "ExpiredToken"), "session token has expired"),
        (("id", "first"), ("id", "second"), refuse(403, "AccessDenied"), "access is denied"),
    ],
    ids=["rotated keys", "expired session token", "a 403 that says nothing"],
)
def test_credentials_that_change(place, old, new, refusal, says):
    file = place.folder / "credentials"
    write_credentials(file, *old)
    place.proxy.accepts, place.proxy.refusal = old, refusal
    env = harness.clean_environment(AWS_SHARED_CREDENTIALS_FILE=file, SQLSTREAM_LOG=place.log)
    with Session(place.build, place.database, place.url(), env=env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        generation = app.status()["generation"]
        place.proxy.accepts = new
        app.do("insert into t values (1)")
        error = harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "the refusal")
        assert says in error
        app.do("insert into t values (2)")
        write_credentials(file, *new)
        assert app.shipped(60000) == 1
        assert app.status()["generation"] == generation
        assert "secret" not in error
        place.check(app)


def test_credentials_that_changed_before_they_were_refused(place):
    """Nobody notices."""
    file = place.folder / "credentials"
    write_credentials(file, "old")
    place.proxy.accepts = ("old", None)
    env = harness.clean_environment(AWS_SHARED_CREDENTIALS_FILE=file, SQLSTREAM_LOG=place.log)
    with Session(place.build, place.database, place.url(), env=env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        write_credentials(file, "new")
        place.proxy.accepts = ("new", None)
        app.do("insert into t values (1)")
        assert app.shipped() == 1
        assert "level=ERROR" not in place.log.read_text()
        place.check(app)


# --- A store that is away

NO_NAMES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* s3.example.test is this host; while the file $NO_NAMES is there, its content is the resolver's error. */
int getaddrinfo(const char* host, const char* port, const struct addrinfo* hints, struct addrinfo** found) {
  int (*real)(const char*, const char*, const struct addrinfo*, struct addrinfo**) = dlsym(RTLD_NEXT, "getaddrinfo");
  if (!host || strcmp(host, "s3.example.test") != 0) return real(host, port, hints, found);
  if (access(getenv("NO_NAMES"), F_OK) == 0) return strstr(getenv("NO_NAMES"), "again") ? EAI_AGAIN : EAI_NONAME;
  return real("127.0.0.1", port, hints, found);
}
"""


@pytest.mark.parametrize("kind, says", [("unknown", "is unknown"), ("again", "cannot be looked up now")])
def test_names_that_cannot_be_resolved(place, kind, says):
    library, gone = place.folder / "names.so", place.folder / kind
    harness.run(["gcc", "-shared", "-fPIC", "-x", "c", "-o", library, "-", "-ldl"], input=NO_NAMES)
    gone.touch()
    url = place.url(endpoint=f"http://s3.example.test:{place.proxy.port}")
    with place.session(url, LD_PRELOAD=str(library), NO_NAMES=str(gone)) as app:
        app.do("create table t(x)")
        error = harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "the failure")
        assert "s3.example.test" in error and says in error
        gone.unlink()
        assert app.shipped(60000) == 1
        gone.touch()
        # The connection that is open would do.
        place.proxy.add(lose_before, times=1)
        app.do("insert into t values (1)")
        harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "the failure")
        gone.unlink()
        assert app.shipped(60000) == 1
        place.check(app)


def test_a_store_that_is_away_costs_little(place):
    """However much is written: the outbox is folded, memory stays, and the log has two lines."""
    settings = {"outbox-max-size": "16MB"}
    config = write_config(place.folder / "c.yml", place.database, place.url(), **settings)
    with place.session("", SQLSTREAM_CONFIG=str(config)) as app:
        app.do("create table t(i integer primary key, x)")
        app.do("with recursive n(i) as (select 1 union all select i + 1 from n where i < 300) "
               "insert into t select i, randomblob(3000) from n")  # fmt: skip
        assert app.shipped() == 1
        generation, before = app.status()["generation"], resident(app.process.pid)
        place.proxy.away = True
        for _ in range(60):
            app.do("update t set x = randomblob(3000)")
            harness.wait_until(lambda: app.status()["outbox_bytes"] < 16_000_000, "a folded outbox")
        assert resident(app.process.pid) < before + (48 << 20)
        place.proxy.away = False
        assert app.shipped(60000) == 1
        assert app.status()["generation"] == generation
        assert place.log.read_text().count("level=ERROR") <= 1
        place.check(app)


@pytest.mark.parametrize("kind", ["snapshots", "wal"])
def test_a_write_that_lands_when_its_process_is_gone(place, kind):
    """The next one folds the outbox before it can ask what the replica holds."""
    config = write_config(place.folder / "c.yml", place.database, place.url(), **{"outbox-max-size": "8MB"})
    gone = threading.Event()

    def land(request):
        request.carry_out()
        gone.wait()
        request.reset()

    with place.session("", SQLSTREAM_CONFIG=str(config)) as app:
        if kind == "snapshots":
            place.proxy.add(land, "PUT", "/snapshots/")
        app.do("create table t(i integer primary key, x)")
        app.do("with recursive n(i) as (select 1 union all select i + 1 from n where i < 300) "
               "insert into t select i, randomblob(3000) from n")  # fmt: skip
        written = 0
        if kind == "wal":
            assert app.shipped() == 1
            written = len(place.proxy.contents)
            place.proxy.add(land, "PUT", "/wal/")
            app.do("update t set x = randomblob(3000) where i % 3 = 0")
        harness.wait_until(lambda: len(place.proxy.contents) > written, "the write")
        app.do("update t set x = randomblob(3000) where i % 3 = 1")
        generation = app.status()["generation"]
        app.kill()
    place.proxy.away = True
    gone.set()
    with place.session("", SQLSTREAM_CONFIG=str(config)) as app:
        for _ in range(8):
            app.do("update t set x = randomblob(3000)")
            harness.wait_until(lambda: app.status()["outbox_bytes"] < 6_000_000, "a folded outbox")
        assert "outbox folded" in place.log.read_text()
        place.proxy.away = False
        assert app.shipped(60000) == 1
        assert app.status()["generation"] == generation
        place.check(app)


def test_what_may_still_land_is_sent_as_it_was(place):
    """With what came later it may not fit its index, and would be in two."""
    with place.session() as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        place.proxy.away = True
        app.do("insert into t values (1)")
        harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "an error")
        under_way = app.status()["sequence"]
        for i in range(3):
            app.do(f"insert into t values ({i})")
            assert app.status()["sequence"] > under_way
        place.proxy.away = False
        assert app.shipped(60000) == 1
        ends = []
        for key in place.minio.keys(place.bucket):
            if "/wal/" in key:
                told = place.minio.get(place.bucket, key)
                ends.append(json.loads(told[8 : 8 + int.from_bytes(told[4:8], "little")])["last_seq"])
        assert under_way in ends, ends
        place.check(app)


class SteadyClock:
    """What a program measures its pauses with, made to jump."""

    def __init__(self, build, file):
        self.file, self.ahead = file, 0
        file.write_bytes(bytes(8))
        self.env = {"LD_PRELOAD": str(build.faults), "FAULTS_STEADY": str(file)}

    def forward(self, seconds):
        self.ahead += seconds
        with open(self.file, "r+b") as file:
            file.write(struct.pack("q", self.ahead * 10**9))


@pytest.mark.parametrize("silent, most_asked", [(False, 3000), (True, 100)], ids=["resets", "never answers"])
def test_a_store_that_is_away_for_an_hour(build, place, silent, most_asked):
    """In simulated time; what is written all the while is not lost, and little is asked."""
    clock = SteadyClock(build, place.folder / "steady")
    config = write_config(place.folder / "c.yml", place.database, place.url(), **{"outbox-max-size": "16MB"})
    with place.session("", SQLSTREAM_CONFIG=str(config), **clock.env) as app:
        app.do("create table t(i integer primary key, x)")
        app.do("with recursive n(i) as (select 1 union all select i + 1 from n where i < 300) "
               "insert into t select i, randomblob(3000) from n")  # fmt: skip
        assert app.shipped() == 1
        generation, memory, asked = app.status()["generation"], resident(app.process.pid), place.proxy.requests
        back = threading.Event()
        if silent:
            place.proxy.add(lambda request: back.wait() and request.reset(), times=1 << 30)
        else:
            place.proxy.away = True
        largest = 0
        for second in range(0, 3600, 5):
            app.do(f"update t set x = randomblob(3000) where i % 30 = {second % 30}")
            largest = max(largest, app.status()["outbox_bytes"])
            clock.forward(5)
            time.sleep(0.01)
        asked = place.proxy.requests - asked
        print(f"{asked} requests, {largest} bytes in the outbox, {resident(app.process.pid) - memory} more in memory")
        assert 10 < asked < most_asked
        assert largest < 16_000_000
        assert resident(app.process.pid) < memory + (48 << 20)
        assert app.status()["replicas"][0]["error"]
        place.proxy.away = False
        place.proxy.clear()
        back.set()

        def comes_back():
            clock.forward(1)
            return app.shipped(20) == 1

        harness.wait_until(comes_back, "the replica to catch up")
        assert app.status()["generation"] == generation
        # One for each change of what it says: the write, what is asked after it, and what came last.
        assert place.log.read_text().count("level=ERROR") <= 3
        place.check(app)


def test_answers_that_the_client_gave_up_waiting_for(build, place):
    """What was asked for was done."""
    clock, given_up = SteadyClock(build, place.folder / "steady"), threading.Event()

    def hold_back(request):
        request.carry_out()
        given_up.wait()
        request.reset()

    with place.session(**clock.env) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        generation = app.status()["generation"]
        for method, path in (("PUT", "/wal/"), ("GET", "list-type=2")):
            refused = place.proxy.add(refuse(400, "Refused"), "PUT", "/wal/", times=int(method == "GET"))
            fault = place.proxy.add(hold_back, method, path)
            app.do("insert into t values (1)")
            harness.wait_until(lambda: fault.struck == 1, "the request")  # noqa: B023

            def gives_up():
                clock.forward(10)
                return app.shipped(20) == 1

            harness.wait_until(gives_up, "the replica to catch up")
        assert app.status()["generation"] == generation
        given_up.set()
        place.check(app)


# --- A store that is slow


def read(database, sql):
    with closing(sqlite3.connect(database)) as db:
        return db.execute(sql).fetchall()


def test_answers_that_take_ten_seconds(build, place):
    """For 45 s, while much is written; and a program that ends meanwhile does not wait for them."""
    config = write_config(place.folder / "c.yml", place.database, place.url(),
                          **{"outbox-max-size": "8MB", "shutdown-timeout": "1s"})  # fmt: skip
    with place.session("", SQLSTREAM_CONFIG=str(config)) as app:
        app.do("create table t(i integer primary key, x)")
        app.do("with recursive n(i) as (select 1 union all select i + 1 from n where i < 300) "
               "insert into t select i, randomblob(3000) from n")  # fmt: skip
        assert app.shipped() == 1
        generation, memory = app.status()["generation"], resident(app.process.pid)
        # Before it is carried out, and after it, in turn.
        slow = [place.proxy.add(late(10), times=1 << 30, every=2), place.proxy.add(answer_late(10), times=1 << 30)]
        commits, until = 0, time.monotonic() + 45
        while time.monotonic() < until:
            assert app.do(f"update t set x = randomblob(3000) where i % 15 = {commits % 15}") == []
            # The bound is looked at when a log file is full, here at 1 MiB, and its last batch is in.
            assert app.status()["outbox_bytes"] < 8_000_000 + (1 << 20) + 200_000
            commits += 1
            time.sleep(0.02)
        assert all(fault.struck > 0 for fault in slow)
        assert resident(app.process.pid) < memory + (48 << 20)
        assert "error" not in app.status()["replicas"][0]
        place.proxy.clear()
        assert app.shipped(60000) == 1
        assert app.status()["generation"] == generation
        app.do("close")
        app.end()
    place.proxy.add(late(10), times=1 << 30)
    env = place.minio.env(SQLSTREAM_CONFIG=str(config))
    build.shell(place.database, "", "insert into t values (-1, 'last');", env=env)
    # An answer later it would be there: the shell has not waited for one.
    early = place.folder / "early.db"
    build.restore(early, place.minio.url(place.bucket, "app"), env=env)
    assert read(early, "select count(*), max(i) from t where i > 0 or i = -1") == [(300, 300)]
    place.proxy.clear()
    with place.session("", SQLSTREAM_CONFIG=str(config)) as app:
        assert app.shipped(60000) == 1
        assert app.status()["generation"] == generation
        assert app.do("select x from t where i = -1") == [["last"]]
        place.check(app)
