"""Whatever happens to files of checkpoints: what is resumed is what was saved, or one line says why nothing is."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.test_checkpoints import Training, resume, same


STEPS = 3
names = st.sampled_from(
    ["checkpoint.json", "state.json", "model.safetensors", "optimizer.safetensors", "ema.safetensors"]
)
changes = st.tuples(st.integers(1, STEPS), names, st.sampled_from(["cut", "grown", "bit", "missing"]), st.floats(0, 1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three checkpoints, and the weights and states that are in them."""
    folder, states = tmp_path_factory.mktemp("trained"), {}
    training = Training(folder)
    for step in range(STEPS):
        training.train(step, step + 1)
        states[step + 1] = {name: tensor.clone() for name, tensor in training.tensors().items()}
    return folder, states


def damage(path: Path, how: str, place: float) -> None:
    data = bytearray(path.read_bytes())
    at = min(int(place * len(data)), len(data) - 1)
    if how == "missing":
        path.unlink()
    elif how == "cut":
        os.truncate(path, at)
    elif how == "grown":
        path.write_bytes(data + data[: at + 1])
    else:
        data[at] ^= 1 << at % 8
        path.write_bytes(data)


@given(st.lists(changes, min_size=1, max_size=4, unique_by=lambda change: change[:2]))
def test_what_is_resumed_was_saved(trained, damages):
    folder, states = trained
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(folder, place, dirs_exist_ok=True)
        for step, name, how, where in damages:
            damage(Path(place, f"checkpoint-{step}", name), how, where)
        whole = [step for step in states if step not in {change[0] for change in damages}]
        try:
            training, step = resume(Path(place))
        except ValueError as error:
            assert not whole and "\n" not in str(error) and "start anew" in str(error)
        else:
            # A damage may change nothing that counts, as a list without its last line break.
            assert step >= max(whole, default=0) and same(training.tensors(), states[step])
