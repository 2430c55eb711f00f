"""A load for web servers with workers: rows are written while workers are killed and replaced. What was
acknowledged must be there."""

import os
import signal
import sqlite3
import threading
import urllib.request
from contextlib import closing

import harness

CLIENTS = 4
ROUND = 100


class Server:
    """`command` may hold {port}; GUEST's database is in $DATABASE."""

    def __init__(self, place, name, command, **env):
        self.place, self.plain = place, place.replica is None
        self.name, self.database = name, place.data / f"{name}.db"
        self.port = harness.free_port()
        words = [str(word).replace("{port}", str(self.port)) for word in command]
        self.process = harness.Process(
            place.preloaded(words), env=place.environment(DATABASE=self.database, **env),
            cwd=place.data, log=place.folder / f"{name}.out",
        )  # fmt: skip

    def write(self, text):
        """(row, the worker's id), or None: not answered."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", data=text.encode())
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                row, worker = answer.read().decode().split()
                return int(row), int(worker)
        except (OSError, ValueError):
            return None


class Load:
    """Writes from several threads; remembers what was acknowledged, and by whom."""

    def __init__(self, server):
        self.server, self.lock = server, threading.Lock()
        self.rows, self.workers, self.unanswered, self.count = {}, set(), 0, 0

    def one(self):
        with self.lock:
            self.count += 1
            text = f"note {self.count} " + "x" * (self.count * 37 % 2000)
        answer = self.server.write(text)
        with self.lock:
            if answer is None:
                self.unanswered += 1
            else:
                self.rows[answer[0]] = text
                self.workers.add(answer[1])
        return answer

    def go(self, meanwhile=None):
        """A round of writes, with `meanwhile` called in the middle of it."""
        def client():
            for _ in range(ROUND // CLIENTS):
                self.one()

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        if meanwhile:
            meanwhile()
        for thread in threads:
            thread.join()


def missing(database, rows):
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        there = dict(connection.execute("SELECT id, text FROM note"))
    return [row for row, text in rows.items() if there.get(row) != text]


def play(server):
    """{check: outcome}"""
    load, outcomes = Load(server), {}

    def check(what, good):
        assert good or not server.plain, f"without the shim: {what}: no"
        outcomes[f"{server.name}: {what}"] = "passed" if good else "failed"

    with server.place.program(server.name), server.process:
        try:
            harness.wait_until(load.one, "the server")
            load.unanswered = 0
            load.go()
            check("every request is answered", load.unanswered == 0)
            harness.wait_until(lambda: load.go() or len(load.workers) >= 2, "both workers")
            first = set(load.workers)
            load.go(lambda: os.kill(min(first), signal.SIGKILL))
            # One request after the other may go to the same worker every time.
            harness.wait_until(lambda: load.go() or load.workers - first, "the killed worker's successor")
            check("a killed worker is replaced", True)
            check("acknowledged rows are there", not missing(server.database, load.rows))
        except AssertionError as error:
            if server.plain:
                raise
            print(error)
            check("it serves", False)
        server.process.signal(signal.SIGTERM)
        check("it ends when told to", server.process.wait() in (0, -signal.SIGTERM, 128 + signal.SIGTERM))
    check("acknowledged rows are there at the end", load.rows and not missing(server.database, load.rows))
    return outcomes
