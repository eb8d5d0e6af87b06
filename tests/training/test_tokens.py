import errno
import json
import resource
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from diffusers_autonat.image_datasets import ImageTransform, load_images
from diffusers_autonat.models.tokenizer import encode_images
from diffusers_autonat.training.tokenizing import tokenize_dataset
from diffusers_autonat.training.tokens import (
    Part,
    TokenSetInfo,
    collate_tokens,
    load_token_set,
    part_path,
    read_part,
    warn_unreadable,
    write_part,
)
from tests.bad_images import write_bad_files
from tests.conftest import tiny_vqvae, write_idx


SHARD = "shard-00000-of-00001"


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


def rows_of(folder):
    return load_token_set(folder)[0].with_format("numpy")[:]


def equal(one, other):
    return all(np.array_equal(rows_of(one)[key], rows_of(other)[key]) for key in ("input_ids", "label"))


@pytest.fixture(scope="module")
def whole(idx_folder, tmp_path_factory):
    """A token set of 64 images in three parts. Copied, not changed."""
    folder = tmp_path_factory.mktemp("whole") / "tokens"
    tokenize(idx_folder, folder)
    return folder


def earlier_format(folder):
    """Turn a token set into one of the version that wrote the first release."""
    for path in folder.glob("*/part-*.arrow"):
        part = Dataset.from_file(str(path)).data
        schema = part.schema.with_metadata({b"huggingface": part.schema.metadata[b"huggingface"]})
        table = part.table.combine_chunks().replace_schema_metadata(schema.metadata)
        path.unlink()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(table)
    for path in folder.glob("*/shard.json"):
        known = ("vqvae_hash", "codebook_size", "sample_size", "resolution", "flips", "label_names", "num_shards",
                 "num_images", "num_unreadable", "unreadable")  # fmt: skip
        data = json.loads(path.read_text())
        path.write_text(json.dumps({key: data[key] for key in known}))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"images_per_part": 20}, "images_per_part is 25, asked is 20"),
        ({"flips": False}, "flips is True, asked is False"),
        ({"label_column": None}, "label_column is 'label', asked is None"),
    ],
)
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_tokens_made_in_another_way_are_refused_by_name(whole, idx_folder, tmp_path, kwargs, message, state):
    """Another number of images per part gave 400 or 680 of 600 images."""
    shutil.copytree(whole, tmp_path / "tokens")
    if state == "unfinished":
        for name in ("shard.json", "part-00001.arrow"):
            (tmp_path / "tokens" / SHARD / name).unlink()
    with pytest.raises(ValueError, match=f"{SHARD}.*{message}.*: choose another --output_dir, or remove .*{SHARD}"):
        tokenize(idx_folder, tmp_path / "tokens", **kwargs)


def test_another_split_or_data_set_is_refused(whole, idx_folder, tmp_path, fashion_mnist):
    """It was taken for the old one, or mixed with it."""
    shutil.copytree(whole, tmp_path / "tokens")
    test = load_images(train_data_dir=str(idx_folder), split="test")
    options = {"batch_size": 10, "images_per_part": 25, "show_progress": False}
    with pytest.raises(ValueError, match="split is 'train', asked is 'test'"):
        tokenize_dataset(test, tiny_vqvae(), tmp_path / "tokens", 28, **options)
    few = load_images(train_data_dir=str(idx_folder), max_samples=50)
    with pytest.raises(ValueError, match="dataset_size is 64, asked is 50"):
        tokenize_dataset(few, tiny_vqvae(), tmp_path / "tokens", 28, **options)
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", fashion_mnist[0][::-1])
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", fashion_mnist[1])
    with pytest.raises(ValueError, match="made with another dataset_hash"):
        tokenize(tmp_path, tmp_path / "tokens")
    # The same images in a folder of another name are the same data set.
    shutil.copytree(idx_folder, tmp_path / "moved")
    tokenize(tmp_path / "moved", tmp_path / "tokens")


