"""What the measurements share: the store, the application, what replicates it."""

import contextlib
import copy
import ctypes
import datetime
import hashlib
import hmac
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = ("plain", "threaded", "pass-through", "sqlstream", "litestream", "litestream-0.5")
COMMITTING_ALONE = ("plain", "threaded", "pass-through")
NAMES = {"plain": "plain SQLite", "threaded": "with a thread", "litestream": "Litestream 0.3.13",
         "litestream-0.5": "Litestream 0.5.16"}  # fmt: skip
LONGEST_ANSWER = 900  # seconds; for a hang only


def name_of(system):
    return NAMES.get(system, system)


class BenchError(Exception):
    """One sentence that ends the run."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def clean_environment(**more):
    """This environment, less what would configure what is measured, or reach real credentials."""
    prefixes = ("SQLSTREAM_", "LITESTREAM_", "AWS_", "MINIO_", "LD_PRELOAD")
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(prefixes) and name.lower() not in proxies
    }
    env["AWS_SHARED_CREDENTIALS_FILE"] = env["AWS_CONFIG_FILE"] = "/dev/null"
    env["AWS_EC2_METADATA_DISABLED"] = "true"
    return {**env, **more}


def median(values):
    return statistics.median(values)


def die_with_parent():
    # Nothing may outlive a run that was killed. PR_SET_PDEATHSIG is 1.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def wait_until(condition, what, limit=60, pause=0.05):
    end = time.monotonic() + limit
    while not (value := condition()):
        if time.monotonic() > end:
            raise BenchError(f"waited {limit} s in vain for {what}")
        time.sleep(pause)
    return value


@contextlib.contextmanager
def background(command, log, env=None):
    """A program in the background, ended by its id."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=env or clean_environment(), preexec_fn=die_with_parent,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Minio:
    user, password, region, bucket = "sqlstream-bench", "bench-secret-key", "us-east-1", "bench"

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.data = folder / "data"
        with contextlib.closing(socket.socket()) as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._prefixes = 0
        self._running = contextlib.ExitStack()

    @contextlib.contextmanager
    def running(self):
        self.data.mkdir(parents=True)
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self):
        """Begins, or goes on with the same data at the same port."""
        env = clean_environment(
            MINIO_ROOT_USER=self.user, MINIO_ROOT_PASSWORD=self.password,
            MINIO_BROWSER="off", MINIO_UPDATE="off", MINIO_PROMETHEUS_AUTH_TYPE="public",
            HOME=str(self.folder),
        )  # fmt: skip
        command = [self.binary, "server", "--quiet", "--address", f"127.0.0.1:{self.port}",
                   "--console-address", "127.0.0.1:0", self.data]  # fmt: skip
        process = self._running.enter_context(background(command, self.folder / "minio.log", env))

        def ready():
            if process.poll() is not None:
                log = (self.folder / "minio.log").read_text(errors="replace")
                raise BenchError(f"MinIO did not start on port {self.port}: {log}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                # 409: the bucket is there already.
                return self._request("PUT", f"/{self.bucket}")[0] in (200, 409)

        wait_until(ready, "MinIO to start")

    def stop(self):
        self._running.close()

    def new_prefix(self):
        self._prefixes += 1
        return f"replica-{self._prefixes}"

    def replica_url(self, prefix, port=None, **options):
        endpoint = f"http://127.0.0.1:{port or self.port}"
        query = {"endpoint": endpoint, "region": self.region, "force-path-style": "true",
                 **options}  # fmt: skip
        return f"s3://{self.bucket}/{prefix}?{urllib.parse.urlencode(query, safe=':/')}"

    def credentials(self):
        return {"AWS_ACCESS_KEY_ID": self.user, "AWS_SECRET_ACCESS_KEY": self.password}

    def listing(self, prefix):
        """{key: size} below a prefix, as the store itself says."""
        sizes, token = {}, ""
        while True:
            query = {"list-type": "2", "prefix": prefix + "/"}
            if token:
                query["continuation-token"] = token
            status, body = self._request("GET", f"/{self.bucket}", query)
            if status != 200:
                raise BenchError(f"MinIO answered {status} to LIST: {body[:200]!r}")
            tree = xml.etree.ElementTree.fromstring(body)
            space = tree.tag.partition("}")[0] + "}"
            for item in tree.iter(space + "Contents"):
                sizes[item.findtext(space + "Key")] = int(item.findtext(space + "Size"))
            token = tree.findtext(space + "NextContinuationToken")
            if not token:
                return sizes

    def get(self, key, part=None):
        """An object, or its bytes from `part[0]` to `part[1]`, both included."""
        more = {"range": f"bytes={part[0]}-{part[1]}"} if part else None
        status, body = self._request("GET", f"/{self.bucket}/{key}", more=more)
        if status not in (200, 206):
            raise BenchError(f"MinIO answered {status} to GET of {key}")
        return body

    def files(self, prefix, kind):
        """{key: the file in MinIO's own data folder that makes the object visible} of the objects
        of a `kind`: "wal", "snapshots" or "compacted", or "ltx" for Litestream 0.5's newest. Cheap
        enough to poll, which LIST is not."""
        place = f"{prefix}/0000" if kind == "ltx" else f"{prefix}/generations"
        bucket, found = self.data / self.bucket, {}
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(bucket / place)
            folders = [place] if kind == "ltx" else [f"{place}/{name}/{kind}" for name in names]
            for folder in folders:
                with contextlib.suppress(FileNotFoundError):
                    for name in os.listdir(bucket / folder):
                        file = f"{bucket}/{folder}/{name}/xl.meta"
                        if os.path.exists(file):
                            found[f"{folder}/{name}"] = file
        return found

    def visible(self, prefix, kind):
        return self.files(prefix, kind).keys()

    def counters(self):
        """Requests by kind, and bytes that came in with them, since the store began."""
        # It answers from a cache for a moment.
        time.sleep(2.5)
        with urllib.request.urlopen(f"{self.endpoint}/minio/metrics/v3/api/requests") as answer:
            text = answer.read().decode()
        counts = {
            name: int(float(value))
            for name, value in re.findall(
                r'^minio_api_requests_total\{name="(\w+)".*type="s3"\} (\S+)$', text, re.M
            )
        }
        received = re.search(
            r'^minio_api_requests_traffic_received_bytes\{.*type="s3"\} (\S+)$', text, re.M
        )
        return {"requests": counts, "received": int(float(received[1])) if received else 0}

    @contextlib.contextmanager
    def counted(self):
        """A dictionary that has, at the end, what came meanwhile: LIST, PUT, other requests, bytes."""
        result = {}
        before = self.counters()
        yield result
        after = self.counters()
        new = {name: count - before["requests"].get(name, 0)
               for name, count in after["requests"].items()}  # fmt: skip
        groups = {"lists": r"List", "puts": r"PutObject|Multipart", "deletes": r"Delete"}
        for group, pattern in groups.items():
            result[group] = sum(n for name, n in new.items() if re.match(pattern, name))
        result["requests"] = sum(new.values())
        result["received"] = after["received"] - before["received"]

    def put_seconds(self, port, count=100):
        """How long a small PUT takes over a connection that is open: median and p99 of `count`."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as there:
            took = []
            for number in range(count + 5):
                begun = time.monotonic()
                path = f"/{self.bucket}/probe-{number}"
                if self._request("PUT", path, body=bytes(1000), connection=there)[0] != 200:
                    raise BenchError("MinIO does not take a PUT")
                took.append(time.monotonic() - begun)
            return statistics.median(took[5:]), sorted(took[5:])[count - 1 - count // 100]

    def _request(self, method, path, query=None, body=b"", connection=None, more=None):
        # AWS Signature Version 4.
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        query = urllib.parse.urlencode(sorted((query or {}).items()), quote_via=urllib.parse.quote,
                                       safe="-_.~")  # fmt: skip
        body_hash = hashlib.sha256(body).hexdigest()
        port = connection.port if connection else self.port
        headers = {
            "host": f"127.0.0.1:{port}", "x-amz-content-sha256": body_hash, "x-amz-date": now,
        }  # fmt: skip
        signed = ";".join(sorted(headers))
        canonical = "\n".join(
            [method, path, query, *(f"{name}:{headers[name]}" for name in sorted(headers)), "",
             signed, body_hash]
        )  # fmt: skip
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        key = b"AWS4" + self.password.encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n" + hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.user}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}"
        )
        with contextlib.ExitStack() as stack:
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                stack.callback(connection.close)
            headers |= more or {}  # not signed
            connection.request(method, path + ("?" + query if query else ""), body, headers)
            response = connection.getresponse()
            return response.status, response.read()


class Application:
    """bench/commits.c, told what to do over a pipe."""

    def __init__(self, command, env, log):
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(
                [str(part) for part in command], env=env, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors, text=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        self.log = log
        self.sidecar = None

    def ask(self, command):
        self.tell(command)
        return self.answer(command)

    def tell(self, command):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()

    def answer(self, command):
        if not select.select([self.process.stdout], [], [], LONGEST_ANSWER)[0]:
            raise BenchError(f"the application did not answer to {command!r}")
        answer = self.process.stdout.readline()
        if not answer:
            raise BenchError(f"the application ended at {command!r}: {self.log.read_text()}")
        return json.loads(answer)

    def replicator(self):
        """The id of the process that replicates: itself, or the one beside it."""
        return (self.sidecar or self.process).pid

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Bench:
    """What all sections share."""

    def __init__(self, arguments, folder, ram, programs, minio):
        self.arguments, self.folder, self.ram, self.minio = arguments, folder, ram, minio
        self.commits, self.extension, self.sqlstream = programs
        self._databases = 0

    def with_store(self, minio):
        """The same with another store."""
        other = copy.copy(self)
        other.minio = minio
        return other

    def litestream(self, system):
        name = "litestream" if system == "litestream" else "litestream-0.5.16"
        return self.arguments.home / "bin" / name

    def replicators(self):
        """What is compared where plain SQLite has nothing to show."""
        return [name for name in self.arguments.systems if name not in COMMITTING_ALONE]

    @contextlib.contextmanager
    def fresh_database(self, place=None):
        self._databases += 1
        folder = (place or self.folder) / f"database-{self._databases}"
        folder.mkdir()
        try:
            yield folder / "app.db"
        finally:
            shutil.rmtree(folder)

    @contextlib.contextmanager
    def application(self, system, database, prefix, port=None, options=None, by_environment=False,
                    under=(), **parameters):  # fmt: skip
        """The application with `database` open, replicated to `prefix` by `system`. `by_environment`:
        the replica of every database it opens; what replicates beside it is not started. `under`: a
        program that runs it."""
        command = [self.commits, database]
        env = clean_environment(**self.minio.credentials())
        if system in ("pass-through", "sqlstream"):
            query = {"vfs": "sqlstream", **parameters}
            if system == "sqlstream":
                replica = self.minio.replica_url(prefix, port, **(options or {}))
                if by_environment:
                    env["SQLSTREAM_REPLICA_URL"] = replica
                else:
                    query["replica"] = replica
            path = urllib.parse.quote(str(database))
            uri = f"file:{path}?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}"
            command = [self.commits, "-load", self.extension, uri]
        with contextlib.ExitStack() as stack:
            application = Application([*under, *command], env, self.folder / "application.log")
            stack.callback(application.end)
            if system == "threaded":
                application.ask("thread")
            if system.startswith("litestream") and not by_environment:
                # Its log is nothing to measure; its configuration is the documented one.
                application.ask("setup")
                application.sidecar = stack.enter_context(
                    self.beside(system, {database: prefix})
                )  # fmt: skip
            yield application

    def beside(self, system, databases):
        """`litestream replicate` for {database: prefix}."""
        config = self.litestream_config(system, databases)
        return background([self.litestream(system), "replicate", "-config", config],
                          self.folder / "litestream.log")  # fmt: skip

    def litestream_config(self, system, databases, port=None):
        def entry(database, prefix):
            replica = {
                "type": "s3", "bucket": self.minio.bucket, "path": prefix,
                "endpoint": f"http://127.0.0.1:{port or self.minio.port}",
                "region": self.minio.region, "force-path-style": True, "sync-interval": "1s",
                "access-key-id": self.minio.user, "secret-access-key": self.minio.password,
            }  # fmt: skip
            one = {"replicas": [replica]} if system == "litestream" else {"replica": replica}
            return {"path": str(database), **one}

        file = self.folder / f"{system}.yml"
        config = {"dbs": [entry(*pair) for pair in databases.items()]}
        file.write_text(json.dumps(config))  # JSON is YAML
        return file

    def settle(self, system, application, prefix):
        """Until everything committed is in the bucket."""
        if system == "sqlstream":
            if application.ask("wait 120000")["shipped"] != 1:
                raise BenchError(f"sqlstream did not ship everything in 120 s: {prefix}")
        elif system.startswith("litestream"):
            quiet = [None, 0.0]

            def unchanged():
                seen = self.minio.listing(prefix)
                if seen != quiet[0]:
                    quiet[:] = seen, time.monotonic()
                return seen and time.monotonic() - quiet[1] > 4

            wait_until(unchanged, "Litestream to ship everything", 300, 0.5)

    def check_restore(self, prefix, folder, rows):
        """A fast replica that does not restore would be worth nothing."""
        output = folder / "restored.db"
        result = subprocess.run(
            [self.sqlstream, "restore", "-o", output, self.minio.replica_url(prefix)],
            env=clean_environment(**self.minio.credentials()), capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        if result.returncode != 0:
            raise BenchError(f"the replica does not restore: {result.stderr}")
        with contextlib.closing(sqlite3.connect(output)) as restored:
            found = restored.execute("SELECT count(*) FROM row").fetchone()[0]
        if found != rows:
            raise BenchError(f"restored {found} rows of {rows}")


def compile_c(name, folder, *libraries):
    source, program = ROOT / "bench" / name, folder / Path(name).stem
    compiled = subprocess.run(
        [os.environ.get("CC", "cc"), "-O2", "-Wall", "-Wextra", "-o", program, source, *libraries],
        capture_output=True, text=True,
    )  # fmt: skip
    if compiled.returncode != 0:
        raise BenchError(f"{source} does not compile: {compiled.stderr}")
    return program
