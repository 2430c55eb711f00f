"""Restoring from a replica that an attacker wrote: one sentence and exit code 1, or a database made
of nothing but what was read; never a file elsewhere or left behind, never more than some memory."""

import contextlib
import ctypes
import http.server
import json
import os
import re
import struct
import subprocess
import threading
import urllib.parse

import pytest

import harness
from test_lifecycle import Session

PAGE = 4096
GENERATION = "0123456789abcdef"
MOST_MEMORY = 256 << 20  # with the stacks of its threads; a restore needs 64 MiB, whatever the size
MOST_FOLDING = 64 << 20  # more than before, inside an application
MOST_FILE = 64 << 20  # what is restored here is far smaller


# Objects, right but for what a test asks for

_xxhash = ctypes.CDLL("libxxhash.so.0")
_xxhash.XXH3_64bits.restype = ctypes.c_uint64
_xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def lz4(data):
    return subprocess.run(["lz4", "-c"], input=data, capture_output=True, check=True).stdout


def skippable(payload):
    return struct.pack("<II", 0x184D2A50, len(payload)) + payload


def metadata(kind, **values):
    text = json.dumps({"sqlstream": 1, "kind": kind, **values}, separators=(",", ":"))[:-1].encode()
    return skippable(text + b',"sum":"%016x"}' % _xxhash.XXH3_64bits(text, len(text)))


def database(pages=2, page_size=PAGE):
    header = b"SQLite format 3\0" + struct.pack(">H", page_size % 65535)
    return header.ljust(page_size, b"\0") + b"".join(
        bytes([number]) * page_size for number in range(2, pages + 1)
    )


def snapshot(content=None, **changes):
    content = database() if content is None else content
    values = {"last": 10**18, "page_size": PAGE, "db_size": len(content) // PAGE, "last_seq": 1}
    return metadata("snapshot", **{**values, **changes}) + lz4(content)


def wal(frames, page_size=PAGE, salt=(1, 2), behind=None):
    """A WAL of (page, size after the commit or 0, content), or what of it is behind a checksum, and the checksum after
    it."""

    def add(sums, data):
        one, two = sums
        words = struct.unpack(f"<{len(data) // 4}I", data)
        for at in range(0, len(words), 2):
            one = (one + words[at] + two) & 0xFFFFFFFF
            two = (two + words[at + 1] + one) & 0xFFFFFFFF
        return one, two

    start = struct.pack(">IIIIII", 0x377F0682, 3007000, page_size, 0, *salt)
    sums = behind or add((0, 0), start)
    data = b"" if behind else start + struct.pack(">II", *sums)
    for page, size, content in frames:
        head = struct.pack(">II", page, size)
        sums = add(add(sums, head), content)
        data += head + struct.pack(">IIII", *salt, *sums) + content
    return data, sums


def segment(frames, page_size=PAGE, **changes):
    data, sums = wal(frames, page_size)
    values = {"last": 10**18, "first_seq": 2, "last_seq": 2, "wal_size": len(data)}
    return metadata("segment", **{**values, "wal_sum": sums, **changes}) + lz4(data)


def behind(before, frames, **changes):
    """The segment of `frames` behind those of the index that others hold."""
    begin, (data, sums) = len(wal(before)[0]), wal(before + frames)
    values = {"last": 10**18, "first_seq": 3, "last_seq": 3, "wal_size": len(data) - begin}
    return metadata("segment", **{**values, "wal_sum": sums, **changes}) + lz4(data[begin:])


def compacted(frames, data=None, **changes):
    """In the place of the one segment."""
    values = {"last": 10**18, "first_seq": 2, "last_seq": 2, "page_size": PAGE, "db_size": 2,
              "wal_size": 4152, "wal_salt": [1, 2], "wal_sum": wal(GOOD_SEGMENT)[1]}  # fmt: skip
    return metadata("compacted", **{**values, **changes}) + (data or lz4(wal(frames)[0]))


def zeros(size):
    """What is small and becomes large."""
    lines = subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE)
    with lines:
        return subprocess.run(
            ["lz4", "-c"], stdin=lines.stdout, capture_output=True, check=True
        ).stdout


