"""What is shipped loads, works as its card says, and is complete."""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from diffusers_autonat import AutoNATPipeline, AutoNATTextToImagePipeline
from diffusers_autonat.metrics import load_extractor, load_reference
from tests.conftest import FIXTURES


CARDS = Path(__file__).parents[1] / "model_cards"
FOLDERS = sorted(path for path in CARDS.iterdir() if (path / "README.md").exists())
PIPELINES = [path for path in FOLDERS if path.name in ("autonat-fashion-mnist", "enat-fashion-mnist")]
TEXT = CARDS / "autonat-icons-text"
CLASSIFIER, SECOND_CLASSIFIER = CARDS / "fashion-mnist-classifier", CARDS / "fashion-mnist-second-classifier"
LARGEST = {"autonat-icons-text": 24_000_000}  # bytes; of others 16 million
STEPS = [4, 8]  # of which there are stored strategies


@pytest.fixture
def make_cards(monkeypatch):
    """The script that wrote the shipped cards, imported where it works."""
    monkeypatch.syspath_prepend(CARDS)
    monkeypatch.chdir(CARDS)
    return importlib.import_module("make_cards")


def named(path):
    return path.name


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_cards_are_complete(folder):
    text = (folder / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.license in ("apache-2.0", "cc-by-4.0") and card.data.library_name in ("diffusers", "transformers")
    assert not re.search(r"TODO|\[More Information Needed\]", text)
    for name in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (folder / name).exists(), f"{folder.name}/README.md shows {name}, which does not exist"
        # The folder alone is uploaded.
        assert (folder / name).resolve().is_relative_to(folder), (
            f"{folder.name}/README.md links to {name}, outside of it"
        )
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST.get(folder.name, 16_000_000)
    assert not [path for path in files if path.suffix == ".json" and "_name_or_path" in path.read_text()]
    assert not [
        path for path in files if path.suffix == ".json" and re.search(r'"/\w', path.read_text())
    ]  # no machine's paths
    assert not [path for path in files if path.suffix in (".bin", ".pkl", ".pt", ".pth", ".ckpt")]


@pytest.mark.parametrize("folder", PIPELINES, ids=named)
def test_the_code_on_the_card_runs(folder, monkeypatch):
    ours, generic = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(CARDS.parent)
    scope = {}
    exec(ours, scope)
    assert all(isinstance(image, Image.Image) for image in scope["images"])
    exec(generic, scope)
    assert type(scope["pipe"]) is AutoNATPipeline


@pytest.mark.parametrize("folder", PIPELINES, ids=named)
def test_the_shipped_pipelines(folder):
    pipe = AutoNATPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert sorted(pipe.scheduler.stored_strategies) == STEPS
    assert len(pipe.id2label) == 10 and pipe.transformer.config.sample_size**2 <= 64
    images = pipe(
        list(range(10)), num_images_per_prompt=4, generator=torch.Generator().manual_seed(0), output_type="pt"
    ).images
    predicted = load_extractor(str(CLASSIFIER))(images, torch.arange(40))[1].argmax(-1)
    # 40 images, nearly all of which are recognised: a broken file or scheduler would leave one in ten.
    assert (predicted == torch.arange(10).repeat_interleave(4)).float().mean() > 0.8
    # No two images of a class alike.
    assert (images.view(10, 4, -1).std(dim=1).mean(-1) > 0.02).all()


def test_the_shipped_text_pipeline():
    pipe = AutoNATTextToImagePipeline.from_pretrained(TEXT)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.text_encoder is None and list(pipe.scheduler.stored_strategies) == [8]
    states = load_file(FIXTURES / "icons_states.safetensors")
    captions, empty = (states[name].float() for name in ("captions", "empty"))
    images = pipe(
        prompt_embeds=captions, negative_prompt_embeds=empty.expand_as(captions), num_images_per_prompt=4,
        generator=torch.Generator().manual_seed(0), output_type="pt",
    ).images  # fmt: skip
    predicted = load_extractor(str(CARDS / "icons-style-judge"))(images)[1].argmax(-1)
    recognised = (predicted.view(8, 4) == torch.arange(4).repeat(2)[:, None]).float().mean(dim=1)
    trained = [1, 2, 3, 4, 5, 7]  # of two things in four styles; two of these pairs are held out
    assert recognised[trained].mean() > 0.6  # by chance 0.25
    things = images.view(2, 16, -1).mean(dim=1)  # apples and elephants
    assert (things[0] - things[1]).abs().mean() > 0.05


@pytest.mark.parametrize("folder", [CLASSIFIER, SECOND_CLASSIFIER], ids=named)
def test_the_shipped_classifiers(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2_000_000
    result = json.loads((folder / "training.json").read_text())
    assert result["test_accuracy"] >= 0.9 and f"{result['test_accuracy']:.2%}" in (folder / "README.md").read_text()
    reference = load_reference(str(folder / "fashion-mnist-test.npz"), load_extractor(str(folder)))
    assert reference.num_images == 10_000


@pytest.mark.parametrize("tag", ["autonat", "enat"])
def test_the_cards_say_what_their_folders_have_recorded(make_cards, tag):
    model = getattr(make_cards, tag.upper())
    shipped, pipe = ModelCard((model.folder / "README.md").read_text()), AutoNATPipeline.from_pretrained(model.folder)
    data = make_cards.card_metadata(model)
    assert shipped.data.to_dict() == data.to_dict() and len(data.eval_results) == 2 * len(STEPS)
    for section in make_cards.sections(model, pipe):
        assert section in shipped.content


def test_the_icons_cards_say_what_their_folders_have_recorded(make_cards):
    texts = importlib.import_module("icons_texts")
    shipped = [folder for folder in texts.CARDS if folder.exists()]
    assert texts.TOKENIZER in shipped
    for folder in shipped:
        data, sections = texts.CARDS[folder]()
        card = ModelCard((folder / "README.md").read_text())
        assert card.data.to_dict() == data.to_dict() and all(section in card.content for section in sections)


@pytest.mark.parametrize("steps", [4, 8])
def test_the_policies_cards_say_what_their_folders_have_recorded(make_cards, steps):
    texts = importlib.import_module("policy_texts")
    data, sections = texts.card(steps)
    card = ModelCard((texts.folder_of(steps) / "README.md").read_text())
    assert card.data.to_dict() == data.to_dict() and all(section in card.content for section in sections)


@pytest.mark.parametrize("steps", [4, 8])
def test_the_shipped_policies_lower_both_distances(make_cards, steps, monkeypatch):
    texts = importlib.import_module("policy_texts")
    folder = texts.folder_of(steps)
    before, after = (texts.read(folder / "evaluation" / f"{name}.json") for name in ("strategy", "policy"))
    assert before["pipeline"]["transformer"] == after["pipeline"]["transformer"]
    for key in (texts.DISTANCE, texts.SECOND_DISTANCE):
        assert after["values"][key] < 0.95 * before["values"][key]
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(CARDS.parent)
    scope = {}
    exec(code, scope)
    assert scope["pipe"].policy.config.num_inference_steps == steps and len(scope["images"]) == 2


def test_the_notice_names_each_model_and_whose_drawings_it_has_learned_from(make_cards):
    notice = (CARDS.parent / "NOTICE").read_text()
    assert [folder.name for folder in FOLDERS if folder.name not in notice] == []
    lines = [re.split(r" {2,}", line.strip()) for line in notice.splitlines()]
    for _, artist, licence, package in importlib.import_module("icons_texts").DRAWINGS:
        assert [package, artist, licence] in [line[:3] for line in lines]


@pytest.mark.parametrize(
    "name, machine", [("FIRST", "AMD EPYC, 2 threads"), ("SECOND", "Intel(R) Xeon(R) Processor, 2 threads")]
)
def test_a_classifiers_card_is_that_of_its_training(make_cards, name, machine):
    one = getattr(make_cards, name)
    result = json.loads((one.folder / "training.json").read_text())
    card = make_cards.make_card(make_cards.CLASSIFIER_METADATA, make_cards.card_texts.classifier(one, result, machine))
    shipped = ModelCard((one.folder / "README.md").read_text())
    assert ModelCard(card).text.strip() == shipped.text.strip()
    assert ModelCard(card).data.to_dict() == shipped.data.to_dict()


def test_a_strategy_is_chosen_for_recognition_among_the_near(make_cards):
    rows = [
        {"steps": 4, "frechet_distance": 1.0, "class_consistency": 0.5},
        {"steps": 4, "frechet_distance": 1.1, "class_consistency": 0.7},
        {"steps": 4, "frechet_distance": 1.2, "class_consistency": 0.9},
        {"steps": 8, "frechet_distance": 0.1, "class_consistency": 0.9},
    ]
    assert make_cards.choose(rows, 4) is rows[1]


def test_wall_time_goes_on_where_a_run_was_resumed(make_cards):
    history = [{"seconds": seconds} for seconds in (10.0, 20.0, 5.0, 15.0)]
    assert make_cards.card_texts.wall_seconds(history) == 35.0
