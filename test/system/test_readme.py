"""What the README tells people to type is run here, as it stands there.

Replaced in a block: "s3://mybucket" (by a folder of the test), "/srv/app" (by the test's own), and a point in
time (by now). Programs and the extension are found through PATH and LD_LIBRARY_PATH, as if installed.
"""

import datetime
import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import harness

README = (harness.ROOT / "README.md").read_text()
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def block(language):
    (only,) = blocks(language)
    return only


@pytest.fixture
def place(build, tmp_path):
    """A folder, and what a person's terminal has in it after an installation."""

    class Place:
        folder = tmp_path
        replica = f"file://{tmp_path}/replica"
        env = harness.clean_environment(
            PATH=f"{build.dir}/tools:{os.environ['PATH']}",
            LD_LIBRARY_PATH=f"{build.dir}/vfs",
            SQLSTREAM_CONFIG=os.devnull,
        )

        def text(self, snippet):
            now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1)
            snippet = snippet.replace("s3://mybucket", self.replica).replace("/srv/app", str(tmp_path))
            return TIME.sub(now.strftime("%Y-%m-%dT%H:%M:%SZ"), snippet)

        def write(self, name, snippet):
            (tmp_path / name).write_text(self.text(snippet))
            return tmp_path / name

        def run(self, *command, **more):
            return harness.run(command, cwd=tmp_path, env={**self.env, **more})

        def check(self, *expected):
            """The replica restores to the database, which holds `expected`."""
            source = harness.checkpointed_copy(tmp_path / "app.db", tmp_path / "source-copy.db")
            restored = tmp_path / "restored-by-test.db"
            build.restore(restored, f"{self.replica}/app.db")
            harness.compare_databases(source, restored)
            assert notes(restored) == list(expected)

    return Place()


def notes(database):
    with closing(sqlite3.connect(database)) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM note ORDER BY rowid")]


def need(program, why):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed: {why}")


def test_every_block_has_a_known_language():
    """A block in another language would be run by nobody."""
    languages = set(re.findall(r"^```(\w+)$", README, re.M))
    assert languages == {"text", "console", "sh", "python", "ruby", "go", "c", "yaml", "json"}


def test_named_files_exist():
    for command in re.findall(r"^\$ (\S+)", block("console"), re.M):
        assert os.access(harness.ROOT / command, os.X_OK), command
    for name in re.findall(r"`(doc/[\w.]+|[A-Z]+\.md)`", README):
        assert (harness.ROOT / name).is_file(), name


def test_shell(place):
    """All blocks, one after the other, as somebody reads them."""
    usage, restore, sure, status = blocks("sh")
    place.run("bash", "-euc", place.text(usage))
    place.check("hello", "again")
    listing = place.run("bash", "-euc", place.text(restore)).stdout
    assert notes(place.folder / "restored.db") == ["hello", "again"]
    assert notes(place.folder / "then.db") == ["hello", "again"]
    (generation,) = os.listdir(place.folder / "replica/app.db/generations")
    assert generation in listing
    said = place.run("bash", "-euc", place.text(sure), SQLSTREAM_REPLICA_URL=place.replica + "/{name}")
    assert said.stdout.startswith("verified ")
    place.write("sqlstream.yml", block("yaml"))
    said = place.run("bash", "-euc", place.text(status), SQLSTREAM_CONFIG=place.folder / "sqlstream.yml")
    assert said.stdout.count(" replicating ") == 2 and "is behind" not in said.stdout


def test_python(place):
    place.run("/usr/bin/python3", place.write("app.py", block("python")))
    place.check("hello")


def test_ruby(place):
    need("ruby", "Debian's packages ruby and ruby-sqlite3")
    if harness.run(["ruby", "-e", 'require "sqlite3"'], check=False).returncode != 0:
        pytest.skip("the gem sqlite3 is not installed: Debian's package ruby-sqlite3")
    place.run("ruby", place.write("app.rb", block("ruby")))
    place.check("hello")


def go_sqlite3(env):
    """The newest go-sqlite3 among the modules already here (building litestream leaves one)."""
    cache = Path(harness.run(["go", "env", "GOMODCACHE"], env=env).stdout.strip())
    versions = (cache / "cache/download/github.com/mattn/go-sqlite3/@v").glob("v*.zip")
    return max((file.stem for file in versions), key=lambda v: [int(n) for n in v[1:].split(".")], default=None)


