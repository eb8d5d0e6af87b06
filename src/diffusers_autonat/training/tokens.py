"""Token sets: images turned into token ids once, stored as Arrow files that training maps into memory.

A set is a folder of shards. A shard is a folder of Arrow parts and a `shard.json`, written last. Every part says in its
schema what it was made of, which of the parts it is, and the hash of what it holds, so nothing can be lost, doubled or
mixed unseen: neither a part nor a shard is taken for whole that is not.
"""

from __future__ import annotations

import json
import types
import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, Sequence, Value, concatenate_datasets

from ..files import whole_file
from ..images import NAMED
from ..provenance import array_hash


SHARD_FILE = "shard.json"  # in the folder of a finished shard
COUNTS = ("num_parts", "num_images", "num_unreadable", "unreadable")
AGAIN = "run `diffusers-autonat train tokenize` again as before, which makes what is missing"
ANEW = "remove {} and run `diffusers-autonat train tokenize` again"
_KEY = b"diffusers_autonat"  # of what a part says of itself
_FEATURES = b"huggingface"  # of what `datasets` says of the columns


@dataclass
class TokenSetInfo:
    """What a shard holds and how it was made; equal for all shards of a set but for the counts and names at the end.

    Args:
        vqvae_hash: `model_hash` of the tokenizer; `codebook_size`: its ids are below that; `sample_size`: side of the
            grid of tokens; `resolution`: side of the images in pixels.
        flips: whether every image is followed by its mirror image.
        label_names: names of the classes, where they have some.
        num_shards: of the set.
        dataset: name of the data set, where it has one; `split`: of it; `image_column`, `label_column`: of it.
        dataset_size: number of images of all shards together; None of a stream, which does not know it.
        dataset_hash: of images evenly spaced over the data set, with their labels; of a stream, of its first.
        image_transform: `images.TRANSFORM`.
        images_per_part: readable or not.
        caption_column: of the data set; None where no captions are kept.
        num_parts: of this shard, as the number of images: of those that could be read.
        unreadable: why, of the first of those that could not.
    """

    vqvae_hash: str
    codebook_size: int
    sample_size: int
    resolution: int
    flips: bool
    label_names: list[str] | None
    num_shards: int
    # What tokens made before parts described themselves do not say:
    dataset: str | None = None
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    dataset_size: int | None = None
    dataset_hash: str | None = None
    image_transform: str | None = None
    images_per_part: int | None = None
    caption_column: str | None = None
    num_parts: int | None = None
    num_images: int = 0
    num_unreadable: int = 0
    unreadable: list[str] = field(default_factory=list)

    @property
    def describes_parts(self) -> bool:
        """Whether the parts say what they were made of."""
        return self.images_per_part is not None

    def recipe(self) -> dict[str, Any]:
        """What the tokens depend on, by name."""
        return {key: value for key, value in asdict(self).items() if key not in COUNTS}

    @classmethod
    def of_json(cls, path: Path, data: Any) -> TokenSetInfo:
        """That which `asdict` gave; a ValueError names `path` where it is something else."""
        hints = get_type_hints(cls)
        if not isinstance(data, dict):
            raise ValueError(f"{path} does not describe tokens: it holds a {type(data).__name__}.")
        needed = [one.name for one in fields(cls)][:7]
        wrong = [name for name in needed if name not in data] + [name for name in data if name not in hints]
        wrong += [name for name, value in data.items() if name in hints and not _fits(value, hints[name])]
        counts = ("codebook_size", "sample_size", "resolution", "num_shards", "images_per_part")
        wrong = wrong or [name for name in counts if (value := data.get(name)) is not None and not 0 < value < 2**31]
        if wrong:
            value = data.get(wrong[0], "missing")
            raise ValueError(f"{path} does not describe tokens of this version: its {wrong[0]} is {value!r:.80}.")
        return cls(**data)


@dataclass
class Part:
    """What a part holds.

    Args:
        ids: tokens `[n, sample_size ** 2]`; `labels`: `[n]`, -1 where there is none.
        info: how it was made, with the counts of this part alone; None of one that does not say.
        rows: the same as a data set, of one that was read.
        captions: one or more texts for each row, where captions are kept.
    """

    ids: np.ndarray
    labels: np.ndarray
    info: TokenSetInfo | None = None
    rows: Dataset | None = None
    captions: pa.ListArray | None = None


