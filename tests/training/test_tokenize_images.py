"""`training/tokenize_images.py` as a user types it: what it says, and with what status it ends."""

import json
import os
import re
import resource
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from diffusers_autonat.training.tokens import load_token_set
from tests.bad_images import write_bad_files
from tests.conftest import tiny_vqvae


SCRIPT = Path(__file__).parents[2] / "training" / "tokenize_images.py"


@pytest.fixture(scope="module")
def vqvae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vqvae")
    tiny_vqvae().save_pretrained(folder)
    return folder


@pytest.fixture
def run(vqvae, monkeypatch, capsys):
    """Run it; returns its status, and what it said on both channels."""

    def run(images, output, *more):
        arguments = ["--train_data_dir", images, "--vqvae", vqvae, "--resolution", 28, "--output_dir", output,
                     "--images_per_part", 20, *more]  # fmt: skip
        monkeypatch.setattr(sys, "argv", [str(word) for word in (SCRIPT, *arguments)])
        capsys.readouterr()
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if line.startswith("tokenize_images.py: ")]
        assert len(lines) == (status != 0)
        return status, said.out, lines[0] if lines else said.err

    return run


def test_it_says_what_it_made(run, image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "images")
    write_bad_files(tmp_path / "images" / "class-0")
    status, out, err = run(tmp_path / "images", tmp_path / "tokens")
    assert re.search("warning: .*images could not be read and are left out: .*avif.png cannot be read", err)
    made = json.loads(out)
    assert (status, made["num_images"], made["split"], made["num_parts"]) == (0, 64, "train", 4)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--split", "test"], "split is 'train', asked is 'test'"),
        (["--images_per_part", 30], "images_per_part is 20, asked is 30"),
        (["--max_train_samples", 9], "dataset_size is 64, asked is 9"),
        (["--resolution", 30], "resolution 30 is not a multiple of the tokenizer's factor 4"),
        (["--batch_size", 0], "0 is not a whole number of at least 1"),
        (["--resolution", 10**9], "is not a whole number from 1 to 16384"),
        (["--label_column", "class"], "label_column is 'label', asked is 'class'"),
        (["--vqvae", "/no/where"], "/no/where"),
    ],
)
def test_what_is_wrong_is_one_line(run, idx_folder, tmp_path, more, message):
    assert run(idx_folder, tmp_path / "tokens")[0] == 0
    status, _, line = run(idx_folder, tmp_path / "tokens", *more)
    assert status == 2 and message in line


def test_on_a_full_disk_it_says_so_and_goes_on_later(run, idx_folder, tmp_path):
    """The limit on file sizes stands for a full disk: both break a write in its middle."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, limit[1]))
    try:
        status, _, line = run(idx_folder, tmp_path / "tokens")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert status == 2 and "part-00000.arrow" in line and "run the same command again" in line
    assert run(idx_folder, tmp_path / "tokens")[0] == 0
    assert len(load_token_set(tmp_path / "tokens")[0]) == 128


def test_where_it_may_not_write_it_says_so(run, idx_folder, tmp_path):
    (tmp_path / "file").touch()
    status, _, line = run(idx_folder, tmp_path / "file" / "tokens")
    assert status == 2 and str(tmp_path / "file") in line
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.geteuid():  # root may write everywhere
        status, _, line = run(idx_folder, tmp_path / "locked" / "tokens")
        assert status == 2 and "locked" in line and "permissions" in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("options, word", [("size=20k", "No space left on device"), ("ro", "Read-only file system")])
def test_on_a_real_small_or_locked_disk(run, idx_folder, tmp_path, options, word):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o {options} tmpfs {disk} 2>/dev/null"):
        pytest.skip("no mounting here")
    try:
        status, _, line = run(idx_folder, disk / "tokens")
        assert status == 2 and word in line and str(disk) in line
        if options != "ro":
            kept = sorted(path.name for path in disk.rglob("*.arrow"))
            os.system(f"mount -o remount,size=1m {disk}")
            assert kept and run(idx_folder, disk / "tokens")[0] == 0
            assert len(np.unique(load_token_set(disk / "tokens")[0].with_format("numpy")["label"][:])) == 10
    finally:
        os.system(f"umount -l {disk}")