def test_folders_of_images_may_move(image_folder, tmp_path):
    tokenize(image_folder, tmp_path / "tokens")
    shutil.copytree(image_folder, tmp_path / "moved")
    tokenize(tmp_path / "moved", tmp_path / "tokens")
    shutil.copy(tmp_path / "moved" / "class-0" / "019.png", next((tmp_path / "moved" / "class-9").iterdir()))
    with pytest.raises(ValueError, match="another dataset_hash"):
        tokenize(tmp_path / "moved", tmp_path / "tokens")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-300] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


def swap(path):
    shutil.copy(path.with_name("part-00000.arrow"), path)


@pytest.mark.parametrize("damage", [cut, flip, empty, delete, swap])
def test_a_damaged_part_is_named_and_made_again_alone(whole, idx_folder, tmp_path, damage):
    shutil.copytree(whole, tmp_path / "tokens")
    parts = sorted((tmp_path / "tokens" / SHARD).glob("*.arrow"))
    damage(parts[1])
    kept = [parts[i].stat().st_mtime_ns for i in (0, 2)]
    with pytest.raises(
        ValueError, match="part-00001.arrow (is damaged|is missing).*: run `diffusers-autonat train tokenize`"
    ):
        load_token_set(tmp_path / "tokens")
    with pytest.warns(UserWarning, match="part-00001.arrow"):
        tokenize(idx_folder, tmp_path / "tokens")
    assert equal(tmp_path / "tokens", whole)
    assert [parts[i].stat().st_mtime_ns for i in (0, 2)] == kept


@pytest.mark.parametrize("damage", [cut, empty])
def test_a_damaged_shard_file_is_made_from_the_parts(whole, idx_folder, tmp_path, damage):
    shutil.copytree(whole, tmp_path / "tokens")
    damage(tmp_path / "tokens" / SHARD / "shard.json")
    with pytest.raises(ValueError, match="shard.json is damaged .*: run `diffusers-autonat train tokenize` again"):
        load_token_set(tmp_path / "tokens")
    vqvae = tiny_vqvae()
    vqvae.encoder.register_forward_pre_hook(lambda *_: pytest.fail("nothing is encoded again"))
    with pytest.warns(UserWarning, match="shard.json is damaged .*: it is made anew from the parts"):
        tokenize(idx_folder, tmp_path / "tokens", vqvae=vqvae)
    assert equal(tmp_path / "tokens", whole)


def test_a_damaged_part_of_a_stream_is_made_again(image_folder, tmp_path):
    stream = load_images(train_data_dir=str(image_folder), streaming=True)

    def make(folder):
        tokenize_dataset(stream, tiny_vqvae(), folder, 28, flips=False, images_per_part=16, show_progress=False)

    make(tmp_path / "tokens")  # the last part is full: only the end of the stream tells
    shutil.copytree(tmp_path / "tokens", tmp_path / "damaged")
    flip(tmp_path / "damaged" / SHARD / "part-00001.arrow")
    with pytest.warns(UserWarning, match="part-00001.arrow is damaged"):
        make(tmp_path / "damaged")
    assert equal(tmp_path / "tokens", tmp_path / "damaged") and len(load_token_set(tmp_path / "tokens")[0]) == 64


def test_parts_that_are_too_many_and_copied_shards_are_named(whole, idx_folder, tmp_path):
    shutil.copytree(whole, tmp_path / "more")
    shutil.copy(part_path(tmp_path / "more" / SHARD, 0), part_path(tmp_path / "more" / SHARD, 3))
    with pytest.raises(ValueError, match="part-00003.arrow is none of the 3 parts .*: remove it"):
        load_token_set(tmp_path / "more")
    tokenize(idx_folder, tmp_path / "two", shard=(0, 2))
    shutil.copytree(tmp_path / "two" / "shard-00000-of-00002", tmp_path / "two" / "shard-00001-of-00002")
    with pytest.raises(ValueError, match="is damaged .it is a copy of shard-00000-of-00002/part-00000.arrow"):
        load_token_set(tmp_path / "two")
    shutil.move(tmp_path / "two" / "shard-00001-of-00002", tmp_path / "two" / "shard-00000-of-00002-copy")
    with pytest.raises(ValueError, match="shard-00001-of-00002 is missing, in its place is shard-00000-of-00002-copy"):
        load_token_set(tmp_path / "two")


