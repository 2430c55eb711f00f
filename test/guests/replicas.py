"""After a guest's run: is everything that it did in the replica?"""

import json
import re
import sqlite3
import urllib.parse
from contextlib import closing

import harness

MAGIC = b"SQLite format 3\0"
CAPTURED, SHIPPED = (re.compile(rf'msg="{what}" db=("[^"]*"|\S+)')
                     for what in ("new generation", "wal segment written"))  # fmt: skip


class Tool:
    """The command line, for the databases of a place."""

    def __init__(self, place):
        self.place, self.env = place, {**place.environment(), "SQLSTREAM_LOG": "/dev/null"}

    def url(self, database):
        return self.place.replica.replace("{path}", urllib.parse.quote(str(database).lstrip("/")))

    def run(self, *arguments, check=True):
        return harness.run([self.place.build.sqlstream, *arguments], env=self.env, check=check)

    def status(self, database):
        return json.loads(self.run("status", "-json", database).stdout)[0]

    def segments(self, database):
        return len(json.loads(self.run("wal", "-json", self.url(database)).stdout))

    def restore(self, database, output):
        """False: there is nothing in the replica."""
        return self.run("restore", "-if-replica-exists", "-o", output, self.url(database)) and output.exists()


def databases(folder):
    """Every database with content below a folder."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.is_symlink() and not file.name.endswith(("-wal", "-shm", "-journal")):
            with open(file, "rb") as opened:
                if opened.read(len(MAGIC)) == MAGIC:
                    yield file


def named(line, logged):
    """Every database that such lines name."""
    return {json.loads(name) if name.startswith('"') else name for name in line.findall(logged)}


def replicated(place):
    """Every database of which something was captured, as the log tells."""
    return named(CAPTURED, place.log.read_text(errors="replace")) if place.log.exists() else set()


def compare(tool, database, output):
    """Ships what is left, restores, compares. What is left must continue the generation that the guest
    began: a new one would begin with a snapshot, and hide what the old one had wrong."""
    before = tool.status(database)
    assert before["state"] != "paused", f"{database} was taken out of WAL mode"
    tool.run("sync", database)
    after = tool.status(database)
    # None before: the next generation was waited for, after several in a short time.
    begun = before.get("generation")
    assert begun in (None, after["generation"]), f"{database}: a new generation after the run"
    assert tool.restore(database, output), f"{database}: nothing in its replica"
    harness.compare_databases(harness.checkpointed_copy(database, f"{output}-source"), output)


def check_deleted(tool, database, output):
    """False: it was gone before there was a snapshot."""
    if not tool.restore(database, output):
        return False
    with closing(sqlite3.connect(output)) as restored:
        said = restored.execute("PRAGMA integrity_check").fetchall()
    assert said == [("ok",)], f"{database}, deleted, restores damaged: {said}"
    return True


def check_replicas(place):
    """How many databases were compared, how many of deleted ones restored, and what is wrong."""
    tool, known, wrong = Tool(place), replicated(place), []
    compared, restored, segments = 0, 0, {}
    folder = place.folder / "restored"
    folder.mkdir()
    left = list(databases(place.data))
    for number, database in enumerate(left):
        try:
            assert str(database) in known, f"{database} was never captured"
            compare(tool, database, folder / f"left-{number}.db")
            compared += 1
        except AssertionError as error:
            wrong.append(str(error))
    for number, database in enumerate(sorted(known)):
        try:
            if database not in map(str, left):
                restored += check_deleted(tool, database, folder / f"deleted-{number}.db")
            segments[database] = tool.segments(database)
        except AssertionError as error:
            wrong.append(str(error))
    for program, logged in place.logged:
        if not any(segments.get(database) for database in named(SHIPPED, logged)):
            wrong.append(f"{program}: no segment was shipped")
    if compared + restored == 0:
        wrong.append("no database was compared, and none restored")
    return compared, restored, wrong
