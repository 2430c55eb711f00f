"""kill -9 at random instants of four processes that write one database, and of the store: what is in the bucket is
always what a commit left, and has every commit that was acknowledged by the synchronous mode."""

import os
import random
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import harness
from numbered_commits import SCHEMA, Model
from test_kill import finish
from test_workloads import PYTHON, check_restores

PROGRAM = Path(__file__).with_name("numbered_commits.py")
SYNCHRONOUS = (True, True, False, False)  # the writers
IN_CI, LONG = 40, 1000  # kills


class Reports:
    """A pipe into which writers say which commits returned."""

    def __init__(self):
        self._end, self.of_writers = os.pipe()
        os.set_blocking(self._end, False)
        self._begun = b""
        self.count = self.last = 0

    def read(self):
        while True:
            try:
                said = self._begun + os.read(self._end, 1 << 16)
            except BlockingIOError:
                return
            *lines, self._begun = said.split(b"\n")
            self.count += len(lines)
            self.last = max([self.last, *map(int, lines)])

    def close(self):
        os.close(self._end)
        os.close(self.of_writers)


class Writer:
    """One process at a time; it is killed and started again."""

    def __init__(self, build, uri, env, log, reports):
        self.command = [PYTHON, PROGRAM, build.extension, uri, str(reports.of_writers)]
        self.env, self.log, self.reports = env, log, reports
        self.process = None

    def start(self, seed):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.command, str(seed)], env=self.env, pass_fds=[self.reports.of_writers],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self):
        assert self.process.poll() is None, self.log.read_text()
        self.process.kill()
        self.process.wait()


class Place:
    """A database that four processes write, and its replica."""

    def __init__(self, build, minio, folder):
        self.build, self.minio, self.folder = build, minio, folder
        self.database = folder / "app.db"
        self.bucket = minio.bucket()
        self.url = minio.url(self.bucket, "app", sync_interval="100ms")
        self.env = minio.env(SQLSTREAM_LOG=folder / "sqlstream.log")
        self.acknowledged, self.returned = Reports(), Reports()
        self.writers = [self._writer(number) for number in range(len(SYNCHRONOUS))]
        self.model = Model()

    def _writer(self, number):
        synchronous = SYNCHRONOUS[number]
        # Longer than any outage here: a commit that is not in the bucket does not return.
        uri = self.build.uri(self.database, self.url, **({"sync": "600000"} if synchronous else {}))
        reports = self.acknowledged if synchronous else self.returned
        return Writer(self.build, uri, self.env, self.folder / f"writer-{number}.log", reports)

    def read_reports(self):
        self.acknowledged.read()
        self.returned.read()

    def pause(self, until):
        while (left := until - time.monotonic()) > 0:
            self.read_reports()
            time.sleep(min(left, 0.05))

    def check_bucket(self):
        """Whatever the writers do meanwhile."""
        self.acknowledged.read()
        least, output = self.acknowledged.last, self.folder / "restored.db"
        self.build.restore(output, self.url, env=self.env)
        harness.integrity_check(output)
        with closing(sqlite3.connect(f"file:{output}?immutable=1", uri=True)) as db:
            assert self.model.check(db) >= least
        output.unlink()

    def close(self):
        for writer in self.writers:
            writer.process.kill()
            writer.process.wait()
        self.acknowledged.close()
        self.returned.close()


def kill_round(place, chance, store_too):
    """Each writer is killed at an instant of its own; some are started again at once, some when all were."""
    begin, later = time.monotonic(), []
    if store_too:
        place.pause(begin + chance.random() * 0.3)
        place.minio.process.kill()
    instants = sorted((chance.random() ** 2 * 0.8, number) for number in range(len(place.writers)))
    for instant, number in instants:
        place.pause(begin + instant)
        place.writers[number].kill()
        if chance.random() < 0.5:
            place.writers[number].start(chance.randrange(1 << 30))
        else:
            later.append(number)
    if store_too:
        place.minio.start()
    # Before and after these are there again, and write.
    if chance.random() < 0.5:
        place.check_bucket()
    for number in later:
        place.writers[number].start(chance.randrange(1 << 30))
    place.check_bucket()


def test_killed_at_random_instants(build, own_minio, litestream, tmp_path, request):
    kills = LONG if request.config.getoption("--long") else IN_CI
    seed = int(os.environ.get("SQLSTREAM_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    chance = random.Random(seed)
    place = Place(build, own_minio, tmp_path)
    build.shell(place.database, place.url, f"{SCHEMA} select sqlstream_wait(30000);", env=place.env)
    store_kills = 0
    try:
        for writer in place.writers:
            writer.start(chance.randrange(1 << 30))
        harness.wait_until(lambda: place.read_reports() or place.acknowledged.count, "a commit")
        for round_ in range(kills // len(place.writers)):
            store_too = round_ % 4 == 3
            store_kills += store_too
            print("round", round_, "acknowledged", place.acknowledged.last)
            kill_round(place, chance, store_too)
        for writer in place.writers:
            writer.kill()
        place.check_bucket()
        place.read_reports()
        generations = {key.split("/")[2] for key in own_minio.keys(place.bucket)}
        print(f"{kills} kills, {store_kills} of the store, {place.acknowledged.count} commits acknowledged, "
              f"{place.returned.count} others returned, the last is {place.model.n}, "
              f"{len(generations)} generation(s)")  # fmt: skip
        finish(build, place.database, place.url, place.env)
        with closing(sqlite3.connect(f"file:{place.database}?immutable=1", uri=True)) as db:
            assert place.model.check(db) >= max(place.acknowledged.last, place.returned.last)
        assert place.acknowledged.count > kills and place.returned.count > kills
    finally:
        place.close()
    replica = own_minio.litestream_replica(place.bucket, "app")
    check_restores(build, litestream, place.database, place.url, replica, tmp_path, env=place.env)