def test_tokens_of_the_first_release_load_where_they_can_be_checked(whole, idx_folder, tmp_path):
    shutil.copytree(whole, tmp_path / "tokens")
    earlier_format(tmp_path / "tokens")
    assert equal(tmp_path / "tokens", whole)
    with pytest.warns(UserWarning, match="does not say of which images"):
        assert tokenize(idx_folder, tmp_path / "tokens").num_images == 64
    with pytest.raises(ValueError, match="holds the tokens of 64 images, asked are 50"):
        tokenize_dataset(
            load_images(train_data_dir=str(idx_folder), max_samples=50), tiny_vqvae(), tmp_path / "tokens", 28
        )
    shutil.copytree(tmp_path / "tokens", tmp_path / "short")
    part_path(tmp_path / "short" / SHARD, 2).unlink()
    with pytest.raises(
        ValueError, match="holds 100 rows, and shard.json counts 64 images, which give 128: remove .*again"
    ):
        load_token_set(tmp_path / "short")
    part_path(tmp_path / "tokens" / SHARD, 1).unlink()
    with pytest.raises(ValueError, match="part-00001.arrow is missing, one of 2 parts: remove .* and run"):
        load_token_set(tmp_path / "tokens")


def test_what_an_earlier_version_began_is_not_continued(idx_folder, tmp_path):
    (tmp_path / SHARD).mkdir()
    (tmp_path / SHARD / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="was begun by an earlier version, which cannot be continued: remove"):
        tokenize(idx_folder, tmp_path)


def write_set(folder, ids, labels, label_names=None, codebook_size=16, dtype=None):
    """A token set of one part of an earlier version, of any content."""
    shard = folder / SHARD
    shard.mkdir(parents=True)
    info = TokenSetInfo("0" * 16, codebook_size, 2, 28, False, label_names, 1, num_images=len(ids))
    if dtype is None:
        write_part(part_path(shard, 0), Part(np.array(ids), np.array(labels), info))
    else:
        rows = pa.FixedSizeListArray.from_arrays(pa.array(np.array(ids, dtype).ravel()), 4)
        table = pa.table({"input_ids": rows, "label": pa.array(labels)})
        with pa.OSFile(str(part_path(shard, 0)), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    (shard / "shard.json").write_text(json.dumps(info.__dict__))
    return folder


@pytest.mark.parametrize(
    "ids, labels, more, message",
    [
        ([[0, 1, 2, 16]] * 2, [0, 1], {}, "holds the token 16: there are 16, from 0"),
        ([[0, 1, 2, -1]] * 2, [0, 1], {"codebook_size": 2**17}, "holds the token -1: there are 131072, from 0"),
        ([[0, 1, 2, 1.5]] * 2, [0, 1], {"dtype": np.float32}, "its tokens are .*float.*, not lists of whole numbers"),
        ([[0, 1, 2, 3]] * 2, [0.0, 1.0], {"dtype": np.uint16}, "its labels are double, not whole numbers"),
        ([[0, 1, 2, 3]] * 2, [0, None], {"dtype": np.uint16}, "some of its values are missing"),
        ([[0, 1, 2, 3]] * 2, [0, -1], {}, "holds the label -1, which is no class"),
        ([[0, 1, 2, 3]] * 2, [-2, -2], {}, "holds the label -2, which is no class"),
        ([[0, 1, 2, 3]] * 2, [-1, -1], {"label_names": ["a", "b"]}, "holds the label -1, which is no class"),
        (
            [[0, 1, 2, 3]] * 2,
            [0, 2],
            {"label_names": ["a", "b"]},
            "holds the label 2, and there are 2 classes, from 0",
        ),
    ],
)
def test_tokens_and_labels_that_do_not_exist_are_refused(tmp_path, ids, labels, more, message):
    with pytest.raises(
        ValueError, match=f"part-00000.arrow .*{message}.* and run `diffusers-autonat train tokenize`"
    ) as error:
        load_token_set(write_set(tmp_path / "tokens", ids, labels, **more))
    assert "\n" not in str(error.value)


def test_lawful_tokens_of_any_label(tmp_path):
    for i, labels in enumerate(([-1, -1], [0, 5])):
        dataset, _ = load_token_set(write_set(tmp_path / f"{i}", [[0, 1, 2, 15]] * 2, labels))
        assert dataset["label"][:] == labels


def test_labels_of_parts_are_seen_together(tmp_path):
    """Each part alone is lawful."""
    folder = write_set(tmp_path / "tokens", [[0, 1, 2, 3]] * 2, [-1, -1])
    info = read_part(part_path(folder / SHARD, 0)).info
    write_part(part_path(folder / SHARD, 1), Part(np.zeros((2, 4)), np.zeros(2), info))
    (folder / SHARD / "shard.json").write_text(json.dumps(info.__dict__ | {"num_images": 4}))
    with pytest.raises(ValueError, match="tokens holds the label -1, which is no class"):
        load_token_set(folder)


def test_batches_of_what_are_no_tokens_are_refused():
    for row in ({"input_ids": np.zeros(4, np.float32), "label": 0}, {"input_ids": np.zeros(4, int), "label": 0.5}):
        with pytest.raises(ValueError, match="are float.*, not whole numbers"):
            collate_tokens([row, row])


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "holds a list"),
        ("[" * 50_000, "is damaged"),
        ('{"vqvae_hash": "0"}', "its codebook_size is 'missing'"),
        ("{", "is damaged"),
    ],
)
def test_a_shard_file_of_something_else(whole, tmp_path, text, message):
    shutil.copytree(whole, tmp_path / "tokens")
    (tmp_path / "tokens" / SHARD / "shard.json").write_text(text)
    with pytest.raises(
        ValueError, match=f"shard.json .*{message}.*: run `diffusers-autonat train tokenize` again"
    ) as error:
        load_token_set(tmp_path / "tokens")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"num_shards": 0}, {"sample_size": "7"}, {"num_parts": 10**12}, {"extra": 1},
                                    {"num_images": -1}, {"flips": 1}, {"label_names": [1]}])  # fmt: skip
