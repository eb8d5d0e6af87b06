import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_autonat.training.folder_lock import hold_folder


LOCK = Path(__file__).parents[2] / "src" / "diffusers_autonat" / "training" / "folder_lock.py"

HOLDER = """
import runpy, sys, time
module = runpy.run_path(sys.argv[1])
module["hold_folder"](sys.argv[2])
print("held", flush=True)
time.sleep(20)
"""


def test_two_trainings_do_not_write_to_one_folder(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, LOCK, tmp_path], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(
            ValueError, match=rf"is being written by another training \(process {holder.pid}\): end it, or"
        ):
            hold_folder(tmp_path, seconds=0.2)
        holder.kill()  # a killed one keeps nobody out
        holder.wait()
        hold_folder(tmp_path)
        hold_folder(tmp_path)  # nor does this process itself
    finally:
        holder.kill()
        holder.wait()
