"""The measurements. Each returns a dictionary, which goes into the results as it is."""

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import sqlite3
import struct
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import (
    LONGEST_ANSWER, BenchError, Minio, clean_environment, compile_c, die_with_parent, median, say,
    wait_until,
)  # fmt: skip

RAM = Path("/dev/shm")
SYNC_DELAYS_MS = (5, 20, 50)  # added to what the store takes itself
SYNC_WRITERS = (1, 8, 64)
FAR_MS = 20  # of the store that is far
RESTORE_LIMIT = 250  # seconds, for Litestream 0.5 of many segments
WRITERS = 4  # threads, or processes
SMALL_ROWS, ROWS_PER_MB = 100_000, 9100


class Commits:
    """One way to commit as fast as it goes: `prepare` and `work` are the application's commands,
    `processes` how many applications do the work, `rows` how many there are before."""

    def __init__(self, work, prepare=(), processes=1, rows=0, adds=True):
        self.work, self.prepare, self.processes = work, prepare, processes
        self.rows, self.adds = rows, adds

    def run(self, stack, bench, system, database, prefix):
        application = stack.enter_context(bench.application(system, database, prefix))
        application.ask("setup")
        for command in self.prepare:
            application.ask(command)
        # What replicates beside plain SQLite does so for all processes.
        other = "plain" if system.startswith("litestream") else system
        workers = [application]
        for _ in range(self.processes - 1):
            workers.append(stack.enter_context(bench.application(other, database, prefix)))
        bench.settle(system, application, prefix)
        os.sync()
        for worker in workers:
            worker.tell(self.work)
        answers = [worker.answer(self.work) for worker in workers]
        result = {
            "commits": sum(answer["commits"] for answer in answers),
            "rows": sum(answer.get("rows", answer["commits"]) for answer in answers),
            **{name: max(answer[name] for answer in answers)
               for name in ("seconds", "p50_us", "p99_us", "worst_us")},
        }  # fmt: skip
        if self.processes == 1 and "thread_cpu_seconds" in answers[0]:
            result["thread_cpu_seconds"] = answers[0]["thread_cpu_seconds"]
        begun = time.monotonic()
        if system == "sqlstream":
            bench.settle(system, application, prefix)
            result["shipped_after_s"] = time.monotonic() - begun
        return result


def measure_commits(bench, place, kind):
    """Rounds are interleaved, each in another order."""
    systems = bench.arguments.systems
    rounds = []
    for number in range(bench.arguments.runs):
        results = {}
        first = number % len(systems)
        for system in systems[first:] + systems[:first]:
            prefix = bench.minio.new_prefix()
            with bench.fresh_database(place) as database:
                with contextlib.ExitStack() as stack:
                    results[system] = own = kind.run(stack, bench, system, database, prefix)
                if system == "sqlstream":
                    added = own["rows"] if kind.adds else 0
                    bench.check_restore(prefix, database.parent, kind.rows + added)
            say(f"  round {number + 1}: {system}: {own['commits'] / own['seconds']:,.0f} commits/s")
        rounds.append(results)

    def summary(system):
        own = [r[system] for r in rounds]
        plain = [r["plain"] for r in rounds]

        def rate(result):
            return result["commits"] / result["seconds"]

        ratios = [rate(o) / rate(p) for o, p in zip(own, plain)]
        result = {
            "commits_per_second": median([rate(o) for o in own]),
            "ratio": median(ratios),
            "ratio_lowest": min(ratios),
            "ratio_highest": max(ratios),
            **{name: median([o[name] for o in own]) for name in ("p50_us", "p99_us", "worst_us")},
            "p99_ratio": median([o["p99_us"] / p["p99_us"] for o, p in zip(own, plain)]),
            "worst_of_all_us": max(o["worst_us"] for o in own),
        }
        if "thread_cpu_seconds" in own[0]:
            result["thread_cpu_ratio"] = median(
                [p["thread_cpu_seconds"] / o["thread_cpu_seconds"] for o, p in zip(own, plain)]
            )
        return result

    return {"rounds": rounds, "summary": {system: summary(system) for system in systems}}


def measure_inserts(bench):
    return measure_commits(bench, None, Commits(f"insert {bench.arguments.commits} 0"))


def measure_inserts_ram(bench):
    return measure_commits(bench, bench.ram, Commits(f"insert {bench.arguments.commits} 0"))


