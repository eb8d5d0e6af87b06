"""References and states of evaluations with any damage: what was written, or one line that names the file."""

import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_autonat.metrics import EvaluationCheckpoint, Reference, load_extractor, load_reference, save_reference
from diffusers_autonat.metrics.sources import archive_samples
from tests.conftest import save_tiny_classifier


DAMAGES = st.lists(
    st.tuples(st.sampled_from(["cut", "change", "insert"]), st.floats(0, 1), st.integers(0, 255)), max_size=3
)


def damaged(content, damages):
    content = bytearray(content)
    for kind, place, value in damages:
        index = int(place * len(content))
        if kind == "cut":
            del content[index:]
        elif kind == "insert":
            content.insert(index, value)
        elif index < len(content):
            content[index] = value
    return bytes(content)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    save_tiny_classifier(tmp_path_factory.mktemp("judge") / "judge")
    return load_extractor(str(next(tmp_path_factory.getbasetemp().glob("judge*/judge"))))


@pytest.fixture(scope="module")
def written(judge, tmp_path_factory):
    """The bytes of a reference, and what it is."""
    random = torch.Generator().manual_seed(0)
    rows = torch.rand(8, 6, generator=random)
    reference = Reference(
        rows.double().mean(0), rows.double().T.cov(), 8, rows, torch.arange(8), judge.identity(), "here", 28
    )
    path = tmp_path_factory.mktemp("written") / "reference.npz"
    save_reference(reference, path)
    plain = io.BytesIO()  # not compressed
    with np.load(path) as file:
        np.savez(plain, **file)
    return [path.read_bytes(), plain.getvalue()], reference


@given(which=st.integers(0, 1), damages=DAMAGES)
def test_a_damaged_reference_is_what_it_was_or_refused(judge, written, which, damages):
    contents, reference = written
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "reference.npz")
        path.write_bytes(damaged(contents[which], damages))
        try:
            found = load_reference(path, judge)
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error) and damages
        else:
            assert found.hash == reference.hash and found.num_images in (None, 8)
            for key in ("features", "labels"):
                assert getattr(found, key) is None or torch.equal(getattr(found, key), getattr(reference, key))


NUMBERS = st.sampled_from(["i1", "u1", "i8", "f2", "f8", "c16", "U2", "?", ">f4"])


@given(
    arrays=st.dictionaries(
        st.sampled_from(["mu", "sigma", "features", "labels", "num_images"]),
        st.tuples(NUMBERS, st.lists(st.integers(0, 7), max_size=3), st.sampled_from([0, 1, -1, np.nan, np.inf])),
    ),
    provenance=st.none() | st.text(max_size=5) | st.sampled_from(["{}", "[]", '{"num_images": 1.5}', '{"source": 3}']),
)
def test_any_arrays_are_a_reference_or_refused(judge, arrays, provenance):
    content = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key, (kind, shape, value) in arrays.items():
            content[key] = np.full(shape, value).astype(kind)
    if provenance is not None:
        content["provenance"] = np.array(provenance)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        np.savez(path, **content)
        try:
            load_reference(path, judge)
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error)


@given(damages=DAMAGES, is_compressed=st.booleans())
def test_damaged_images_of_an_archive_are_those_that_were_written_or_refused(damages, is_compressed):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    (np.savez_compressed if is_compressed else np.savez)(file, arr_0=images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        path.write_bytes(damaged(file.getvalue(), damages))
        try:
            found = [image.permute(1, 2, 0).numpy() for image, _ in archive_samples(path)]
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error) and damages
        else:
            assert np.array_equal(np.stack(found), images)


class Total(dict):
    """As much of a collection of metrics as is kept."""

    state_dict = dict.copy
    load_state_dict = dict.update

    def to(self, device):
        pass


@given(shares=st.lists(st.lists(st.integers(0, 3), max_size=2), min_size=1, max_size=3), which=st.floats(0, 1, exclude_max=True),
       damages=DAMAGES)  # fmt: skip
def test_damaged_states_lose_their_own_share_alone(shares, which, damages):
    """What is counted as done is what the metrics hold, whatever was damaged."""
    with tempfile.TemporaryDirectory() as folder:
        state, todo, written = Path(folder, "state"), list(range(12)), set()
        state.mkdir()
        for number, share in enumerate(shares):  # several processes' files of one run
            calls = [todo.pop(0) for _ in share]
            written |= set(calls)
            total = torch.zeros(12)
            total[calls] = 1
            checkpoint = EvaluationCheckpoint(Path(folder, f"{number}"), {"seed": 0})
            checkpoint.load({9: Total(total=total)})
            checkpoint.save({9: Total(total=total)}, calls)
            (file,) = Path(folder, f"{number}").iterdir()
            file.replace(state / f"0001-{number:05d}.pt")
        files = sorted(state.iterdir())
        file = files[int(which * len(files))]
        file.write_bytes(damaged(file.read_bytes(), damages))
        collection = Total(total=torch.zeros(12))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                done = EvaluationCheckpoint(state, {"seed": 0}).load({9: collection})
            except ValueError as error:
                assert "\n" not in str(error) and folder in str(error) and damages
                return
        assert done <= written
        assert set(collection["total"].nonzero().flatten().tolist()) == done and collection["total"].max() <= 1
