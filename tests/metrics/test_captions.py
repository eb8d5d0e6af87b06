"""Captions as prompts: of files, of data sets, and through pipelines that draw from text."""

import json

import datasets
import pytest
import torch

from diffusers_autonat import AutoNATAmusedPipeline, AutoNATInpaintPipeline, GenerationStrategy
from diffusers_autonat.metrics import (
    CaptionConditions,
    Evaluator,
    compute_reference,
    load_extractor,
    read_captions,
)
from diffusers_autonat.metrics.captions import find_caption_column
from diffusers_autonat.pipelines.prompts import takes_prompts
from tests.conftest import save_tiny_classifier
from tests.pipelines.amused import tiny_amused
from tests.pipelines.text_encoders import tiny_text_pipeline


CAPTIONS = ["a red boat", "the lake", "a green tree on the lake"]


def test_captions_follow_each_other_and_begin_again():
    conditions = CaptionConditions(CAPTIONS, "three.txt")
    requests = conditions.requests(7, seed=3)
    assert requests.arguments == {"prompt": [*CAPTIONS, *CAPTIONS, CAPTIONS[0]]} and requests.class_labels is None
    assert conditions.requests(2, seed=5).arguments["prompt"] == requests.arguments["prompt"][:2]
    described = conditions.describe()
    assert described["captions"] == "three.txt" and described["num_captions"] == 3
    assert described["captions_hash"] == CaptionConditions(list(CAPTIONS)).hash
    assert len({CaptionConditions(texts).hash for texts in (CAPTIONS, CAPTIONS[::-1], ["a", "b"], ["ab"])}) == 4
    with pytest.raises(ValueError, match="memory holds no captions"):
        CaptionConditions([])


def test_a_text_file_has_one_in_each_line(tmp_path):
    (tmp_path / "captions.txt").write_text(
        "\ufeffa red boat\r\n\n  the lake \nein Schiff im Hafen, übermalt", encoding="utf-8"
    )
    conditions = read_captions(tmp_path / "captions.txt")
    assert conditions.captions == ("a red boat", "the lake", "ein Schiff im Hafen, übermalt")
    assert conditions.source == "captions.txt"
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="empty.txt holds no captions"):
        read_captions(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes("übermalt".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.txt is no text in UTF-8"):
        read_captions(tmp_path / "latin.txt")
    with pytest.raises(FileNotFoundError):
        read_captions(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="holds statistics and no captions: give the captions"):
        read_captions(tmp_path / "reference.npz")


def test_a_folder_of_images_with_metadata(tmp_path, image_folder):
    files = sorted(image_folder.rglob("*.png"))[:3]
    for number, file in enumerate(files):
        (tmp_path / f"{number}.png").write_bytes(file.read_bytes())
    rows = [{"file_name": f"{number}.png", "text": text} for number, text in enumerate(CAPTIONS)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    conditions = read_captions(tmp_path)
    assert conditions.captions == tuple(CAPTIONS) and "/" not in conditions.source
    with pytest.raises(
        ValueError, match="has no column of texts: call the one of captions `caption` or `text`, or give"
    ):
        read_captions(image_folder)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"url": ["x"], "caption": ["a"]}, "caption"),
        ({"text": ["a"], "captions": [["a", "b"]]}, "captions"),
        ({"description": ["a"], "label": [1]}, "description"),
        ({"url": ["x"], "title": ["a"]}, "several columns of texts, url, title: call the one of captions"),
        ({"label": [1]}, "no column of texts"),
    ],
)
def test_the_column_of_captions(columns, found):
    dataset = datasets.Dataset.from_dict(columns)
    if found in columns:
        assert find_caption_column(dataset) == found
    else:
        with pytest.raises(ValueError, match=found):
            find_caption_column(dataset)


