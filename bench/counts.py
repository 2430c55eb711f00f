"""What a commit costs the thread that makes it, counted: instructions and system calls."""

import collections
import re
import shutil

TOOLS = ("valgrind", "strace")
# The difference of two runs, so that what is done once does not count.
FEW, MANY = 2000, 12000


def missing_tools():
    return [tool for tool in TOOLS if not shutil.which(tool)]


def work(bench, system, under, commits):
    prefix = bench.minio.new_prefix()
    with bench.fresh_database(bench.ram) as database:
        with bench.application(system, database, prefix, under=under) as application:
            application.ask("setup")
            bench.settle(system, application, prefix)
            application.ask(f"insert {commits} 0")


def instructions(bench, system, commits):
    """In user space, of the first thread: it is the one that commits."""
    folder = bench.folder / f"callgrind-{bench.minio.new_prefix()}"
    folder.mkdir()
    under = ["valgrind", "-q", "--tool=callgrind", "--separate-threads=yes",
             f"--callgrind-out-file={folder}/out"]  # fmt: skip
    work(bench, system, under, commits)
    # `-01` is missing when there was one thread only.
    file = folder / "out-01" if (folder / "out-01").exists() else folder / "out"
    return int(re.search(r"^totals: (\d+)", file.read_text(), re.M)[1])


def system_calls(bench, system, commits):
    """Without -f strace follows the first thread only."""
    file = bench.folder / f"strace-{bench.minio.new_prefix()}"
    work(bench, system, ["strace", "-c", "-o", file], commits)
    counts = collections.Counter()
    for line in file.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
            counts[fields[-1]] = int(fields[3])
    return counts


def measure_counts(bench):
    results = {}
    for system in ("plain", "pass-through", "sqlstream"):
        few, many = (instructions(bench, system, n) for n in (FEW, MANY))
        before, after = (system_calls(bench, system, n) for n in (FEW, MANY))
        after.subtract(before)
        calls = {name: count / (MANY - FEW) for name, count in after.items() if count > 0}
        results[system] = {
            "instructions": (many - few) / (MANY - FEW), "calls": sum(calls.values()),
            "by_call": {name: count for name, count in calls.items() if count >= 0.0005},
        }  # fmt: skip
    return results