def shard_path(folder: str | Path, index: int, count: int) -> Path:
    return Path(folder) / f"shard-{index:05d}-of-{count:05d}"


def part_path(shard: Path, index: int) -> Path:
    return shard / f"part-{index:05d}.arrow"


def write_part(path: Path, part: Part) -> None:
    """Write a part that says what it is and where it belongs, whole or not at all."""
    info = part.info
    assert info is not None
    dtype = _dtype(info)
    ids, labels = part.ids.astype(dtype).reshape(-1, info.sample_size**2), part.labels.astype(np.int32)
    types = {"input_ids": Sequence(Value(dtype.name), length=info.sample_size**2), "label": Value("int32")}
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), info.sample_size**2)
    arrays = [tokens, pa.array(labels)]
    if part.captions is not None:
        types["captions"] = Sequence(Value("string"))
        arrays.append(part.captions)
    columns = Features(types).arrow_schema
    features = columns.metadata[_FEATURES]
    said = {"info": asdict(info), "place": _place(path), "hash": _hash(ids, labels, part.captions, features)}
    schema = columns.with_metadata({**columns.metadata, _KEY: json.dumps(said).encode()})
    with whole_file(path) as partial, pa.OSFile(str(partial), "wb") as sink:
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _dtype(info: TokenSetInfo) -> np.dtype:
    return np.dtype(np.uint16 if info.codebook_size <= 2**16 else np.int32)


