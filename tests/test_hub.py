"""Uploads, by huggingface_hub's client over HTTP to a stand-in: what arrives is whole, loads again, has a complete card, and no
token stands anywhere. What cannot be uploaded is said in one line, before the work."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diffusers_autonat import AutoNATPipeline, NATScheduler
from tests.conftest import save_tiny_study, tiny_pipeline
from tests.hub_stand_in import TOKEN, hub_stand_in


ROOT = Path(__file__).parents[1]
CLI = ["-m", "diffusers_autonat.cli"]


@pytest.fixture(scope="module")
def hub():
    with hub_stand_in() as started:
        yield started


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, fashion_mnist):
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_study(folder, fashion_mnist[0])
    return folder


def received(hub, repo, folder):
    """The files of a repository, as a folder."""
    for path, data in hub.repos[repo].items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def metadata_of(hub, repo):
    head = hub.repos[repo]["README.md"].decode().split("---\n")[1]
    return yaml.safe_load(head)


def results_of(metadata):
    return {one["type"]: one for result in metadata["model-index"][0]["results"] for one in result["metrics"]}


def assert_no_token(hub, done, *folders):
    assert TOKEN not in done.stdout + done.stderr
    for files in hub.repos.values():
        assert not any(TOKEN.encode() in data for data in files.values())
    for folder in folders:
        assert not any(TOKEN.encode() in file.read_bytes() for file in Path(folder).rglob("*") if file.is_file())


PUSH = """
import re, sys
from pathlib import Path
from huggingface_hub import hf_hub_download
from diffusers_autonat import AutoNATPipeline
pipe = AutoNATPipeline.from_pretrained(sys.argv[1])
print(pipe.push_to_hub("pushed"))
pipe.push_to_hub("pushed")  # again: nothing is new
pipe.save_pretrained("saved", push_to_hub=True)
pipe.scheduler.push_to_hub("order")
again = AutoNATPipeline.from_pretrained("me/pushed")
images = [one("dog", output_type="latent", generator=__import__("torch").manual_seed(0)).images for one in (pipe, again)]
assert (images[0] == images[1]).all()
own, general = re.findall(r"```python\\n(.*?)```", open(hf_hub_download("me/pushed", "README.md")).read(), re.DOTALL)
for block in (own, general):
    names = {}
    exec(block, names)
    assert type(names["pipe"]) is AutoNATPipeline
