"""What `pip install` gives: built, installed into an empty environment, and used there without the repository."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
MODEL = ROOT / "model_cards" / "autonat-fashion-mnist"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    result = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def run(built, tmp_path_factory):
    """Run a program of an environment that has the wheel alone, in an empty folder; what others need is read from here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin" / "python",
        "install",
        "--no-deps",
        "--no-index",
        built[1],
    ]
    subprocess.run(list(map(str, install)), check=True, capture_output=True)
    [packages] = folder.glob("lib/python*/site-packages")
    # A path in a .pth file, whose own .pth files are not read: an editable install there is not seen.
    (packages / "heavy.pth").write_text(sysconfig.get_path("purelib"))
    here = tmp_path_factory.mktemp("here")
    names = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    names |= {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "HF_HOME": str(folder / "hf"),
    }

    def run_in_it(program, *words):
        line = [str(folder / "bin" / program), *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, cwd=here, env=names)

    run_in_it.here, run_in_it.folder = here, folder
    return run_in_it


def test_what_is_in_them(built):
    with tarfile.open(built[0]) as tar:
        sources = {name.split("/", 1)[-1] for name in tar.getnames()}
    assert {"LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "CITATION.cff", "training/train_vqgan.py"} <= sources
    with zipfile.ZipFile(built[1]) as wheel:
        files = {name: wheel.getinfo(name).file_size for name in wheel.namelist()}
        metadata = wheel.read(next(name for name in files if name.endswith("/METADATA"))).decode()
    package = "diffusers_autonat"
    scripts = {
        f"{package}/scripts/{folder}/{path.name}"
        for folder in ("training", "search")
        for path in (ROOT / folder).glob("*.py")
    }
    assert {f"{package}/py.typed", *scripts} <= set(files) and any(name.endswith("licenses/NOTICE") for name in files)
    # Every module and data file of the source, and nothing else: no weights, no tests.
    modules = {f"{package}/{path.relative_to(ROOT / 'src' / package)}" for path in (ROOT / "src" / package).rglob("*") if
               path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    others = {name for name in files if not name.startswith(package + "-")} - modules - scripts
    assert modules <= set(files) and others == {f"{package}/scripts/training/fsdp.yaml"}
    assert sum(files.values()) < 3_000_000 and "License-Expression: Apache-2.0" in metadata


def test_it_generates(run):
    where = run("python", "-c", "import diffusers_autonat; print(diffusers_autonat.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(run.folder), where.stdout + where.stderr
    done = run("diffusers-autonat", "generate", MODEL, "--class-labels", "Bag", "--num-images", 1, "--num-inference-steps", 2,
               "--heuristic", "cosine", "--output", "images.png")  # fmt: skip
    assert done.returncode == 0 and "1 images in 2 steps" in done.stdout, done.stderr
    assert [path.name for path in run.here.iterdir()] == ["images.png"]
    assert run("diffusers-autonat", "--version").stdout.startswith("diffusers-autonat 0.")


def test_its_scripts_train_and_search(run, idx_folder, tmp_path):
    sizes = [
        "--resolution",
        28,
        "--num_channels",
        1,
        "--preset",
        "tiny",
        "--max_train_steps",
        2,
        "--train_batch_size",
        8,
    ]
    done = run(
        "diffusers-autonat",
        "train",
        "vqgan",
        "--train_data_dir",
        idx_folder,
        "--output_dir",
        tmp_path / "vqgan",
        *sizes,
    )
    assert done.returncode == 0 and (tmp_path / "vqgan" / "vqvae" / "config.json").exists(), done.stderr
    shown = run(
        "python", "-m", "diffusers_autonat.scripts.training.tokenize_images", "--help"
    )  # as accelerate launch -m does
    assert shown.returncode == 0 and "--vqvae" in shown.stdout
    shown = run("diffusers-autonat", "search", "generation", "--help")
    assert shown.returncode == 0 and "--num-trials" in shown.stdout, shown.stderr
    refused = run("diffusers-autonat", "search", "training", "--reference", "none.npz", "--output", tmp_path / "s", "--",
                  "--train_data_dir", "nothing")  # fmt: skip
    assert refused.returncode == 2 and refused.stderr.count("\n") >= 1 and "Traceback" not in refused.stderr, (
        refused.stderr
    )
    assert run("diffusers-autonat", "train", "nothing").returncode == 2
