"""Fixtures: the build under test, a real MinIO (plain and TLS), the real litestream."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import harness


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also the tests marked long")


def pytest_configure(config):
    # Under nohup(1) the programs that the tests start would inherit that it is ignored.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line("markers", "long: takes minutes; runs with --long only")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes long: run with --long"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    item.failed = getattr(item, "failed", False) or outcome.get_result().failed


@pytest.fixture(scope="session", autouse=True)
def session_folder(request, tmp_path_factory):
    """Removed behind a session without a failure: the servers' data alone are gigabytes."""
    yield
    if not request.session.testsfailed:
        shutil.rmtree(tmp_path_factory.getbasetemp(), ignore_errors=True)


@pytest.fixture
def tmp_path(tmp_path, request):
    """pytest's own, but removed behind a test that passed: kept, all of them fill a disk."""
    yield tmp_path
    if not request.node.failed:
        shutil.rmtree(tmp_path, ignore_errors=True)


def need(path, how):
    """A program the tests cannot do without: missing is a failure in CI, a skip elsewhere."""
    if path.exists():
        return path
    sentence = f"{path} is missing: {how}"
    if os.environ.get("CI") or os.environ.get("SQLSTREAM_NEED_SERVERS"):
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


@pytest.fixture(scope="session")
def build():
    """harness.Build of $SQLSTREAM_BUILD, or of ./build."""
    built = harness.Build(Path(os.environ.get("SQLSTREAM_BUILD", harness.ROOT / "build")).resolve())
    missing = built.missing()
    if missing:
        pytest.fail(f"not built: {', '.join(missing)} (run ./quickstart first)", pytrace=False)
    return built


@pytest.fixture(scope="session")
def build_dir(build):
    return build.dir


@pytest.fixture(scope="session")
def minio_binary():
    return need(harness.TEST_HOME / "bin/minio", "./check builds it")


@pytest.fixture(scope="session")
def minio(minio_binary, tmp_path_factory):
    """A MinIO for the whole session; take a fresh bucket() for each test."""
    server = harness.Minio(minio_binary, tmp_path_factory.mktemp("minio"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def minio_tls(minio_binary, tmp_path_factory):
    """The same over TLS, with a CA of its own in ca_file."""
    server = harness.Minio(minio_binary, tmp_path_factory.mktemp("minio-tls"), tls=True)
    yield server
    server.stop()


@pytest.fixture
def own_minio(minio_binary, tmp_path):
    """A MinIO of this test alone, to stop() and start() again."""
    server = harness.Minio(minio_binary, tmp_path / "own-minio")
    yield server
    server.stop()


@pytest.fixture
def litestream(tmp_path):
    """harness.Litestream: the stock tool, 0.3.13."""
    binary = need(harness.TEST_HOME / "bin/litestream", "./check builds it")
    return harness.Litestream(binary, tmp_path)


@pytest.fixture
def processes(tmp_path):
    """A list; every harness.Process (or Popen) put into it has ended when the test is over, and before
    its folder is removed."""
    started = []
    yield started
    for process in reversed(started):
        process.kill()
        if isinstance(process, subprocess.Popen):
            process.wait()
