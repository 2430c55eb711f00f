"""What the system tests share: the real servers and clients, and comparing databases.

Nothing in here knows how sqlstream works inside: it starts programs, and looks at files and buckets.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import boto3
import botocore.config

ROOT = Path(__file__).resolve().parents[2]
TEST_HOME = Path(os.environ.get("SQLSTREAM_TEST_HOME", Path.home() / ".cache/sqlstream-test"))

# Settings of the person who runs the tests must not reach what is tested.
_OURS = ("SQLSTREAM_", "LITESTREAM_", "AWS_", "LD_PRELOAD")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def clean_environment(**more):
    """The environment for a program under test: this one's, less what would set it up."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OURS) and name.lower() not in _PROXIES
    }
    # Never the machine's own credentials, nor a cloud's metadata service.
    env["AWS_SHARED_CREDENTIALS_FILE"] = env["AWS_CONFIG_FILE"] = "/dev/null"
    env["AWS_EC2_METADATA_DISABLED"] = "true"
    env.update({name: str(value) for name, value in more.items()})
    return env


def _die_with_parent():
    # A server must not outlive a test run that was killed. PR_SET_PDEATHSIG is 1.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    # What a shell starts in the background ignores these, and so would all that it starts.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def run(command, *, env=None, input=None, cwd=None, check=True, timeout=120):
    """Runs a program to its end. With `check`, one that fails fails the test with what it said."""
    command = [str(part) for part in command]
    result = subprocess.run(
        command,
        env=env if env is not None else clean_environment(),
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        cwd=cwd,
        timeout=timeout,
    )
    if check and result.returncode != 0:
        raise AssertionError(
            f"{' '.join(command)} exited with {result.returncode}\n{result.stdout}{result.stderr}"
        )
    return result


def wait_until(condition, what, limit=60):
    """Polls until `condition()` is true; its value. Fails after `limit` seconds, for a hang only."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit} s in vain for {what}")
        time.sleep(0.02)


def free_port():
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Process:
    """A program in the background, ended by its id at the latest when the `with` block ends."""

    def __init__(self, command, *, env=None, cwd=None, log=None, stdin=subprocess.DEVNULL):
        self.log = Path(log) if log else None
        output = open(self.log, "ab") if self.log else subprocess.DEVNULL
        try:
            self.popen = subprocess.Popen(
                [str(part) for part in command],
                env=env if env is not None else clean_environment(),
                cwd=cwd,
                stdin=stdin,
                stdout=output,
                stderr=output,
                preexec_fn=_die_with_parent,
            )
        finally:
            if self.log:
                output.close()

    @property
    def pid(self):
        return self.popen.pid

    def said(self):
        return self.log.read_text(errors="replace") if self.log and self.log.exists() else ""

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, timeout=60):
        return self.popen.wait(timeout)

    def kill(self):
        """kill -9, and waits for the end."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()

    def stop(self):
        """Asks it to end, then makes it."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.popen.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


# The programs built here


@dataclass(frozen=True)
class Build:
    """What a Meson build directory holds."""

    dir: Path

    @property
    def extension(self):
        return self.dir / "vfs/sqlstream.so"

    @property
    def preload(self):
        return self.dir / "vfs/sqlstream-preload.so"

    @property
    def sqlstream(self):
        return self.dir / "tools/sqlstream"

    @property
    def sqlstream_restore(self):
        return self.dir / "tools/sqlstream-restore"

    @property
    def faults(self):
        """To be preloaded: see test/system/faults.py."""
        return self.dir / "test/faults/faults.so"

    def missing(self):
        files = (
            self.extension, self.preload, self.sqlstream, self.sqlstream_restore, self.faults,
        )  # fmt: skip
        return [str(file) for file in files if not file.exists()]

    def uri(self, database, replica=None, **parameters):
        """The URI that opens `database` through the VFS."""
        parameters = {"vfs": "sqlstream", **({"replica": replica} if replica else {}), **parameters}
        path = urllib.parse.quote(str(database))
        return f"file:{path}?{urllib.parse.urlencode(parameters, quote_via=urllib.parse.quote)}"

    def shell(self, database, replica, sql, *, env=None, check=True, timeout=120):
        """Runs SQL in the stock sqlite3 shell with the extension loaded."""
        script = f".load {self.extension.with_suffix('')}\n.open {self.uri(database, replica)}\n{sql}\n"
        return run(
            ["sqlite3", "-batch", "-bail", ":memory:"],
            env=env, input=script, check=check, timeout=timeout,
        )  # fmt: skip

    def restore(self, output, url, *arguments, env=None, check=True, timeout=300):
        """`sqlstream restore`."""
        return run(
            [self.sqlstream, "restore", *arguments, "-o", output, url],
            env=env, check=check, timeout=timeout,
        )  # fmt: skip


# MinIO


def make_certificates(folder):
    """A CA and a server certificate for 127.0.0.1 and *.s3.localhost; returns the CA's file."""
    folder.mkdir(parents=True, exist_ok=True)
    extensions = folder / "server.ext"
    extensions.write_text(
        "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:s3.localhost,DNS:*.s3.localhost\n"
        "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\n"
    )
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca, server = folder / "ca", folder / "public"
    run(["openssl", "req", "-x509", *key, "-days", "2", "-subj", "/CN=sqlstream test CA",
         "-keyout", f"{ca}.key", "-out", f"{ca}.crt"])
    run(["openssl", "req", *key, "-subj", "/CN=sqlstream test server",
         "-keyout", folder / "private.key", "-out", f"{server}.csr"])
    run(["openssl", "x509", "-req", "-in", f"{server}.csr", "-CA", f"{ca}.crt",
         "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "2", "-extfile", extensions,
         "-out", f"{server}.crt"])
    return Path(f"{ca}.crt")


