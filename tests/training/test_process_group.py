"""Processes that have trained together part without waiting for each other."""

import os
import subprocess
import sys


# Ends a training again and again: with accelerate's own `end_training` one of them hangs.
TRAININGS = """
import os, sys
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers_autonat.training.process_group import end_training, free_process_groups

def train():
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(torch.nn.Linear(4, 4))
    for _ in range(3):
        accelerator.backward(model(torch.randn(2, 4)).sum())
    accelerator.wait_for_everyone()
    end_training(accelerator)

for number in range(20):
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo", f"file://{sys.argv[1]}/{number}", rank=rank, world_size=world)
    train()
    free_process_groups()
    AcceleratorState._reset_state(reset_partial_state=True)
"""


def test_no_process_hangs_when_training_ends(tmp_path):
    names = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "OMP_NUM_THREADS": "1"}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", TRAININGS, tmp_path],
            env=os.environ | names | {"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"},
        )
        for rank in ("0", "1")
    ]
    try:
        assert [process.wait(timeout=60) for process in pair] == [0, 0]
    finally:
        for process in pair:
            process.kill()