def test_a_shard_file_with_impossible_values(whole, tmp_path, change):
    shutil.copytree(whole, tmp_path / "tokens")
    path = tmp_path / "tokens" / SHARD / "shard.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="does not describe tokens|is missing|counts -1 images"):
        load_token_set(tmp_path / "tokens")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "labels, feature, message",
    [
        ([0, 1, -1], ClassLabel(names=["a", "b"]), "holds the label -1, which is no class"),
        ([-1, -1, -1], ClassLabel(names=["a", "b"]), "holds the label -1, which is no class"),
        ([0, 1, 2], ClassLabel(num_classes=3), None),
        ([0, -1, 1], Value("int64"), "holds the label -1"),
        ([-1, -1, -1], Value("int64"), None),
        ([0, 1, None], Value("int64"), "image 2 has the label None, which is no class id"),
        ([0.0, 1.0, 1.5], Value("float64"), "image 0 has the label 0.0, which is no class id"),
        (["a", "b", "b"], Value("string"), "image 0 has the label 'a', which is no class id"),
    ],
)
def test_labels_are_checked_before_they_are_tokens(tmp_path, labels, feature, message, streaming):
    pictures = [PILImage.new("L", (28, 28), i) for i in range(3)]
    data = Dataset.from_dict({"image": pictures, "label": labels}, Features({"image": Image(), "label": feature}))
    data = data.to_iterable_dataset() if streaming else data
    if message is None:
        tokenize_dataset(data, tiny_vqvae(), tmp_path, 28, show_progress=False)
        assert load_token_set(tmp_path)[0]["label"][::2] == labels
    else:
        with pytest.raises(ValueError, match=message) as error:
            tokenize_dataset(data, tiny_vqvae(), tmp_path, 28, show_progress=False)
        assert "--label_column" in str(error.value) and not list(tmp_path.glob("*/*"))