SNAPSHOT = "snapshots/00000000.snapshot.lz4"
SEGMENT = "wal/00000000_00000000.wal.lz4"
COMPACTED = "compacted/00000000_00000000_00001038_1.wal.lz4"
GOOD_SEGMENT = [(2, 2, b"w" * PAGE)]
SECOND, SECOND_FRAMES = "wal/00000000_00001038.wal.lz4", [(2, 2, b"x" * PAGE)]
THIRD, THIRD_FRAMES = "wal/00000000_00002050.wal.lz4", [(3, 3, b"y" * PAGE)]


def write_replica(folder, objects):
    """Objects by their key below the generation."""
    for key, body in objects.items():
        file = folder / "generations" / GENERATION / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
    return folder


# Restoring


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "app.db"


LOOKS = {"execve", "access", "faccessat2", "newfstatat", "stat", "lstat", "statx", "statfs", "readlink", "readlinkat",
         "getcwd"}  # fmt: skip


def changed(trace, cwd):
    """What a program opened for writing, made, renamed or removed, as strace saw it."""
    paths = set()
    for line in trace.read_text().splitlines():
        call = re.match(r"\d+ +(\w+)\((.*)", line)
        if not call or call[1] in LOOKS:
            continue
        if call[1].startswith("open") and not re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE", call[2]):
            continue
        for folder, path in re.findall(r'(?:<([^>]*)>, )?"((?:[^"\\]|\\.)*)"', call[2]):
            paths.add(os.path.normpath(os.path.join(cwd, folder, path)))
    return paths


def restore(build, output, url, *arguments, env=None):
    """Of a URL or a folder. Exit code and what was said, having looked at the files. Memory is bounded, and so is what
    any file may grow to: it is to be seen before that something is wrong."""
    url = url if isinstance(url, str) else f"file://{url}"
    limits, trace, tracing = f"ulimit -f {MOST_FILE // 512}", output.parent.parent / "trace", []
    if "asan" not in build.dir.name:  # a sanitizer maps more than there is, and cannot be traced
        limits += f"; ulimit -d {MOST_MEMORY // 1024}"
        tracing = ["strace", "-f", "-qq", "-y", "--seccomp-bpf", "-e", "trace=%file", "-e", "signal=none", "-o", trace]
    result = harness.run(
        ["sh", "-c", f'trap "" XFSZ; {limits}; exec "$@"', "sh",
         *tracing, build.sqlstream, "restore", *arguments, "-o", output, url],
        env=env, cwd=output.parent, check=False,
    )  # fmt: skip
    said = result.stdout + result.stderr
    assert result.returncode in (0, 1), said
    left = [output.name] if result.returncode == 0 else []
    assert [file.name for file in output.parent.iterdir()] == left
    if tracing:
        written = changed(trace, output.parent)
        assert str(output) in written or not left, "the trace shows nothing"
        assert all(os.path.dirname(path) == str(output.parent) for path in written), written
    return result.returncode, said


def fails(build, output, url, *arguments, env=None):
    """The one sentence that a restore ended with."""
    code, said = restore(build, output, url, *arguments, env=env)
    assert code == 1, said
    sentences = [line for line in said.splitlines() if not line.startswith("time=")]
    assert len(sentences) == 1, said
    return sentences[0]


def test_the_objects_made_here_are_right_where_nothing_is_changed(build, tmp_path, output):
    folder = write_replica(tmp_path / "replica", {SNAPSHOT: snapshot(), SEGMENT: segment(GOOD_SEGMENT)})
    assert restore(build, output, folder)[0] == 0
    assert output.read_bytes() == database()[:PAGE] + b"w" * PAGE


