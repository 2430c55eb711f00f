"""The VFS as programs meet it: loaded as an extension, and preloaded.

Needs /usr/bin/python3, the sqlite3 shell, and apsw for another SQLite library in the process (its
tests are skipped where neither this Python nor SQLSTREAM_TEST_HOME's has it).
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SQLSTREAM_BUILD", ROOT / "build")).resolve()
EXTENSION = BUILD / "vfs" / "sqlstream.so"
PRELOAD = BUILD / "vfs" / "sqlstream-preload.so"
PYTHON = "/usr/bin/python3"


def environment(**more):
    """This process's environment without anything that configures sqlstream, and with `more`."""
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("SQLSTREAM_", "LITESTREAM_", "AWS_")) and k != "LD_PRELOAD"
    }
    env["SQLSTREAM_CONFIG"] = os.devnull
    env.update({k: str(v) for k, v in more.items()})
    return env


def run(command, input="", **env):
    """Runs a program that must succeed and print nothing on stderr; returns its stdout."""
    done = subprocess.run(
        [str(c) for c in command], input=input, env=environment(**env), capture_output=True,
        text=True, timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def shell(*arguments, **env):
    return run(["sqlite3", "-batch", *arguments], **env)


def python(code, *arguments, interpreter=PYTHON, **env):
    return run([interpreter, "-c", code, *arguments], **env)


@pytest.fixture(scope="session")
def version():
    return re.search(r"version: '([^']+)'", (ROOT / "meson.build").read_text()).group(1)


@pytest.fixture(scope="session")
def apsw_python():
    home = os.environ.get("SQLSTREAM_TEST_HOME", pathlib.Path.home() / ".cache/sqlstream-test")
    for candidate in (sys.executable, pathlib.Path(home) / "venv/bin/python"):
        if os.path.exists(candidate) and not subprocess.run(
            [str(candidate), "-c", "import apsw"], capture_output=True, timeout=60
        ).returncode:
            return candidate
    pytest.skip("apsw is not installed")


# --- the files


def exported(library):
    lines = run(["nm", "-D", "--defined-only", library]).split("\n")
    return sorted(line.split()[-1] for line in lines if line.strip())


def needed(library):
    return set(re.findall(r"NEEDED.*\[(.*)\]", run(["readelf", "-d", library])))


def test_the_extension_shows_its_entry_points_only():
    assert exported(EXTENSION) == ["sqlite3_extension_init", "sqlite3_sqlstream_init"]
    assert exported(PRELOAD) == [
        "sqlite3_open", "sqlite3_open16", "sqlite3_open_v2", "sqlite3_shutdown", "sqlite3_vfs_find",
    ]


def test_the_extension_needs_few_libraries_and_no_sqlite():
    allowed = r"(libc|libm|libstdc\+\+|libgcc_s|libssl|libcrypto|libyaml-cpp|ld-linux[-\w]*)\.so\.[\d.]+"
    strangers = [name for name in needed(EXTENSION) if not re.fullmatch(allowed, name)]
    assert strangers == []
    assert needed(PRELOAD) <= {"libc.so.6", "libdl.so.2", "ld-linux-x86-64.so.2"}
    unresolved = run(["ldd", "-r", EXTENSION])
    assert "not found" not in unresolved
    assert "undefined symbol" not in unresolved


# --- loaded as an extension


def test_the_shell_loads_it(tmp_path, version):
    out = run(
        ["sqlite3", "-batch", ":memory:"],
        input=f""".load {EXTENSION.with_suffix("")}
SELECT sqlstream_version();
.open file:{tmp_path}/app.db?vfs=sqlstream
CREATE TABLE t(x);
.vfsname
SELECT sqlstream_status() ->> 'db';
PRAGMA sqlstream_version;
""",
    )
    assert out.split("\n")[:-1] == [version, "sqlstream/unix", f"{tmp_path}/app.db", version]


def test_of_two_copies_one_serves(tmp_path, version):
    copy, path, replica = tmp_path / "another.so", tmp_path / "app.db", tmp_path / "replica"
    copy.write_bytes(EXTENSION.read_bytes())
    out = run(
        ["sqlite3", "-batch", ":memory:"],
        input=f""".load {EXTENSION}
.load {copy} sqlite3_sqlstream_init
SELECT sqlstream_version();
.open file:{path}?vfs=sqlstream&replica=file://{replica}
CREATE TABLE t(x);
.vfsname
INSERT INTO t VALUES (1);
SELECT sqlstream_wait(30000);
""",
        LD_PRELOAD=PRELOAD,
    )
    assert out.split("\n")[:-1] == [version, "sqlstream/unix", "1"]
    assert len(list(replica.glob("generations/*"))) == 1


def test_the_shell_finds_the_entry_point_by_the_files_name(tmp_path):
    copied = tmp_path / "sqlstream.so"
    copied.write_bytes(EXTENSION.read_bytes())
    out = subprocess.run(
        ["sqlite3", "-batch", ":memory:", ".load ./sqlstream", "SELECT sqlstream_version()"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
    )
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout


PYTHON_APP = """
import json, sqlite3, sys
extension, path = sys.argv[1:]
first = sqlite3.connect(":memory:")
first.enable_load_extension(True)
first.load_extension(extension)
first.close()
db = sqlite3.connect(f"file:{path}?vfs=sqlstream", uri=True)
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE t(x)")
db.execute("INSERT INTO t VALUES (42)")
db.commit()
print(json.loads(db.execute("SELECT sqlstream_status()").fetchone()[0])["db"])
print(db.execute("PRAGMA sqlstream_version").fetchone()[0])
plain = sqlite3.connect(path)
print(plain.execute("SELECT x FROM t").fetchone()[0],
      plain.execute("SELECT sqlstream_status()").fetchone()[0])
"""


def test_python_loads_it_and_it_outlives_the_loading_connection(tmp_path, version):
    path = tmp_path / "app.db"
    out = python(PYTHON_APP, EXTENSION.with_suffix(""), path)
    assert out.split("\n")[:-1] == [str(path), version, "42 None"]


@pytest.mark.parametrize(
    "demand",
    [
        "strict=1", "strict=yes", "strict=ture", "sync=100&sync-policy=fail", "sync=banana&sync-policy=fail",
        "sync-policy=fial", "sync=maybe",
    ],
)  # fmt: skip
def test_strict_refuses_a_database_without_a_replica(tmp_path, demand):
    """So do connections whose commits are to wait or to fail; a typo does not mean less."""
    code = f"""
import sqlite3
db = sqlite3.connect(":memory:")
db.enable_load_extension(True)
db.load_extension({str(EXTENSION)!r})
try:
    sqlite3.connect("file:{tmp_path}/app.db?vfs=sqlstream&{demand}", uri=True)
except sqlite3.OperationalError as e:
    print(e)
"""
    assert python(code) == "unable to open database file\n"
    assert not (tmp_path / "app.db").exists()


@pytest.mark.parametrize(
    "outbox, replicas, reason",
    [
        ("out", ["r", "r"], "already replicates to"),
        (".b.db-sqlstream", ["r", "s"], "already has the outbox"),
    ],
    ids=["replica", "outbox"],
)
def test_two_databases_share_nothing(tmp_path, outbox, replicas, reason):
    """The second one is not replicated, and its status says why."""
    config = tmp_path / "c.yml"
    config.write_text(f"dbs: [{{path: {tmp_path}/a.db, outbox-dir: {tmp_path}/{outbox}}}]\n")
    code = f"""
import sqlite3
db = sqlite3.connect(":memory:")
db.enable_load_extension(True)
db.load_extension({str(EXTENSION)!r})
def connect(name, replica):
    uri = f"file:{tmp_path}/{{name}}?vfs=sqlstream&replica=file://{tmp_path}/{{replica}}"
    return sqlite3.connect(uri, uri=True)
first = connect("a.db", {replicas[0]!r})
first.execute("CREATE TABLE t(x)")
print(connect("b.db", {replicas[1]!r}).execute("SELECT sqlstream_status()").fetchone()[0])
"""
    status = json.loads(python(code, SQLSTREAM_CONFIG=config))
    assert status["state"] == "not replicated"
    assert status["reason"].startswith(f"{tmp_path}/a.db {reason} ")


def test_it_becomes_the_default_vfs_when_asked(tmp_path):
    code = f"""
import sqlite3
db = sqlite3.connect(":memory:")
db.enable_load_extension(True)
db.load_extension({str(EXTENSION)!r})
print(sqlite3.connect("{tmp_path}/app.db").execute("SELECT sqlstream_status()").fetchone()[0])
"""
    assert python(code) == "None\n"
    for on in ("1", "true", "yes", "on"):
        status = json.loads(python(code, SQLSTREAM_DEFAULT_VFS=on))
        assert status["db"] == f"{tmp_path}/app.db"


@pytest.mark.parametrize(
    "name, value", [("LOG_LEVEL", "loud"), ("DEFAULT_VFS", "ture")]
)
def test_a_variable_that_cannot_be_is_named_once(tmp_path, name, value):
    code = f"""
import ctypes
lines = []
log = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(lambda _, code, text: lines.append(text))
ctypes.CDLL("libsqlite3.so.0").sqlite3_config(16, log, None)  # SQLITE_CONFIG_LOG
import sqlite3  # which initializes it
db = sqlite3.connect(":memory:")
db.enable_load_extension(True)
db.load_extension({str(EXTENSION)!r})
for _ in range(2):
    sqlite3.connect("file:{tmp_path}/app.db?vfs=sqlstream&replica={tmp_path}/r", uri=True).close()
print(b"\\n".join(lines).decode())
"""
    env = {"SQLSTREAM_LOG": tmp_path / "log", f"SQLSTREAM_{name}": value}
    assert python(code, **env).count(f"SQLSTREAM_{name} ") == 1


def test_a_log_that_cannot_be_opened_is_the_standard_error(tmp_path):
    script = f".open 'file:{tmp_path}/app.db?vfs=sqlstream&replica={tmp_path}/r'\ncreate table t(x);\n"
    said = subprocess.run(
        ["sqlite3", "-batch", ":memory:"], input=f".load {EXTENSION}\n{script}", capture_output=True, text=True,
        env={**os.environ, "SQLSTREAM_LOG": "/no/such/folder/log"}, check=True,
    )  # fmt: skip
    assert "SQLSTREAM_LOG names cannot be opened" in said.stderr and "level=INFO" in said.stderr


def test_nothing_happens_at_load(tmp_path):
    """No thread, no open file, no signal handler until a replicated database is opened."""
    code = f"""
import os, signal, sqlite3
def state():
    return (os.listdir("/proc/self/task"), os.listdir("/proc/self/fd"),
            [line for line in open("/proc/self/status") if line.startswith(("SigBlk", "SigIgn", "SigCgt"))])
db = sqlite3.connect(":memory:")
db.enable_load_extension(True)
before = state()
db.load_extension({str(EXTENSION)!r})
sqlite3.connect("file:{tmp_path}/app.db?vfs=sqlstream", uri=True).close()
print(state() == before)
"""
    assert python(code) == "True\n"


APSW_APP = """
import sys, apsw
extension, path = sys.argv[1:]
def load(connection):
    connection.enable_load_extension(True)
    connection.load_extension(extension)
load(apsw.Connection(":memory:"))
db = apsw.Connection(f"file:{path}?vfs=sqlstream", flags=apsw.SQLITE_OPEN_URI
                     | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
db.execute("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (7)").fetchall()
print(db.execute("SELECT sqlstream_status() ->> 'db'").get)
print(db.pragma("sqlstream_version"))
print("sqlstream" in apsw.vfs_names(), db.execute("SELECT x FROM t").get)
"""


def test_apsw_with_its_own_newer_sqlite_loads_it(tmp_path, apsw_python, version):
    path = tmp_path / "app.db"
    out = python(APSW_APP, EXTENSION, path, interpreter=apsw_python)
    assert out.split("\n")[:-1] == [str(path), version, "True 7"]


TWO_LIBRARIES = """
import json, sqlite3, sys, apsw
extension, folder = sys.argv[1:]
assert apsw.sqlite_lib_version() != sqlite3.sqlite_version
one = sqlite3.connect(":memory:")
one.enable_load_extension(True)
one.load_extension(extension)
print("sqlstream" in apsw.vfs_names())  # not yet in the other library
two = apsw.Connection(":memory:")
two.enable_load_extension(True)
two.load_extension(extension)
a = sqlite3.connect(f"file:{folder}/a.db?vfs=sqlstream", uri=True)
b = apsw.Connection(f"file:{folder}/b.db?vfs=sqlstream", flags=apsw.SQLITE_OPEN_URI
                    | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
for db in (a, b):
    for _ in range(3):
        db.execute("PRAGMA journal_mode=WAL").fetchall()
        db.execute("CREATE TABLE IF NOT EXISTS t(x)").fetchall()
        (path,), = list(db.execute("SELECT sqlstream_status() ->> 'db'"))
    print(path, *list(db.execute("SELECT sqlite_version() = ?", (
        sqlite3.sqlite_version if db is a else apsw.sqlite_lib_version(),)))[0])
"""


def test_two_sqlite_libraries_in_one_process(tmp_path, apsw_python):
    out = python(TWO_LIBRARIES, EXTENSION, tmp_path, interpreter=apsw_python)
    assert out.split("\n")[:-1] == ["False", f"{tmp_path}/a.db 1", f"{tmp_path}/b.db 1"]


# --- preloaded


def test_the_shells_vfs_option_works_when_preloaded(tmp_path, version):
    path = tmp_path / "app.db"
    out = shell("-vfs", "sqlstream", path, "CREATE TABLE t(x); INSERT INTO t VALUES (1);"
                "SELECT sqlstream_version(), x FROM t", ".vfsname", LD_PRELOAD=PRELOAD)
    assert out == f"{version}|1\nsqlstream/unix\n"
    # And from a pipe, and on a file that is there already.
    out = run(["sqlite3", "-vfs", "sqlstream", path], input="SELECT count(*) FROM t;",
              LD_PRELOAD=PRELOAD)
    assert out == "1\n"


def test_a_preloaded_shell_without_the_option_is_as_ever(tmp_path):
    out = shell(tmp_path / "app.db", "CREATE TABLE t(x)", ".vfsname", LD_PRELOAD=PRELOAD)
    assert out == "unix\n"


def test_a_uri_names_the_vfs_when_preloaded(tmp_path):
    path = tmp_path / "app.db"
    code = f"""
import sqlite3
db = sqlite3.connect("file:{path}?vfs=sqlstream", uri=True)
print(db.execute("SELECT sqlstream_status() ->> 'db'").fetchone()[0])
"""
    assert python(code, LD_PRELOAD=PRELOAD) == f"{path}\n"


def test_the_default_vfs_when_preloaded(tmp_path):
    out = shell(tmp_path / "app.db", "CREATE TABLE t(x)", ".vfsname", LD_PRELOAD=PRELOAD,
                SQLSTREAM_DEFAULT_VFS=1)
    assert out == "sqlstream/unix\n"


# As a program's own call would: through the symbol that the preloaded library has first.
SHUTDOWN = """
import ctypes, sqlite3, sys
def open_db(): return sqlite3.connect(sys.argv[1])
def vfs(): return open_db().execute("SELECT sqlstream_status() ->> 'state'").fetchone()[0]
def load():
    if len(sys.argv) > 2:
        db = sqlite3.connect(":memory:")
        db.enable_load_extension(True)
        db.load_extension(sys.argv[2])
load()
print(vfs())
library = "libsqlite3.so.0" if len(sys.argv) > 2 else None
assert ctypes.CDLL(library).sqlite3_shutdown() == 0
load()
print(vfs())
"""


def test_it_is_the_default_again_after_a_shutdown_of_sqlite(tmp_path):
    path = tmp_path / "app.db"
    url = f"file://{tmp_path}/replica"
    settings = {"SQLSTREAM_DEFAULT_VFS": "1", "SQLSTREAM_REPLICA_URL": url}
    preloaded = python(SHUTDOWN, path, LD_PRELOAD=PRELOAD, **settings)
    loaded = python(SHUTDOWN, path, EXTENSION, **settings)
    assert preloaded == loaded == "waiting\nwaiting\n"


def test_preloaded_and_loaded_is_one(tmp_path, version):
    out = run(["sqlite3", "-batch", "-vfs", "sqlstream", tmp_path / "app.db"],
              input=f".load {EXTENSION}\nSELECT sqlstream_version();\n.vfslist\n",
              LD_PRELOAD=PRELOAD)
    assert out.startswith(version + "\n")
    assert out.count('"sqlstream"') == 1


def test_preloaded_beside_a_second_library(tmp_path, apsw_python):
    """apsw's SQLite is its own: not touched by preloading, still able to load the extension."""
    code = """
import apsw, sqlite3, sys
print("sqlstream" in apsw.vfs_names())
a = sqlite3.connect(f"file:{sys.argv[2]}/a.db?vfs=sqlstream", uri=True)
print(a.execute("SELECT sqlstream_status() ->> 'db'").fetchone()[0])
print("sqlstream" in apsw.vfs_names())
"""
    out = python(code + TWO_LIBRARIES, EXTENSION, tmp_path, interpreter=apsw_python,
                 LD_PRELOAD=PRELOAD)
    assert out.split("\n")[:-1] == [
        "False", f"{tmp_path}/a.db", "False", "False", f"{tmp_path}/a.db 1", f"{tmp_path}/b.db 1",
    ]


def test_a_program_without_sqlite_loads_nothing_more():
    out = run(["cat", "/proc/self/maps"], LD_PRELOAD=PRELOAD)
    assert "sqlstream-preload.so" in out
    assert "sqlstream.so" not in out.replace("sqlstream-preload.so", "")
    assert "libstdc++" not in out
    # Nor does one with SQLite, until it opens a database.
    code = "import sqlite3; print(open('/proc/self/maps').read().count('/sqlstream.so'))"
    assert python(code, LD_PRELOAD=PRELOAD) == "0\n"


def test_threads_that_open_at_once_when_preloaded(tmp_path):
    code = f"""
import sqlite3, threading
barrier = threading.Barrier(8)
results = []
def work(n):
    barrier.wait()
    db = sqlite3.connect(f"file:{tmp_path}/{{n}}.db?vfs=sqlstream", uri=True)
    results.append(db.execute("SELECT sqlstream_status() ->> 'db'").fetchone()[0])
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(*sorted(results))
"""
    out = python(code, LD_PRELOAD=PRELOAD)
    assert out.split() == [f"{tmp_path}/{n}.db" for n in range(8)]


def test_a_missing_extension_leaves_the_program_working(tmp_path):
    alone = tmp_path / PRELOAD.name
    alone.write_bytes(PRELOAD.read_bytes())
    assert shell(tmp_path / "app.db", "SELECT 1", LD_PRELOAD=alone) == "1\n"


def test_the_run_mark_tells_that_the_vfs_was_used(tmp_path):
    mark = tmp_path / "mark"
    shell(tmp_path / "app.db", "CREATE TABLE t(x)", LD_PRELOAD=PRELOAD, SQLSTREAM_RUN_MARK=mark)
    assert not mark.exists()
    shell("-vfs", "sqlstream", ":memory:", "CREATE TABLE t(x)", LD_PRELOAD=PRELOAD,
          SQLSTREAM_RUN_MARK=mark)
    assert not mark.exists()
    shell("-vfs", "sqlstream", tmp_path / "app.db", "SELECT * FROM t", LD_PRELOAD=PRELOAD,
          SQLSTREAM_RUN_MARK=mark)
    assert mark.exists()


# --- from C

C_HOST = r"""
#include <sqlite3.h>
#include <stdio.h>
int main(int argc, char **argv) {
  sqlite3 *db;
  char *error = 0;
  if (argc < 3 || sqlite3_open(":memory:", &db)) return 1;
  sqlite3_enable_load_extension(db, 1);
  if (sqlite3_load_extension(db, argv[1], 0, &error)) { puts(error); return 1; }
  sqlite3_close(db);
  if (sqlite3_open_v2(argv[2], &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "sqlstream")) return 1;
  if (sqlite3_exec(db, "CREATE TABLE t(x); INSERT INTO t VALUES (1)", 0, 0, &error)) {
    puts(error);
    return 1;
  }
  char *name = 0;
  sqlite3_file_control(db, "main", SQLITE_FCNTL_VFSNAME, &name);
  puts(name);
  sqlite3_free(name);
  sqlite3_close(db);
  /* Nothing of SQLite's or the extension's may break when SQLite is shut down and used again. */
  sqlite3_shutdown();
  if (sqlite3_open_v2(argv[2], &db, SQLITE_OPEN_READWRITE, "sqlstream")) return 1;
  return sqlite3_exec(db, "INSERT INTO t VALUES (2)", 0, 0, 0);
}
"""


@pytest.mark.parametrize("linked", ["dynamically", "statically"])
def test_a_c_program_loads_it(tmp_path, linked):
    source = tmp_path / "host.c"
    source.write_text(C_HOST)
    host = tmp_path / "host"
    sqlite = ["-lsqlite3"] if linked == "dynamically" else [
        "-Wl,-Bstatic", "-lsqlite3", "-Wl,-Bdynamic", "-lm", "-lz", "-ldl", "-lpthread"]
    run(["cc", "-o", host, source, *sqlite])
    path = tmp_path / "app.db"
    assert run([host, EXTENSION, path]) == "sqlstream/unix\n"
    assert shell(path, "SELECT sum(x) FROM t") == "3\n"


def test_a_program_without_standard_streams_prints_into_nothing_of_ours(tmp_path):
    """Descriptors 0 to 2 are not for files that are written: the next print would land in them."""
    code = f"""
import os, sqlite3, sys
for number in (0, 1, 2):
    os.close(number)
memory = sqlite3.connect(":memory:")
memory.enable_load_extension(True)
memory.load_extension({str(EXTENSION)!r})
db = sqlite3.connect("file:{tmp_path}/app.db?vfs=sqlstream&replica=file://{tmp_path}/replica", uri=True)
db.execute("create table t(x)")
seen = []
for n in range(50):
    db.execute("insert into t values(randomblob(1000))")
    db.commit()
    for number in (0, 1, 2):
        try:
            os.write(number, b"printed")
            seen.append(os.readlink(f"/proc/self/fd/{{number}}"))
        except OSError:
            pass
assert db.execute("select sqlstream_wait(20000)").fetchone() == (1,)
db.close()
with open({str(tmp_path / "seen")!r}, "w") as out:
    print(*sorted(set(seen)), file=out)
"""
    python(code)
    # SQLite itself keeps clear of them; the runtime's own event descriptors take numbers, too.
    seen = (tmp_path / "seen").read_text().split()
    assert not [name for name in seen if name.startswith(("/", "socket:", "pipe:"))], seen
    output = tmp_path / "restored.db"
    restore = [BUILD / "tools" / "sqlstream", "restore", "-o", output, f"file://{tmp_path}/replica"]
    subprocess.run(restore, env=environment(), capture_output=True, check=True, timeout=60)
    assert shell(output, "select count(*) from t") == "50\n"
