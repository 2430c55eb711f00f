"""What SECURITY.md promises: whom the store must prove to be, who may read the files, where no secret goes, that nothing
of a configuration is run, and what rights in a bucket are enough."""

import http.server
import itertools
import json
import os
import re
import socket
import sqlite3
import ssl
import threading
import urllib.parse
from collections import Counter
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import boto3
import botocore.config
import botocore.credentials
import pytest

import harness
from fault_proxy import FaultProxy, refuse
from test_docs import assume
from test_lifecycle import Session
from test_sync_verify import plain, write_config
from test_workloads import PYTHON, WORKLOADS

NOBODY = 65534


# --- TLS


def certificate(folder, ca, name, days):
    """A key and a certificate for 127.0.0.1, signed by the CA of harness.make_certificates()."""
    key, file = folder / f"{name}.key", folder / f"{name}.crt"
    extensions = folder / f"{name}.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1\n")
    harness.run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                 "-subj", f"/CN={name}", "-keyout", key, "-out", f"{file}.csr"])  # fmt: skip
    harness.run(["openssl", "x509", "-req", "-in", f"{file}.csr", "-CA", ca, "-CAkey", ca.with_suffix(".key"),
                 "-CAcreateserial", "-days", str(days), "-extfile", extensions, "-out", file])  # fmt: skip
    return file, key