@pytest.mark.parametrize(
    "content, said",
    [
        (lambda: snapshot(db_size=2**40), "damaged"),
        (lambda: snapshot(db_size=2**32 - 1), "damaged"),
        (lambda: snapshot(page_size=2**31, db_size=2**31), "damaged"),
        (lambda: snapshot(page_size=0, db_size=0), "more than"),
        (lambda: snapshot(page_size=-1), "damaged"),
        (lambda: snapshot(last="x" * 500), "damaged"),
        (lambda: snapshot(sqlstream=2**31 - 1), "newer than this sqlstream reads"),
        (lambda: snapshot()[:-20], "cut short"),
        (lambda: snapshot()[:200], "damaged"),
        (lambda: snapshot()[:3], "cut short"),
        (lambda: b"", "damaged"),
        (lambda: b"\xff" * 5000, "damaged"),
        (lambda: metadata("segment") + lz4(database()), "not a snapshot"),
        (lambda: skippable(b'{"sqlstream":1,"x":' + b"[" * 60000) + lz4(database()), "damaged"),
        # A frame to skip that is 4 GiB long, were it there.
        (lambda: struct.pack("<II", 0x184D2A51, 2**32 - 1) + b"x" * 100, "cut short"),
        (lambda: snapshot() + snapshot(), "more than"),
        (lambda: metadata("snapshot", page_size=PAGE, db_size=2) + zeros(512 << 20), "more than"),
        # Nothing tells how large it ought to be: the disk does.
        (lambda: zeros(512 << 20), "larger than this process may write"),
    ],
    ids=range(18),
)
def test_snapshots(build, tmp_path, output, content, said):
    folder = write_replica(tmp_path / "replica", {SNAPSHOT: content(), SEGMENT: segment(GOOD_SEGMENT)})
    assert said in fails(build, output, folder)


@pytest.mark.parametrize(
    "content, said",
    [
        (lambda: segment(GOOD_SEGMENT, 512, wal_size=1)[:900], "damaged"),
        (lambda: segment([(2, 2, b"w" * 512)], 512), "page size is 512"),
        (lambda: segment([(2, 2, b"w" * 65536)], 65536), "page size is 65536"),
        (lambda: segment([(2**32 - 1, 2, b"w" * PAGE)]), "larger than this process may write"),
        (lambda: segment([(2, 2**32 - 1, b"w" * PAGE)]), "larger than this process may write"),
        (lambda: segment([(0, 2, b"w" * PAGE)]), "page 0"),
        (lambda: segment([(2, 0, b"w" * PAGE)]), "does not end with a commit"),
        (lambda: segment(GOOD_SEGMENT, wal_size=0), "not the ones"),
        (lambda: segment(GOOD_SEGMENT, wal_size=2**64 - 1), "not the ones"),
        (lambda: segment(GOOD_SEGMENT, wal_size=2**64), "damaged"),
        (lambda: segment(GOOD_SEGMENT, wal_sum=[1]), "damaged"),
        (lambda: segment(GOOD_SEGMENT, first_seq=2**64 - 1), "is missing"),
        (lambda: segment(GOOD_SEGMENT)[:-1], "cut short"),
        (lambda: b"", "damaged"),
        (lambda: metadata("segment", first_seq=2, wal_size=4152) + zeros(512 << 20), "not the ones"),
        (lambda: zeros(512 << 20), "no valid WAL header"),
        (lambda: lz4(wal([])[0]) + zeros(512 << 20), "wrong salt"),
    ],
    ids=range(17),
)
def test_segments(build, tmp_path, output, content, said):
    folder = write_replica(tmp_path / "replica", {SNAPSHOT: snapshot(), SEGMENT: content()})
    assert said in fails(build, output, folder)


def test_a_compacted_object_made_here_is_right_where_nothing_is_changed(build, tmp_path, output):
    objects = {SNAPSHOT: snapshot(), COMPACTED: compacted([(2, 2, b"c" * PAGE)])}
    assert restore(build, output, write_replica(tmp_path / "replica", objects))[0] == 0
    assert output.read_bytes() == database()[:PAGE] + b"c" * PAGE


