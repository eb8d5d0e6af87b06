import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


# By its file, so that neither process has to import torch.
CHILD = """
import os, runpy, sys, time
runpy.run_path(sys.argv[1])["end_with_launcher"](0.02)
print(os.getpid(), flush=True)
time.sleep(20)
"""
PARENT = """
import subprocess, sys
subprocess.run([sys.executable, "-c", *sys.argv[1:]])
"""
LAUNCHER = Path(__file__).parents[1] / "src" / "diffusers_autonat" / "launcher.py"


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("launcher", ["ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", None])
def test_a_process_ends_with_its_launcher_and_stays_where_it_was_started_by_hand(launcher):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE", "TORCHELASTIC"))}
    environment |= {launcher: "no"} if launcher else {}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, LAUNCHER],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child = int(parent.stdout.readline())
    try:
        time.sleep(0.1)
        assert running(child)
        parent.kill()
        parent.wait()
        until = time.monotonic() + (10 if launcher else 0.5)
        while running(child) and time.monotonic() < until:
            time.sleep(0.02)
        assert running(child) == (launcher is None)
    finally:
        if running(child):
            os.kill(child, signal.SIGKILL)