assert names["folder"] and AutoNATPipeline.from_pretrained("me/pushed", local_files_only=True)
part = AutoNATPipeline.from_pretrained("me/pushed", vqvae=None, cache_dir="part")
assert part.vqvae is None and not list(Path("part").rglob("vqvae"))
"""


def test_a_pipeline_is_pushed_and_loaded_from_there(hub, tiny, tmp_path):
    done = hub.run(["-c", PUSH, tiny / "pipeline"], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{hub.endpoint}/me/pushed/commit/" in done.stdout
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert hub.repos["me/pushed"][weights] == (tiny / "pipeline" / weights).read_bytes()
    assert hub.commits["me/pushed"] == ["made", "Upload AutoNATPipeline"]
    metadata, card = metadata_of(hub, "me/pushed"), hub.repos["me/pushed"]["README.md"].decode()
    assert metadata["library_name"] == "diffusers" and metadata["pipeline_tag"] == "unconditional-image-generation"
    assert metadata["license"] == "unknown" and "class-conditional" in metadata["tags"]
    assert (
        'from_pretrained("me/pushed")' in card and "0 cat, kitty" in card and "| 4 | 0.924, 0.707, 0.383, 0 |" in card
    )
    assert b"import AutoNATPipeline" in hub.repos["me/pushed"]["pipeline.py"]
    assert 'from_pretrained("me/saved")' in hub.repos["me/saved"]["README.md"].decode()
    assert 'from_pretrained("me/saved")' in (tmp_path / "saved" / "README.md").read_text()
    pipe = AutoNATPipeline.from_pretrained(received(hub, "me/saved", tmp_path / "got"))
    assert pipe.get_label_ids("dog") == [1] and sorted(pipe.scheduler.stored_strategies) == [4, 8]
    order = NATScheduler.from_pretrained(received(hub, "me/order", tmp_path / "order"))
    assert order.stored_strategies == pipe.scheduler.stored_strategies
    assert_no_token(hub, done, tmp_path)


@pytest.mark.slow
def test_a_card_that_is_there_stays(hub, tiny, tmp_path):
    hub.repos["me/own"], hub.commits["me/own"] = {"README.md": b"my words"}, ["made"]
    push = "import sys; from diffusers_autonat import AutoNATPipeline as P; P.from_pretrained(sys.argv[1]).push_to_hub('me/own')"
    done = hub.run(["-c", push, tiny / "pipeline"], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert hub.repos["me/own"]["README.md"] == b"my words" and "model_index.json" in hub.repos["me/own"]


def train(tiny, output, *more):
    return [ROOT / "training" / "train_autonat.py", "--hidden_size", 32, "--num_layers", 3, "--num_attention_heads", 4,
            "--max_train_steps", 2, "--train_batch_size", 16, "--lr_warmup_steps", 0, "--resolution", 28, "--output_dir", output,
            "--push_to_hub", *more]  # fmt: skip


@pytest.mark.slow
def test_a_training_is_pushed_with_its_card(hub, tiny, image_folder, tmp_path):
    data = ["--train_data_dir", image_folder, "--license", "mit"]
    done = hub.run([ROOT / "training" / "train_vqgan.py", *data, "--resolution", 28, "--num_channels", 1, "--block_out_channels", 8, 8,
                    "--norm_num_groups", 4, "--codebook_size", 16, "--max_train_steps", 2, "--train_batch_size", 8, "--output_dir",
                    tmp_path / "vq", "--push_to_hub"], tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    metadata = metadata_of(hub, "me/vq")
    assert metadata["pipeline_tag"] == "image-feature-extraction" and results_of(metadata)["l1"]["value"] > 0
    assert 'VQModel.from_pretrained("me/vq")' in hub.repos["me/vq"]["README.md"].decode()

    done = hub.run(train(tiny, tmp_path / "shirts", *data, "--vqvae", "me/vq"), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"pushed to {hub.endpoint}/me/shirts" in done.stdout and hub.commits["me/shirts"] == [
        "made",
        "End of training",
    ]
    metadata = metadata_of(hub, "me/shirts")
    assert metadata["license"] == "mit" and metadata["library_name"] == "diffusers" and "base_model" not in metadata
    assert 0 <= results_of(metadata)["accuracy"]["value"] <= 1 and results_of(metadata)["loss"]["value"] > 0
    card = hub.repos["me/shirts"]["README.md"].decode()
    assert 'AutoNATPipeline.from_pretrained("me/shirts")' in card and str(tmp_path) not in card
    assert {"pipeline.py", "samples.png", "training.png", "model_index.json"} <= set(hub.repos["me/shirts"])
    pipe = AutoNATPipeline.from_pretrained(received(hub, "me/shirts", tmp_path / "got"))
    assert pipe("class-1", num_inference_steps=4).images[0].size == (28, 28)
    assert_no_token(hub, done, tmp_path)


@pytest.mark.slow
def test_a_judge_is_pushed_with_its_card_and_judges_from_there(hub, tiny, image_folder, tmp_path):
    words = ["--train_data_dir", image_folder, "--num_train_epochs", 1, "--train_batch_size", 16, "--hidden_sizes", 32, "--depths", 1,
             "--output_dir", tmp_path / "judge", "--push_to_hub", "--license", "mit"]  # fmt: skip
    done = hub.run([ROOT / "training" / "train_classifier.py", *words], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    metadata, card = metadata_of(hub, "me/judge"), hub.repos["me/judge"]["README.md"].decode()
    assert metadata["library_name"] == "transformers" and metadata["pipeline_tag"] == "image-classification"
    assert 0 <= results_of(metadata)["accuracy"]["value"] <= 1 and str(tmp_path) not in card
    assert "--feature-extractor me/judge " in card
    code = "from diffusers_autonat.metrics import load_extractor; print(load_extractor('me/judge').name)"
    done = hub.run(["-c", code], tmp_path)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr[-2000:]
    assert_no_token(hub, done, tmp_path)


@pytest.mark.slow
def test_an_adapter_names_its_base(hub, tiny, image_folder, tmp_path):
    four = tmp_path / "four"
    for label in range(4):
        shutil.copytree(image_folder / f"class-{label}", four / f"class-{label}")
    hub.repos["me/base"] = {
        str(path.relative_to(tiny / "pipeline")): path.read_bytes() for path in (tiny / "pipeline").rglob("*.*")
    }
    hub.commits["me/base"] = ["made"]
    words = [
        "--train_data_dir",
        four,
        "--pretrained_model_name_or_path",
        "me/base",
        "--rank",
        2,
        "--hub_model_id",
        "me/small",
    ]
    done = hub.run(train(tiny, tmp_path / "out", *words), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    metadata = metadata_of(hub, "me/small")
    assert metadata["base_model"] == "me/base" and metadata["base_model_relation"] == "adapter"
    assert 'pipe.load_lora_weights("me/small")' in hub.repos["me/small"]["README.md"].decode()
    pipe = tiny_pipeline()
    pipe.load_lora_weights(received(hub, "me/small", tmp_path / "got"))
    assert pipe.get_active_adapters() == ["default_0"]


def search(tiny, output, *more):
    return [ROOT / "search" / "search_generation.py", tiny / "pipeline", "--num-inference-steps", 4, "--reference",
            tiny / "reference.npz", "--feature-extractor", tiny / "judge", "--num-images", 8, "--sampler", "random", "--num-trials", 2,
            "--confirm-top", 1, "--confirm-images", 8, "--output", output, *more]  # fmt: skip


def test_what_a_search_finds_is_pushed_alone(hub, tiny, tmp_path):
    output = tmp_path / "found"
    done = hub.run(search(tiny, output, "--push-to-hub", "found-T4", "--license", "apache-2.0"), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    files = set(hub.repos["me/found-T4"])
    assert {"README.md", "scheduler_config.json", "search.json", "result.json", "trials.csv", "schedules.png"} <= files
    assert not any("journal" in name or "lock" in name for name in files)
    metadata, card = metadata_of(hub, "me/found-T4"), hub.repos["me/found-T4"]["README.md"].decode()
    assert metadata["license"] == "apache-2.0" and results_of(metadata)["frechet_distance"]["value"] > 0
    assert "T = 4, N = 8" in results_of(metadata)["frechet_distance"]["name"]
    assert 'pipe.scheduler = NATScheduler.from_pretrained("me/found-T4")' in card and str(tmp_path) not in card
    local = NATScheduler.from_pretrained(output).get_strategy(4)
    assert NATScheduler.from_pretrained(received(hub, "me/found-T4", tmp_path / "got")).get_strategy(4) == local
    assert_no_token(hub, done, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it", id="offline"),
        pytest.param({"HF_TOKEN": ""}, "needs a login: run `hf auth login` or set HF_TOKEN", id="no token", marks=pytest.mark.slow),
        pytest.param(
            {"HF_TOKEN": "hf_wrong"}, "me/model cannot be made or used on the Hub: ", id="wrong token", marks=pytest.mark.slow
        ),
        pytest.param(
            {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be made or used on the Hub: ", id="no network", marks=pytest.mark.slow
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["train", "search"])
def test_what_cannot_be_pushed_is_said_before_the_work(hub, tiny, image_folder, tmp_path, changes, message, kind):
    output = tmp_path / "out"
    words = search(tiny, output, "--push-to-hub", "me/model")
    if kind == "train":
        data = ["--train_data_dir", image_folder, "--vqvae", tiny / "pipeline" / "vqvae"]
        words = train(tiny, output, *data, "--hub_model_id", "me/model")
    done = hub.run(words, tmp_path, **changes)
    assert done.returncode == 2, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith(words[0].name)]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in done.stderr and "hf_wrong" not in done.stderr
    assert (
        "me/model" not in hub.repos
        and not (output / "history.jsonl").exists()
        and not (output / "result.json").exists()
    )


def test_offline_is_said_where_a_pipeline_is_asked_for(tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src"), "HF_HOME": str(tmp_path)}
    words = [sys.executable, *CLI, "generate", "me/nowhere", "--output", tmp_path / "x.png"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "none can be reached on the Hub by that id while HF_HUB_OFFLINE is set" in done.stderr
