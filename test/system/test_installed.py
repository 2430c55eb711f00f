"""What is installed beside the programs: completions in real shells, manual pages."""

import json
import re
import shutil

import pytest

import harness

PROGRAMS = ("sqlstream", "sqlstream-restore")


def need(program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.fixture
def files(build):
    return build.dir / "tools"


@pytest.fixture
def commands(build):
    """Those that the help names."""
    said = harness.run([build.sqlstream, "help"]).stdout
    found = set(re.findall(r"^\s+([a-z]+)\s{2,}", said, re.M))
    assert found >= {"databases", "generations", "snapshots", "wal", "restore", "run", "version"}
    return found - {"help"}


@pytest.fixture
def helps(build, commands):
    """The help of every command, by what is typed before the flags."""
    said = {c: harness.run([build.sqlstream, c, "-help"]).stdout for c in sorted(commands)}
    return {
        **{f"sqlstream {command}": text for command, text in said.items()},
        "sqlstream-restore": harness.run([build.sqlstream_restore, "-help"]).stdout,
    }


def flags_in(usage):
    return set(re.findall(r"^  (-[a-z-]+)", usage, re.M))


def bash(files, folder, *words):
    """What bash offers for the last of the words, by the function that the script registers."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""
source {files}/{words[0]}.bash
function=$(complete -p {words[0]} | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=({quoted})
COMP_CWORD={len(words) - 1}
"$function"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    result = harness.run(["bash", "--norc", "-u", "-c", script], cwd=folder)
    assert result.stderr == ""
    return set(result.stdout.split("\n")) - {""}


def test_bash_completes_commands_and_flags(files, helps, tmp_path, commands):
    assert bash(files, tmp_path, "sqlstream", "") == commands | {"help"}
    assert bash(files, tmp_path, "sqlstream", "rest") == {"restore"}
    assert bash(files, tmp_path, "sqlstream", "help", "wa") == {"wal"}
    for called, usage in helps.items():
        offered = bash(files, tmp_path, *called.split(), "-")
        assert offered == flags_in(usage) | {"-help"}
        doubled = bash(files, tmp_path, *called.split(), "--")
        assert doubled == {f"-{flag}" for flag in offered}
    assert bash(files, tmp_path, "sqlstream", "restore", "x", "-if-r") == {"-if-replica-exists"}


def test_bash_completes_files_where_files_belong(files, tmp_path):
    for name in ("app.db", "app two.db", "other.yml"):
        (tmp_path / name).touch()
    apps = {"app.db", "app two.db"}
    assert bash(files, tmp_path, "sqlstream", "wal", "app") == apps
    assert bash(files, tmp_path, "sqlstream", "restore", "-o", "app") == apps
    assert bash(files, tmp_path, "sqlstream", "restore", "--o", "=", "app") == apps
    assert bash(files, tmp_path, "sqlstream", "wal", "-config", "=") == apps | {"other.yml"}
    assert bash(files, tmp_path, "sqlstream-restore", "-v", "app") == apps
    assert "bash" in bash(files, tmp_path, "sqlstream", "run", "--", "bas")
    # A name, a number, and nothing at all are not files.
    assert bash(files, tmp_path, "sqlstream", "wal", "-replica", "app") == set()
    assert bash(files, tmp_path, "sqlstream", "restore", "-parallelism", "") == set()
    assert bash(files, tmp_path, "sqlstream", "databases", "app") == set()


def test_fish_completes(files, helps, tmp_path, commands):
    need("fish")
    (tmp_path / "app.db").touch()

    def offered(line):
        program = line.split()[0]
        script = f"source {files}/{program}.fish; complete -C '{line}'"
        env = harness.clean_environment(HOME=tmp_path, XDG_CONFIG_HOME=tmp_path / "c")
        said = harness.run(["fish", "--no-config", "-c", script], cwd=tmp_path, env=env).stdout
        return {entry.split("\t")[0] for entry in said.splitlines()}

    assert offered("sqlstream ") == commands | {"help"}
    for called, usage in helps.items():
        assert offered(f"{called} -") >= flags_in(usage)
    assert "app.db" in offered("sqlstream restore -o ap")
    assert "app.db" in offered("sqlstream wal ap")
    assert "app.db" not in offered("sqlstream wal -replica ap")


def test_zsh_completes(files, helps, commands):
    need("zsh")

    def offered(*words):
        # What the script hands to zsh's own functions.
        script = f"""
_describe() {{ print -rl -- $commands }}
_arguments() {{ print -rl -- "$@" }}
words=({' '.join(words)} '') CURRENT={len(words) + 1}
complete_it() {{ source {files}/_{words[0]} }}
complete_it
"""
        result = harness.run(["zsh", "-f", "-c", script])
        assert result.stderr == ""
        return result.stdout.splitlines()

    assert {line.split(":")[0] for line in offered("sqlstream")} == commands | {"help"}
    for called, usage in helps.items():
        lines = offered(*called.split())
        flags = {line.split("[")[0] for line in lines if line.startswith("-")}
        assert flags == flags_in(usage)
    for program in PROGRAMS:
        assert (files / f"_{program}").read_text().startswith(f"#compdef {program}\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_manual_pages_are_sound_and_complete(files, helps, program):
    need("man")
    env = harness.clean_environment(LC_ALL="C.UTF-8", MANWIDTH="100", MAN_KEEP_FORMATTING="")
    page = harness.run(["man", "--warnings", "-l", files / f"{program}.1"], env=env)
    assert page.stderr == ""
    text = re.sub(r".\x08", "", page.stdout)
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "ENVIRONMENT", "EXAMPLES"):
        assert re.search(f"^{section}$", text, re.M)
    for called, usage in helps.items():
        if called.split()[0] != program:
            continue
        assert called in text
        for flag in flags_in(usage):
            assert re.search(rf"^ +{flag}\b", text, re.M), flag


def test_they_are_installed_where_they_are_looked_for(build):
    places = json.loads(harness.run(["meson", "introspect", "--installed", build.dir]).stdout)
    installed = set(places.values())
    for program in PROGRAMS:
        for place in (
            f"/bin/{program}",
            f"/share/bash-completion/completions/{program}.bash",
            f"/share/zsh/site-functions/_{program}",
            f"/share/fish/vendor_completions.d/{program}.fish",
            f"/share/man/man1/{program}.1",
        ):
            assert any(path.endswith(place) for path in installed), place