class EmptyBucket(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        body = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def tls_server(certificate, *, newest=None):
    """A server with that certificate; its port. `newest`: the newest TLS it offers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if newest:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), EmptyBucket)
    server.handle_error = lambda *_: None
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with serving(server):
        yield server.server_port


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return harness.make_certificates(tmp_path_factory.mktemp("ca"))


def ask(build, folder, port, host="127.0.0.1", **options):
    """What a restore from there says; only one that was answered knows that nothing is there."""
    query = "&".join(f"{name.replace('_', '-')}={value}" for name, value in options.items())
    url = f"s3://bucket/app?endpoint=https://{host}:{port}&region=us-east-1&force-path-style=true&{query}"
    env = harness.clean_environment(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")
    said = build.restore(folder / "out.db", url, env=env, check=False)
    assert said.returncode == 1 and len(said.stderr.splitlines()) == 1
    return said.stderr


def test_the_store_must_prove_who_it_is(build, authority, tmp_path):
    good = certificate(tmp_path, authority, "good", 2)
    with tls_server(good) as port:
        trusting = {"ca_file": authority}
        assert "no matching backups found" in ask(build, tmp_path, port, **trusting)
        assert "no matching backups found" in ask(build, tmp_path, port, skip_verify="true")
        unknown = ask(build, tmp_path, port)
        assert f"certificate of https://127.0.0.1:{port} is not trusted: unable to get local issuer" in unknown
        assert "ca-file" in unknown and "skip-verify" in unknown
        wrong = ask(build, tmp_path, port, host="s3.localhost", **trusting)
        assert f"certificate of https://s3.localhost:{port} is not trusted: hostname mismatch" in wrong
    with tls_server(certificate(tmp_path, authority, "old", -1)) as port:
        assert "is not trusted: certificate has expired" in ask(build, tmp_path, port, **trusting)
        assert "no matching backups found" in ask(build, tmp_path, port, skip_verify="true", **trusting)
    with tls_server((authority, authority.with_suffix(".key"))) as port:
        assert "is not trusted: self-signed certificate" in ask(build, tmp_path, port)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(build, authority, tmp_path):
    good = certificate(tmp_path, authority, "good", 2)
    with tls_server(good, newest=ssl.TLSVersion.TLSv1_1) as port:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version = ssl.TLSVersion.TLSv1
        with old.wrap_socket(socket.create_connection(("127.0.0.1", port))) as seen:
            assert seen.version() == "TLSv1.1"
        for options in ({"ca_file": authority}, {"skip_verify": "true"}):
            said = ask(build, tmp_path, port, **options)
            assert "TLS 1.2 or newer" in said and f"https://127.0.0.1:{port}" in said
    with tls_server(good, newest=ssl.TLSVersion.TLSv1_2) as port:
        assert "no matching backups found" in ask(build, tmp_path, port, ca_file=authority)


# --- Who may read local files


@contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def empty_database(path, mode, owner=None):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    os.chmod(path, mode)
    if owner is not None:
        os.chown(path, owner, owner)


def below(folder):
    """Every folder and file, with its status; what is gone by then is not there."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        with suppress(FileNotFoundError):
            found[path] = path.lstat()
    return found


@pytest.mark.parametrize("mode, folder_mode", [(0o600, 0o700), (0o640, 0o750), (0o664, 0o775)], ids=oct)
def test_local_files_are_as_open_as_the_database(build, tmp_path, mode, folder_mode):
    database, outbox = tmp_path / "app.db", tmp_path / ".app.db-sqlstream"
    empty_database(database, mode)
    url = f"file://{tmp_path}/replica"
    config = write_config(tmp_path / "c.yml", database, url, **{"outbox-max-size": "2MB"})
    config.write_text(config.read_text().replace('"name"', '"validation-interval": "1s", "name"'))
    for mask in (0, 0o077):
        with umask(mask):
            app = Session(build, database, "", env=harness.clean_environment(SQLSTREAM_CONFIG=config))
        with app:
            app.do("create table if not exists t(x)")
            for _ in range(8):
                app.do("insert into t values (randomblob(300000))")
            assert app.shipped() == 1
            harness.wait_until(lambda: app.status()["replicas"][0].get("verified"), "a validation")
            seen = below(outbox)
            assert len(seen) > 4
            for path, status in seen.items():
                temporary = path.name.lstrip(".").startswith(("validation", "snapshot"))
                wanted = folder_mode if path == outbox else mode
                assert status.st_mode & 0o777 == wanted or temporary and status.st_mode & 0o777 & ~mode == 0, path
            # What holds copies of the database elsewhere is for this user alone.
            for path, status in below(tmp_path / "replica").items():
                assert status.st_mode & 0o077 == 0, path
            app.kill()


def test_local_files_follow_the_database_later_too(build, tmp_path):
    database, outbox = tmp_path / "app.db", tmp_path / ".app.db-sqlstream"
    empty_database(database, 0o640)
    modes = [(0o640, 0o750), (0o664, 0o775), (0o600, 0o700)]
    for mode, folder_mode in modes:
        database.chmod(mode)
        with Session(build, database, f"file://{tmp_path}/replica") as app:
            app.do("create table if not exists t(x)")
            app.do("insert into t values (1)")
            assert app.shipped() == 1
            seen = below(outbox)
            assert len(seen) > 4
            for path, status in seen.items():
                assert status.st_mode & 0o777 == (folder_mode if path == outbox else mode), path
            app.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write what nobody may")
def test_a_database_that_nobody_may_use_for_a_while(build, tmp_path):
    """What is made meanwhile, by root, does not keep its owner out later."""
    database, outbox = tmp_path / "app.db", tmp_path / ".app.db-sqlstream"
    empty_database(database, 0o640)
    for mode in (0o640, 0, 0o444):
        database.chmod(mode)
        with Session(build, database, f"file://{tmp_path}/replica") as app:
            app.do("create table if not exists t(x)")
            app.do("insert into t values (1)")
            assert app.shipped() == 1
            for path, status in below(outbox).items():
                others = (mode | (mode & 0o044) >> 2 if path == outbox else mode) & 0o077
                assert status.st_mode & 0o700 == (0o700 if path == outbox else 0o600), path
                assert status.st_mode & 0o077 == others, path
            app.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize("member", [True, False], ids=["member", "no member"])
def test_no_other_group_gets_what_the_databases_may(build, tmp_path, member):
    """Of an owner whose files are of another group than the database's."""
    for parent in tmp_path.parents:
        if parent != parent.parent and not os.stat(parent).st_mode & 0o001:
            os.chmod(parent, os.stat(parent).st_mode | 0o011)
    os.chmod(tmp_path, 0o755)
    folder, own, team = tmp_path / "app", NOBODY - 2, NOBODY - 3
    folder.mkdir()
    os.chown(folder, NOBODY, own)
    database = folder / "app.db"
    empty_database(database, 0o600, NOBODY)
    groups = f"--groups={team}" if member else "--clear-groups"
    run = ["setpriv", f"--reuid={NOBODY}", f"--regid={own}", groups, "sqlite3", "-bail"]
    script = (
        f".load {build.extension.with_suffix('')}\n.open {build.uri(database, f'file://{folder}/replica')}\n"
        "create table if not exists t(x); insert into t values (1); select sqlstream_wait(30000);\n"
    )
    for mode in (0o600, 0o664):
        os.chown(database, NOBODY, team)
        database.chmod(mode)
        assert harness.run(run, input=script).stdout == "1\n"
        found = below(folder / ".app.db-sqlstream")
        assert len(found) > 4
        for path, status in found.items():
            if member:
                assert status.st_gid == team and status.st_mode & 0o060 == mode & 0o060, path
            else:
                assert status.st_gid == own and status.st_mode & 0o060 == (mode & 0o006) << 3, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_root_gives_the_outbox_to_a_new_owner_and_nothing_that_was_put_there(build, tmp_path):
    database, outbox = tmp_path / "app.db", tmp_path / ".app.db-sqlstream"
    empty_database(database, 0o600, NOBODY)
    with Session(build, database, f"file://{tmp_path}/replica") as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        app.kill()
    roots = [outbox / "replica-moved", tmp_path / "linked", tmp_path / "pointed-to"]
    for path in roots:
        path.write_text("root's")
        path.chmod(0o600)
    os.chown(tmp_path / "linked", NOBODY, NOBODY)
    os.link(tmp_path / "linked", outbox / "0123456789abcdef.log")
    os.symlink(tmp_path / "pointed-to", outbox / "old-pages")
    before = [path.stat() for path in roots]
    os.chown(database, NOBODY - 1, NOBODY - 1)
    database.chmod(0o640)
    with Session(build, database, f"file://{tmp_path}/replica") as app:
        app.do("insert into t values (1)")
        app.kill()
    for path, was in zip(roots, before, strict=True):
        now = path.stat()
        assert (now.st_uid, now.st_gid, now.st_mode) == (was.st_uid, was.st_gid, was.st_mode), path
    for name in ("", "lock", "control", "wake"):
        status = (outbox / name).stat()
        assert (status.st_uid, status.st_gid) == (NOBODY - 1, NOBODY - 1), name
        assert status.st_mode & 0o777 == (0o640 if name else 0o750)


@pytest.mark.parametrize("mask", [0, 0o027, 0o077], ids=oct)
def test_restored_files(build, tmp_path, mask):
    plain(tmp_path / "app.db", "create table t(x)")
    url = f"file://{tmp_path}/replica"
    config = write_config(tmp_path / "c.yml", tmp_path / "app.db", url)
    harness.run([build.sqlstream, "sync", "-config", config, tmp_path / "app.db"])
    folder = tmp_path / "there"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    with umask(mask):
        # Nor is the umask asked for in the way that changes it, under an application's threads.
        trace = tmp_path / "trace"
        harness.run(["strace", "-f", "-qq", "-e", "trace=umask", "-o", trace,
                     build.sqlstream, "restore", "-o", folder / "one.db", url])  # fmt: skip
        assert "umask(" not in trace.read_text()
        missing = write_config(tmp_path / "m.yml", folder / "two.db", url, **{"restore-if-missing": True})
        with Session(build, folder / "two.db", "", env=harness.clean_environment(SQLSTREAM_CONFIG=missing)) as app:
            assert app.do("select count(*) from t") == [[0]]
            app.end()
    for name in ("one.db", "two.db"):
        status = (folder / name).stat()
        assert status.st_mode & 0o777 == 0o644 & ~mask
        assert status.st_uid == folder.stat().st_uid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_root_leaves_the_owner_what_is_his(build, minio, tmp_path):
    """A tool run by root replicates an application's database; the application goes on from there."""
    for parent in tmp_path.parents:
        if parent != parent.parent and not os.stat(parent).st_mode & 0o001:
            os.chmod(parent, os.stat(parent).st_mode | 0o011)
    folder = tmp_path / "app"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    os.chmod(tmp_path, 0o755)
    database = folder / "app.db"
    empty_database(database, 0o600, NOBODY)
    url, env = minio.url(minio.bucket(), "app"), minio.env()
    with umask(0), Session(build, database, url, env=env) as app:
        app.do("create table t(i integer primary key, x)")
        assert app.shipped() == 1
        generation = app.status()["generation"]
        app.kill()
    for path, status in below(folder).items():
        assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY), path
        assert status.st_mode & 0o077 == 0 or path == folder, path
    run = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", PYTHON, WORKLOADS, build.extension]
    said = json.loads(harness.run([*run, database, url, "fill_nothing"], env=env).stdout)
    assert said["shipped"] == 1
    with Session(build, database, url, env=env) as app:
        assert app.status()["generation"] == generation
        app.kill()


