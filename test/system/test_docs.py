"""What the documents in doc/ tell people to type is run here, as it stands there, against MinIO.

In the order of each document: a block whose first line is a comment with a path is that file; an `sh` block is run by
bash, where each command must succeed. The names that the documents use are mapped: "/srv/", "/etc/" and "/rails/" to
folders of the test, "mybucket" to its bucket, a service's host to MinIO, points in time and generations to the
database's own. `docker`, `kamal` and `sudo` run the sqlstream command behind them, `systemctl` does nothing.
"""

import datetime
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import textwrap
import time
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import boto3
import botocore.config
import pytest

import conftest
import harness
from test_readme import sources

DOC = harness.ROOT / "doc"
TIME = re.compile(r"\b2026-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)")
GENERATION = "6d035c34639a8e8f"
# Programs of the documents that do not exist in a test: each runs the command of ours that it is given, if any.
WRAPPER = """#!/bin/bash
[[ $1 == build ]] && exit
while (($#)); do
  case $1 in
    sqlstream | litestream | sqlite3) exec "$@" ;;
    sqlstream\\ * | litestream\\ *) exec bash -euc "$*" ;;
  esac
  shift
done
"""
CONFIG = "dbs:\n  - path: /srv/app/app.db\n    replicas: [{url: s3://mybucket/app.db}]\n"
WRONG = re.compile(r"^.*(flag provided but not defined|flag needs an argument|unknown command|usage: ).*$", re.M)
# Notes what is said, also where a script goes on. Without -exec, `replicate` would never end: one signal, since a
# second one would make it give up.
RECORDER = """#!/bin/bash
case "$1 $*" in
  "replicate "*-exec*) limit=() ;;
  "replicate "*) limit=(timeout --foreground --preserve-status -s TERM 5) ;;
esac
"${limit[@]}" PROGRAM "$@" 2> >(tee -a SAID >&2)
"""


@dataclass
class Block:
    document: str
    heading: str
    language: str
    text: str

    @property
    def file(self):
        """The file that this block is."""
        found = re.match(r"(?:#!.*\n)?(?:#|//) ((?:/|\w+/)[\w./@-]+)\n", self.text)
        return found and found[1]

    @property
    def script(self):
        """What of it is to be run: a script, or the commands that a container or unit starts."""
        if self.language == "sh" and not self.file:
            return self.text
        if self.language == "dockerfile":
            return "".join(shlex.join(json.loads(words)) + "\n" for words in re.findall(r"^CMD (.*)$", self.text, re.M))
        if self.language == "ini":
            return "".join(f"{line}\n" for line in re.findall(r"^ExecStart(?:Pre)?=(.*)$", self.text, re.M))
        return ""

    def __str__(self):
        return f"{self.document}, {self.heading!r}:\n{self.text}"


def blocks(document):
    heading, found = "", []
    text = (harness.ROOT / document).read_text()
    for match in re.finditer(r"^(#+ [^\n]*)$|^( *)```(\w*)\n(.*?)^\2```$", text, re.M | re.S):
        if match[1]:
            heading = match[1].lstrip("# ")
        else:
            found.append(Block(document, heading, match[3], textwrap.dedent(match[4])))
    return found


def without_blocks(text):
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.M | re.S)