def measure_full(bench):
    # Each waits for the disk: fewer do.
    count = max(1, bench.arguments.commits // 60)
    return measure_commits(bench, None, Commits(f"insert {count} 0", prepare=["full"]))


def measure_updates(bench):
    count = max(1, bench.arguments.commits // 3)
    kind = Commits(
        f"random {count} 0", prepare=[f"rows {SMALL_ROWS}"], rows=SMALL_ROWS, adds=False
    )
    return measure_commits(bench, bench.ram, kind)


def measure_threads(bench):
    return measure_commits(
        bench, bench.ram, Commits(f"writers {WRITERS} {bench.arguments.writer_seconds}")
    )


def measure_processes(bench):
    kind = Commits(f"writers 1 {bench.arguments.writer_seconds}", processes=WRITERS)
    return measure_commits(bench, bench.ram, kind)


def segments_of(system):
    return "ltx" if system == "litestream-0.5" else "wal"


def measure_idle(bench):
    """From a commit's return after at least 3 s of quiet until its segment is in the bucket."""
    milliseconds = {system: [] for system in bench.replicators()}
    chance = random.Random(1)
    with contextlib.ExitStack() as stack:
        running = {}
        for system in milliseconds:
            prefix = bench.minio.new_prefix()
            database = stack.enter_context(bench.fresh_database())
            application = stack.enter_context(bench.application(system, database, prefix))
            application.ask("setup")
            bench.settle(system, application, prefix)
            running[system] = application, prefix
        for _ in range(bench.arguments.idle):
            for system, (application, prefix) in running.items():
                kind = segments_of(system)
                before = bench.minio.visible(prefix, kind)
                # Not in step with anyone's clock.
                time.sleep(3 / len(running) + 0.5 + chance.random())
                committed = application.ask("insert 1 0")["ended_ns"]
                limit = time.monotonic() + 30
                while bench.minio.visible(prefix, kind) <= before:
                    if time.monotonic() > limit:
                        raise BenchError(f"a commit did not reach the bucket in 30 s: {system}")
                    time.sleep(0.0003)
                milliseconds[system].append((time.monotonic_ns() - committed) / 1e6)
    return {
        system: {"median_ms": median(all_), "worst_ms": max(all_), "all_ms": all_}
        for system, all_ in milliseconds.items()
    }


def memory_of(pid):
    """RSS and its parts in MiB."""
    wanted = ("VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem")
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status)
    return {name: int(fields[name].split()[0]) / 1024 for name in wanted}


def measure_memory(bench):
    """Peaks while the database is snapshotted, with a commit every 50 ms."""
    mebibytes = int(bench.arguments.big_gb * 1000**3 / 2**20)
    need = 5 * mebibytes * 2**20
    if shutil.disk_usage(bench.folder).free < need:
        raise BenchError(f"{bench.folder} has less than the {need >> 30} GiB this needs; see --dir")
    results = {"database_mib": mebibytes}
    with bench.fresh_database() as database:
        with bench.application("plain", database, "") as application:
            application.ask("setup")
            application.ask(f"fill {mebibytes}")
        for system in ("plain", *bench.replicators()):
            prefix = bench.minio.new_prefix()
            # Litestream 0.5 has no folder for these: the first of its files is one.
            kind = "ltx" if system == "litestream-0.5" else "snapshots"
            os.sync()
            begun = time.monotonic()
            with bench.application(system, database, prefix) as application:
                pid = application.replicator()
                peaks = memory_of(pid)
                next_commit = begun
                limit = begun + LONGEST_ANSWER
                while True:
                    for name, value in memory_of(pid).items():
                        peaks[name] = max(peaks[name], value)
                    if time.monotonic() >= next_commit:
                        application.ask("insert 1 0")
                        next_commit += 0.05
                        if system == "plain":
                            done = time.monotonic() > begun + 3
                        else:
                            done = bench.minio.visible(prefix, kind)
                        if done:
                            break
                        if time.monotonic() > limit:
                            raise BenchError(f"{system} made no snapshot in {LONGEST_ANSWER} s")
                    time.sleep(0.005)
                results[system] = {
                    "peak_rss_mib": peaks["VmHWM"],
                    "peak_anonymous_mib": peaks["RssAnon"],
                    "peak_file_mapped_mib": peaks["RssFile"],
                    "snapshot_seconds": time.monotonic() - begun,
                }
            shutil.rmtree(database.parent / f".{database.name}-sqlstream", ignore_errors=True)
            shutil.rmtree(database.parent / f".{database.name}-litestream", ignore_errors=True)
            shutil.rmtree(bench.minio.data / bench.minio.bucket / prefix, ignore_errors=True)
    return results


def measure_traffic(bench):
    """What paced work sends, by the store's own counters, and what it leaves there."""
    seconds = bench.arguments.paced_seconds
    work = {
        "inserts": f"insert {2000 * seconds} 2000",
        "hot_row": f"update {1000 * seconds} 1000",
        "random": f"random {1000 * seconds} 1000",
    }
    results = {name: {} for name in work}
    for system in bench.replicators():
        for name, command in work.items():
            prefix = bench.minio.new_prefix()
            with bench.fresh_database() as database:
                with bench.application(system, database, prefix) as application:
                    application.ask("setup")
                    if name == "random":
                        application.ask(f"rows {SMALL_ROWS}")
                    bench.settle(system, application, prefix)
                    before = bench.minio.listing(prefix)
                    with bench.minio.counted() as counted:
                        timing = application.ask(command)
                        # Not by asking the store, which would count that.
                        time.sleep(4)
                        if system == "sqlstream":
                            bench.settle(system, application, prefix)
                    after = bench.minio.listing(prefix)
            results[name][system] = {
                **counted, "stored": sum(after.values()) - sum(before.values()),
                "p99_us": timing["p99_us"], "seconds": timing["seconds"],
            }  # fmt: skip
            say(f"  {name}: {system}: {counted['received']:,} bytes")
    return results


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_quiet(bench):
    """Requests and CPU of what has nothing to do."""
    results = {}
    for system in bench.replicators():
        prefix = bench.minio.new_prefix()
        with bench.fresh_database() as database:
            with bench.application(system, database, prefix) as application:
                application.ask("setup")
                application.ask("insert 100 100")
                bench.settle(system, application, prefix)
                time.sleep(5)
                with bench.minio.counted() as counted:
                    before = cpu_seconds(application.replicator())
                    time.sleep(bench.arguments.quiet)
                    cpu = cpu_seconds(application.replicator()) - before
        results[system] = {**counted, "cpu_percent": cpu * 100 / bench.arguments.quiet}
    return results


def measure_many(bench):
    """Many databases in one process, with few commits over all of them."""
    count, rate = bench.arguments.databases, bench.arguments.spread_rate
    commits = rate * bench.arguments.spread_seconds
    results = {"databases": count, "rate": rate, "seconds": bench.arguments.spread_seconds}
    for system in ("plain", *bench.replicators()):
        prefix = bench.minio.new_prefix()
        with bench.fresh_database() as database, contextlib.ExitStack() as stack:
            application = stack.enter_context(
                bench.application(system, database, f"{prefix}/{{name}}", by_environment=True)
            )
            application.ask(f"databases {count}")
            begun = time.monotonic()
            if system.startswith("litestream"):
                application.sidecar = stack.enter_context(
                    bench.beside(system, {database.with_name(f"app-{number}.db"): f"{prefix}/{number}"
                                          for number in range(count)})
                )  # fmt: skip
                bench.settle(system, application, prefix)
            elif system == "sqlstream":
                if application.ask("waitall 120000")["shipped"] != 1:
                    raise BenchError("sqlstream did not ship what many databases began with")
            settled = time.monotonic() - begun
            pid = application.replicator()
            with bench.minio.counted() as counted:
                before = cpu_seconds(pid)
                timing = application.ask(f"spread {commits} {rate}")
                cpu = cpu_seconds(pid) - before
            results[system] = {
                **counted, "cpu_percent": cpu * 100 / timing["seconds"],
                "rss_mib": memory_of(pid)["VmRSS"], "peak_rss_mib": memory_of(pid)["VmHWM"],
                "settled_after_s": settled, "p99_us": timing["p99_us"],
                "threads": len(os.listdir(f"/proc/{pid}/task")),
            }  # fmt: skip
            say(f"  {system}: {results[system]['cpu_percent']:.1f} % CPU")
    return results


DESCRIPTORS_OF_ONE = 11  # that an open database has at most: three of SQLite, the others are the shim's


def measure_many_quiet(bench):
    """Very many databases that nobody writes, in as many processes as their descriptors take."""
    count, seconds = bench.arguments.quiet_databases, bench.arguments.quiet
    share = min(count, most_connections() // DESCRIPTORS_OF_ONE)
    shares = [min(share, count - begin) for begin in range(0, count, share)]
    results = {"databases": count, "seconds": seconds, "processes": len(shares)}
    for system in [name for name in bench.arguments.systems if name in ("plain", "sqlstream")]:
        with contextlib.ExitStack() as stack:
            begun = time.monotonic()
            applications = []
            for databases in shares:
                database = stack.enter_context(bench.fresh_database())
                url = f"{bench.minio.new_prefix()}/{{name}}"
                application = stack.enter_context(
                    bench.application(system, database, url, by_environment=True)
                )
                application.ask(f"databases {databases}")
                applications.append(application)
            for application in applications if system == "sqlstream" else ():
                if application.ask("waitall 120000")["shipped"] != 1:
                    raise BenchError("sqlstream did not ship what very many databases began with")
            settled = time.monotonic() - begun
            pids = [application.replicator() for application in applications]
            time.sleep(15)  # what is kept for a while after a commit is over then
            with bench.minio.counted() as counted:
                before = sum(map(cpu_seconds, pids))
                time.sleep(seconds)
                cpu = sum(map(cpu_seconds, pids)) - before
            results[system] = {
                **counted, "cpu_percent": cpu * 100 / seconds, "settled_after_s": settled,
                "rss_mib": sum(memory_of(pid)["VmRSS"] for pid in pids),
                "threads": max(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),
                "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
            }  # fmt: skip
            say(f"  {system}: {results[system]['cpu_percent']:.2f} % CPU")
    return results


# When a commit came to be in the bucket


def metadata_of(segment):
    """What stands in front of a segment of ours, in a skippable frame of LZ4."""
    magic, size = struct.unpack_from("<II", segment)
    if magic != 0x184D2A50:
        raise BenchError("a segment has no metadata")
    return json.loads(segment[8 : 8 + size])


def commits_in_wal(segment, beginning):
    """Commit frames in a piece of a WAL; `beginning`: it begins with the WAL's header."""
    wal = subprocess.run(["lz4", "-dc"], input=segment, capture_output=True, check=True).stdout
    at, commits, page_size = (32 if beginning else 0), 0, 4096
    while at + 24 + page_size <= len(wal):
        commits += struct.unpack_from(">I", wal, at + 4)[0] != 0
        at += 24 + page_size
    return commits


def arrivals(bench, system, prefix, before, timing, rate):
    """For each commit of a paced run, when it was due and when it became visible (ns, Unix)."""
    due = [timing["begun_unix_ns"] + int(i * 1e9 / rate) for i in range(timing["commits"])]
    files = bench.minio.files(prefix, segments_of(system))
    visible, at = [], 0
    for key in sorted(files.keys() - before):
        # A rename made it visible, and that is when its inode changed last.
        arrived = os.stat(files[key]).st_ctime_ns
        segment = bench.minio.get(key)
        if system == "litestream-0.5":
            # Its header has a time in ms, and no number of commits.
            until = struct.unpack_from(">Q", segment, 32)[0] * 1_000_000
            count = sum(1 for moment in due[at:] if moment <= until)
        elif system == "litestream":
            count = commits_in_wal(segment, "_00000000." in key)
        else:
            count = metadata_of(segment).get("commits", 0)
        # What an object before it was waited for is not readable earlier than that one.
        arrived = max(arrived, visible[-1] if visible else 0)
        visible += [arrived] * count
        at += count
    missing = len(due) - len(visible)
    if missing > (20 if system.startswith("litestream") else 0):
        raise BenchError(f"{missing} commits are in no segment: {system}")
    return due[: len(visible)], visible[: len(due)]


def measure_lag(bench):
    """Each commit's time until it is in the bucket, under load."""
    rate, results = 2000, {}
    command = f"insert {rate * bench.arguments.paced_seconds} {rate}"
    for system in bench.replicators():
        prefix = bench.minio.new_prefix()
        with bench.fresh_database() as database:
            with bench.application(system, database, prefix) as application:
                application.ask("setup")
                bench.settle(system, application, prefix)
                before = bench.minio.visible(prefix, segments_of(system))
                timing = application.ask(command)
                bench.settle(system, application, prefix)
            due, visible = arrivals(bench, system, prefix, before, timing, rate)
        lags = sorted((arrived - moment) / 1e6 for moment, arrived in zip(due, visible))
        results[system] = {
            "median_ms": lags[len(lags) // 2], "p99_ms": lags[len(lags) - 1 - len(lags) // 100],
            "worst_ms": lags[-1],
        }  # fmt: skip
    return results


def measure_outage(bench):
    """A store that is gone for a while under load: from its return until the commits before that
    are in the bucket."""
    rate, away = 500, bench.arguments.outage
    results = {"seconds": away, "rate": rate}
    command = f"insert {rate * (5 + away + away // 2)} {rate}"
    for system in bench.replicators():
        prefix = bench.minio.new_prefix()
        with bench.fresh_database() as database:
            with bench.application(system, database, prefix) as application:
                application.ask("setup")
                bench.settle(system, application, prefix)
                before = bench.minio.visible(prefix, segments_of(system))
                application.tell(command)
                time.sleep(5)
                bench.minio.stop()
                try:
                    time.sleep(away)
                finally:
                    bench.minio.start()
                returned = time.time_ns()
                timing = application.answer(command)
                bench.settle(system, application, prefix)
            due, visible = arrivals(bench, system, prefix, before, timing, rate)
        late = [arrived for moment, arrived in zip(due, visible) if moment <= returned]
        results[system] = {"caught_up_s": max(0, (late[-1] - returned) / 1e9)}
        say(f"  {system}: {results[system]['caught_up_s']:.1f} s")
    return results


def measure_sync(bench):
    """Commits that wait for a far store. That and the database are in memory: what a disk's fsync
    takes now and then would hide what a commit adds to a PUT."""
    with Minio(bench.minio.binary, bench.ram / "minio").running() as minio:
        bench = bench.with_store(minio)
        return [
            result
            for milliseconds in SYNC_DELAYS_MS
            for result in commits_that_wait(bench, milliseconds)
        ]


def plain_rounds(bench, writers, pause):
    """So many writers of plain SQLite that commit one after the other, then wait for `pause`."""
    with bench.fresh_database(bench.ram) as database:
        with bench.application("plain", database, "") as application:
            application.ask("setup")
            application.ask("eager")
            seconds = bench.arguments.sync_seconds / 2
            timing = application.ask(f"writers {writers} {seconds} {pause * 1000}")
    return {"commits_per_second": timing["commits"] / timing["seconds"], **timing}


def commits_that_wait(bench, milliseconds):
    with FarStore(bench, milliseconds) as store:
        put, put_p99 = bench.minio.put_seconds(store.port)
        for writers in SYNC_WRITERS:
            prefix = bench.minio.new_prefix()
            with bench.fresh_database(bench.ram) as database:
                with bench.application(
                    "sqlstream", database, prefix, store.port, sync="60000"
                ) as application:
                    application.ask("setup")
                    application.ask("eager")
                    before = len(bench.minio.listing(prefix))
                    timing = application.ask(f"writers {writers} {bench.arguments.sync_seconds}")
                    uploads = len(bench.minio.listing(prefix)) - before
                bench.check_restore(prefix, database.parent, timing["rows"])
            rate = timing["commits"] / timing["seconds"]
            say(f"  {milliseconds} ms, {writers} writers: {rate:,.0f} commits/s")
            plain = plain_rounds(bench, writers, put)
            yield {"delay_ms": milliseconds, "put_ms": put * 1000, "put_p99_ms": put_p99 * 1000,
                   "writers": writers, "commits_per_second": rate, "uploads": uploads,
                   "plain": plain, **timing}  # fmt: skip


class FarStore:
    """MinIO behind bench/far.c: each exchange takes so much longer. Many connections at once."""

    def __init__(self, bench, milliseconds):
        program = compile_c("far.c", bench.folder)
        self.process = subprocess.Popen(
            [program, str(milliseconds), "0", str(bench.minio.port)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent,
        )  # fmt: skip
        self.port = int(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


def timed(command, env, limit=LONGEST_ANSWER):
    """How long it took, and its peak memory in MiB; `over`: it was ended at the limit."""
    begun, peak, over = time.monotonic(), 0, False
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [str(part) for part in command], env=env, stdin=subprocess.DEVNULL, stdout=said,
            stderr=subprocess.STDOUT, preexec_fn=die_with_parent,
        )  # fmt: skip
        while process.poll() is None:
            # Not from rusage: that has what this process had when it forked, too.
            with contextlib.suppress(OSError, KeyError):
                peak = max(peak, memory_of(process.pid)["VmHWM"])
            if time.monotonic() - begun > limit:
                process.kill()
                process.wait()
                over = True
            time.sleep(0.003)
        seconds = time.monotonic() - begun
        if process.returncode != 0 and not over:
            said.seek(0)
            raise BenchError(f"{command[0]} failed: {said.read().decode(errors='replace')[-500:]}")
    return {"seconds": seconds, "peak_rss_mib": peak, "over": over}


def digest(file):
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def most_connections():
    """As many as one process may have; the rest is for what else it has open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1 << 30 if limit == resource.RLIM_INFINITY else limit - 500


def measure_restore(bench):
    """A long history of small segments, from a store that is near and one that is far."""
    prefix = bench.minio.new_prefix()
    generations = bench.minio.data / bench.minio.bucket / prefix / "generations"
    env = clean_environment(**bench.minio.credentials())
    segments = min(bench.arguments.segments, most_connections())
    if segments < bench.arguments.segments:
        say(f"  {segments} segments: Litestream 0.3 keeps a connection for each, and the limit of "
            "descriptors is hard")  # fmt: skip
    results = {"segments": segments, "far_ms": FAR_MS, "restores": []}
    with bench.fresh_database() as database:
        with bench.application("plain", database, "") as application:
            application.ask("setup")
            application.ask("rows 200000")  # 22 MB
        with bench.application(
            "sqlstream", database, prefix, options={"sync-interval": "1ms"}
        ) as application:
            bench.settle("sqlstream", application, prefix)
            application.ask(f"segments {segments}")
            # The last of it is folded when nothing else is to be done.
            quiet = [None, 0.0]

            def folded():
                seen = bench.minio.visible(prefix, "compacted")
                if seen != quiet[0]:
                    quiet[:] = seen, time.monotonic()
                return time.monotonic() - quiet[1] > 5

            wait_until(folded, "the segments to be folded", 120, 0.5)
        # One snapshot: the later ones would spare all systems the history.
        for snapshot in generations.glob("*/snapshots/*"):
            if not snapshot.name.startswith("00000000"):
                shutil.rmtree(snapshot)
        listing = bench.minio.listing(prefix)
        for kind in ("wal", "compacted"):
            sizes = [size for key, size in listing.items() if f"/{kind}/" in key]
            results[kind] = {"objects": len(sizes), "bytes": sum(sizes)}
        with sqlite3.connect(database) as source:
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        source.close()
        expected = digest(database)
        output = database.parent / "restored.db"
        moment = json.loads(
            subprocess.run(
                [bench.sqlstream, "wal", "-json", bench.minio.replica_url(prefix)], env=env,
                capture_output=True, text=True, check=True,
            ).stdout
        )[segments // 2]["created"]  # fmt: skip
        for far in (0, FAR_MS):
            with FarStore(bench, far) as store:
                url = bench.minio.replica_url(prefix, store.port)
                ours = [bench.sqlstream, "restore", "-o", output]
                commands = {
                    "sqlstream": [*ours, url],
                    "sqlstream, to the middle": [*ours, "-timestamp", moment, url],
                    **{system: [bench.litestream(system), "restore", "-config",
                                bench.litestream_config(system, {database: prefix}, store.port),
                                "-o", output, database]
                       for system in bench.replicators() if system.startswith("litestream")},
                }  # fmt: skip
                plain = {f"{name}, from segments": command for name, command in commands.items()
                         if name.startswith("sqlstream")}  # fmt: skip

                def restore(name, command):
                    say(f"  {name}, {far} ms")
                    # The peers take minutes, and vary less than that.
                    times = 1 if name.startswith("litestream") else bench.arguments.runs
                    all_ = []
                    for _ in range(times):
                        all_.append(timed(command, env, RESTORE_LIMIT))
                        if not all_[-1]["over"]:
                            same = digest(output) == expected
                            if same == ("middle" in name):
                                raise BenchError(f"{name}: it restored something else")
                        for left in output.parent.glob(f"{output.name}*"):
                            left.unlink()
                    results["restores"].append(
                        {"how": name, "far_ms": far, "over": all_[0]["over"],
                         **{what: median([one[what] for one in all_])
                            for what in ("seconds", "peak_rss_mib")}}
                    )  # fmt: skip

                for name, command in commands.items():
                    restore(name, command)
                hidden = {folder: bench.folder / f"hidden-{folder.parent.name}"
                          for folder in generations.glob("*/compacted")}  # fmt: skip
                for folder, elsewhere in hidden.items():
                    folder.rename(elsewhere)
                for name, command in plain.items():
                    restore(name, command)
                for folder, elsewhere in hidden.items():
                    elsewhere.rename(folder)
    return results


def fetch_raw(bench, prefix, folder):
    """The limit of any restore: the bytes of the newest snapshot and what follows it, downloaded by
    ranges at equal parallelism, LZ4-decoded, and written one after the other."""
    listing = bench.minio.listing(prefix)
    snapshots = [key for key in listing if "/snapshots/" in key]
    segments = sorted(key for key in listing if "/wal/" in key)
    step = 2 << 20
    ranges = [(key, at, min(at + step, listing[key]) - 1)
              for key in [max(snapshots), *segments]
              for at in range(0, listing[key], step)]  # fmt: skip
    begun = time.monotonic()
    with open(folder / "raw", "wb") as output, ThreadPoolExecutor(8) as pool:
        decoder = subprocess.Popen(["lz4", "-dc"], stdin=subprocess.PIPE, stdout=output)
        waiting = []
        for one in ranges:
            waiting.append(pool.submit(bench.minio.get, one[0], one[1:]))
            # What is ahead is bounded, as in a restore.
            if len(waiting) == 10:
                decoder.stdin.write(waiting.pop(0).result())
        for one in waiting:
            decoder.stdin.write(one.result())
        decoder.stdin.close()
        if decoder.wait() != 0:
            raise BenchError("lz4 did not decode the replica")
        os.fsync(output.fileno())
    seconds = time.monotonic() - begun
    (folder / "raw").unlink()
    return {"seconds": seconds, "peak_rss_mib": 0}


def measure_restore_big(bench):
    """A snapshot, and a minute of updates all over it, from a store that is near."""
    prefix = bench.minio.new_prefix()
    env = clean_environment(**bench.minio.credentials())
    seconds, mega = bench.arguments.quiet, bench.arguments.restore_mb
    results = {"database_mb": mega, "updates_s": seconds}
    with bench.fresh_database() as database:
        with bench.application("plain", database, "") as application:
            application.ask("setup")
            application.ask(f"rows {int(mega * ROWS_PER_MB)}")
        with bench.application("sqlstream", database, prefix) as application:
            bench.settle("sqlstream", application, prefix)
            application.ask(f"random {1000 * seconds} 1000")
            bench.settle("sqlstream", application, prefix)
        with contextlib.closing(sqlite3.connect(database)) as source:
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        expected = digest(database)
        results["stored_mb"] = sum(bench.minio.listing(prefix).values()) / 1e6
        output = database.parent / "restored.db"
        commands = {
            "sqlstream": [bench.sqlstream, "restore", "-o", output, bench.minio.replica_url(prefix)],
            **{system: [bench.litestream(system), "restore", "-config",
                        bench.litestream_config(system, {database: prefix}), "-o", output, database]
               for system in bench.replicators() if system.startswith("litestream")},
        }  # fmt: skip
        rounds = []
        for number in range(bench.arguments.runs):
            names = [*commands, "raw"]
            first = number % len(names)
            measured = {}
            for name in names[first:] + names[:first]:
                os.sync()
                if name == "raw":
                    measured[name] = fetch_raw(bench, prefix, database.parent)
                    continue
                measured[name] = timed(commands[name], env)
                if digest(output) != expected:
                    raise BenchError(f"{name}: it restored something else")
                for left in output.parent.glob(f"{output.name}*"):
                    left.unlink()
            rounds.append(measured)
        for name in (*commands, "raw"):
            own = [one[name] for one in rounds]
            results[name] = {
                "seconds": median([one["seconds"] for one in own]),
                "peak_rss_mib": median([one["peak_rss_mib"] for one in own]),
            }
        for base in ("litestream", "raw"):
            if base in results:
                ratios = [one["sqlstream"]["seconds"] / one[base]["seconds"] for one in rounds]
                results[f"of_{base}"] = median(ratios)
    return results
