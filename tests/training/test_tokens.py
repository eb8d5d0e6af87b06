import json
import shutil

import numpy as np
import pytest
import torch

from diffusers_autonat.image_datasets import ImageTransform, load_images
from diffusers_autonat.models.tokenizer import encode_images
from diffusers_autonat.training.tokenizing import tokenize_dataset
from diffusers_autonat.training.tokens import collate_tokens, load_token_set
from tests.conftest import tiny_vqvae


def tokenize(folder, output, **kwargs):
    vqvae = kwargs.pop("vqvae", None) or tiny_vqvae()
    options = {"batch_size": 10, "images_per_part": 25, "show_progress": False} | kwargs
    return tokenize_dataset(load_images(train_data_dir=str(folder)), vqvae, output, 28, **options)


def expected_tokens(folder, flip=False):
    dataset = load_images(train_data_dir=str(folder))
    dataset.set_transform(ImageTransform(28, 1, "image", "label"))
    pixels = torch.stack([row["pixel_values"] for row in dataset])
    return encode_images(tiny_vqvae(), pixels.flip(-1) if flip else pixels).numpy()


def test_tokens_are_those_of_the_tokenizer_in_order_with_flips(idx_folder, tmp_path):
    info = tokenize(idx_folder, tmp_path)
    dataset, loaded = load_token_set(tmp_path)
    rows = dataset.with_format("numpy")[:]
    assert (info.num_images, len(dataset)) == (64, 128) and loaded.sample_size == 7
    assert np.array_equal(rows["input_ids"][::2], expected_tokens(idx_folder))
    assert np.array_equal(rows["input_ids"][1::2], expected_tokens(idx_folder, flip=True))
    assert rows["label"].tolist() == np.repeat(load_images(train_data_dir=str(idx_folder))["label"], 2).tolist()
    batch = collate_tokens([dataset.with_format("numpy")[i] for i in range(3)])
    assert batch["input_ids"].shape == (3, 49) and batch["class_labels"].dtype == torch.long


def test_shards_add_up_to_the_whole(idx_folder, tmp_path):
    tokenize(idx_folder, tmp_path / "whole", flips=False)
    for i in (2, 0, 1):  # any order, 64 is not a multiple of 3
        tokenize(idx_folder, tmp_path / "parts", flips=False, shard=(i, 3))
    whole, parts = (load_token_set(tmp_path / name)[0].with_format("numpy") for name in ("whole", "parts"))
    assert len(parts) == 64 and sorted(map(tuple, parts["input_ids"])) == sorted(map(tuple, whole["input_ids"]))


def test_a_killed_run_continues_with_equal_tokens(idx_folder, tmp_path):
    tokenize(idx_folder, tmp_path / "whole")

    class Kill(Exception):
        pass

    vqvae, calls = tiny_vqvae(), []

    def die(module, args):
        calls.append(1)
        if len(calls) > 8:  # inside the second part
            raise Kill

    vqvae.encoder.register_forward_pre_hook(die)
    with pytest.raises(Kill):
        tokenize(idx_folder, tmp_path / "killed", vqvae=vqvae)
    with pytest.raises(ValueError, match="unfinished"):
        load_token_set(tmp_path / "killed")
    first = tmp_path / "killed" / "shard-00000-of-00001" / "part-00000.arrow"
    written = first.stat().st_mtime_ns
    tokenize(idx_folder, tmp_path / "killed")
    assert first.stat().st_mtime_ns == written
    whole, killed = (load_token_set(tmp_path / name)[0].with_format("numpy")[:] for name in ("whole", "killed"))
    assert np.array_equal(whole["input_ids"], killed["input_ids"]) and np.array_equal(whole["label"], killed["label"])


def test_unreadable_images_are_counted_and_named(image_folder, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(image_folder, folder)
    broken = sorted(folder.glob("*/*.png"))[7]
    broken.write_bytes(broken.read_bytes()[:60])
    info = tokenize(folder, tmp_path / "tokens", flips=False)
    assert (info.num_images, info.num_unreadable) == (63, 1) and broken.name in info.unreadable[0]
    dataset, loaded = load_token_set(tmp_path / "tokens")
    assert len(dataset) == 63 and loaded.num_unreadable == 1


def test_streams(image_folder, tmp_path):
    dataset = load_images(train_data_dir=str(image_folder), streaming=True)
    tokenize_dataset(
        dataset, tiny_vqvae(), tmp_path / "stream", 28, flips=False, images_per_part=25, show_progress=False
    )
    tokenize(image_folder, tmp_path / "whole", flips=False)
    stream, whole = (load_token_set(tmp_path / name)[0].with_format("numpy")[:] for name in ("stream", "whole"))
    assert np.array_equal(stream["input_ids"], whole["input_ids"]) and np.array_equal(stream["label"], whole["label"])


def test_another_tokenizer_is_refused(idx_folder, tmp_path):
    tokenize(idx_folder, tmp_path)
    with pytest.raises(ValueError, match="another vqvae_hash"):
        tokenize(idx_folder, tmp_path, vqvae=tiny_vqvae(seed=1))


def test_missing_shards_are_named(idx_folder, tmp_path):
    with pytest.raises(ValueError, match="holds no token set"):
        load_token_set(tmp_path)
    tokenize(idx_folder, tmp_path, shard=(0, 2))
    with pytest.raises(ValueError, match="1 of 2 shards"):
        load_token_set(tmp_path)
    tokenize(idx_folder, tmp_path, shard=(1, 2))
    info = next(tmp_path.glob("*/shard.json"))
    info.write_text(json.dumps(json.loads(info.read_text()) | {"flips": False}))
    with pytest.raises(ValueError, match="different ways"):
        load_token_set(tmp_path)


@pytest.mark.parametrize("kwargs, message", [({"shard": (2, 2)}, "shard 2/2"), ({"shard": (-1, 2)}, "shard -1/2")])
def test_bad_shards(idx_folder, tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        tokenize(idx_folder, tmp_path, **kwargs)


def test_bad_resolution(idx_folder, tmp_path):
    with pytest.raises(ValueError, match="resolution 30 is not a multiple of the tokenizer's factor 4"):
        tokenize_dataset(load_images(train_data_dir=str(idx_folder)), tiny_vqvae(), tmp_path, 30)
