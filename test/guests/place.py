"""Where a guest runs: a folder, an environment, and with or without the shim."""

import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from contextlib import contextmanager
from pathlib import Path

import harness

HOME = harness.TEST_HOME / "guests"
PROGRAMS = Path(__file__).resolve().parent / "programs"
LIMIT = 3600


class Place:
    """`replica` is a URL with {path}, or None: without the shim."""

    def __init__(self, build, folder, replica, long):
        self.build, self.folder, self.replica, self.long = build, folder, replica, long
        self.data = folder / "data"  # all that the guest leaves lies here
        self.temporary = self.data / "tmp"
        self.log = folder / "sqlstream.log"
        self.statuses = []  # of the programs that ran, in their order
        self.logged = []  # of each program: its name, and what was logged while it ran
        self.temporary.mkdir(parents=True)

    def settings(self):
        """The shim's settings, as environment."""
        if self.replica is None:
            return {}
        return {"SQLSTREAM_REPLICA_URL": self.replica, "SQLSTREAM_CONFIG": "/dev/null",
                "SQLSTREAM_LOG": str(self.log)}  # fmt: skip

    def environment(self, **more):
        """For the guest. With GUEST_… where it is to write its outcomes, and what it is to load where
        it has a SQLite of its own."""
        stored = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
                  if name in os.environ}  # fmt: skip
        return harness.clean_environment(
            **stored, **self.settings(), TMPDIR=self.temporary, GUEST_DATA=self.data,
            GUEST_OUTCOMES=self.folder / "outcomes", PYTHONPATH=PROGRAMS, PYTHONDONTWRITEBYTECODE="1",
            **more,
        )  # fmt: skip

    def preloaded(self, command):
        """`command` as it is to be started: with the shim under `sqlstream run`."""
        return command if self.replica is None else [self.build.sqlstream, "run", "--", *command]

    def loading(self):
        """The environment of a guest that has a SQLite of its own, and loads the extension."""
        if self.replica is None:
            return {}
        return {"GUEST_EXTENSION": self.build.extension.with_suffix(""), "SQLSTREAM_DEFAULT_VFS": "1"}

    @contextmanager
    def program(self, name):
        """One runs meanwhile, and no other."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        yield
        logged = self.log.read_bytes()[begin:] if self.log.exists() else b""
        self.logged.append((name, logged.decode(errors="replace")))

    def run(self, command, *, cwd=None, **env):
        """Runs a program to its end, and notes its exit status; returns what it printed."""
        with self.program(" ".join(map(str, command))):
            said = harness.run(command, env=self.environment(**env), cwd=cwd or self.data, check=False,
                               timeout=LIMIT)  # fmt: skip
        self.statuses.append(said.returncode)
        output = said.stdout + said.stderr
        with open(self.folder / "output", "a", encoding="utf-8") as file:
            file.write(output)
        return output

    def outcomes(self):
        """What programs/record.py wrote: {test: passed, failed or skipped}."""
        file = self.folder / "outcomes"
        return dict(json.loads(line) for line in file.read_text().splitlines()) if file.exists() else {}

    def junit(self, file):
        """The same from a JUnit file."""
        if not file.exists():
            return {}
        result = {}
        for case in ElementTree.parse(file).getroot().iter("testcase"):
            kinds = {child.tag for child in case}
            name = f"{case.get('classname')}.{case.get('name')}"
            result[name] = ("failed" if kinds & {"failure", "error"}
                            else "skipped" if "skipped" in kinds else "passed")  # fmt: skip
        return result


def need(path):
    """What `.ci/servers guests` has put into HOME, or Debian's packages."""
    if not path.exists():
        print(f"{path} is missing: ./check, or \".ci/servers guests\", fetches it", file=sys.stderr)
        sys.exit(3)
    return path