def test_go(place):
    need("go", "its compiler")
    # The test itself fetches nothing.
    env = {**place.env, "GOPROXY": "off", "GOSUMDB": "off", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
    version = go_sqlite3(env)
    if version is None:
        pytest.skip("github.com/mattn/go-sqlite3 is not in Go's module cache: `go mod download` it")
    place.write("main.go", block("go"))
    place.write("go.mod", f"module example\ngo 1.19\nrequire github.com/mattn/go-sqlite3 {version}\n")
    harness.run(["go", "build", "-o", "app", "."], cwd=place.folder, env=env, timeout=600)
    place.run("./app")
    place.check("hello")


def test_c(place):
    need("cc", "a C compiler")
    source = place.write("app.c", block("c"))
    harness.run(["cc", "-Wall", "-Werror", source, "-o", place.folder / "app", "-lsqlite3"])
    place.run("./app")
    place.check("hello")


def test_configuration_file(place):
    config = place.write("sqlstream.yml", block("yaml"))
    log = place.folder / "log"
    place.run(
        "sqlite3", ":memory:", ".load sqlstream", f".open file:{place.folder}/app.db?vfs=sqlstream",
        "CREATE TABLE note(text);", "INSERT INTO note VALUES ('hello');",
        SQLSTREAM_CONFIG=config, SQLSTREAM_LOG=log,
    )  # fmt: skip
    assert "unknown key" not in log.read_text()
    place.check("hello")


def test_status(place):
    """The example has the keys that the status of a database in sync really has."""
    said = place.run(
        "sqlite3", ":memory:", ".load sqlstream",
        f".open 'file:app.db?vfs=sqlstream&replica={place.replica}/app.db'",
        "CREATE TABLE note(text);", "SELECT sqlstream_wait(30000);", "SELECT sqlstream_status();",
    ).stdout.splitlines()  # fmt: skip
    assert said[0] == "1"
    status, example = json.loads(said[1]), json.loads(block("json"))
    assert list(example) == list(status)
    (replica,) = status["replicas"]
    # "snapshot": only in the process that wrote one.
    assert [name for name in replica if name != "snapshot"] == list(example["replicas"][0])
    assert (status["state"], replica["in_sync"]) == ("replicating", True)


def test_named_settings_are_known(build, tmp_path):
    """Each option in the table is one that a URL takes: an unknown one is refused by name."""
    table = README.split("Its query takes:")[1].split("A `litestream.yml`")[0]
    names = [name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`([\w-]+)`", row)]
    refused = build.restore(tmp_path / "x.db", f"file://{tmp_path}/r?no-such=1", check=False).stderr
    known = refused.rsplit("known are ", 1)[1].strip().split(", ")
    assert sorted(names) == sorted(known)


@pytest.mark.parametrize(
    "section, commands", [("Restore", ["restore"]), ("Being sure", ["sync", "verify"])], ids=str
)
def test_named_flags_are_known(build, section, commands):
    usage = "".join(harness.run([build.sqlstream, "help", command]).stdout for command in commands)
    text = README.split(f"## {section}\n")[1].split("\n## ")[0]
    flags = set(re.findall(r"`(-[a-z][a-z-]+)`", text)) - {"-wal", "-shm", "-journal"}
    assert len(flags) > 2
    for flag in flags:
        assert f"  {flag} " in usage or f"  {flag}\n" in usage, flag


def sources():
    """The text of all sources, with the pieces of divided string literals joined."""
    rooms = ("base", "capture", "config", "format", "replicate", "restore", "shipper", "store", "tools", "vfs")
    text = "\n".join(
        file.read_text() for room in rooms for file in sorted((harness.ROOT / room).rglob("*.cc"))
    )
    return re.sub(r'"\s*"', "", text).replace('\\"', '"')


def test_explained_messages_exist():
    """doc/troubleshooting.md quotes messages as the sources have them; "…" stands for what varies."""
    guide = (harness.ROOT / "doc/troubleshooting.md").read_text()
    cells = re.findall(r"^\| (`.*?) \|", guide, re.M)
    messages = [message for cell in cells for message in re.findall(r"`([^`]*)`", cell)]
    assert len(messages) > 40
    text = sources()
    pieces = {p.strip(' :;,.()"') for message in messages for p in re.split("…|; |: ", message)}
    missing = [piece for piece in pieces if piece not in text]
    assert missing == []