def test_bad_files_are_passed_over(image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "images")
    write_bad_files(tmp_path / "images" / "class-0")
    info = tokenize(tmp_path / "images", tmp_path / "tokens", flips=False)
    assert info.num_images == 64 and info.num_unreadable >= 7 and len(load_token_set(tmp_path / "tokens")[0]) == 64
    with pytest.warns(
        UserWarning, match=r"\d of 7\d images could not be read and are left out: .*/avif.png cannot be"
    ):
        warn_unreadable(info)
    assert tokenize(tmp_path / "images", tmp_path / "tokens", flips=False) == info


def test_too_many_bad_files_are_an_error(tmp_path):
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        write_bad_files(tmp_path / "images" / label)
    PILImage.new("L", (28, 28)).save(tmp_path / "images" / "a" / "good.png")
    with pytest.raises(
        ValueError, match=r"14 of 15 images of the data set cannot be read, e.g. .*avif.png .*: replace"
    ):
        tokenize(tmp_path / "images", tmp_path / "tokens")


def test_images_are_turned_and_scaled_as_for_training(tmp_path, fashion_mnist):
    folder = tmp_path / "images"
    folder.mkdir()
    exif = PILImage.Exif()
    exif[0x0112] = 6
    image = fashion_mnist[0][0]
    PILImage.fromarray(image).save(folder / "0.png")
    PILImage.fromarray(np.rot90(image)).save(folder / "1.png", exif=exif)
    PILImage.fromarray(image.astype(np.uint16) * 257).save(folder / "2.png")
    PILImage.fromarray(image.astype(np.float32) / 255).save(folder / "3.tiff")
    dataset = load_images(train_data_dir=str(folder), label_column=None)
    tokenize_dataset(
        dataset, tiny_vqvae(), tmp_path / "tokens", 28, label_column=None, flips=False, show_progress=False
    )
    ids = rows_of(tmp_path / "tokens")["input_ids"]
    assert len(ids) == 4 and (ids == ids[0]).all()


def test_a_full_disk_keeps_what_is_whole(idx_folder, tmp_path, monkeypatch):
    """The limit on file sizes stands for a full disk: both break a write in its middle."""
    tokenize(idx_folder, tmp_path / "whole")
    size = part_path(tmp_path / "whole" / SHARD, 0).stat().st_size
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    from diffusers_autonat.training import tokenizing

    written = []

    def write(path, part):
        if len(written) == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limit[1]))
        try:
            write_part(path, part)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        written.append(path)

    monkeypatch.setattr(tokenizing, "write_part", write)
    with pytest.raises(OSError, match="File too large: '.*part-00001.arrow'") as error:
        tokenize(idx_folder, tmp_path / "tokens")
    assert error.value.errno == errno.EFBIG
    assert [path.name for path in (tmp_path / "tokens" / SHARD).iterdir()] == ["part-00000.arrow"]
    monkeypatch.undo()
    kept = part_path(tmp_path / "tokens" / SHARD, 0).stat().st_mtime_ns
    tokenize(idx_folder, tmp_path / "tokens")
    assert equal(tmp_path / "tokens", tmp_path / "whole")
    assert part_path(tmp_path / "tokens" / SHARD, 0).stat().st_mtime_ns == kept


def test_links_are_not_written_through(idx_folder, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "elsewhere")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / SHARD).symlink_to(tmp_path / "elsewhere" / SHARD)
    with pytest.raises(ValueError, match=f"{SHARD} is a link: name the folder"):
        tokenize(idx_folder, tmp_path / "tokens")
    assert equal(tmp_path / "tokens", whole)


@pytest.mark.parametrize("kwargs, message", [({"batch_size": 0}, "batch_size = 0"), ({"images_per_part": -1}, "= -1 must"),
                                             ({"shard": (99, 100)}, "shard 99/100 holds no image")])  # fmt: skip
def test_wrong_numbers(idx_folder, tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        tokenize(idx_folder, tmp_path, **kwargs)
