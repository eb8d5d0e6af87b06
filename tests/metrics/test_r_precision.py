"""R-precision: its value, what it does not depend on, and networks that read texts."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from diffusers_autonat.metrics import (
    METRICS,
    CaptionConditions,
    Evaluator,
    RPrecision,
    TextTower,
    build_metrics,
    load_extractor,
    r_precision,
)
from diffusers_autonat.metrics.registry import metric_of
from tests.conftest import save_tiny_classifier
from tests.pipelines.text_encoders import WORDS, tiny_encoder, tiny_text_pipeline, tiny_tokenizer


# CLIP models with this end of text pool at the highest id, which is that of "lake".
CAPTIONS = [f"{' '.join(words)} lake" for words in itertools.permutations(WORDS[4:-1], 3)][:120]


def save_tiny_clip(folder, seed=0):
    """A CLIP of grey-and-colour images of 28 pixels that reads whole words."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(**sizes, vocab_size=len(WORDS), max_position_embeddings=8, bos_token_id=1, eos_token_id=2)
    vision = CLIPVisionConfig(**sizes, image_size=28, patch_size=14)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8))
    for parameter in model.text_model.embeddings.parameters():  # so that the order of words makes a difference
        torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"height": 28, "width": 28}, do_center_crop=False).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


def vectors(count, seed=0):
    return F.normalize(torch.randn(count, 64, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_images_beside_their_captions_are_found_and_others_by_chance():
    texts = vectors(300)
    assert r_precision(texts + 0.01 * vectors(300, 1), texts) == 1
    assert r_precision(-texts, texts) == 0
    by_chance = [r_precision(vectors(300, seed), texts) for seed in range(1, 11)]
    assert 0.004 < torch.stack(by_chance).mean() < 0.018  # of 3,000 images 1 %, with a deviation of 0.2 %
    assert r_precision(torch.zeros_like(texts), texts) == 0  # a tie is no hit
    half = torch.cat([texts[:150], -texts[150:]])
    assert r_precision(half, texts) == 0.5


def test_equal_captions_are_one_candidate():
    texts = vectors(120)
    assert r_precision(torch.cat([texts, texts]), torch.cat([texts, texts])) == 1
    with pytest.raises(ValueError, match="needs 100 different captions, and the images have 99"):
        r_precision(vectors(198), texts[:99].repeat(2, 1))
    assert r_precision(texts[:5], texts[:5], candidates=5) == 1


def test_a_clip_embeds_as_transformers_does(clip, fashion_mnist):
    images = torch.from_numpy(fashion_mnist[0])[:, None]
    extractor, tower = load_extractor(clip, batch_size=8), TextTower(clip)
    pixels = extractor._prepare(images.expand(-1, 3, -1, -1))
    inputs = tiny_tokenizer()(CAPTIONS[:3], return_tensors="pt")
    with torch.no_grad():
        model = CLIPModel.from_pretrained(clip).eval()
        expected = model(pixel_values=pixels, input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
    torch.testing.assert_close(tower.embed_images(extractor(images)[0]), expected.image_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tower.embed_texts(CAPTIONS[:3]), expected.text_embeds, atol=1e-5, rtol=1e-4)
    assert tower.widths == (16, 8)
    twice = tower.embed_texts([CAPTIONS[7], CAPTIONS[1], CAPTIONS[7]])
    assert torch.equal(twice[0], twice[2]) and torch.equal(twice[1], tower.embed_texts([CAPTIONS[1]])[0])


def test_order_batches_and_a_resume_change_nothing(clip):
    tower = TextTower(clip)
    features, mixed = torch.randn(120, 16, generator=torch.Generator().manual_seed(0)), torch.randperm(120)
    whole, parts, resumed = RPrecision(tower), RPrecision(tower), RPrecision(tower)
    whole.update(features, CAPTIONS, torch.arange(120))
    for rows in mixed.split(50)[:2]:
        parts.update(features[rows], [CAPTIONS[i] for i in rows.tolist()], rows)
    resumed.load_state_dict(parts.state_dict())
    rows = mixed[100:]
    resumed.update(features[rows], [CAPTIONS[i] for i in rows.tolist()], rows)
    assert resumed.compute() == (values := whole.compute())
    assert {metric_of(value) for value in values} == {METRICS["r_precision"]}
    assert not [name for name in whole.state_dict() if "model" in name]  # the network is no part of what is saved


def test_a_pipeline_is_measured_and_other_metrics_beside(clip):
    extractor = load_extractor(clip, batch_size=8)
    extractor.text_tower = TextTower(clip)
    pipe = tiny_text_pipeline()

    def value(captions, num_images=110, **options):
        conditions = CaptionConditions(captions)
        evaluator = Evaluator(pipe, extractor, None, ["r_precision"], progress=False, conditions=conditions, **options)
        return evaluator(num_images, seed=0, num_inference_steps=4)["r_precision"]

    assert value(CAPTIONS) == value(CAPTIONS, batch_size=8) == value(CAPTIONS * 2) <= 0.2
    with pytest.raises(ValueError, match="r_precision needs 100 different captions, and the images have 3"):
        value(CAPTIONS[:3])
    with pytest.raises(ValueError, match="needs 100 different captions, and the images have 60"):
        value(CAPTIONS, num_images=60)


def test_networks_and_pipelines_without_texts_are_refused(clip, pipe, tmp_path):
    save_tiny_classifier(tmp_path / "judge")
    judge = load_extractor(str(tmp_path / "judge"))
    with pytest.raises(ValueError, match="r_precision needs a network that reads texts.*judge has no text tower"):
        build_metrics(["r_precision"], judge, 100)
    with pytest.raises(ValueError, match="judge has no text tower: take a CLIP, or train one"):
        TextTower(tmp_path / "judge")
    extractor = load_extractor(clip)
    extractor.text_tower = TextTower(clip, tiny_encoder(), tiny_tokenizer())  # it has its own
    with pytest.raises(ValueError, match="the pipeline draws classes"):
        Evaluator(pipe, extractor, None, ["r_precision"])