def _hash(ids: np.ndarray, labels: np.ndarray, captions: pa.ListArray | None, features: bytes) -> str:
    texts = b"" if captions is None else json.dumps(captions.to_pylist()).encode()
    return array_hash(ids, labels, np.frombuffer(texts, np.uint8), np.frombuffer(features, np.uint8))


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def read_part(path: Path) -> Part:
    """A part from its file.

    Raises:
        ValueError: the file is missing, damaged, or holds something else; says which.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_stream(file).read_all()
        table.validate(full=True)
        rows = Dataset.from_file(str(path))
        ids = table["input_ids"].combine_chunks()
        labels = table["label"].combine_chunks()
        described = table.schema.metadata or {}
        said = json.loads(described.get(_KEY, b"null"))
        if not pa.types.is_integer(labels.type):
            raise TypeError(f"its labels are {labels.type}, not whole numbers")
        if not (pa.types.is_fixed_size_list(ids.type) and pa.types.is_integer(ids.type.value_type)):
            raise TypeError(f"its tokens are {ids.type}, not lists of whole numbers of one length")
        if ids.null_count or labels.null_count or ids.flatten().null_count:
            raise ValueError("some of its values are missing")
        part = Part(ids.flatten().to_numpy().reshape(len(ids), ids.type.list_size), labels.to_numpy(), rows=rows)
        if "captions" in table.column_names:
            part.captions = table["captions"].combine_chunks()
            if part.captions.type != pa.list_(pa.string()):
                raise TypeError(f"its captions are {part.captions.type}, not lists of texts")
        if said is not None:
            part.info = TokenSetInfo.of_json(path, said["info"])
            if _hash(part.ids, part.labels, part.captions, described[_FEATURES]) != said["hash"]:
                raise ValueError("its tokens are not those that were written")
            if said["place"] != _place(path):
                raise ValueError(f"it is a copy of {said['place']}")
    except Exception as error:  # what a damaged file makes the reader raise is anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged ({reason})") from error
    return part


def check_part(path: Path, part: Part, info: TokenSetInfo) -> None:
    """A ValueError where tokens or labels are not what `info` says, labels beside none included."""
    if (part.ids.dtype, part.labels.dtype) != (_dtype(info), np.int32):
        raise ValueError(f"{path} holds tokens of type {part.ids.dtype} and labels of type {part.labels.dtype}")
    if part.ids.shape[1] != info.sample_size**2:
        raise ValueError(f"{path} holds rows of {part.ids.shape[1]} tokens, not of {info.sample_size**2}")
    if part.ids.size and not 0 <= part.ids.min() <= part.ids.max() < info.codebook_size:
        wrong = part.ids.max() if part.ids.max() >= info.codebook_size else part.ids.min()
        raise ValueError(f"{path} holds the token {wrong}: there are {info.codebook_size}, from 0")
    check_labels(part.labels, info.label_names, path)
    if (part.captions is None) != (info.caption_column is None):
        raise ValueError(f"{path} holds {'no ' if part.captions is None else ''}captions")
    if part.captions is not None and (
        part.captions.flatten().null_count or not pc.all(pc.greater(pc.list_value_length(part.captions), 0)).as_py()
    ):
        raise ValueError(f"{path} holds a row without a caption")


def check_labels(labels: np.ndarray, label_names: list[str] | None, source: Any) -> None:
    """A ValueError unless all labels are classes, or all are -1 for none; class names tell how many classes there are.

    Args:
        labels: whole numbers `[N]`.
    """
    if not labels.size:
        return
    low, high = int(labels.min()), int(labels.max())
    remedy = "or leave all labels out (--label_column none)"
    if label_names is not None and high >= len(label_names):
        raise ValueError(
            f"{source} holds the label {high}, and there are {len(label_names)} classes, from 0: correct it, {remedy}"
        )
    if low < (0 if label_names is not None or high >= 0 else -1):
        raise ValueError(
            f"{source} holds the label {low}, which is no class: correct it, leave those images out, {remedy}"
        )


def is_token_set(folder: str | Path | None) -> bool:
    return folder is not None and any(Path(folder).glob("shard-*-of-*"))


def read_shard_file(path: Path) -> TokenSetInfo:
    """What a `shard.json` says; a ValueError names it where it is damaged."""
    try:
        data = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged ({reason})") from error
    return TokenSetInfo.of_json(path, data)


def load_token_set(folder: str | Path) -> tuple[Dataset, TokenSetInfo]:
    """Map all shards of a set into memory, once every part is seen to be whole and what it should be.

    Raises:
        ValueError: the folder holds no token set; shards are missing, unfinished or made in different ways; a part is
            missing, damaged or of another set; tokens or labels do not exist. Says which, and what to do.
    """
    shards = sorted(Path(folder).glob("shard-*-of-*"))
    if not shards:
        raise ValueError(f"{folder} holds no token set; make one with `diffusers-autonat train tokenize`.")
    unfinished = [shard.name for shard in shards if not (shard / SHARD_FILE).exists()]
    try:
        infos = [read_shard_file(shard / SHARD_FILE) for shard in shards if shard.name not in unfinished]
    except ValueError as error:
        raise ValueError(f"{error}: {AGAIN}.") from error
    if unfinished or len(shards) != infos[0].num_shards:
        expected = infos[0].num_shards if infos else "all"
        raise ValueError(
            f"{folder} is incomplete: {len(shards)} of {expected} shards are there, unfinished: {unfinished or 'none'}; "
            "run `diffusers-autonat train tokenize` again for those."
        )
    for index, (shard, one) in enumerate(zip(shards, infos)):
        if shard != shard_path(folder, index, len(shards)):
            raise ValueError(f"{shard_path(folder, index, len(shards))} is missing, in its place is {shard.name}.")
        if different := differences(one, infos[0]):
            raise ValueError(
                f"the shards of {folder} were made in different ways ({shard.name}: {different}); make them again with one "
                "tokenizer."
            )
    total = TokenSetInfo(**infos[0].recipe())
    parts: list[Part] = []
    for shard, one in zip(shards, infos):
        parts += check_shard(shard, one)
        total.num_images += one.num_images
        total.num_unreadable += one.num_unreadable
        total.unreadable += one.unreadable
    total.num_parts = len(parts)
    if not parts or not total.num_images:
        raise ValueError(f"{folder} holds no tokens: {ANEW.format(folder)}.")
    _or_anew(Path(folder), check_labels, np.concatenate([part.labels for part in parts]), total.label_names, folder)
    return concatenate_datasets([part.rows for part in parts]), total


def check_shard(shard: Path, info: TokenSetInfo) -> list[Part]:
    """The parts of a finished shard.

    Raises:
        ValueError: they are not all there, not whole, or not those that `info` counts; says which, and what to do.
    """
    found = set(shard.glob("part-*.arrow"))
    count = len(found) if info.num_parts is None else info.num_parts
    again = AGAIN if info.describes_parts else ANEW.format(shard)  # older parts cannot be made one by one
    for index in range(count):
        if part_path(shard, index) not in found:
            raise ValueError(f"{part_path(shard, index)} is missing, one of {count} parts: {again}.")
    if added := sorted(found - {part_path(shard, index) for index in range(count)}):
        raise ValueError(f"{added[0]} is none of the {count} parts that {SHARD_FILE} counts: remove it.")
    parts = []
    for index in range(count):
        path = part_path(shard, index)
        try:
            parts.append(_part_of(path, info))
        except ValueError as error:
            raise ValueError(f"{error}: {again}.") from error
        _or_anew(shard, check_part, path, parts[-1], info)
    if info.describes_parts:
        unreadable = sum(part.info.num_unreadable for part in parts if part.info)
        if unreadable != info.num_unreadable:
            raise ValueError(
                f"{shard / SHARD_FILE} counts {info.num_unreadable} unreadable images, not {unreadable}: {AGAIN}."
            )
    rows = sum(len(part.labels) for part in parts)
    wanted = info.num_images * (2 if info.flips else 1)
    if rows != wanted:
        raise ValueError(
            f"{shard} holds {rows} rows, and {SHARD_FILE} counts {info.num_images} images, which give {wanted}: "
            f"{ANEW.format(shard)}."
        )
    return parts


def _part_of(path: Path, info: TokenSetInfo) -> Part:
    """A part, once it is seen to be of such a set."""
    part = read_part(path)
    if info.describes_parts:
        if part.info is None:
            raise ValueError(f"{path} does not say how it was made")
        if different := differences(part.info, info):
            raise ValueError(f"{path} is of another set ({different})")
        wanted = part.info.num_images * (2 if info.flips else 1)
        if len(part.labels) != wanted:
            raise ValueError(f"{path} holds {len(part.labels)} rows, not {wanted}")
    return part


def whole_part(path: Path, info: TokenSetInfo) -> Part:
    """As `read_part`, of a part that was made as `info` says; a ValueError says why it is none."""
    part = _part_of(path, info)
    check_part(path, part, info)
    return part


def differences(found: TokenSetInfo, asked: TokenSetInfo) -> str:
    """In what two ways of making tokens differ: `split is 'train', asked is 'test'`; empty where in nothing."""
    asked_recipe = asked.recipe()
    return ", ".join(
        f"{key} is {value!r:.60}, asked is {asked_recipe[key]!r:.60}"
        for key, value in found.recipe().items()
        if value != asked_recipe[key]
    )


def collate_tokens(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows of a token set to `input_ids` `[B, N]` and `class_labels` `[B]`, both int64.

    Raises:
        ValueError: tokens or labels are not whole numbers.
    """
    tokens, labels = np.stack([row["input_ids"] for row in rows]), np.asarray([row["label"] for row in rows])
    for name, values in (("input_ids", tokens), ("label", labels)):
        if values.dtype.kind not in "iu":
            raise ValueError(f"{name} are {values.dtype}, not whole numbers: tokenise the images again.")
    return {
        "input_ids": torch.from_numpy(tokens.astype(np.int64)),
        "class_labels": torch.from_numpy(labels.astype(np.int64)),
    }


def warn_unreadable(info: TokenSetInfo) -> None:
    if info.num_unreadable:
        total, shown = info.num_unreadable + info.num_images, "; ".join(info.unreadable[:NAMED])
        warnings.warn(
            f"{info.num_unreadable} of {total} images could not be read and are left out: {shown}", stacklevel=2
        )


def _or_anew(folder: Path, check: Any, *arguments: Any) -> None:
    """A check whose failure only other tokens put right."""
    try:
        check(*arguments)
    except ValueError as error:
        raise ValueError(f"{error}: {ANEW.format(folder)}.") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of an annotated type."""
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in kinds:
        if type(value) is (get_origin(kind) or kind):
            return all(type(one) in get_args(kind) for one in value) if isinstance(value, list) else True
    return False
