"""Whatever happens to files of checkpoints: what is resumed is what was saved, or one line says why nothing is."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.test_checkpoints import Training, resume, same
from tests.training.test_tokens_properties import BYTES, change, cut, delete, lengthen


STEPS = 3
names = st.sampled_from(
    ["checkpoint.json", "state.json", "model.safetensors", "optimizer.safetensors", "ema.safetensors"]
)
damage = st.tuples(
    st.integers(1, STEPS), names, st.sampled_from([cut, change, delete, lengthen]), BYTES, st.integers(0, 255)
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three checkpoints, and the weights and states that are in them."""
    folder, states = tmp_path_factory.mktemp("trained"), {}
    training = Training(folder)
    for step in range(STEPS):
        training.train(step, step + 1)
        states[step + 1] = {name: tensor.clone() for name, tensor in training.tensors().items()}
    return folder, states


@given(st.lists(damage, min_size=1, max_size=4, unique_by=lambda one: one[:2]))
def test_what_is_resumed_was_saved(trained, damages):
    folder, states = trained
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(folder, place, dirs_exist_ok=True)
        for step, name, how, where, value in damages:
            how(Path(place, f"checkpoint-{step}", name), where, value)
        whole = [step for step in states if step not in {one[0] for one in damages}]
        try:
            training, step = resume(Path(place))
        except ValueError as error:
            assert not whole and "\n" not in str(error) and "start anew" in str(error)
        else:
            # A damage may change nothing that counts, as a list without its last line break.
            assert step >= max(whole, default=0) and same(training.tensors(), states[step])
