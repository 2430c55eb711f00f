"""clang-tidy over some rooms, in parallel. A file that was clean is not gone through again while
nothing that it is made from has changed: it, what it includes, its command, and the checks."""

import hashlib
import json
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TIDY = "clang-tidy-14"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FINDING = re.compile(r"^\S+:\d+:\d+: (?:error|warning): .*\]$", re.M)
FORGET_AFTER = 60 * 86400  # seconds


def findings(root, build, rooms, jobs, known):
    """The findings, a line each, and what clang-tidy said where it failed without one. `build`: a
    folder that Ninja has built; `known`: a folder that remembers clean files, may be missing."""
    known.mkdir(parents=True, exist_ok=True)
    for entry in known.iterdir():
        if entry.stat().st_mtime < time.time() - FORGET_AFTER:
            entry.unlink()
    version = subprocess.run([TIDY, "--version"], capture_output=True, check=True).stdout
    checks = version + (root / ".clang-tidy").read_bytes()
    included = dependencies(build)
    hashes = {}

    def go_through(entry):
        file = (build / entry["file"]).resolve()
        made_from = included.get(entry["output"])
        key = made_from and digest(
            [checks, entry["command"].replace(str(root), "").encode(),
             *(state_of(path, root, hashes) for path in made_from)]
        )  # fmt: skip
        if key and (known / key).exists():
            (known / key).touch()
            return []
        result = subprocess.run(
            [TIDY, "-quiet", "-p", build, "-extra-arg=-Wno-unknown-warning-option", file],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        said = COLOUR.sub("", result.stdout)
        found = FINDING.findall(said)
        # What the analyser says inside of system headers (of Boost.Asio's coroutine frames, which
        # clang 14 does not follow) is not ours.
        ours = [finding for finding in found if not finding.startswith("/usr/")]
        if result.returncode != 0 and not found:
            ours = [f"{file}: {TIDY} failed: {(said + result.stderr)[-3000:]}"]
        if key and not ours:
            (known / key).touch()
        return ours

    commands = json.loads((build / "compile_commands.json").read_text())
    wanted = [entry for entry in commands
              if (build / entry["file"]).resolve().relative_to(root).parts[0] in rooms]  # fmt: skip
    if not wanted:
        return [f"no file of {', '.join(rooms)} is in {build}/compile_commands.json"]
    with ThreadPoolExecutor(jobs) as pool:
        return sorted({finding for found in pool.map(go_through, wanted) for finding in found})


def dependencies(build):
    """{object file: [what it was made from]}, as the compiler told Ninja."""
    said = subprocess.run(["ninja", "-C", build, "-t", "deps"], capture_output=True, text=True)
    included, current = {}, None
    for line in said.stdout.splitlines():
        if line.startswith(" "):
            current.append((build / line.strip()).resolve())
        elif ": #deps" in line:
            current = included.setdefault(line.partition(": #deps")[0], [])
            if not line.endswith("(VALID)"):
                del included[line.partition(": #deps")[0]]
    return included


def state_of(path, root, hashes):
    """A file of ours by its content and name, one of the system by its name, size and time."""
    if path not in hashes:
        if path.is_relative_to(root):
            hashes[path] = digest([str(path.relative_to(root)).encode(), path.read_bytes()])
        else:
            status = path.stat()
            hashes[path] = digest([f"{path} {status.st_size} {status.st_mtime_ns}".encode()])
    return hashes[path].encode()


def digest(parts):
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()
