import errno
import gzip
import shutil
import struct
import tarfile

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from PIL import ExifTags, Image
from torch.utils.data import DataLoader

from diffusers_autonat.image_datasets import (
    FASHION_MNIST_CLASSES,
    ImageTransform,
    ReadableImages,
    label_names,
    load_images,
    read_idx,
    spread_rows,
    with_classes,
)
from diffusers_autonat.images import image_to_array
from tests.bad_images import write_bad_files
from tests.conftest import write_idx


def test_idx_files(idx_folder, fashion_mnist):
    dataset = load_images(train_data_dir=str(idx_folder))
    images, labels = fashion_mnist
    assert len(dataset) == 64 and dataset["label"] == labels.tolist()
    assert np.array_equal(np.asarray(dataset[3]["image"]), images[3])
    assert label_names(dataset, "label") == FASHION_MNIST_CLASSES
    assert len(load_images(train_data_dir=str(idx_folder), max_samples=5)) == 5


def test_image_folder_gives_the_same_rows(image_folder, fashion_mnist):
    dataset = load_images(train_data_dir=str(image_folder))
    assert len(dataset) == 64 and len(set(dataset["label"])) == len(set(fashion_mnist[1].tolist()))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({}, "either --dataset_name or --train_data_dir"),
        ({"train_data_dir": "/nonexistent"}, "/nonexistent is not a folder"),
        ({"image_column": "picture"}, "no column 'picture'.*--image_column"),
        ({"label_column": "class"}, "no column 'class'"),
    ],
)
def test_bad_sources(image_folder, kwargs, message):
    if "column" in "".join(kwargs):
        kwargs["train_data_dir"] = str(image_folder)
    with pytest.raises(ValueError, match=message):
        load_images(**kwargs)


def test_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="no train images found"):
        load_images(train_data_dir=str(tmp_path))


def test_broken_idx_files(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x01" + struct.pack(">I", 10) + b"123"))
    with pytest.raises(ValueError, match="truncated: 3 values instead of 10"):
        read_idx(path)
    path.write_bytes(gzip.compress(b"PNG?"))
    with pytest.raises(ValueError, match="not an IDX file"):
        read_idx(path)


def test_transparent_images_are_shown_on_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (image_to_array(clear, 8, 3) == 255).all()
    assert (image_to_array(Image.new("LA", (8, 8), (0, 255)), 8, 1) == 0).all()


def test_the_centre_is_cropped_after_the_shorter_side_is_resized():
    wide = Image.fromarray(np.repeat(np.uint8([[0] * 10 + [255] * 10 + [0] * 10]), 10, axis=0))
    assert (image_to_array(wide, 10, 1) == 255).all()
    assert image_to_array(wide, 20, 3).shape == (3, 20, 20)


def test_transform():
    dataset = Dataset.from_dict({"image": [Image.new("L", (28, 28), 255)], "label": [1]})
    dataset.set_transform(ImageTransform(28, 1, "image", "label"))
    row = dataset[0]
    assert row["pixel_values"].shape == (1, 28, 28) and row["pixel_values"].max() == 1 and row["labels"] == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_training_passes_over_what_cannot_be_read(image_folder, tmp_path, workers):
    shutil.copytree(image_folder, tmp_path / "images")
    names = write_bad_files(tmp_path / "images" / "class-0")
    dataset = load_images(train_data_dir=str(tmp_path / "images"))
    bad = len(dataset) - 64  # pipes and dead links are no files to `datasets` either
    assert len(names) - 2 <= bad <= len(names)
    images = ReadableImages(dataset, ImageTransform(28, 1, "image", "label"))
    if workers == 0:
        with pytest.warns(UserWarning, match="bomb.png cannot be read .*: the next image is taken instead"):
            rows = [images[i] for i in range(len(images))]
        assert images.unreadable.num_unreadable == bad
    batches = list(DataLoader(images, 7, num_workers=workers))
    assert sum(len(batch["labels"]) for batch in batches) == 64 + bad
    if workers == 0:
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in batches])[5], rows[5]["pixel_values"])


def test_where_nothing_can_be_read_training_ends(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        write_bad_files(tmp_path / label)
    images = ReadableImages(load_images(train_data_dir=str(tmp_path)), ImageTransform(28, 1, "image", "label"))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="of the training images cannot be read, e.g. "):
        images[0]