# --- Secrets

SECRET, TOKEN, PROXY, CONTAINER = "hush/4c1d+secret=", "hush-77aa-token", "hush-proxy-word", "hush-container-token"


def secretive_config(file, database, minio, bucket, **changes):
    replica = {**minio.litestream_replica(bucket, "app"), "name": "s3", "sync-interval": "50ms", **changes}
    file.write_text(json.dumps({"dbs": [{"path": str(database), "replicas": [replica]}]}))
    return file


class Refusing(http.server.BaseHTTPRequestHandler):
    """A container's credentials: says why there are none, with the token that it was given."""

    def do_GET(self):  # noqa: N802
        token = self.headers["Authorization"]
        self.server.tokens.add(token)
        self.send_error(403, f"not with {token}", token)

    def log_message(self, *_):
        pass


def test_no_secret_is_written_anywhere(build, minio, tmp_path):
    """By no command, whether it succeeds or fails, to no file and no object."""
    database, bucket, log = tmp_path / "app.db", minio.bucket(), tmp_path / "log"
    right, wrong = tmp_path / "right.yml", tmp_path / "wrong.yml"
    secretive_config(right, database, minio, bucket)
    secretive_config(wrong, database, minio, bucket, **{"secret-access-key": SECRET, "session-token": TOKEN})
    away = secretive_config(tmp_path / "away.yml", database, minio, bucket, endpoint="http://127.0.0.1:1")
    credentials = tmp_path / "credentials"
    credentials.write_text(f"[default]\naws_access_key_id=x\naws_secret_access_key={SECRET}\n"
                           f"aws_session_token={TOKEN}\n")  # fmt: skip
    inputs = {right, wrong, away, credentials}
    secrets = (SECRET, TOKEN, PROXY, CONTAINER, minio.password)
    secrets += tuple(urllib.parse.quote(secret, safe="") for secret in secrets)
    said = []

    def tell(*words, env=None, check=False):
        result = harness.run([build.sqlstream, *words], env=env or harness.clean_environment(), check=check)
        said.append(result.stdout + result.stderr)
        return result

    def session(config, **more):
        env = harness.clean_environment(SQLSTREAM_CONFIG=config, SQLSTREAM_LOG=log, SQLSTREAM_LOG_LEVEL="debug", **more)
        return Session(build, database, "", env=env)

    with session(right) as app:
        app.do("create table t(x)")
        assert app.shipped() == 1
        said.append(json.dumps(app.status()))
        app.end()
    for config in inputs - {credentials}:
        with session(config) as app:
            app.do("insert into t values (1)")
            if config != right:
                harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "an error")
            said.append(json.dumps(app.status()))
            app.kill()
        for words in (["config"], ["config", "-json"], ["databases"], ["generations", database], ["wal", database],
                      ["snapshots", database], ["status"], ["status", "-json"], ["sync", "-timeout", "1s", database],
                      ["verify", "-timeout", "1s", database], ["restore", "-o", tmp_path / f"{config.stem}.db", database],
                      ["run", "--", "true"]):  # fmt: skip
            tell(words[0], "-config", config, *words[1:])
    shown = harness.run([build.sqlstream, "config", "-config", wrong]).stdout
    assert shown.count("***") == 3  # the key id, the secret and the token

    # From the environment, from files, through a proxy; and where secrets do not belong.
    url = minio.url(bucket, "app")
    proxied = {"HTTP_PROXY": f"http://user:{PROXY}@127.0.0.1:1", "http_proxy": f"http://user:{PROXY}@127.0.0.1:1"}
    for env in (
        {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN},
        {"AWS_SECRET_ACCESS_KEY": SECRET},
        {"AWS_SHARED_CREDENTIALS_FILE": credentials},
        {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": SECRET, **proxied},
    ):
        assert tell("restore", "-o", tmp_path / "x.db", url, env=harness.clean_environment(**env)).returncode == 1
    container = {"AWS_CONTAINER_AUTHORIZATION_TOKEN": CONTAINER}
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)) as server:
        server.tokens = set()
        for port in (server.server_port, 1):
            env = harness.clean_environment(SQLSTREAM_LOG=log, SQLSTREAM_LOG_LEVEL="debug", **container,
                                            AWS_CONTAINER_CREDENTIALS_FULL_URI=f"http://127.0.0.1:{port}/")  # fmt: skip
            assert tell("restore", "-o", tmp_path / "x.db", url, env=env).returncode == 1
            with Session(build, database, url, env=env) as app:
                harness.wait_until(lambda: app.status()["replicas"][0].get("error"), "an error")
                said.append(json.dumps(app.status()))
                app.kill()
        assert server.tokens == {CONTAINER}
    quoted = urllib.parse.quote(SECRET, safe="")
    for bad in (f"s3://key:{quoted}@{bucket}/app", f"s3://key:{SECRET}@{bucket}/app", f"{url}&secret-access-key={quoted}",
                f"s3://b/a?endpoint=http://key:{quoted}@127.0.0.1:1", f"s3://b/a?secret={quoted}",
                f"s3://b/a?region=%zz&session-token={quoted}"):  # fmt: skip
        assert tell("restore", "-o", tmp_path / "x.db", bad).returncode == 1
        tell("config", env=harness.clean_environment(SQLSTREAM_REPLICA_URL=bad, HOME=tmp_path))
        with Session(build, database, bad, env=harness.clean_environment(SQLSTREAM_LOG=log)) as app:
            said.append(json.dumps(app.do("pragma sqlstream_status")))
            app.kill()
    for text in (f"secret-access-key: [{SECRET}\n", f"secret-access-key: {{a: '{SECRET}'}}\n",
                 f"dbs: [{{path: /a.db, replicas: [{{url: 's3://k:{quoted}@b/p'}}]}}]\n",
                 f"secret-access-key: '{SECRET}\n", f"session-token: '{TOKEN}'\nsession-token: '{TOKEN}'\n"):  # fmt: skip
        broken = tmp_path / "broken.yml"
        broken.write_text(text)
        tell("databases", "-config", broken)
        broken.unlink()
    assert len(said) > 60 and log.stat().st_size > 1000
    for text in said:
        assert not any(secret in text for secret in secrets), text
    for path in tmp_path.rglob("*"):
        if path.is_file() and path not in inputs:
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), path
    keys = minio.keys(bucket)
    assert any("/wal/" in key for key in keys)
    for key in keys:
        content = key.encode() + minio.get(bucket, key)
        assert not any(secret.encode() in content for secret in secrets), key