@pytest.mark.parametrize("with_segments", [True, False], ids=["segments", "alone"])
@pytest.mark.parametrize(
    "content, said",
    [
        (lambda: compacted(GOOD_SEGMENT, page_size=65536), "not the ones"),
        (lambda: compacted(GOOD_SEGMENT, wal_size=4153), "not what its name says"),
        (lambda: compacted(GOOD_SEGMENT, wal_size=2**64 - 1), "not what its name says"),
        (lambda: compacted(GOOD_SEGMENT, first_seq=2**64 - 1), "is missing"),
        (lambda: compacted([(0, 2, b"c" * PAGE)]), "page 0"),
        (lambda: compacted([(2, 0, b"c" * PAGE)]), "does not end with a commit"),
        (lambda: compacted(GOOD_SEGMENT)[:-1], "cut short"),
        (lambda: compacted(GOOD_SEGMENT).replace(b"wwww", b"wwwx", 1), "contentChecksum"),
        (lambda: segment(GOOD_SEGMENT), "(not a WAL segment|not what its name says)"),
        (lambda: b"", "not what its name says"),
        (lambda: b"\xff" * 5000, "not what its name says"),
        (lambda: zeros(512 << 20), "not what its name says"),
        (lambda: compacted([], data=lz4(wal([])[0]) + zeros(512 << 20)), "not the ones"),
        (lambda: compacted(GOOD_SEGMENT) + zeros(512 << 20), "not the ones"),
    ],
    ids=range(14),
)
def test_compacted(build, tmp_path, output, content, said, with_segments):
    """Done without: what the segments say is restored, or nothing of it."""
    objects = {SNAPSHOT: snapshot(), COMPACTED: content()}
    if with_segments:
        objects[SEGMENT] = segment(GOOD_SEGMENT)
    code, lines = restore(build, output, write_replica(tmp_path / "replica", objects))
    assert code == 0, lines
    assert re.search(f"WARN.*{said}.*; restoring without compacted segments", lines), lines
    page = b"w" if with_segments else b"\2"
    assert output.read_bytes() == database()[:PAGE] + page * PAGE


@pytest.mark.parametrize(
    "end, changes, said",
    [
        (0x1038, {"wal_sum": [1, 2]}, f"/{SECOND} is damaged"),
        (0x1038, {"wal_salt": [2, 1]}, f"/{SECOND} is damaged"),
        (0x1000, {"wal_size": 0x1000}, f"is missing in .* before .*/{SECOND}"),
        (0x1039, {"wal_size": 0x1039}, f"is missing in .* before .*/{THIRD}"),
    ],
    ids=range(4),
)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "third damaged"])
def test_compacted_that_nothing_follows(build, tmp_path, output, end, changes, said, whole):
    """It is done without, and what is said of the segments then is true."""
    third = behind(GOOD_SEGMENT + SECOND_FRAMES, THIRD_FRAMES)
    objects = {
        SNAPSHOT: snapshot(),
        SEGMENT: segment(GOOD_SEGMENT),
        SECOND: behind(GOOD_SEGMENT, SECOND_FRAMES),
        THIRD: third if whole else third[:-1],
        f"compacted/00000000_00000000_{end:08x}_1.wal.lz4": compacted(GOOD_SEGMENT, **changes),
    }
    code, lines = restore(build, output, write_replica(tmp_path / "replica", objects))
    assert re.search(f"WARN.*{said}.*, or a compacted one before it is damaged; restoring without", lines), lines
    if whole:
        assert code == 0, lines
        assert output.read_bytes() == database()[:PAGE] + b"x" * PAGE + b"y" * PAGE
    else:
        assert code == 1, lines
        assert re.search(f"{THIRD} is damaged .*: a restore can go to {GENERATION}/00000000:00002050", lines), lines


def test_compacted_further_than_there_are_segments(build, tmp_path, output):
    """As a bucket has it that was copied while it was written, `wal/` first."""
    objects = {SNAPSHOT: snapshot(), SEGMENT: segment(GOOD_SEGMENT)}
    objects[COMPACTED.replace("/00000000", "/00000002")] = compacted([(2, 2, b"c" * PAGE)])
    code, lines = restore(build, output, write_replica(tmp_path / "replica", objects))
    assert code == 0, lines
    assert re.search("WARN.*is missing in .* before .*/compacted/00000002.*; restoring without", lines), lines
    assert output.read_bytes() == database()[:PAGE] + b"w" * PAGE