def test_training_sees_images_upright_and_of_any_depth(tmp_path):
    upright = np.zeros((8, 8), np.uint8)
    upright[:, 6:] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # stored as a camera held upright stores it
    Image.fromarray(np.rot90(upright)).save(tmp_path / "0.png", exif=exif)
    Image.fromarray(upright.astype(np.uint16) * 257).save(tmp_path / "1.png")
    Image.fromarray(upright.astype(np.float32) / 255).save(tmp_path / "2.tiff")
    dataset = load_images(train_data_dir=str(tmp_path), label_column=None)
    rows = ReadableImages(dataset, ImageTransform(8, 1, "image", None))
    for row in rows:
        assert np.array_equal(row["pixel_values"][0] * 255, upright)


def test_damaged_idx_files_are_named(idx_folder, tmp_path):
    shutil.copytree(idx_folder, tmp_path / "idx")
    path = tmp_path / "idx" / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:100] + bytes(50) + content[150:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz is damaged .*: fetch it again"):
            load_images(train_data_dir=str(tmp_path / "idx"))
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12 + bytes(20)))  # promises more than memory holds
    with pytest.raises(ValueError, match="is truncated: 20 values instead of"):
        load_images(train_data_dir=str(tmp_path / "idx"))
    path.write_bytes(content)
    write_idx(tmp_path / "idx" / "train-labels-idx1-ubyte.gz", np.full(64, 10, np.uint8))
    with pytest.raises(ValueError, match="holds class 10; there are 10, from 0"):
        load_images(train_data_dir=str(tmp_path / "idx"))


def test_a_full_disk_under_the_cache_is_no_missing_image(image_folder, monkeypatch):
    def full(*args, **kwargs):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("An error occurred while generating the dataset") from error

    monkeypatch.setattr("diffusers_autonat.image_datasets.load_dataset", full)
    with pytest.raises(OSError, match="No space left on device: '.*datasets") as error:
        load_images(train_data_dir=str(image_folder))
    assert error.value.errno == errno.ENOSPC


@pytest.fixture
def files(fashion_mnist, tmp_path):
    """A folder of twelve images, and the names of their classes."""
    folder = tmp_path / "own"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(fashion_mnist[0][i]).save(folder / f"{i:02d}.png")
    return folder, ["Boot" if i % 3 else "Bag" for i in range(12)]


def test_a_flat_folder_has_no_labels_and_needs_no_word(files):
    dataset = load_images(train_data_dir=str(files[0]))
    assert dataset.column_names == ["image"] and len(dataset) == 12
    with pytest.raises(ValueError, match="no column 'kind'"):
        load_images(train_data_dir=str(files[0]), label_column="kind")


def lay_out(folder, fashion_mnist, names):
    """An image of Fashion-MNIST under each of the names."""
    for image, name in zip(fashion_mnist[0], names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)


@pytest.mark.parametrize("folders", [("bus", "train"), ("bus", "tram"), ("data/test", "data/bus")])
def test_names_of_images_and_classes_make_no_splits(fashion_mnist, tmp_path, folders):
    names = [f"{folder}/{name}.png" for folder in folders for name in ("train-1", "test, old", "val", "4")]
    lay_out(tmp_path / "own", fashion_mnist, names)
    dataset = load_images(train_data_dir=str(tmp_path / "own"))
    assert len(dataset) == 8 and set(label_names(dataset, "label")) == {folder.split("/")[-1] for folder in folders}
    with pytest.raises(ValueError, match="no test images found"):
        load_images(train_data_dir=str(tmp_path / "own"), split="test")