class Minio:
    """A real MinIO on 127.0.0.1 with its data in `folder`. stop() and start() keep port and data."""

    user = "sqlstream-tester"
    password = "a secret/with+odd=signs"
    region = "us-east-1"

    def __init__(self, binary, folder, *, tls=False):
        self.binary, self.folder, self.tls = binary, Path(folder), tls
        self.certificates = self.folder / "certs"
        self.certificates.mkdir(parents=True)
        self.ca_file = make_certificates(self.certificates) if tls else None
        self.process = None
        self._buckets = 0
        for attempt in range(5):
            # Another program may take the port in the moment between.
            self.port = free_port()
            try:
                self.start()
                return
            except AssertionError:
                self.stop()
                if attempt == 4:
                    raise

    @property
    def endpoint(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def virtual_host_endpoint(self):
        """An endpoint that serves https://BUCKET.s3.localhost, too."""
        return f"{'https' if self.tls else 'http'}://s3.localhost:{self.port}"

    def start(self):
        self.process = Process(
            [self.binary, "server", "--quiet", "--address", f"127.0.0.1:{self.port}",
             "--console-address", "127.0.0.1:0", "--certs-dir", self.certificates,
             self.folder / "data"],
            env=clean_environment(
                MINIO_ROOT_USER=self.user, MINIO_ROOT_PASSWORD=self.password,
                MINIO_DOMAIN="s3.localhost", MINIO_BROWSER="off", MINIO_UPDATE="off",
                HOME=self.folder,
            ),
            log=self.folder / "minio.log",
        )  # fmt: skip
        wait_until(self._ready, f"MinIO on port {self.port}:\n{self.process.said()}")

    def _ready(self):
        if self.process.popen.poll() is not None:
            raise AssertionError(f"MinIO ended:\n{self.process.said()}")
        try:
            self.s3.list_buckets()
            return True
        except Exception:  # botocore's many ways to say: not yet
            return False

    def stop(self):
        if self.process:
            self.process.stop()

    @property
    def s3(self):
        """A boto3 client."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.user,
            aws_secret_access_key=self.password,
            region_name=self.region,
            verify=str(self.ca_file) if self.tls else None,
            config=botocore.config.Config(
                s3={"addressing_style": "path"},
                proxies={},
                connect_timeout=5,
                read_timeout=30,
                retries={"max_attempts": 1},
            ),
        )

    def bucket(self, name=None):
        """Creates a bucket, by default with a fresh name; returns the name."""
        if name is None:
            self._buckets += 1
            name = f"bucket-{self._buckets}"
        self.s3.create_bucket(Bucket=name)
        return name

    def keys(self, bucket, prefix=""):
        """Every key below a prefix, sorted."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", ()))

    def get(self, bucket, key):
        return self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    def put(self, bucket, key, body):
        self.s3.put_object(Bucket=bucket, Key=key, Body=body)

    def url(self, bucket, path, **options):
        """A replica URL of sqlstream's for a path in a bucket; needs env() for the credentials."""
        query = {"endpoint": self.endpoint, "region": self.region, "force-path-style": "true"}
        if self.tls:
            query["ca-file"] = str(self.ca_file)
        query.update({name.replace("_", "-"): value for name, value in options.items()})
        query = urllib.parse.urlencode(
            {name: value for name, value in query.items() if value is not None}, safe=":/"
        )
        return f"s3://{bucket}/{path}?{query}"

    def env(self, **more):
        """A clean environment with this server's credentials."""
        return clean_environment(
            AWS_ACCESS_KEY_ID=self.user, AWS_SECRET_ACCESS_KEY=self.password, **more
        )

    def litestream_replica(self, bucket, path):
        """The `replicas:` entry of a litestream.yml."""
        return {
            "type": "s3", "bucket": bucket, "path": path, "endpoint": self.endpoint,
            "region": self.region, "force-path-style": True, "skip-verify": self.tls,
            "access-key-id": self.user, "secret-access-key": self.password,
        }  # fmt: skip