def test_a_missing_segment_behind_a_damaged_compacted_object(build, tmp_path, output):
    """The segment is what is said to be missing, with how far the others reach."""
    content = compacted(GOOD_SEGMENT)
    objects = {SNAPSHOT: snapshot(), SEGMENT: segment(GOOD_SEGMENT), COMPACTED: content[:20] + b"x" + content[21:]}
    objects[SEGMENT.replace("/00000000", "/00000002")] = segment(GOOD_SEGMENT)
    said = fails(build, output, write_replica(tmp_path / "replica", objects))
    missing = "is missing in .* before .*/wal/00000002_00000000"
    assert re.search(f"{missing}.*: a restore can go to {GENERATION}/00000000:00001038", said), said


@pytest.mark.parametrize(
    "frames, size, said",
    [
        ([(2, 2**32 - 1, b"c" * PAGE)], 2**32 - 1, "has 4294967295 pages, but its segments 2"),
        ([(2**32 - 1, 2, b"c" * PAGE)], 2**32 - 1, "has 4294967295 pages, but its segments 2"),
        ([(2, 2**32 - 1, b"c" * PAGE)], 2, "beyond the database's end"),
        ([(2**32 - 1, 2, b"c" * PAGE)], 2, "beyond the database's end"),
    ],
    ids=range(4),
)
def test_compacted_of_a_database_that_is_too_large(build, tmp_path, output, frames, size, said):
    """Done without, where the segments say that it is smaller."""
    objects = {SNAPSHOT: snapshot(), COMPACTED: compacted(frames, db_size=size)}
    objects[SEGMENT] = segment(GOOD_SEGMENT, db_size=2)
    code, lines = restore(build, output, write_replica(tmp_path / "replica", objects))
    assert code == 0, lines
    assert re.search(f"WARN.*{said}.*; restoring without compacted segments", lines), lines
    assert output.read_bytes() == database()[:PAGE] + b"w" * PAGE