# --- Nothing of a configuration is run

BAD = ["$(touch {0})", "`touch {0}`", "; touch {0} ;", "| touch {0}", "&& touch {0}", "\n touch {0}\n", "'; touch {0}; '"]


OPENS = """
import sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
sqlite3.connect(sys.argv[2], uri=True).execute("create table if not exists t(x)")
"""


def test_no_text_of_a_configuration_is_run(build, tmp_path):
    """Every program that is started is looked at; and no file appears."""
    counter = itertools.count()
    trace = tmp_path / "trace"
    place = tmp_path / "cwd"
    place.mkdir()
    for template in BAD:
        def text():
            return template.format(f"{place}/made-{next(counter)}")  # noqa: B023

        replica = {key: text() for key in ("name", "bucket", "path", "region", "profile", "storage-class", "ca-file",
                                           "kms-key-id", "access-key-id", "secret-access-key", "session-token")}  # fmt: skip
        replica.update({"type": "s3", "endpoint": "http://127.0.0.1:1", "skip-verify": True})
        files = {"type": "file", "name": "f", "path": f"{place}/{text().replace('/', '_')}"}
        database = place / text().replace("/", "_")
        config = tmp_path / "c.yml"
        config.write_text(json.dumps({"dbs": [{"path": str(database), "replicas": [files, replica],
                                               "outbox-dir": f"{place}/out{text().replace('/', '_')}"}]}))  # fmt: skip
        for words in (["config"], ["databases"], ["status"], ["sync", "-timeout", "200ms", database],
                      ["verify", "-timeout", "200ms", database], ["generations", database],
                      ["restore", "-o", place / "out.db", database]):  # fmt: skip
            if words[0] == "sync":
                with closing(sqlite3.connect(database)) as db:
                    db.execute("create table t(x)")
            said = harness.run(["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-A", "-o", trace,
                                build.sqlstream, words[0], "-config", config, *words[1:]],
                               cwd=place, check=False)  # fmt: skip
            assert said.returncode in (0, 1)
        # What goes on until it is ended, and a program that has it all in its own process.
        traced = ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-A", "-o", trace]
        harness.run([*traced, "timeout", "-s", "TERM", "-k", "20", "1", build.sqlstream, "replicate", "-config", config],
                    cwd=place, check=False)  # fmt: skip
        env = harness.clean_environment(SQLSTREAM_CONFIG=config)
        uri = f"file:{urllib.parse.quote(str(database))}?vfs=sqlstream"
        harness.run([*traced, PYTHON, "-c", OPENS, build.extension, uri], cwd=place, env=env)
        assert database.exists()
    started = Counter(Path(each).name for each in re.findall(r'execve\("([^"]*)".* = 0', trace.read_text()))
    assert started == {"sqlstream": 8 * len(BAD), "timeout": len(BAD), Path(PYTHON).name: len(BAD)}
    assert not list(place.rglob("made-*"))


