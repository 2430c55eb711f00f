"""Builds, tests and lints; called by ./check, which has installed what this needs.

Every step runs even when an earlier one failed, as far as it can. What counts: each test case of a
doctest executable, each pytest test, each other Meson test. A build that fails, a badly formatted
file, a clang-tidy finding and a test program that died count as one failure each.
"""

import argparse
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import tidy

ROOT = Path(__file__).resolve().parent.parent
JOBS = os.cpu_count() or 1
HOME = Path(os.environ.get("SQLSTREAM_TEST_HOME", Path.home() / ".cache/sqlstream-test"))
DOCTEST = re.compile(
    r"test cases:\s*(\d+)\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed(?:\s*\|\s*(\d+) skipped)?"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self):
        text = f"{self.passed} passed, {self.failed} failed"
        return text + (f", {self.skipped} skipped" if self.skipped else "")


@dataclass
class Build:
    """One Meson build directory."""

    name: str
    options: list
    suites: list
    env: dict = field(default_factory=dict)
    target: str = "all"

    @property
    def dir(self):
        return ROOT / self.name


# -O1: readable reports at half the time of -O0. lundef: a sanitizer's symbols are the program's. A
# precompiled header of clang's names the folder it was made in: from a cache it serves no other.
CLANG_OPTIONS = ["-Dbuildtype=debugoptimized", "-Doptimization=1", "-Db_lundef=false", "-Db_pch=false"]
# Meson takes ccache by itself only for the compiler it finds by itself.
CLANG = {"CXX": "ccache clang++-14" if shutil.which("ccache") else "clang++-14"}
RELEASE = Build("build", ["-Dbuildtype=release"], ["unit", "inprocess"])
ASAN = Build(
    "build-asan",
    ["-Db_sanitize=address,undefined", *CLANG_OPTIONS],
    ["unit", "inprocess"],
    {
        **CLANG,
        "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "ASAN_SYMBOLIZER_PATH": "/usr/bin/llvm-symbolizer-14",
    },
)
TSAN = Build(
    "build-tsan",
    ["-Db_sanitize=thread", *CLANG_OPTIONS],
    ["unit", "inprocess"],
    {
        **CLANG,
        "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"
        ":external_symbolizer_path=/usr/bin/llvm-symbolizer-14"
        f":suppressions={ROOT / '.ci/tsan.supp'}",
    },
)
# Only the fuzz targets of it are built: these and the few files they need are instrumented.
FUZZ = Build(
    "build-fuzz", ["-Dfuzz=true", "-Db_sanitize=address,undefined", *CLANG_OPTIONS], [], CLANG, "fuzz"
)
FUZZ_SECONDS = 60  # each target; ten times as many with -long


# The rooms that were gone through; the others follow one by one.
TIDY_ROOMS = ["base", "capture", "format", "shipper"]


def say(text):
    print(text, flush=True)


def run(command, env=None, capture=False):
    """Runs a command without input; its output goes through, or is returned as text."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.STDOUT if capture else None,
        text=True,
        errors="replace",
    )


def sources():
    """The project's C++ files: those git knows, or all where there is no git."""
    listed = run(["git", "ls-files", "--", "*.cc", "*.h"], capture=True)
    if listed.returncode == 0 and listed.stdout.strip():
        names = listed.stdout.split()
    else:
        names = [
            str(path.relative_to(ROOT))
            for suffix in ("cc", "h")
            for path in ROOT.rglob(f"*.{suffix}")
            if not path.relative_to(ROOT).parts[0].startswith(("build", "subprojects", "."))
        ]
    return sorted(name for name in names if (ROOT / name).exists())


def check_format():
    count = Count()
    result = run(["clang-format-14", "--dry-run", "-Werror", *sources()], capture=True)
    bad = sorted(set(re.findall(r"^(\S+?):\d+:\d+: error: code should be", result.stdout, re.M)))
    for name in bad:
        say(f"not formatted: {name} (clang-format-14 -i {name})")
    count.failed = len(bad)
    if result.returncode != 0 and not bad:
        say(result.stdout)
        count.failed = 1
    return count


def make(build):
    """Configures and builds; false when that failed."""
    if not (build.dir / "build.ninja").exists():
        # A folder that was left half configured would be taken for a configured one.
        if (build.dir / "meson-private").exists():
            shutil.rmtree(build.dir)
        configured = run(
            ["meson", "setup", *build.options, build.dir], env=build.env, capture=True
        )
        if configured.returncode != 0:
            say(configured.stdout)
            return False
    made = run(["ninja", "-C", build.dir, "-j", JOBS, "-k", "0", "--quiet", build.target], env=build.env)
    return made.returncode == 0


def build_step(build):
    return Count() if make(build) else Count(failed=1)


def count_meson_tests(log):
    """Counts the tests of one `meson test` run from its testlog.json, a JSON object a line."""
    count = Count()
    for line in log.read_text(errors="replace").splitlines():
        test = json.loads(line)
        result = test["result"]
        cases = DOCTEST.findall(COLOUR.sub("", test.get("stdout", "")))
        if cases:
            total, passed, failed, skipped = (int(number or 0) for number in cases[-1])
            part = Count(passed, failed, skipped)
            if result != "OK" and failed == 0:
                part.failed = 1  # died, or a sanitizer spoke, after the last case
        elif result == "SKIP":
            part = Count(skipped=1)
        elif result in ("OK", "EXPECTEDFAIL"):
            part = Count(passed=1)
        else:
            part = Count(failed=1)
        say(f"  {test['name']}: {part}" + ("" if result == "OK" else f" ({result})"))
        if part.failed:
            say(test.get("stdout", "") + test.get("stderr", ""))
        for visited in re.findall(r"^.*: \d+ states$", test.get("stdout", ""), re.M):
            say(f"    {visited}")  # by the model checker
        count.add(part)
    return count