# Stock Litestream 0.3.13, the independent reader and writer


def _yaml(replica):
    # JSON's values are YAML's.
    return "".join(f"        {name}: {json.dumps(value)}\n" for name, value in replica.items())


class Litestream:
    """The real thing. A replica is a folder, or what Minio.litestream_replica() returns."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, Path(folder)
        self._files = 0

    def config(self, database, replica):
        """Writes a litestream.yml for one database and returns its path."""
        if not isinstance(replica, dict):
            replica = {"type": "file", "path": str(replica)}
        self._files += 1
        file = self.folder / f"litestream-{self._files}.yml"
        entry = _yaml({"sync-interval": "100ms", **replica})
        file.write_text(
            f"dbs:\n  - path: {database}\n    monitor-interval: 100ms\n    replicas:\n      -\n{entry}"
        )
        return file

    def restore(self, output, replica, *arguments, check=True, timeout=300):
        """`litestream restore` of the newest state, or as the arguments say."""
        named = self.folder / "named-in-config.db"
        return run(
            [self.binary, "restore", "-config", self.config(named, replica), *arguments,
             "-o", output, named],
            check=check, timeout=timeout,
        )  # fmt: skip

    def replicate(self, database, replica):
        """`litestream replicate` in the background."""
        config = self.config(database, replica)
        return Process(
            [self.binary, "replicate", "-config", config], log=config.with_suffix(".log")
        )


# Comparing databases


def page_size_of(header):
    size = int.from_bytes(header[16:18], "big")
    return 65536 if size == 1 else size


def compare_databases(expected, actual):
    """Byte for byte: the first nPage pages (as `expected` says in its header), the lock-byte page
    aside. Both must be checkpointed: nothing of them may still be in a WAL."""
    expected, actual = Path(expected), Path(actual)
    for file in (expected, actual):
        wal = Path(f"{file}-wal")
        assert not wal.exists() or wal.stat().st_size == 0, f"{wal} is not empty"
    with open(expected, "rb") as left, open(actual, "rb") as right:
        header = left.read(100)
        if not header:
            assert actual.stat().st_size == 0, f"{actual} is not empty as {expected} is"
            return
        page_size = page_size_of(header)
        pages = int.from_bytes(header[28:32], "big")
        assert expected.stat().st_size >= pages * page_size, f"{expected} is shorter than it says"
        assert actual.stat().st_size == pages * page_size, (
            f"{actual} has {actual.stat().st_size} bytes, not {pages} pages of {page_size}"
        )
        lock_page = 2**30 // page_size + 1
        left.seek(0)
        for page in range(1, pages + 1):
            a, b = left.read(page_size), right.read(page_size)
            if a != b and page != lock_page:
                at = next(i for i in range(page_size) if a[i] != b[i])
                raise AssertionError(
                    f"{actual} differs from {expected} in page {page} of {pages} at byte {at}"
                )


def integrity_check(database):
    """SQLite's own check, without touching the file or its folder."""
    uri = f"file:{urllib.parse.quote(str(database))}?immutable=1&mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        said = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    assert said == ["ok"], f"{database}: {said}"


def checkpointed_copy(database, copy):
    """A copy with everything from the WAL in it. No connection may have `database` open."""
    for suffix in ("", "-wal"):
        if Path(f"{database}{suffix}").exists():
            shutil.copyfile(f"{database}{suffix}", f"{copy}{suffix}")
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for suffix in ("-wal", "-shm"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)
    return copy