def test_exec_splits_words_as_documented_and_runs_no_shell(build, tmp_path):
    database = tmp_path / "app.db"
    plain(database, "create table t(x)")
    config = write_config(tmp_path / "c.yml", database, f"file://{tmp_path}/replica")
    command = "printf '%s|' 'two words' $(touch a) ; touch b `touch c` $HOME && touch d"
    said = harness.run([build.sqlstream, "replicate", "-config", config, "-exec", command], cwd=tmp_path)
    assert "two words|$(touch|a)|;|touch|b|`touch|c`|$HOME|&&|touch|d|" in said.stdout
    assert not any((tmp_path / name).exists() for name in "abcd")


# --- Rights in a bucket


def policy_of_the_guide(bucket, *, without=()):
    guide = (harness.ROOT / "doc/stores.md").read_text()
    policy = json.loads(re.search(r"```json\n(.*?)```", guide, re.S)[1].replace("mybucket", bucket))
    for statement in policy["Statement"]:
        statement["Action"] = [action for action in statement["Action"] if action not in without]
    policy["Statement"] = [statement for statement in policy["Statement"] if statement["Action"]]
    return json.dumps(policy)


def granted(minio, policy):
    keys = assume(minio, policy)
    return {"AWS_ACCESS_KEY_ID": keys["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
            "AWS_SESSION_TOKEN": keys["SessionToken"]}  # fmt: skip


@pytest.mark.parametrize("without", [(), ("s3:DeleteObject",), ("s3:DeleteObject", "s3:ListBucketMultipartUploads")],
                         ids=["the policy", "no deletion", "nor listing of uploads"])  # fmt: skip
def test_the_rights_of_the_guide_are_enough(build, minio, tmp_path, without):
    """Snapshots of several parts, and retention; what is not allowed is said once, and all else goes on."""
    bucket, log, database = minio.bucket(), tmp_path / "log", tmp_path / "app.db"
    with closing(sqlite3.connect(database)) as db:
        db.execute("create table t(x)")
        db.executemany("insert into t values (randomblob(100000))", [()] * 60)
        db.commit()
    env = harness.clean_environment(SQLSTREAM_LOG=log, **granted(minio, policy_of_the_guide(bucket, without=without)))
    url = minio.url(bucket, "app.db", retention="1s", retention_check_interval="1s", snapshot_interval="1s",
                    sync_interval="20ms")  # fmt: skip
    with Session(build, database, url, env=env) as app:

        def snapshots():
            app.do("insert into t values (1)")
            assert app.shipped(60000) == 1
            return {key for key in minio.keys(bucket) if "/snapshots/" in key}

        first = snapshots()
        assert len(first) == 1
        if without:
            harness.wait_until(lambda: len(snapshots()) >= 4, "more snapshots")
            assert first <= snapshots()
        else:
            harness.wait_until(lambda: not first & snapshots(), "the first snapshot to be deleted")
            harness.wait_until(lambda: "retention enforced" in log.read_text(), "the answer to that")
        assert not app.status()["replicas"][0].get("error")
        app.do("close")
        app.end()
    said = log.read_text()
    assert "level=ERROR" not in said and "maintenance failed" not in said
    warnings = [line for line in said.splitlines() if "level=WARN" in line]
    assert len(warnings) == len(without)
    assert all("access is denied" in line for line in warnings)
    assert ("retention enforced" in said) == (not without)
    if without:
        assert sum("so what is no longer needed stays" in line for line in warnings) == 1
    build.restore(tmp_path / "restored.db", url, env=env)
    harness.compare_databases(harness.checkpointed_copy(database, tmp_path / "source.db"), tmp_path / "restored.db")


class Rights(FaultProxy):
    """Asks MinIO as somebody with these rights. `used` and `refused`: the rights that requests needed."""

    NEEDED = {
        "s3:ListBucket": "GET .*list-type=2",
        "s3:ListBucketMultipartUploads": "GET .*uploads",
        "s3:GetObject": "GET .*[.]lz4",
        "s3:PutObject": "PUT|POST .*(uploads=|uploadId=)",
        "s3:DeleteObject": "POST .*delete=",
        "s3:AbortMultipartUpload": "DELETE .*uploadId=",
    }

    def __init__(self, minio, policy):
        super().__init__(minio)
        keys = granted(minio, policy)
        self.keys = botocore.credentials.Credentials(*keys.values())
        self.used, self.refused = set(), set()

    def carry_out(self, method, target, *rest, **how):
        status, headers, content = super().carry_out(method, target, *rest, **how)
        needed = next(right for right, what in self.NEEDED.items() if re.match(what, f"{method} {target}"))
        (self.refused if b"<Code>AccessDenied</Code>" in content else self.used).add(needed)
        return status, headers, content


def test_each_right_of_the_guide_is_needed(build, minio, tmp_path):
    """With all of them nothing is refused; without one, what needs it."""
    rights = set(re.findall(r"s3:[A-Z]\w+", policy_of_the_guide("b")))
    assert rights == Rights.NEEDED.keys()
    for missing in [None, *sorted(rights)]:
        bucket, folder = minio.bucket(), tmp_path / str(missing)
        folder.mkdir()
        database = folder / "app.db"
        with closing(sqlite3.connect(database)) as db:
            db.execute("create table t(x)")
            db.executemany("insert into t values (randomblob(100000))", [()] * 60)
            db.commit()
        often = {name: "1s" for name in ("retention", "retention_check_interval", "snapshot_interval")}
        with Rights(minio, policy_of_the_guide(bucket, without=(missing,))) as proxy:
            url = proxy.url(bucket, "app.db", sync_interval="20ms", **often)
            proxy.add(refuse(400, "Refused"), "PUT", "partNumber=1")  # so that an upload is given up
            with Session(build, database, url, env=minio.env()) as app:

                def all_done():
                    app.do("insert into t values (1)")
                    app.shipped(100)
                    build.restore(folder / "restored.db", url, env=minio.env(), check=False)
                    (folder / "restored.db").unlink(missing_ok=True)
                    return proxy.refused if missing else proxy.used == rights or proxy.refused

                harness.wait_until(all_done, f"all to be asked for, without {missing}")
                app.kill()
        assert proxy.refused == ({missing} if missing else set())


def test_the_rights_of_the_guide_reach_no_further(minio):
    bucket = minio.bucket()
    minio.put(bucket, "other.db/x", b"theirs")
    env = granted(minio, policy_of_the_guide(bucket))
    s3 = boto3.client(
        "s3", endpoint_url=minio.endpoint, region_name=minio.region, aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"], aws_session_token=env["AWS_SESSION_TOKEN"],
        config=botocore.config.Config(proxies={}),
    )  # fmt: skip
    s3.put_object(Bucket=bucket, Key="app.db/x", Body=b"ours")
    ours = s3.create_multipart_upload(Bucket=bucket, Key="app.db/x")["UploadId"]
    s3.abort_multipart_upload(Bucket=bucket, Key="app.db/x", UploadId=ours)
    theirs = minio.s3.create_multipart_upload(Bucket=bucket, Key="other.db/x")["UploadId"]
    for refused in (
        lambda: s3.get_object(Bucket=bucket, Key="other.db/x"),
        lambda: s3.put_object(Bucket=bucket, Key="other.db/x", Body=b"ours"),
        lambda: s3.delete_object(Bucket=bucket, Key="other.db/x"),
        lambda: s3.list_objects_v2(Bucket=bucket, Prefix="other.db/"),
        lambda: s3.list_objects_v2(Bucket=bucket),
        lambda: s3.create_multipart_upload(Bucket=bucket, Key="other.db/x"),
        lambda: s3.upload_part(Bucket=bucket, Key="other.db/x", UploadId=theirs, PartNumber=1, Body=b"ours"),
        lambda: s3.complete_multipart_upload(Bucket=bucket, Key="other.db/x", UploadId=theirs,
                                             MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": "x"}]}),
        lambda: s3.abort_multipart_upload(Bucket=bucket, Key="other.db/x", UploadId=theirs),
        lambda: s3.create_bucket(Bucket="another-bucket"),
        lambda: s3.delete_bucket(Bucket=bucket),
        lambda: s3.put_bucket_policy(Bucket=bucket, Policy="{}"),
    ):
        with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
            refused()
    # This alone cannot be granted for a prefix.
    uploads = s3.list_multipart_uploads(Bucket=bucket, Prefix="other.db/x")["Uploads"]
    assert [upload["UploadId"] for upload in uploads] == [theirs]
