"""The scripts that measure speed run, compare like with like, and write what they say. No test looks at a time."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_autonat import GenerationStrategy
from diffusers_autonat.image_datasets import load_images
from diffusers_autonat.models.tokenizer import decode_tokens
from diffusers_autonat.training.tokenizing import tokenize_dataset
from tests.conftest import tiny_pipeline


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)

    def run(script: str, *arguments: object) -> list[dict] | dict:
        output = tmp_path / "result.json"
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments), "--output", str(output)])
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        result = json.loads(output.read_text())
        assert (
            result["command"].startswith(f"python benchmarks/{script} ") and result["hardware"] and result["versions"]
        )
        return result.get("rows", result)

    return run


def test_the_published_way_is_the_same_sampler(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import generate

    greedy = GenerationStrategy([0.8, 0.5, 0.2, 0.0], [0.0] * 4, [0.0] * 4, [0.0, 0.5, 1.0, 1.5])
    monkeypatch.setattr(generate, "strategy_of", lambda model, steps: greedy)
    ways = generate.ways_of("tiny", 256, 4, 2, torch.float32, "cpu", ["fused qkv, one class"])
    assert list(ways) == ["published", "ours", "ours, fused qkv, one class"]
    assert len(set(ways["ours"].draw.args[2])) == 2 and len(set(ways["ours, fused qkv, one class"].draw.args[2])) == 1
    tokens = ways["published"].draw(output="tokens")
    pipe, _, labels = ways["ours"].draw.args
    assert torch.equal(tokens, pipe(labels, strategy=greedy, output_type="latent").images)
    with torch.no_grad():
        published = ways["published"].draw.args[1](tokens[:1])
        torch.testing.assert_close(published, decode_tokens(pipe.vqvae, tokens[:1]), rtol=1e-4, atol=1e-4)


def test_generate(run, tmp_path, monkeypatch):
    rows = run(
        "generate.py", "--models", "tiny", "--steps", 2, "--batch-sizes", 1, "--dtypes", "bfloat16", "--rounds", 1,
        "--peak-size", 64, "--others", "DiT-XL/2", "aMUSEd-256", "--options", "kept first step",
        "fused qkv, kept first step",
    )  # fmt: skip
    assert [row["way"] for row in rows] == [
        "published", "ours", "ours, kept first step", "ours, fused qkv, kept first step", "DiT-XL/2", "aMUSEd-256"
    ]  # fmt: skip
    assert rows[0]["ratio"] == 1 and all(row["share_of_peak"] > 0 and row["dtype"] == "bfloat16" for row in rows)
    assert rows[2]["operations"] < rows[1]["operations"]  # two passes less
    assert (tmp_path / "result.md").read_text().count("\n") == 2 + len(rows)

    files = [str(tmp_path / "result.json")] * 2
    monkeypatch.setattr(sys, "argv", ["plot_generate.py", *files, "--output", str(tmp_path / "result.png")])
    made = runpy.run_path(str(BENCHMARKS / "plot_generate.py"), run_name="__main__")
    assert Image.open(tmp_path / "result.png").width > 400
    [(case, ways)] = made["ratios_of"](rows).items()
    assert case == ("tiny", 256, 2, 1, "bfloat16") and ways["published"] == [1.0]
    assert ways["ours"] == [pytest.approx(row["ratio"]) for row in rows[1:2]]


def test_first_step(run, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    rows = run(
        "first_step.py", tmp_path / "tiny", "--steps", 4, "--batch-sizes", 8, "--dtypes", "float32", "--images", 16,
        "--rounds", 1,
    )  # fmt: skip
    assert len(rows) == 1 and rows[0]["compared"] == 16
    for way in ("shared", "kept"):
        assert rows[0][way]["turned"] == {"images": 0, "tokens": 0} and rows[0][way]["times_as_fast"] > 0


def test_low_precision(run):
    cards = BENCHMARKS.parent / "model_cards"
    judge = cards / "fashion-mnist-classifier"
    [same, other] = run(
        "low_precision.py", cards / "autonat-fashion-mnist", "--judge", judge, "--reference", judge / "fashion-mnist-test.npz",
        "--ways", "float32", "bfloat16", "--steps", 4, "--images", 100,
    )  # fmt: skip
    assert same["tokens"] == same["images"] == 1 and same["decoding"] == 0 and same["class_consistency"] > 0.8
    assert 0.7 < other["tokens"] < 1 and 0 < other["decoding"] < 2


@pytest.mark.slow
def test_attention(run):
    rows = run("attention.py", "--models", "192 wide, 7 blocks, 49 tokens", "--rounds", 1)
    assert [row["work"] for row in rows] == ["train", "generate"] and all(row["fused_over_plain"] > 0 for row in rows)


@pytest.mark.slow
def test_allocator(run):
    rows = run("allocator.py", "--model", "tiny", "--rounds", 1)
    assert {row["work"] for row in rows} == {"generate", "train"} and rows[0]["ratio"] == 1
    assert {"glibc", "glibc, keeping"} <= {row["allocator"] for row in rows} and all(
        row["seconds"][0] > 0 for row in rows
    )


def test_step_parts(run):
    rows = run("step_parts.py", "--model", "tiny", "--batch-sizes", 1, "--dtypes", "float32", "--rounds", 1)
    assert [row["part"] for row in rows] == ["decoder", "guidance", "ranks", "head", "draw"]
    assert all(row["mean_difference"] < 1e-5 for row in rows)


def test_generate_names_a_package_that_is_missing_before_it_measures(run, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        run("generate.py", "--models", "tiny", "--options", "kept first step", "int8, torchao")
    said = capsys.readouterr()
    assert "`pip install torchao`" in said.err and not said.out


@pytest.mark.slow
def test_generate_with_other_runtimes(run):
    for library in ("onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    rows = run(
        "generate.py", "--models", "tiny", "--steps", 2, "--batch-sizes", 1, "--dtypes", "bfloat16", "--rounds", 1,
        "--peak-size", 64, "--options", "onnx", "onnx, int8", "fp8 storage", "int8, torch",
    )  # fmt: skip
    assert [row["way"] for row in rows[2:]] == [
        "ours, onnx",
        "ours, onnx, int8",
        "ours, fp8 storage",
        "ours, int8, torch",
    ]
    assert all(row["operations"] == rows[1]["operations"] for row in rows[2:])


def test_growth(run, tmp_path):
    rows = run("growth.py", "--model", "tiny", "--tokens", 64, "--axes", "tokens", "batch", "steps", "--rounds", 1)
    assert [row["axis"] for row in rows] == ["tokens", "batch", "steps"]
    assert all(len(row["seconds_per_image"]) == len(row["sizes"]) for row in rows)
    assert (tmp_path / "result.png").stat().st_size > 5_000


def test_tokenizing_overhead(run, idx_folder, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    result = run(
        "tokenizing_overhead.py", "--data", idx_folder, "--pipeline", tmp_path / "tiny", "--resolution", 28, "--batch-size", 32,
        "--num-images", 48, "--rounds", 2,
    )  # fmt: skip
    assert result["num_images"] == 48 and len(result["ratios"]) == 2 and result["median_ratio"] > 0


@pytest.mark.slow
def test_training_overhead(run, idx_folder, tmp_path):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "tiny")
    tokenize_dataset(
        load_images(train_data_dir=str(idx_folder)), pipe.vqvae, tmp_path / "tokens", 28, show_progress=False
    )
    result = run(
        "training_overhead.py", "--tokens", tmp_path / "tokens", "--vqvae", tmp_path / "tiny" / "vqvae", "--batch-size", 8,
        "--steps", 10, "--rounds", 1, "--dtype", "bfloat16",
    )  # fmt: skip
    assert result["dtype"] == "bfloat16" and len(result["ratios"]) == 1