@pytest.mark.parametrize("inside", ["", "photos/"])
def test_folders_named_after_splits_are_splits(fashion_mnist, tmp_path, inside):
    names = [
        f"{inside}{split}/{kind}/{i}.png"
        for split in ("train", "test-set")
        for kind in ("bus", "train")
        for i in (0, 1)
    ]
    lay_out(tmp_path / "own", fashion_mnist, [*names, f"{inside}train/bus/test.png"])
    for split, count in (("train", 5), ("test", 4)):
        dataset = load_images(train_data_dir=str(tmp_path / "own"), split=split)
        assert len(dataset) == count and label_names(dataset, "label") == ["bus", "train"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_texts_beside_images_become_classes(files, kind):
    folder, names = files
    rows = Dataset.from_dict({"file_name": [f"{i:02d}.png" for i in range(12)], "kind": names})
    (rows.to_csv if kind == "csv" else rows.to_json)(str(folder / f"metadata.{kind}"))
    dataset = load_images(train_data_dir=str(folder), label_column="kind")
    assert label_names(dataset, "kind") == ["Bag", "Boot"]
    assert dataset["kind"][:4] == [0, 1, 1, 0]
    assert np.array_equal(np.asarray(dataset[5]["image"]), np.asarray(Image.open(folder / "05.png")))
    # Of fewer images, the classes have the same ids.
    assert label_names(load_images(train_data_dir=str(folder), label_column="kind", max_samples=1), "kind") == [
        "Bag",
        "Boot",
    ]
    with pytest.raises(ValueError, match="no column 'label', it has .*'kind'.*--label_column"):
        load_images(train_data_dir=str(folder))  # there is something said of the images: what is the label?


def test_parquet_and_webdataset_are_the_same_images(files, tmp_path):
    folder, names = files
    images = [{"bytes": (folder / f"{i:02d}.png").read_bytes(), "path": None} for i in range(12)]
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "README.md").write_text("not data")
    Dataset.from_dict({"image": images, "label": names}).to_parquet(str(tmp_path / "parquet" / "part-0.parquet"))
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"shard-{shard}.tar", "w") as tar:
            for i in range(6 * shard, 6 * shard + 6):
                tar.add(folder / f"{i:02d}.png", f"{i:02d}.png")
                (tmp_path / "label").write_text(str(int(names[i] == "Boot")))
                tar.add(tmp_path / "label", f"{i:02d}.cls")
    expected = [image_to_array(folder / f"{i:02d}.png", 28, 1) for i in range(12)]
    for where in ("parquet", "shards"):
        dataset = load_images(train_data_dir=str(tmp_path / where))
        assert dataset["label"][:] == [int(name == "Boot") for name in names], where
        rows = ReadableImages(dataset, ImageTransform(28, 1, "image", "label"))
        assert all(
            np.array_equal(rows[i]["pixel_values"].mul(255).round().byte().numpy(), expected[i]) for i in range(12)
        )
    assert label_names(load_images(train_data_dir=str(tmp_path / "parquet")), "label") == ["Bag", "Boot"]
    stream = load_images(train_data_dir=str(tmp_path / "shards"), streaming=True)
    assert [row["label"] for row in stream] == [int(name == "Boot") for name in names]
    with pytest.raises(ValueError, match="holds texts, whose classes a stream does not tell: leave --streaming out"):
        load_images(train_data_dir=str(tmp_path / "parquet"), streaming=True)


def test_numbers_are_ids_where_they_count_from_0_and_else_names():
    ids = Dataset.from_dict({"label": [2, 0, 1, 2]})
    assert (
        with_classes(ids, "label")["label"][:] == [2, 0, 1, 2]
        and label_names(with_classes(ids, "label"), "label") is None
    )
    years = with_classes(Dataset.from_dict({"year": [2004, 1999, 2010, 1999]}), "year")
    assert label_names(years, "year") == ["1999", "2004", "2010"] and years["year"][:] == [1, 0, 2, 0]
    assert with_classes(Dataset.from_dict({"label": [-1, -1]}), "label")["label"][:] == [-1, -1]  # no labels
    floats = Dataset.from_dict({"label": [0.5, 1.0]})
    assert floats.features["label"] == Value("float64") and with_classes(floats, "label") is floats


def test_another_split_has_the_ids_of_the_first():
    test = Dataset.from_dict({"label": ["dog", "dog"]})
    assert with_classes(test, "label", ["cat", "dog"])["label"][:] == [1, 1]
    with pytest.raises(ValueError, match="holds 'dog', which is no class of the other split"):
        with_classes(test, "label", ["cat", "cow"])


def test_pictures_to_look_at_are_of_all_classes():
    sorted_by_class = Dataset.from_dict({"label": [0] * 50 + [1] * 3 + [2] * 50})
    rows = spread_rows(sorted_by_class, "label", 12)
    assert [sorted_by_class[row]["label"] for row in rows] == [0, 1, 2] * 3 + [0, 2]  # there are three of 1
    assert len(set(rows)) == len(rows) and rows[0] == 0 and 49 in rows
    many = Dataset.from_dict({"label": list(range(100))})
    assert spread_rows(many, "label", 4) == [0, 33, 66, 99]
    assert spread_rows(many, None, 4) == [0, 33, 66, 99] and spread_rows(many.select(range(2)), None, 32) == [0, 1]
