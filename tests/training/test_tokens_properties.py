"""Token sets of any size with any damage: the tokens that were written, or one line with a name and a remedy."""

import json
import shutil
import tempfile
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from diffusers_autonat.training.tokenizing import tokenize_dataset
from diffusers_autonat.training.tokens import (
    SHARD_FILE,
    Part,
    TokenSetInfo,
    load_token_set,
    part_path,
    shard_path,
    write_part,
)
from tests.conftest import tiny_vqvae


BYTES = st.floats(0, 1, exclude_max=True)


def cut(path, place, value):
    content = path.read_bytes()
    path.write_bytes(content[: int(place * len(content))])


def change(path, place, value):
    content = bytearray(path.read_bytes())
    if content:
        content[int(place * len(content))] = value
    path.write_bytes(content)


def delete(path, place, value):
    path.unlink()


def lengthen(path, place, value):
    path.write_bytes(path.read_bytes() + bytes([value]) * int(1 + place * 100))


def replace_by_another(path, place, value):
    others = sorted(path.parent.parent.rglob("*.*"))
    other = others[int(place * len(others))]
    if other != path:
        shutil.copy(other, path)


def double(path, place, value):
    copy = path.with_name(f"part-{value:05d}.arrow")
    if copy != path:
        shutil.copy(path, copy)


DAMAGE = [cut, change, delete, lengthen, replace_by_another, double]


def write_set(folder, counts, flips, labelled, seed):
    """Shards of parts of so many images each."""
    random = np.random.default_rng(seed)
    names = ["a", "b", "c"] if labelled else None
    info = TokenSetInfo("0" * 16, 16, 2, 28, flips, names, len(counts), "data", "train", "image", "label",
                        sum(map(sum, counts)), "1" * 16, "t", max(map(max, counts)))  # fmt: skip
    for number, parts in enumerate(counts):
        shard = shard_path(folder, number, len(counts))
        shard.mkdir(parents=True)
        for index, images in enumerate(parts):
            rows = images * (1 + flips)
            labels = random.integers(0, 3, rows) if labelled else np.full(rows, -1)
            part = replace(info, num_images=images, unreadable=[])
            write_part(part_path(shard, index), Part(random.integers(0, 16, (rows, 4)), labels, part))
        done = replace(info, num_parts=len(parts), num_images=sum(parts))
        (shard / SHARD_FILE).write_text(json.dumps(asdict(done), indent=2) + "\n")


def rows_of(folder):
    dataset, info = load_token_set(folder)
    rows = dataset.with_format("numpy")[:]
    return np.asarray(rows["input_ids"]), np.asarray(rows["label"]), asdict(info)


LAYOUTS = [[[3]], [[1, 2]], [[2, 2, 1], [2]], [[1], [1], [1]], [[4, 4], [4, 1], [3]]]  # images by part by shard


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Folders of token sets of several layouts, with what they hold."""
    made = []
    for seed, counts in enumerate(LAYOUTS):
        for flips, labelled in ((True, False), (False, True)):
            folder = tmp_path_factory.mktemp("set")
            write_set(folder, counts, flips, labelled, seed)
            made.append((folder, rows_of(folder)))
            assert len(made[-1][1][0]) == sum(map(sum, counts)) * (1 + flips)
    return made


@given(
    which_set=st.integers(0, 2 * len(LAYOUTS) - 1),
    damages=st.lists(st.tuples(st.sampled_from(DAMAGE), BYTES, BYTES, st.integers(0, 255)), max_size=2),
)
def test_a_damaged_set_gives_its_tokens_or_one_line(sets, which_set, damages):
    whole, expected = sets[which_set]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(whole, Path(folder, "set"))
        for damage, which, place, value in damages:
            files = sorted(Path(folder, "set").rglob("*.*"))
            damage(files[int(which * len(files))], place, value)
        try:
            found = rows_of(Path(folder, "set"))
        except ValueError as error:
            assert "\n" not in str(error) and folder in str(error)
            assert any(word in str(error) for word in ("run `diffusers-autonat train tokenize`", "remove it", "make them again",
                                                       "is missing, in its place is"))  # fmt: skip
            assert damages
        else:
            assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
            unimportant = ("unreadable",)
            assert {k: v for k, v in found[2].items() if k not in unimportant} == {
                k: v for k, v in expected[2].items() if k not in unimportant
            }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set of nine images, its tokenizer, and its tokens in three parts."""
    random = np.random.default_rng(0)
    pictures = [PILImage.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(9)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    dataset = Dataset.from_dict({"image": pictures, "label": [0, 1, 0] * 3}, features)
    vqvae, folder = tiny_vqvae(), tmp_path_factory.mktemp("made")
    tokenize_dataset(dataset, vqvae, folder, 8, images_per_part=3, show_progress=False)
    return dataset, vqvae, folder


@pytest.mark.slow
@given(
    damages=st.lists(
        st.tuples(st.sampled_from([cut, change, delete, lengthen, replace_by_another]), BYTES, BYTES, st.integers(0, 255)),
        max_size=3,
    ),
)  # fmt: skip
def test_made_again_a_damaged_set_is_what_it_was_or_refused(made, damages):
    dataset, vqvae, whole = made
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "set")
        shutil.copytree(whole, folder)
        for damage, which, where, value in damages:
            files = sorted(folder.rglob("*.*"))
            damage(files[int(which * len(files))], where, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                tokenize_dataset(dataset, vqvae, folder, 8, images_per_part=3, show_progress=False)
            except ValueError as error:
                assert "\n" not in str(error) and place in str(error) and "remove" in str(error)
                return
        for one, other in zip(rows_of(folder)[:2], rows_of(whole)[:2]):
            assert np.array_equal(one, other)