def test_step(build):
    known = json.loads((build.dir / "meson-info/intro-tests.json").read_text())
    present = {suite.split(":")[-1] for test in known for suite in test["suite"]}
    suites = [suite for suite in build.suites if suite in present]
    if not suites:
        say(f"no test of {build.suites} in {build.name}")
        return Count(failed=1)
    log = build.dir / "meson-logs/testlog.json"
    log.unlink(missing_ok=True)
    command = ["meson", "test", "-C", build.dir, "--no-rebuild", "--num-processes", JOBS, "--quiet"]
    # The limits of the tests are for a release build on a quiet machine.
    command += ["--timeout-multiplier", 4 if build is RELEASE else 6]
    for suite in suites:
        command += ["--suite", suite]
    result = run(command, env=build.env, capture=True)
    if not log.exists():
        say(result.stdout)
        return Count(failed=1)
    count = count_meson_tests(log)
    if result.returncode != 0 and count.failed == 0:
        say(result.stdout)
        count.failed = 1
    return count


def check_tidy():
    found = tidy.findings(ROOT, ASAN.dir, TIDY_ROOMS, JOBS, HOME / "clang-tidy")
    for finding in found:
        say(finding)
    return Count(failed=len(found))


def check_model():
    """The protocol's model checker within its wider bounds; it prints the states it went through."""
    passed = run([RELEASE.dir / "test/model/model", "-long"]).returncode == 0
    return Count(passed=1) if passed else Count(failed=1)


def check_system(long):
    if not glob.glob(str(ROOT / "test/system/**/test_*.py"), recursive=True):
        say("no system tests")
        return Count(failed=1)
    report = RELEASE.dir / "pytest.xml"
    report.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "pytest", "test/system", "-q", "-rs", "-p", "no:cacheprovider",
        # One test waits mostly for a server, a kill or a timer: one process more than there are processors.
        "-n", str(JOBS + 1), "--color=no", "--durations=10", f"--junitxml={report}",
    ]
    if long:
        command.append("--long")
    # Whoever started this has had the servers built: without one the tests fail instead of skipping.
    result = run(command, env={"SQLSTREAM_BUILD": str(RELEASE.dir), "SQLSTREAM_NEED_SERVERS": "1"})
    if not report.exists():
        return Count(failed=1)
    count = Count()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        tests, failed, errors, skipped = (
            int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
        )
        count.add(Count(max(0, tests - failed - errors - skipped), failed + errors, skipped))
    if result.returncode != 0 and count.failed == 0:
        count.failed = 1
    return count


def check_fuzz(long):
    """Every corpus, and then some seconds of each target; and that the corpora reach the readers."""
    seconds = FUZZ_SECONDS * (10 if long else 1)
    result = run(
        [ROOT / "test/fuzz/run", "-build", FUZZ.dir, "-seconds", seconds, "-jobs", JOBS], capture=True
    )
    say(result.stdout.rstrip())
    counted = re.search(r"^(\d+) passed, (\d+) failed$", result.stdout, re.M)
    if not counted:
        return Count(failed=1)
    count = Count(int(counted[1]), int(counted[2]))
    reached = run([ROOT / "test/fuzz/run", "-build", FUZZ.dir, "-coverage"]).returncode == 0
    count.add(Count(passed=1) if reached else Count(failed=1))
    return count


def main():
    parser = argparse.ArgumentParser(prog="./check", description="Every check there is.")
    parser.add_argument("-long", "--long", action="store_true", help="also the tests that take long")
    arguments = parser.parse_args()
    if arguments.long:
        os.environ["SQLSTREAM_LONG"] = "1"

    total = Count()
    table = []

    def step(name, action, *args):
        say(f"==> {name}")
        begin = time.monotonic()
        try:
            count = action(*args)
        except Exception as error:  # A step that cannot be judged has failed.
            say(f"{name}: {type(error).__name__}: {error}")
            count = Count(failed=1)
        seconds = time.monotonic() - begin
        table.append(f"  {name:<28} {count}, {seconds:.0f} s")
        total.add(count)
        return count.failed == 0

    step("format", check_format)
    if step("build, release", build_step, RELEASE):
        step("unit tests, release", test_step, RELEASE)
        step("system tests", check_system, arguments.long)
        if arguments.long:
            step("model checker", check_model)
    if step("build, clang, asan+ubsan", build_step, ASAN):
        step("unit tests, asan+ubsan", test_step, ASAN)
    step("clang-tidy", check_tidy)
    if step("build, clang, fuzz targets", build_step, FUZZ):
        step("fuzz targets", check_fuzz, arguments.long)
    if step("build, clang, tsan", build_step, TSAN):
        step("unit tests, tsan", test_step, TSAN)

    say("==> summary")
    for line in table:
        say(line)
    say(str(total))
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