class Reader:
    """Somebody with an installed sqlstream, a bucket, and the database /srv/app/app.db replicated to it."""

    def __init__(self, build, minio, folder, stock):
        self.build, self.minio, self.folder = build, minio, folder
        self.bucket = minio.bucket()
        self.database = folder / "srv/app/app.db"
        self.said, self.moment, self.count = folder / "said", "", 0
        programs = folder / "bin"
        for each in (programs, self.database.parent, folder / "etc", folder / "rails/storage", folder / "work"):
            each.mkdir(parents=True)
        for program in (build.sqlstream, build.sqlstream_restore, stock):
            recorder = RECORDER.replace("PROGRAM", str(program)).replace("SAID", str(self.said))
            self.program(programs / program.name, recorder)
        for name in ("docker", "kamal", "sudo"):
            self.program(programs / name, WRAPPER)
        self.program(programs / "systemctl", "#!/bin/sh\n")
        self.env = minio.env(
            PATH=f"{programs}:{os.environ['PATH']}",
            LD_LIBRARY_PATH=build.dir / "vfs",
            AWS_ENDPOINT_URL_S3=minio.endpoint,
            SQLSTREAM_CONFIG=folder / "etc/sqlstream.yml",
        )
        server = f'#!/bin/sh\nsqlite3 {self.database} "INSERT INTO note(text) VALUES (\'served\')"\n'
        for place in ("bin/server", "/srv/app/bin/server"):
            self.write(place, server)
        self.write("/etc/sqlstream.yml", CONFIG)
        self.sql("CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT)", "INSERT INTO note(text) VALUES ('first')")
        time.sleep(0.002)
        self.moment = datetime.datetime.now(datetime.timezone.utc).isoformat()
        time.sleep(0.002)
        self.sql("INSERT INTO note(text) VALUES ('second')")

    @staticmethod
    def program(file, text):
        file.write_text(text)
        if text.startswith("#!"):
            file.chmod(0o755)

    def mapped(self, text):
        text = re.sub(r"(?<![\w}])/(srv|etc|rails)/", rf"{self.folder}/\1/", text)
        text = text.replace("/usr/bin/sqlstream", str(self.folder / "bin/sqlstream"))
        text = re.sub(r"mybucket\.[\w.-]+(?=/)", f"{self.bucket}.localhost:{self.minio.port}", text)
        text = re.sub(r"https://[\w.-]+(:9000)?", self.minio.endpoint, text)
        text = re.sub(r"\bmybucket\b", self.bucket, text)
        text = TIME.sub(self.moment, text)
        return text.replace(GENERATION, self.generation()) if GENERATION in text else text

    def generation(self):
        keys = self.minio.keys(self.bucket, "app.db/")
        return sorted({key.split("/")[2] for key in keys})[0]

    def write(self, name, text):
        file = self.folder / "work" / self.mapped(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        self.program(file, self.mapped(text))

    def sql(self, *statements, database=None):
        """As the application does it: through sqlstream, until it is shipped."""
        self.run(f".load {self.build.extension.with_suffix('')}\n.open file:{database or self.database}?vfs=sqlstream\n"
                 + "".join(f"{each};\n" for each in statements) + "SELECT sqlstream_wait(60000);\n",
                 "sqlite3", "-batch", "-bail", ":memory:")  # fmt: skip

    def run(self, input, *command, check=True):
        return harness.run(command, input=input, check=check, env=self.env, cwd=self.folder / "work", timeout=300)

    def follow(self, block):
        if block.file:
            self.write(block.file, block.text)
        if block.script:
            try:
                self.count += 1
                self.run(None, "bash", "-euo", "pipefail", "-c", self.mapped(block.script))
            except AssertionError as error:
                raise AssertionError(f"{block}\n{error}") from None
            finally:
                self.check_what_was_said(block)

    def check_what_was_said(self, block):
        """A wrong flag shows the usage, whatever the script does with the failure."""
        said = self.said.read_text() if self.said.exists() else ""
        wrong = WRONG.search(said)
        assert wrong is None, f"{block}\n{wrong[0]}"

    def notes(self, file):
        with closing(sqlite3.connect(self.folder / "work" / file)) as connection:
            return [text for (text,) in connection.execute("SELECT text FROM note ORDER BY id")]


def rows_are_deleted(reader):
    reader.sql("DELETE FROM note WHERE text = 'first'")


def the_server_dies(reader):
    reader.sql("INSERT INTO note(text) VALUES ('third')")
    shutil.rmtree(reader.database.parent)


def the_application_runs(reader):
    """The databases of /etc/sqlstream.yml exist, as the application made them."""
    for path in re.findall(r"path: (/.*)", (reader.folder / "etc/sqlstream.yml").read_text()):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        reader.sql("CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, text TEXT)", database=path)


# What happens to the database before somebody reads a section.
ACCIDENTS = {
    "After an accidental deletion": rows_are_deleted,
    "After a failed migration": rows_are_deleted,
    "After a server died": the_server_dies,
    "Is it working?": the_application_runs,
}


def check_restore(reader, after):
    restored = {"restored.db", "then.db", "generation.db", "copy.db", "before.db", "newest.db"}
    assert restored <= {file.name for file in (reader.folder / "work").iterdir()}
    assert reader.notes("then.db") == reader.notes("before.db") == ["first"]
    for name in ("restored.db", "generation.db", "copy.db", reader.folder / "srv/dev/app.db"):
        assert reader.notes(name) == ["first", "second"]
    assert after["After an accidental deletion"] == ["first", "second"]
    assert after["After a failed migration"] == ["first"]
    assert after["After a server died"] == reader.notes("newest.db") == ["first", "third"]


def check_stores(reader, after):
    assert reader.notes("restored.db") == ["first", "second"]


def check_rails(reader, after):
    assert any("/wal/" in key for key in reader.minio.keys(reader.bucket, "production/generations/"))


def check_docker(reader, after):
    assert after["An image"] == ["first", "second", "served"]
    assert after["Two ways to start the program"] == ["first", "second", "served", "served"]
    assert reader.notes(reader.folder / "srv/app/then.db") == ["first"]


def check_systemd(reader, after):
    assert after["In the program"] == after["Beside the program"] == ["first", "second", "served"]


def check_litestream(reader, after):
    assert reader.notes("restored.db") == ["first", "second"]
    assert reader.notes("again.db") == ["first", "second"]
    assert not list(reader.database.parent.glob(".app.db-*stream"))


def check_troubleshooting(reader, after):
    assert "replicating" in reader.run(None, "sqlstream", "status").stdout


CHECKS = {
    "docker.md": check_docker,
    "litestream.md": check_litestream,
    "rails.md": check_rails,
    "restore.md": check_restore,
    "stores.md": check_stores,
    "systemd.md": check_systemd,
    "troubleshooting.md": check_troubleshooting,
}


@pytest.fixture
def reader(build, minio, litestream, tmp_path):
    return Reader(build, minio, tmp_path, litestream.binary)


@pytest.mark.parametrize("guide", CHECKS)
def test_each_command_of(reader, guide):
    after = {}  # what the database holds after each section
    for heading, parts in itertools.groupby(blocks(f"doc/{guide}"), lambda block: block.heading):
        if heading in ACCIDENTS:
            ACCIDENTS[heading](reader)
        for part in parts:
            reader.follow(part)
        after[heading] = reader.notes(reader.database)
    assert reader.count > 0
    CHECKS[guide](reader, after)


def test_the_commands_of_the_readme_that_do_not_end(reader):
    """Those of `sqlstream replicate`; test_readme.py runs the others."""
    readme = (harness.ROOT / "README.md").read_text()
    commands = re.findall(r"^    (sqlstream replicate .*)$", readme, re.M)
    assert len(commands) == 3
    reader.write("/etc/litestream.yml", CONFIG)
    reader.program(reader.folder / "bin/app", (reader.folder / "work/bin/server").read_text())
    for command in commands:
        reader.follow(Block("README.md", "Using it", "sh", command + "\n"))
    reader.run(None, "sqlstream", "restore", "-o", "x.db", reader.mapped("s3://mybucket/app.db"))
    assert reader.notes("x.db") == ["first", "second", "served"]


def test_no_guide_is_forgotten():
    with_commands = {
        file.name for file in DOC.glob("*.md") if any(block.script for block in blocks(f"doc/{file.name}"))
    }
    assert with_commands == set(CHECKS)
    # A block in another language would be run by nobody, and neither would a command in an indented one.
    for file in DOC.glob("*.md"):
        known = {"sh", "yaml", "ini", "dockerfile", "ruby", "json", "text"}
        assert {block.language for block in blocks(f"doc/{file.name}")} <= known, file
        assert not re.search(r"^    +(sqlstream|litestream) ", without_blocks(file.read_text()), re.M), file


def test_flags_in_the_text_are_known(build):
    """Of the commands that are named in a sentence, and so run by nobody."""
    helps, named = {}, 0
    for file in [harness.ROOT / "README.md", *DOC.glob("*.md")]:
        text = without_blocks(file.read_text())
        for command, rest in re.findall(r"`sqlstream\s+(?:help\s+)?([a-z]+)([^`]*)`", text):
            if command not in helps:
                helps[command] = harness.run([build.sqlstream, "help", command]).stdout
                assert helps[command].startswith(f"usage: sqlstream {command}"), f"{file}: {command}"
            for flag in re.findall(r"(?<=\s)-[a-z][\w-]*", rest.split(" -- ")[0]):
                named += 1
                assert re.search(rf"^  {flag}\b", helps[command], re.M), f"{file}: {command} {flag}"
    assert named > 0


def anchor(heading):
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("file", sorted(DOC.glob("*.md")), ids=lambda file: file.name)
def test_links_lead_somewhere(file):
    for path, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", file.read_text()):
        target = (DOC / path).resolve() if path else file
        assert target.is_file(), path
        headings = {anchor(line.lstrip("# ")) for line in target.read_text().splitlines() if line.startswith("#")}
        assert not heading or heading in headings, f"{path}#{heading}"


def test_a_wrong_flag_is_noticed(reader):
    for text in ("sqlstream restore -o x.db -no-such s3://mybucket/app.db || echo no\n",
                 "docker run -it app sqlstream wal --nosuch s3://mybucket/app.db || true\n",
                 "kamal app exec 'sqlstream nosuch' || true\n"):  # fmt: skip
        reader.said.unlink(missing_ok=True)
        with pytest.raises(AssertionError, match="not defined|unknown command"):
            reader.follow(Block("doc/x.md", "x", "sh", text))


# Of each replica URL in stores.md: the endpoint and the region that follow from it.
SERVICES = {
    "s3://mybucket/app.db": (None, None),
    "s3://mybucket.s3.eu-central-1.amazonaws.com/app.db": ("https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
    "s3://mybucket/app.db?endpoint=https://minio.example:9000": ("https://minio.example:9000", "asked from the service"),
    "s3://mybucket.s3.eu-central-003.backblazeb2.com/app.db": (
        "https://s3.eu-central-003.backblazeb2.com", "eu-central-003"),
    "s3://mybucket.0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com/app.db": (
        "https://0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com", "auto"),
    "s3://mybucket.fra1.digitaloceanspaces.com/app.db": ("https://fra1.digitaloceanspaces.com", "fra1"),
}  # fmt: skip


def test_each_url_leads_to_its_service(build, tmp_path):
    """As `sqlstream config` understands them; nothing is asked there."""
    assert set(re.findall(r"`(s3://.*?)`", (DOC / "stores.md").read_text())) == set(SERVICES)
    config = tmp_path / "c.yml"
    for url, (endpoint, region) in SERVICES.items():
        config.write_text(json.dumps({"dbs": [{"path": "/x.db", "replicas": [{"url": url}]}]}))
        shown = json.loads(harness.run([build.sqlstream, "config", "-json", "-config", config]).stdout)
        values = {each["setting"]: each["value"] for each in shown if each["replica"]}
        assert (values["bucket"], values["path"]) == ("mybucket", "app.db")
        assert endpoint is None or (values["endpoint"], values["region"]) == (endpoint, region)


def assume(minio, policy):
    """Credentials of MinIO's that may do what the policy allows."""
    client = boto3.client(
        "sts", endpoint_url=minio.endpoint, region_name=minio.region,
        aws_access_key_id=minio.user, aws_secret_access_key=minio.password,
        config=botocore.config.Config(proxies={}),
    )  # fmt: skip
    return client.assume_role(RoleArn="arn:xxx:xxx:xxx:xxxx", RoleSessionName="test", Policy=policy)["Credentials"]


@pytest.fixture
def with_policy(reader):
    """Becomes somebody who may do what a policy of stores.md allows."""

    def become(number):
        policies = [block for block in blocks("doc/stores.md") if block.language == "json"]
        granted = assume(reader.minio, reader.mapped(policies[number].text))
        reader.env.update(
            AWS_ACCESS_KEY_ID=granted["AccessKeyId"], AWS_SECRET_ACCESS_KEY=granted["SecretAccessKey"],
            AWS_SESSION_TOKEN=granted["SessionToken"],
        )  # fmt: skip

    return become


def test_the_policy_is_enough_to_replicate(reader, with_policy):
    with_policy(0)
    reader.sql("INSERT INTO note(text) VALUES ('third')")
    reader.follow(Block("", "", "sh", "sqlstream verify -full /srv/app/app.db\n"))
    # Nor does it allow more: the database beside it is another's.
    other = reader.mapped("s3://mybucket/other.db")
    refused = reader.run(None, "sqlstream", "restore", "-o", "x.db", other, check=False)
    assert refused.returncode == 1 and "access is denied" in refused.stderr


def test_the_policy_for_restoring_restores_and_writes_nothing(reader, with_policy):
    with_policy(1)
    reader.follow(Block("", "", "sh", "sqlstream restore -o x.db s3://mybucket/app.db\n"))
    assert reader.notes("x.db") == ["first", "second"]
    refused = reader.run(None, "sqlstream", "verify", "-timeout", "5s", reader.database, check=False)
    assert refused.returncode == 1 and "access is denied" in refused.stderr


RACK = """
require_relative "config/sqlstream"
# A connection of the parent's, to make sure that it harms nobody.
parent = SQLite3::Database.new(ENV.fetch("DATABASE"))
parent.execute("CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, text TEXT)")
parent.close
run lambda { |env|
  $db ||= SQLite3::Database.new(ENV.fetch("DATABASE")).tap { |db| db.busy_timeout(30_000) }
  $db.execute("INSERT INTO note(text) VALUES (?)", [Process.pid.to_s])
  [200, {"content-type" => "text/plain"}, [Process.pid.to_s]]
}
"""


def test_rails_loader_in_the_workers_of_puma(reader, processes):
    """Two workers of a preloaded application write; one of them is killed; all that was written is restored."""
    puma = shutil.which("puma")
    if puma is None or not Path("/usr/lib/ruby/vendor_ruby/sqlite3.rb").exists():
        pytest.skip("puma and the gem sqlite3 are not installed: Debian's packages puma and ruby-sqlite3")
    for block in blocks("doc/rails.md"):
        if block.language in ("ruby", "yaml"):
            reader.follow(block)
    database = reader.folder / "rails/storage/production.sqlite3"
    work, port = reader.folder / "work", harness.free_port()
    (work / "config.ru").write_text(RACK)
    server = harness.Process(
        [puma, "-C", "config/puma.rb", "-b", f"tcp://127.0.0.1:{port}", "-e", "production"],
        env={**reader.env, "DATABASE": str(database)}, cwd=work, log=work / "puma.log",
    )  # fmt: skip
    processes.append(server)

    def write():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                return answer.read().decode()
        except OSError:
            return None

    harness.wait_until(write, f"puma: {server.said()}")
    workers = set()
    harness.wait_until(lambda: workers.add(write()) or len(workers - {None}) >= 2, "both workers")
    os.kill(int(min(workers - {None})), signal.SIGKILL)
    harness.wait_until(lambda: workers.add(write()) or len(workers - {None}) >= 3, "a third worker")
    server.stop()
    reader.follow(Block("", "", "sh", "sqlstream sync /rails/storage/production.sqlite3\n"
                        "sqlstream restore -o x.db s3://mybucket/production\n"))  # fmt: skip
    harness.compare_databases(harness.checkpointed_copy(database, work / "source.db"), work / "x.db")
    assert set(reader.notes("x.db")) == workers - {None}


def versions_asked_for(file):
    """Of each library, the newest symbol version that a file needs, as (name, (2, 34))."""
    newest = {}
    for name, version in re.findall(r"\b(GLIBC|GLIBCXX)_([0-9.]+)\b", harness.run(["objdump", "-T", file]).stdout):
        parts = tuple(int(part) for part in version.split("."))
        newest[name] = max(newest.get(name, (0,)), parts)
    return newest


def test_platforms_names_what_the_built_files_ask_for(build):
    text = (DOC / "platforms.md").read_text()
    if "Debian GNU/Linux 12" not in Path("/etc/os-release").read_text():
        pytest.skip("the document's versions are those of a build on Debian 12")
    newest, libraries = {}, set()
    for file in (build.extension, build.preload, build.sqlstream, build.sqlstream_restore):
        for name, version in versions_asked_for(file).items():
            newest[name] = max(newest.get(name, (0,)), version)
        libraries |= set(re.findall(r"NEEDED +(\S+)", harness.run(["objdump", "-p", file]).stdout))
    (glibc,) = re.findall(r"glibc ([0-9.]+) or newer", text)
    (glibcxx,) = re.findall(r"GLIBCXX_([0-9.]+)", text)
    dotted = {name: ".".join(str(part) for part in version) for name, version in newest.items()}
    assert dotted == {"GLIBC": glibc, "GLIBCXX": glibcxx}
    system = r"lib(c|m|gcc_s|stdc\+\+|sqlite3)\.so\.\d+|ld-linux.*"
    named = set(re.findall(r"`(lib[\w.-]+)`", text))
    assert named == {library for library in libraries if not re.fullmatch(system, library)}


def instructions(dockerfile):
    """Of each stage, its lines as (instruction, rest)."""
    stages = []
    for line in dockerfile.replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            word, rest = line.split(maxsplit=1)
            if word == "FROM":
                stages.append([])
            stages[-1].append((word, " ".join(rest.split())))
    return stages


def packages_of(stage):
    (line,) = [rest for word, rest in stage if word == "RUN" and "apt-get install" in rest]
    return set(re.search(r"--no-install-recommends ([^&]*)", line)[1].split())


def test_the_image_is_built_as_quickstart_builds(build, tmp_path):
    build_stage, image = instructions((harness.ROOT / "Dockerfile").read_text())
    runs = [rest for word, rest in build_stage if word == "RUN"]
    assert runs[0] == '. .ci/packages.sh && install_packages "${BUILD_PACKAGES[@]}"'
    quickstart = " ".join((harness.ROOT / "quickstart").read_text().replace("\\\n", " ").split())
    assert 'install_packages "${BUILD_PACKAGES[@]}"' in quickstart and "meson setup build" in quickstart
    targets = re.search(r'ninja -C build -j "\$\(nproc\)" ((?:[\w/.-]+ ?)+)', quickstart)[1].split()[:4]
    assert runs[1:3] == ["meson setup build --prefix=/usr --libdir=lib", f"ninja -C build {' '.join(targets)}"]
    # The last step, with the build under test: exactly what the image takes.
    meson = shutil.which("meson")
    if meson is None:
        pytest.skip("meson is not installed")
    install = runs[3].replace("-C build", f"-C {build.dir}").replace("/out", str(tmp_path))
    harness.run([meson, *shlex.split(install)[1:]])
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {Path(target).name for target in targets}
    assert ("COPY", "--from=build /out/ /") in image
    # From where an application's image takes the files.
    application, _ = [block.text for block in blocks("doc/docker.md") if block.language == "dockerfile"]
    copied = " ".join(re.findall(r"^COPY --from=sqlstream (.*)$", application, re.M))
    taken = set(re.findall(r"/usr/(?:bin|lib)/\S+", copied))
    assert taken == {"/usr/bin/sqlstream", "/usr/lib/sqlstream.so", "/usr/lib/sqlstream-preload.so"}


def test_the_dockerfile_is_linted():
    linter = conftest.need(harness.TEST_HOME / "venv/bin/hadolint", "./check installs it")
    # DL3008: the packages' versions are the distribution's, which mends them.
    harness.run(
        [linter, "--failure-threshold", "warning", "--ignore", "DL3008", harness.ROOT / "Dockerfile"]
    )


def test_images_have_the_libraries_that_are_needed(build):
    if "Debian GNU/Linux 12" not in Path("/etc/os-release").read_text():
        pytest.skip("the image's packages are those of Debian 12")
    libraries = set()
    for file in (build.extension, build.preload, build.sqlstream, build.sqlstream_restore):
        named = harness.run(["objdump", "-p", file]).stdout
        found = re.findall(r"=> (/\S+)", harness.run(["ldd", file]).stdout)
        libraries |= {path.removeprefix("/usr") for path in found if Path(path).name in named}
    # A package's list has a library below /lib or below /usr/lib.
    owners = harness.run(["dpkg", "-S", *libraries, *(f"/usr{path}" for path in libraries)], check=False).stdout
    needed = {"ca-certificates"} | {line.split(":")[0] for line in owners.splitlines()}
    of_every_image = {"libc6", "libgcc-s1"}
    dockerfile, _ = [block.text for block in blocks("doc/docker.md") if block.language == "dockerfile"]
    for text in ((harness.ROOT / "Dockerfile").read_text(), dockerfile):
        assert packages_of(instructions(text)[-1]) == needed - of_every_image


def test_systemd_accepts_the_units(reader):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: Debian's package systemd")
    units = [block for block in blocks("doc/systemd.md") if block.language == "ini"]
    assert len(units) == 4
    files = []
    for unit in units:
        reader.write(unit.file, unit.text)
        files.append(reader.folder / unit.file.lstrip("/"))
    said = harness.run(["systemd-analyze", "verify", "--man=no", *files], check=False)
    ours = [line for line in said.stderr.splitlines() if any(file.name in line for file in files)]
    assert (said.returncode, ours) == (0, [])


def test_the_words_of_the_log_are_those_of_both(litestream):
    (bullet,) = re.findall(r"^- the words of the log: (.*?)\n\n", (DOC / "litestream.md").read_text(), re.M | re.S)
    words = re.findall(r"`([^`]*)`", " ".join(bullet.split()))
    stock, ours = litestream.binary.read_bytes(), sources()
    assert len(words) == 6
    assert [word for word in words if word.encode() not in stock or f'"{word}"' not in ours] == []


def later():
    """A moment between what was stored before and what comes, also for a store whose times are whole seconds."""
    time.sleep(1.1)
    moment = datetime.datetime.now(datetime.timezone.utc).isoformat()
    time.sleep(1.1)
    return moment


class Stock:
    """The real Litestream beside sqlstream, on the same database, in the same bucket."""

    def __init__(self, reader, litestream, path, database=None):
        self.reader, self.litestream, self.path = reader, litestream, path
        self.database = database or reader.database
        self.replica = {**reader.minio.litestream_replica(reader.bucket, path), "sync-interval": "50ms"}
        self.files = itertools.count()

    def replicate(self):
        return self.litestream.replicate(self.database, self.replica)

    def notes(self):
        """What it restores from its replica; None while there is nothing."""
        output = self.reader.folder / f"stock-{next(self.files)}.db"
        said = self.litestream.restore(output, self.replica, check=False)
        return self.reader.notes(output) if said.returncode == 0 else None

    def indexes(self):
        keys = self.reader.minio.keys(self.reader.bucket, self.path)
        return {key.split("/")[-1].split("_")[0] for key in keys if "/wal/" in key}


def generations_of(reader):
    return {key.split("/")[2] for key in reader.minio.keys(reader.bucket, "app.db/")}


def restored_notes(reader):
    reader.follow(Block("", "", "sh", "sqlstream restore -o ours.db s3://mybucket/app.db\n"))
    return reader.notes("ours.db")


def test_a_litestream_that_still_runs_on_another_path(reader, litestream):
    """Nothing is lost, also when it makes a checkpoint."""
    stock = Stock(reader, litestream, "other")
    with stock.replicate() as process:
        harness.wait_until(lambda: stock.notes() == ["first", "second"], f"a replica: {process.said()}")
        reader.sql("CREATE TABLE large(x)", "INSERT INTO large VALUES (zeroblob(5000000))", "DROP TABLE large")
        harness.wait_until(lambda: "00000001" in stock.indexes(), f"a checkpoint: {process.said()}")
        reader.sql("INSERT INTO note(text) VALUES ('third')")
        harness.wait_until(lambda: stock.notes() == ["first", "second", "third"], f"the row: {process.said()}")
    assert restored_notes(reader) == ["first", "second", "third"]


def test_replicate_beside_a_litestream_that_still_runs(reader, litestream):
    """The application has plain SQLite and writes more than one checkpoint's worth."""
    stock = Stock(reader, litestream, "other")
    replicate = ["sqlstream", "replicate", reader.database, reader.mapped("s3://mybucket/app.db")]
    with stock.replicate() as process, harness.Process(
        [reader.build.sqlstream, *replicate[1:]], env=reader.env, log=reader.folder / "replicate.log"
    ) as ours:
        harness.wait_until(lambda: stock.notes() == ["first", "second"], f"a replica: {process.said()}")
        harness.wait_until(lambda: "msg=following" in ours.said(), f"a beginning: {ours.said()}")
        with closing(sqlite3.connect(reader.database, timeout=60, isolation_level=None)) as plain:
            for number in range(40):
                plain.execute("INSERT INTO note(text) VALUES (?)", ["x" * 300_000])
        expected = reader.notes(reader.database)
        harness.wait_until(lambda: stock.notes() == expected, f"the rows: {process.said()}")
        assert ours.stop() == 0, ours.said()
    assert len(expected) == 42 and restored_notes(reader) == expected


def test_a_litestream_that_still_runs_on_the_same_path(reader, litestream):
    """Both restore; a moment that both cover must be chosen; its retention deletes what is not its own."""
    (ours,) = generations_of(reader)
    stock = Stock(reader, litestream, "app.db")
    with stock.replicate() as process:
        harness.wait_until(lambda: len(generations_of(reader)) > 1, f"a generation: {process.said()}")
        for text in ("third", "fourth"):
            reader.sql(f"INSERT INTO note(text) VALUES ('{text}')")
            harness.wait_until(lambda: text in (stock.notes() or ()), f"the row: {process.said()}")
            reader.moment = later() if text == "third" else reader.moment
    assert restored_notes(reader) == ["first", "second", "third", "fourth"]
    (reader.folder / "work/ours.db").unlink()
    url = reader.mapped("s3://mybucket/app.db")
    restore = ["sqlstream", "restore", "-o", "ours.db", "-timestamp", reader.moment, url]
    refused = reader.run(None, *restore, check=False)
    assert refused.returncode == 1 and "choose one of" in refused.stderr and "with -generation" in refused.stderr
    chosen = re.search(r"choose one of (\w{16})", refused.stderr)[1]
    reader.run(None, *restore[:-1], "-generation", chosen, url)
    assert reader.notes("ours.db") == ["first", "second", "third"]
    kept = generations_of(reader)
    assert ours in kept and len(kept) > 1
    time.sleep(1.1)  # all snapshots are older than its retention now
    stock.replica.update({"retention": "1s", "retention-check-interval": "100ms"})
    with stock.replicate() as process:
        harness.wait_until(lambda: ours not in generations_of(reader), f"a deletion: {process.said()}")


def test_a_moment_from_litestream_and_one_from_sqlstream(reader, litestream):
    """Moved in the same path, and back, with the other stopped before: every moment can be restored."""
    database = reader.folder / "srv/app/moved.db"
    stock, moments = Stock(reader, litestream, "moved", database), []

    def sqlite(statement):
        harness.run(["sqlite3", database, "PRAGMA journal_mode=WAL", statement])

    def replicate_until(*expected):
        with stock.replicate() as process:
            harness.wait_until(lambda: stock.notes() == list(expected), f"the rows: {process.said()}")
        moments.append(later())

    sqlite("CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT); INSERT INTO note(text) VALUES ('stock')")
    replicate_until("stock")
    reader.write("/etc/sqlstream.yml", CONFIG.replace("app.db", "moved.db").replace("bucket/moved.db", "bucket/moved"))
    reader.sql("INSERT INTO note(text) VALUES ('ours')", database=database)
    moments.append(later())
    sqlite("INSERT INTO note(text) VALUES ('back')")
    replicate_until("stock", "ours", "back")
    for number, expected in enumerate((["stock"], ["stock", "ours"], ["stock", "ours", "back"])):
        output = f"moment-{number}.db"
        url = reader.mapped("s3://mybucket/moved")
        reader.run(None, "sqlstream", "restore", "-timestamp", moments[number], "-o", output, url)
        assert reader.notes(output) == expected


WRITE = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for i in range(200):
    db.execute("INSERT INTO note(text) VALUES (?)", (sys.argv[2],))
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
print(db.execute("SELECT sqlstream_wait(60000)").fetchone()[0])
"""
NAMESPACES = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--ipc"]


def test_two_containers_with_one_volume(reader):
    """Each with processes and names of its own; the first is killed, the other goes on in the same generation."""
    if harness.run([*NAMESPACES, "true"], check=False).returncode != 0:
        pytest.skip("the test may not make namespaces (unshare), as containers have them")
    generations = generations_of(reader)
    program = ["/usr/bin/python3", "-c", WRITE, reader.database]
    with harness.Process([*NAMESPACES, "sqlstream", "run", "--", *program, "killed"],
                         env=reader.env, cwd=reader.folder, log=reader.folder / "killed.log") as killed:  # fmt: skip
        said = reader.run(None, *NAMESPACES, "sqlstream", "run", "--", *program, "whole").stdout
        assert killed.wait() == 128 + signal.SIGKILL, killed.said()
    assert said == "1\n"
    reader.run(None, "sqlstream", "sync", reader.database)
    notes = restored_notes(reader)
    assert (notes.count("killed"), notes.count("whole")) == (200, 200)
    assert generations_of(reader) == generations
