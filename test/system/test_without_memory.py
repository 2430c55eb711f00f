"""Allocations that fail on the way to a real S3 service: HTTP, TLS, signatures and answers.

The in-process tests do the same over a folder, and with those of the application's threads.
"""

import random
import subprocess
from concurrent.futures import ThreadPoolExecutor

import harness

IN_CI, LONG = 20, 2000  # runs; all of some 20,000 would take hours
TOGETHER = 4  # processes: they wait more than they work


def run_with_failing(build, minio, folder, number, how):
    """A program of which the `number`th allocation of the engine's threads fails, once or from there on; then it has
    memory again and must catch up. How many allocations there were until then; 0: OpenSSL got none for what it does
    once in a process's life, and can never be used by it."""
    name, bucket = f"{number}-{how}", minio.bucket()
    databases = [folder / f"{name}.db", folder / f"{name}-attached.db"]
    urls = [minio.url(bucket, database.stem, sync_interval="50ms") for database in databases]
    program = subprocess.run(
        [build.dir / "test/inprocess/inprocess_test", "--role=memory", *map(build.uri, databases, urls), "engine",
         str(number), how],
        env=harness.clean_environment(**minio.env()), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if program.returncode == 1 and "no OpenSSL" in program.stderr:
        for database in databases:
            assert harness.run(["sqlite3", database, "pragma integrity_check"]).stdout == "ok\n"
        return 0
    assert program.returncode == 0, f"{name}: {program.stderr}"
    for database, url in zip(databases, urls):
        restored = folder / f"{database.stem}-restored.db"
        build.restore(restored, url, env=minio.env())
        harness.compare_databases(database, restored)
    return int(program.stdout)


def test_each_allocation_on_the_way_to_a_service_fails(build, minio_tls, tmp_path, request):
    count = run_with_failing(build, minio_tls, tmp_path, 0, "once")
    assert count > 1000
    print(f"{count} allocations")
    runs = LONG if request.config.getoption("--long") else IN_CI
    numbers = sorted(random.sample(range(1, count + 1), min(count, runs)))
    with ThreadPoolExecutor(TOGETHER) as pool:

        def fail(number):
            how = "once" if number % 4 else "onwards"
            return run_with_failing(build, minio_tls, tmp_path, number, how)

        counts = list(pool.map(fail, numbers))
    assert len(counts) == len(numbers)
    # OpenSSL's beginning is a small part of it; of those where everything fails from there on, a larger one.
    assert counts.count(0) <= len(numbers) / 2