@pytest.mark.parametrize("pages", [2**32 - 1, (MOST_FILE // PAGE) + 1])
@pytest.mark.parametrize("segments", ["one of that size", "a damaged one", "none"])
def test_a_database_that_is_too_large(build, tmp_path, output, pages, segments):
    """That is what is said, not that what is compacted were damaged: nothing tells so."""
    frames = [(2, pages, b"w" * PAGE)]
    objects = {SNAPSHOT: snapshot(), COMPACTED: compacted(frames, db_size=pages)}
    if segments != "none":
        plain = segment(frames, db_size=pages)
        objects[SEGMENT] = plain if segments == "one of that size" else plain[:20] + b"x" + plain[21:]
    code, said = restore(build, output, write_replica(tmp_path / "replica", objects))
    assert code == 1 and "larger than this process may write" in said, said
    assert "WARN" not in said and "damaged" not in said, said


def test_a_size_in_front_of_what_is_compacted_is_not_the_one_that_counts(build, tmp_path, output):
    objects = {SNAPSHOT: snapshot(), COMPACTED: compacted(GOOD_SEGMENT, db_size=2**32 - 1)}
    assert restore(build, output, write_replica(tmp_path / "replica", objects))[0] == 0
    assert output.read_bytes() == database()[:PAGE] + b"w" * PAGE


def test_a_page_beyond_the_database_is_cut_off_again(build, tmp_path, output):
    frames = [(5000, 0, b"x" * PAGE), (2, 2, b"w" * PAGE)]
    folder = write_replica(tmp_path / "replica", {SNAPSHOT: snapshot(), SEGMENT: segment(frames)})
    assert restore(build, output, folder)[0] == 0
    assert output.read_bytes() == database()[:PAGE] + b"w" * PAGE


def test_the_largest_index(build, tmp_path, output):
    folder = write_replica(
        tmp_path / "replica",
        {
            "snapshots/ffffffff.snapshot.lz4": snapshot(),
            "wal/ffffffff_00000000.wal.lz4": segment(GOOD_SEGMENT),
        },
    )
    assert restore(build, output, folder)[0] == 0
    assert output.read_bytes() == database()[:PAGE] + b"w" * PAGE
    output.unlink()
    # What would follow if the numbers began anew.
    write_replica(folder, {SEGMENT: segment(GOOD_SEGMENT), "wal/ffffffff_ffffffff.wal.lz4": b"x"})
    assert "is missing" in fails(build, output, folder)


def test_an_object_of_a_terabyte_of_holes(build, tmp_path, output):
    folder = write_replica(tmp_path / "replica", {SNAPSHOT: snapshot(), SEGMENT: b""})
    os.truncate(folder / "generations" / GENERATION / SEGMENT, 1 << 40)
    assert "damaged" in fails(build, output, folder)


# What an application reads back


def bomb(kind, *options):
    """A right frame, and behind it what takes memory where somebody waits for other objects."""

    def content(told, before):
        behind = None if kind == "compacted" else before
        data = wal([(1, 0, bytes(PAGE))], salt=told["wal_salt"], behind=behind)[0] + bytes(16 << 20)
        packed = subprocess.run(["lz4", "-c", *options], input=data, capture_output=True, check=True).stdout
        return metadata(kind, **told) + packed

    return content


def pages_of(told, size, before, first=1):
    """Right frames for what is told, of a database that is said to have `size` pages."""
    count = told["wal_size"] // (24 + PAGE)
    frames = [(first + i, size * (i + 1 == count), bytes(PAGE)) for i in range(count)]
    data, told["wal_sum"] = wal(frames, salt=told["wal_salt"], behind=before)
    return metadata("segment", **{**told, "db_size": size}) + lz4(data)


@pytest.mark.parametrize(
    "content, said",
    [
        (bomb("segment", "-B5"), "longer than its name says"),
        (bomb("compacted"), "blocks of 4194304 bytes"),
        (bomb("compacted", "-B5"), "frame with a wrong salt"),
        (lambda told, before: pages_of(told, 2**32 - 1 if before else 1, before), None),
        (lambda told, before: pages_of(told, 2, before)[:-1], "cut short"),
        (lambda told, before: pages_of(told, 2, before, first=0), "without a page"),
        (lambda told, _: metadata("segment", **{**told, "page_size": 2**31}), None),
        (lambda *_: b"\xff" * 5000, None),
    ],
    ids=range(8),
)
def test_folding(build, tmp_path, content, said):
    """Who ships goes on, and needs no more memory. What is damaged is passed over, with a word; what is not ours, or
    never can be folded, without one."""
    replica, log = tmp_path / "replica", tmp_path / "log"
    url = f"file://{replica}?sync-interval=1ms"

    def segments():
        return sorted(replica.glob("generations/*/wal/*.lz4"))

    def ship(session, count):
        while len(segments()) < count:
            session.do("insert into t values (null)")
            assert session.shipped() == 1

    with Session(build, tmp_path / "app.db", f"{url}&compaction=false") as session:
        session.do("create table t(id integer primary key)")
        ship(session, 33)
        session.end()
    before = None  # the checksum behind the segment before
    for file in segments()[:32]:
        head = file.read_bytes()[:1024]
        told = json.loads(head[8 : 8 + struct.unpack("<I", head[4:8])[0]])
        told = {key: value for key, value in told.items() if key not in ("sqlstream", "kind", "sum")}
        file.write_bytes(content(told, before))
        before = told["wal_sum"]

    env = harness.clean_environment(SQLSTREAM_LOG=log)
    with Session(build, tmp_path / "app.db", url, env) as session:
        ship(session, 64)
        process = f"/proc/{session.process.pid}"
        with open(f"{process}/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew

        def peak():
            with open(f"{process}/status") as file:
                return int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) << 10

        before = peak()
        ship(session, 70)
        harness.wait_until(lambda: list(replica.glob("generations/*/compacted/*.lz4")), "the others to be folded")
        if "asan" not in build.dir.name:
            assert peak() - before < MOST_FOLDING
        warnings = [line for line in log.read_text().splitlines() if "is damaged" in line]
        assert len(warnings) == bool(said) and (not said or said in warnings[0]), warnings
        ship(session, 72)
        session.end()
    assert len(list(replica.glob("generations/*"))) == 1


# What is in a folder besides files


def test_links_and_pipes_are_no_objects(build, tmp_path, output):
    outside = write_replica(tmp_path / "outside", {SNAPSHOT: snapshot(), SEGMENT: segment(GOOD_SEGMENT)})
    theirs = outside / "generations" / GENERATION
    folder = tmp_path / "replica" / "generations" / GENERATION
    (folder / "snapshots").mkdir(parents=True)
    (folder / "snapshots/00000000.snapshot.lz4").symlink_to(theirs / SNAPSHOT)
    os.mkfifo(folder / "snapshots/00000001.snapshot.lz4")
    assert "no matching backups found" in fails(build, output, tmp_path / "replica")
    # Not where a folder is a link, either.
    (folder.parent / "fedcba9876543210").symlink_to(theirs)
    assert "no matching backups found" in fails(build, output, tmp_path / "replica")
    (folder.parent / "fedcba9876543211").mkdir()
    (folder.parent / "fedcba9876543211/snapshots").symlink_to(theirs / "snapshots")
    assert "no matching backups found" in fails(build, output, tmp_path / "replica")
    # The replica itself may be one: that is the reader's own choice.
    (tmp_path / "link").symlink_to(outside)
    assert restore(build, output, tmp_path / "link")[0] == 0


def test_links_in_a_circle(build, tmp_path, output):
    folder = write_replica(tmp_path / "replica", {SNAPSHOT: snapshot(), SEGMENT: segment(GOOD_SEGMENT)})
    for place in ("", "generations", f"generations/{GENERATION}/wal"):
        for name in ("a", "b", "c"):
            (folder / place / name).symlink_to(".")
        (folder / place / "root").symlink_to("/")
    assert restore(build, output, folder)[0] == 0


# A bucket whose listing says what no folder can


class Bucket:
    """Answers as S3 does, with any keys. `objects`: key to body; `listed`: key to size."""

    def __init__(self, objects, listed=None, endless=False):
        self.objects, self.endless = objects, endless
        self.listed = {key: len(body) for key, body in objects.items()} if listed is None else listed
        self.keys = sorted(self.listed)
        self.read = set()

    def list(self, query):
        prefix, delimiter, after = query.get("prefix", ""), query.get("delimiter"), query.get("start-after", "")
        begin = int(query.get("continuation-token", 0))
        keys = [key for key in self.keys if key.startswith(prefix) and key > after]
        said, folders = [], set()
        for key in keys[begin : begin + 1000]:
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                continue
            said.append(
                f"<Contents><Key>{urllib.parse.quote_from_bytes(key.encode())}</Key>"
                f"<Size>{self.listed[key]}</Size>"
                "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            )
        said += [
            f"<CommonPrefixes><Prefix>{urllib.parse.quote(name)}</Prefix></CommonPrefixes>"
            for name in sorted(folders)
        ]
        if begin + 1000 < len(keys) or self.endless:
            token = 7 if self.endless else begin + 1000
            said.append("<IsTruncated>true</IsTruncated>")
            said.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
        return (
            "<ListBucketResult><EncodingType>url</EncodingType>" + "".join(said) + "</ListBucketResult>"
        ).encode()


@contextlib.contextmanager
def serving(bucket):
    """The replica's URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            url = urllib.parse.urlsplit(self.path)
            key = urllib.parse.unquote(url.path).removeprefix("/bucket").removeprefix("/")
            query = dict(urllib.parse.parse_qsl(url.query))
            status = 200
            if not key:
                body = bucket.list(query)
            else:
                bucket.read.add(key)
                body = bucket.objects.get(key, b"<Error><Code>NoSuchKey</Code></Error>")
                status = 200 if key in bucket.objects else 404
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            # Whoever has read enough hangs up.
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield f"s3://bucket/r?endpoint={endpoint}&region=us-east-1&force-path-style=true"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def credentials():
    return harness.clean_environment(AWS_ACCESS_KEY_ID="tester", AWS_SECRET_ACCESS_KEY="secret")


PREFIX = f"r/generations/{GENERATION}/"
GOOD_OBJECTS = {PREFIX + SNAPSHOT: snapshot(), PREFIX + SEGMENT: segment(GOOD_SEGMENT)}
BAD_KEYS = [
    "../../../../../../tmp/evil",
    "/etc/passwd",
    "..",
    ".",
    "",
    "wal/../../x",
    "wal/00000000_00000000.wal.lz4/../../../../x",
    "wal/00000000_00000000.wal.lz4\0",
    "wal/0000000\0_00000000.wal.lz4",
    "wal/FFFFFFFF_00000000.wal.lz4",
    "wal/100000000_00000000.wal.lz4",
    "wal/-0000001_00000000.wal.lz4",
    "wal/00000000_00000000.wal.lz4.tmp",
    "wal/" + "f" * 900 + ".wal.lz4",
    "snapshots/../00000000.snapshot.lz4",
    "snapshots/00000000.snapshot.lz4\n",
    "snapshots/\N{SNOWMAN}0000000.snapshot.lz4",
]


def test_keys_that_are_no_names(build, output):
    keys = [PREFIX + key for key in BAD_KEYS]
    keys += ["r/generations/../x", "r/generations/..", "r/generations//snapshots/x", "other/generations/x"]
    keys += [f"r/generations/{GENERATION.upper()}/{SNAPSHOT}", f"r/generations/\0/{SNAPSHOT}"]
    bucket = Bucket({**GOOD_OBJECTS, **dict.fromkeys(keys, b"evil")})
    with serving(bucket) as url:
        assert restore(build, output, url, env=credentials())[0] == 0
    assert output.read_bytes() == database()[:PAGE] + b"w" * PAGE
    assert bucket.read == set(GOOD_OBJECTS)


def test_a_hundred_thousand_keys(build, output):
    listed = {key: len(body) for key, body in GOOD_OBJECTS.items()}
    for number in range(1, 50_000):
        listed[f"{PREFIX}wal/00000000_{number * 4152 % 2**32:08x}.wal.lz4"] = 2**63
        listed[f"{PREFIX}wal/{number}"] = 2**64 - 1
    with serving(Bucket(GOOD_OBJECTS, listed)) as url:
        said = fails(build, output, url, env=credentials())
    assert re.search("missing|not found|NoSuchKey|no such", said, re.I), said


@pytest.mark.parametrize("key", GOOD_OBJECTS)
@pytest.mark.parametrize("size", [0, 1, 10**6, 2**63, 2**64 - 1])
def test_sizes_that_are_not_true(build, output, key, size):
    listed = {name: len(body) for name, body in GOOD_OBJECTS.items()} | {key: size}
    with serving(Bucket(GOOD_OBJECTS, listed)) as url:
        assert "has not the size that was listed" in fails(build, output, url, env=credentials())


def test_objects_that_are_larger_than_listed_are_not_taken_in(build, output):
    large = b"\0" * (16 << 20)
    objects, listed = dict(GOOD_OBJECTS), {PREFIX + SNAPSHOT: len(GOOD_OBJECTS[PREFIX + SNAPSHOT])}
    for number in range(100):
        key = f"{PREFIX}wal/00000000_{number * 4152:08x}.wal.lz4"
        objects[key], listed[key] = large, 1000
    with serving(Bucket(objects, listed)) as url:
        assert "is longer than expected" in fails(build, output, url, env=credentials())


def test_a_listing_without_an_end(build, output):
    with serving(Bucket(GOOD_OBJECTS, endless=True)) as url:
        assert "not S3's" in fails(build, output, url, env=credentials())
