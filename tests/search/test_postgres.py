"""A search in a real PostgreSQL server, by three workers, one of which is killed. Where no server is installed it is left out."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.search.test_search_scripts import ENVIRONMENT, command, trials_of


pytestmark = pytest.mark.slow
BINARIES = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]


@pytest.fixture(scope="module")
def database():
    """The URL of a database of a server that is started for the test."""
    pytest.importorskip("psycopg")
    initdb = next(filter(None, BINARIES), None)
    if initdb is None:
        pytest.skip("no PostgreSQL server is installed (Debian: postgresql)")
    binaries = Path(initdb).resolve().parent
    root = os.geteuid() == 0  # as whom PostgreSQL refuses to run
    if root and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("there is no user postgres")
    as_user = {"user": "postgres", "group": "postgres", "extra_groups": []} if root else {}
    folder = Path(tempfile.mkdtemp(prefix="autonat-postgres-"))  # short: a socket's path has a limit
    if root:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(name, *words):
        subprocess.run([binaries / name, *words], check=True, capture_output=True, cwd=folder, **as_user)

    call("initdb", "-D", folder / "data", "-U", "autonat", "--auth=trust", "--encoding=UTF8", "--locale=C")
    server = subprocess.Popen(
        [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user,
    )  # fmt: skip
    try:
        for _ in range(100):
            if not subprocess.run(
                [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], capture_output=True
            ).returncode:
                break
            time.sleep(0.1)
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "autonat", "search")
        yield f"postgresql+psycopg://autonat@127.0.0.1:{port}/search"
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown
        server.wait(timeout=30)
        shutil.rmtree(folder)


def finished(database):
    try:
        return [trial for trial in trials_of(database, "released-T4") if trial.value is not None]
    except KeyError:  # no worker has begun the study yet
        return []


def test_three_workers_one_of_them_killed(database, tiny, tmp_path):
    words = command(
        "search_generation.py", tiny, tiny / "pipeline", "--num-inference-steps", 4, "--free", "guidance_scales",
        "--sampler", "released", "--num-trials", 21, "--confirm-top", 2, "--confirm-images", 24, "--storage", database,
        "--output",
    )  # fmt: skip
    workers = [
        subprocess.Popen([*words, str(tmp_path / str(i))], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for i in range(3)
    ]  # fmt: skip
    while all(worker.poll() is None for worker in workers) and len(finished(database)) < 4:
        time.sleep(0.1)
    workers[0].kill()
    before = {trial.number: trial.values for trial in finished(database)}
    said = [worker.communicate(timeout=500)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0], said
    after = {trial.number: trial.values for trial in finished(database)}
    assert len(after) == 21 and len(before) < 21 and before.items() <= after.items()
    assert all("T = 4: frechet_distance" in text for text in said[1:])
    results = [(tmp_path / str(i) / "strategy-T4.json").read_text() for i in (1, 2)]
    assert results[0] == results[1]