def test_of_several_captions_the_first_is_taken(tmp_path):
    datasets.Dataset.from_dict({"captions": [["a", "b"], ["c"]]}).save_to_disk(tmp_path / "two")
    assert read_captions(tmp_path / "two").captions == ("a", "c")
    datasets.Dataset.from_dict({"captions": [["a"], []]}).save_to_disk(tmp_path / "lacking")
    with pytest.raises(ValueError, match="1 of the 2 images of .* have no caption in the column captions"):
        read_captions(tmp_path / "lacking")


def amused_pipeline():
    return AutoNATAmusedPipeline.from_amused(tiny_amused(), [GenerationStrategy.cosine(4)])


@pytest.mark.parametrize("make", [tiny_text_pipeline, amused_pipeline])
def test_pipelines_that_draw_from_text_are_measured(tmp_path, fashion_mnist, make):
    save_tiny_classifier(tmp_path / "judge")
    extractor, pipe = load_extractor(str(tmp_path / "judge"), batch_size=8), make()
    samples = ((torch.from_numpy(image)[None], None) for image in fashion_mnist[0])
    reference = compute_reference(samples, extractor)

    def value(captions, batch_size=128):
        conditions = CaptionConditions(captions)
        evaluator = Evaluator(pipe, extractor, reference, ["fid"], "balanced", batch_size, False, conditions)
        return evaluator(20, seed=0, num_inference_steps=4)["frechet_distance"]

    assert value(CAPTIONS) == value(CAPTIONS, batch_size=8) == value(CAPTIONS * 2)
    assert value(CAPTIONS) != value(["the lake"])
    with pytest.raises(ValueError, match="the pipeline draws from prompts: give some"):
        Evaluator(pipe, extractor, reference, ["fid"])
    with pytest.raises(ValueError, match="leave class out"):
        Evaluator(pipe, extractor, reference, ["class"], conditions=CaptionConditions(CAPTIONS))


def test_which_pipelines_take_prompts(pipe):
    assert takes_prompts(tiny_text_pipeline()) and takes_prompts(amused_pipeline())
    assert not takes_prompts(pipe) and not takes_prompts(AutoNATInpaintPipeline(**pipe.components))


def labelled_captions(folder, names):
    features = datasets.Features({"caption": datasets.Value("string"), "style": datasets.ClassLabel(names=names)})
    rows = {"caption": CAPTIONS, "style": [i % len(names) for i in range(3)]}
    datasets.Dataset.from_dict(rows, features).save_to_disk(folder)
    return folder


def test_classes_of_captions_are_those_that_the_classifier_knows(tmp_path):
    source = labelled_captions(tmp_path / "styles", ["flat", "soft"])
    conditions = read_captions(source, ["flat", "soft"])
    assert conditions.num_classes == 2 and conditions.requests(5, 0).class_labels.tolist() == [0, 1, 0, 0, 1]
    assert conditions.requests(5, 0)[torch.tensor([4, 2])].class_labels.tolist() == [1, 0]
    for others in (["soft", "flat"], ["flat"], None):
        conditions = read_captions(source, others)
        assert conditions.num_classes is None and conditions.requests(5, 0).class_labels is None
    with pytest.raises(ValueError, match="3 captions need as many class_labels, not 2"):
        CaptionConditions(CAPTIONS, class_labels=[0, 1], num_classes=2)


def test_images_of_captions_are_recognised_as_their_classes(tmp_path):
    names = [f"LABEL_{i}" for i in range(10)]  # as the classifier calls them
    save_tiny_classifier(tmp_path / "judge", num_labels=10)
    extractor = load_extractor(str(tmp_path / "judge"), batch_size=8)
    conditions = read_captions(labelled_captions(tmp_path / "styles", names), list(extractor.id2label.values()))
    evaluator = Evaluator(tiny_text_pipeline(), extractor, None, ["class", "per_class"], conditions=conditions)
    values = evaluator(12, seed=0, num_inference_steps=4)
    shares = [values[f"recognised: LABEL_{i}"] for i in range(3)]
    assert values["class_consistency"] == pytest.approx(sum(shares) / 3) and len(values) == 4
