"""The short form of `python tests/kill/run.py`: a few kills of one training, and that the killer notices what it is for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


RUN = Path(__file__).parent / "run.py"

COUNTING = """
import os
from job import Job

class Counting(Job):
    def __init__(self, whole):
        self.name, self.whole = f"counting/{whole}", whole
    def run(self, folder, output):
        output.mkdir(exist_ok=True)
        count, done = output / "count", output / "done"
        for number in range(len((count if self.whole else done).read_text()) if done.exists() else 0, 4):
            if self.whole:
                (output / "new").write_text("x" * (number + 1))
                os.replace(output / "new", count)
                done.touch()
            else:  # killed between the two, it counts one twice
                with open(count, "a") as file:
                    file.write("x")
                done.write_text("x" * (number + 1))
    def result(self, output):
        return {"count": (output / "count").read_text()}

JOBS = [Counting(WHOLE)]
"""


def kill(*args, folder=RUN.parent):
    command = [sys.executable, folder / "run.py", *args]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's process groups and /proc")
def test_a_killed_training_ends_as_one_that_was_left_alone(tmp_path):
    result = kill("--jobs", "training", "--only", "vqgan", "--rounds", 2, "--seed", 2, "--scratch", tmp_path)
    assert result.returncode == 0 and result.stdout.count(": equal") == 2, result.stdout + result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's process groups and /proc")
@pytest.mark.parametrize("whole", [True, False])
def test_the_killer_finds_a_job_that_breaks_its_promise(tmp_path, whole):
    for name in ("run.py", "job.py", "crash.py"):
        (tmp_path / name).write_text((RUN.parent / name).read_text())
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "counting.py").write_text(COUNTING.replace("WHOLE", str(whole)))
    result = kill("--rounds", 8, "--scratch", tmp_path, folder=tmp_path)
    assert (result.returncode == 0) == whole, result.stdout + result.stderr
    assert whole or "differs from the unbroken run in count" in result.stdout
    assert os.path.exists(tmp_path / "jobs") and bool(list(tmp_path.glob("kill-*"))) != whole
