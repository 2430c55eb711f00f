"""SIGSTOP at random instants: a process that holds the capture lock, or ships, stands still while
another one goes on; then it is continued, or killed."""

import fcntl
import os
import random
import signal
import struct
import subprocess
import threading
import time

import pytest

import harness
from test_lifecycle import Session, generations
from test_workloads import PYTHON, WORKLOADS

F_OFD_GETLK = 36
CAPTURE, SHIPPING = 0, 1  # bytes of the outbox's lock
FLOCK = "hhqqi4x"
RESETS = 100


def is_locked(file, byte):
    """Whether somebody has the lock; the asking takes none."""
    with open(file, "r+b") as handle:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        return struct.unpack(FLOCK, fcntl.fcntl(handle, F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK


class Bursts:
    """The process that is stopped. It writes when it is told to."""

    def __init__(self, build, database, url):
        self.process = subprocess.Popen(
            [PYTHON, WORKLOADS, build.extension, database, url, "bursts"],
            env=harness.clean_environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        assert self.process.stdout.readline() == "ready\n"

    def commit(self):
        """Afterwards it is outside of SQLite, whose own locks would hold back any program."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "committed\n"

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()


def write_and_reset(app, times):
    """Each of them resets the WAL. Were each to wait for the stopped process, it would take minutes:
    the limit is for that only."""

    answers = []

    def work():
        for i in range(times):
            answers.append(app.do(f"insert into t values ({i}, randomblob(100))"))
            answers.append(app.do("pragma wal_checkpoint(truncate)"))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(60)
    assert not worker.is_alive(), "it waits for the stopped process"
    assert answers == [[], [[0, 0, 0]]] * times


def check(build, litestream, database, replica, folder):
    """Everything is shipped and nobody writes: byte for byte, with both readers."""
    folder.mkdir()
    expected = harness.checkpointed_copy(database, folder / "expected.db")
    build.restore(folder / "ours.db", f"file://{replica}")
    litestream.restore(folder / "theirs.db", replica)
    for restored in (folder / "ours.db", folder / "theirs.db"):
        harness.compare_databases(expected, restored)
        harness.integrity_check(restored)


@pytest.mark.parametrize("end", ["continued", "killed"])
@pytest.mark.parametrize("held", ["capture lock", "shipping role"])
def test_a_stopped_process_holds_nobody_back(build, litestream, processes, tmp_path, held, end):
    seed = int(os.environ.get("SQLSTREAM_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    chance = random.Random(seed)
    database, replica = tmp_path / "app.db", tmp_path / "replica"
    url = f"file://{replica}?sync-interval=5ms"
    lock = tmp_path / ".app.db-sqlstream/lock"
    first = Bursts(build, database, url)
    processes.append(first.process)
    first.commit()
    harness.wait_until(lambda: is_locked(lock, SHIPPING), "the role to be taken")
    log = tmp_path / "log"
    with Session(build, database, url, harness.clean_environment(SQLSTREAM_LOG=log)) as other:
        other.do("create table t(x, y)")
        assert other.shipped() == 1
        before = other.status()["generation"]
        for attempt in range(500):
            first.commit()
            # It captures, then it ships.
            time.sleep(chance.random() * 0.04)
            first.stop()
            assert is_locked(lock, SHIPPING)
            if is_locked(lock, CAPTURE) == (held == "capture lock"):
                break
            first.go_on()
            assert other.shipped() == 1
        else:
            raise AssertionError("never stopped while it held the " + held)
        print("attempts", attempt + 1)
        write_and_reset(other, RESETS)
        if end == "continued":
            first.go_on()
            write_and_reset(other, 3)
            first.commit()
        else:
            first.kill()
            write_and_reset(other, 3)
        assert other.shipped(60000) == 1
        after = other.status()["generation"]
        waits = log.read_text().count("waited in vain")
        assert waits == (1 if held == "capture lock" else 0), log.read_text()
        if held == "capture lock":
            assert len(generations(replica)) == 2, "one new generation"
        else:
            assert before == after, "who only ships holds no capture back"
        check(build, litestream, database, replica, tmp_path / "restored")
