"""`meson install`: what lands where, and that it works from there."""

import json
import os
import shutil

import pytest

import harness


@pytest.fixture(scope="module")
def installed(build, tmp_path_factory):
    """The prefix, and the folder of libraries, of an installation into a folder of its own."""
    meson = shutil.which("meson")
    if meson is None:
        pytest.skip("meson is not installed")
    root = tmp_path_factory.mktemp("root")
    harness.run([meson, "install", "-C", build.dir, "--no-rebuild"],
                env=harness.clean_environment(DESTDIR=root))
    options = json.loads(harness.run([meson, "introspect", build.dir, "--buildoptions"]).stdout)
    option = {each["name"]: each["value"] for each in options}
    prefix = root / option["prefix"].lstrip("/")
    return root, prefix, prefix / option["libdir"]


def test_what_lands_where(installed):
    root, prefix, libraries = installed
    files = {path for path in root.rglob("*") if not path.is_dir()}
    programs = {prefix / "bin/sqlstream", prefix / "bin/sqlstream-restore"}
    assert files >= programs | {libraries / "sqlstream.so", libraries / "sqlstream-preload.so"}
    assert all(path.stat().st_mode & 0o777 == 0o755 for path in programs)
    code = {path for path in files if path.suffix in (".so", ".a", ".h") or os.access(path, os.X_OK)}
    assert code == programs | {libraries / "sqlstream.so", libraries / "sqlstream-preload.so"}


def test_run_finds_the_libraries_installed_with_it(installed, litestream, tmp_path):
    _, prefix, libraries = installed
    database, replica = tmp_path / "app.db", tmp_path / "replica"
    script = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(f'file:{sys.argv[1]}?vfs=sqlstream', uri=True)\n"
        "db.execute('create table t(x)')\n"
        "db.close()\n"
        "print(*sorted({line.split()[-1] for line in open('/proc/self/maps')"
        " if 'sqlstream' in line}), sep='\\n')\n"
    )
    said = harness.run(
        [prefix / "bin/sqlstream", "run", "-replica", f"file://{replica}", "--",
         "/usr/bin/python3", "-c", script, database]
    ).stdout  # fmt: skip
    assert said.split() == [str(libraries / "sqlstream-preload.so"), str(libraries / "sqlstream.so")]
    harness.run([prefix / "bin/sqlstream", "restore", "-o", tmp_path / "ours.db", f"file://{replica}"])
    harness.run([prefix / "bin/sqlstream-restore", "-o", tmp_path / "alone.db", f"file://{replica}"])
    litestream.restore(tmp_path / "theirs.db", replica)
    for name in ("ours.db", "alone.db", "theirs.db"):
        harness.compare_databases(database, tmp_path / name)


def test_the_extension_loads_by_its_installed_path(installed, tmp_path):
    _, prefix, libraries = installed
    version = harness.run([prefix / "bin/sqlstream", "version"]).stdout.strip()
    script = f".load {libraries}/sqlstream\nselect sqlstream_version();\n"
    said = harness.run(["sqlite3", "-batch", "-bail", ":memory:"], input=script).stdout.strip()
    assert version and said == version
    # By its name alone, where the loader finds it: as a distribution's package has it.
    script = ".load sqlstream\nselect sqlstream_version();\n"
    env = harness.clean_environment(LD_LIBRARY_PATH=libraries)
    assert harness.run(["sqlite3", "-batch", "-bail", ":memory:"], env=env, input=script).stdout.strip() == said
