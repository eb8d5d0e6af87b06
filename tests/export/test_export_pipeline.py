"""Exported pipelines draw the tokens of the pipelines that they were made from."""

import json

import pytest
import torch
from PIL import Image

from diffusers_autonat import (
    AutoNATInpaintPipeline,
    AutoNATPipeline,
    ENATTransformer2DModel,
    GenerationStrategy,
    UViTTransformer2DModel,
)
from diffusers_autonat.cli import main
from diffusers_autonat.cost import pipeline_cost
from diffusers_autonat.export import FORMATS, export_pipeline
from diffusers_autonat.loading import load_pipeline
from diffusers_autonat.provenance import pipeline_hash
from tests.conftest import LABELS, tiny_pipeline, tiny_vqvae
from tests.pipelines.text_encoders import tiny_text_pipeline


for library in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(library)

COMMON = {"sample_size": 7, "codebook_size": 16, "hidden_size": 32, "num_attention_heads": 4, "num_classes": 4}


def shaken(model):
    """Other weights than at the start of a training, when ENAT's gates are zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_pipeline(kind):
    torch.manual_seed(0)
    transformer = {
        "uvit": lambda: UViTTransformer2DModel(**COMMON, num_layers=3),
        "enat": lambda: ENATTransformer2DModel(**COMMON, num_encoder_layers=2, num_decoder_layers=2),
    }[kind]()
    return AutoNATPipeline(tiny_vqvae(), shaken(transformer), tiny_pipeline().scheduler, LABELS)


def draw(pipe, labels=(0, 1, 2, 3, 1), output_type="latent", **options):
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(i) for i in range(len(labels))]
    return pipe(list(labels), generator=generators, output_type=output_type, **options).images


def skip_without(format, int8=False):
    for library in FORMATS[format].libraries + (FORMATS[format].int8_libraries if int8 else ()):
        pytest.importorskip(library)


@pytest.fixture(
    scope="module", params=[(kind, format) for kind in ("uvit", "enat") for format in FORMATS], ids="-".join
)
def exported(request, tmp_path_factory):
    """A pipeline, and itself exported and loaded."""
    kind, format = request.param
    skip_without(format)
    folder = tmp_path_factory.mktemp("exported")
    pipe = make_pipeline(kind)
    pipe.save_pretrained(folder / "pipeline")
    export_pipeline(folder / "pipeline", folder / format, format, report=lambda _: None)
    return pipe, folder / format


def test_tokens_and_images_are_those_of_the_pipeline(exported):
    pipe, folder = exported
    loaded = AutoNATPipeline.from_pretrained(folder)
    for labels in ((3,), (0, 1, 2, 3, 1)):  # batches of other sizes than the one that was traced
        assert torch.equal(draw(pipe, labels), draw(loaded, labels))
    images, expected = draw(loaded, output_type="pt"), draw(pipe, output_type="pt")
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)
    assert loaded.id2label == pipe.id2label and loaded.scheduler.stored_strategies == pipe.scheduler.stored_strategies


def test_given_tokens_stay_as_they_are(exported):
    """Another number of them in each image, so that ENAT's groups differ in size."""
    pipe, folder = exported
    grids = torch.full((3, 49), 16)
    for i in range(3):
        grids[i, : 10 * i] = i
    tokens = draw(load_pipeline(folder), (0, 1, 2), latents=grids)
    assert torch.equal(tokens, draw(pipe, (0, 1, 2), latents=grids))
    assert (tokens[2, :20] == 2).all()


def test_a_folder_holds_no_weights_twice_and_saves_again(exported, tmp_path):
    pipe, folder = exported
    for component in ("transformer", "vqvae"):
        assert not list((folder / component).glob("*.safetensors"))
    loaded = load_pipeline(folder)
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(draw(load_pipeline(tmp_path / "again")), draw(loaded))
    index = json.loads((folder / "model_index.json").read_text())
    strategy = GenerationStrategy.cosine(4)
    assert pipeline_cost(loaded, strategy).transformer == pipeline_cost(pipe, strategy).transformer
    with pytest.raises(ValueError, match="are in its graph"):
        loaded.transformer.num_parameters()
    assert pipeline_hash(loaded) == pipeline_hash(load_pipeline(folder)) != pipeline_hash(pipe)
    assert index["transformer"][0] == index["vqvae"][0] == "diffusers_autonat.models.exported"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["uvit", "enat"])
def test_int8_is_near(kind, format, tmp_path):
    skip_without(format, int8=True)
    pipe = make_pipeline(kind)
    pipe.save_pretrained(tmp_path / "pipeline")
    export_pipeline(tmp_path / "pipeline", tmp_path / "int8", format, int8=True, report=lambda _: None)
    loaded = load_pipeline(tmp_path / "int8")
    tokens, labels = torch.full((4, 49), 16), torch.arange(4)
    with torch.no_grad():
        expected = pipe.transformer(tokens, class_labels=labels).sample
        found = loaded.transformer(tokens, class_labels=labels).sample
    error = ((found - expected).norm() / expected.norm()).item()
    assert pipeline_hash(loaded) != pipeline_hash(pipe)
    assert 1e-6 < error < 0.2  # it is not the float graph, and not another model
    assert draw(loaded).shape == (5, 49)


def test_a_decoder_in_int8_is_near_and_leaves_the_transformer_alone(tmp_path):
    skip_without("openvino", int8=True)
    pipe = make_pipeline("uvit")
    pipe.save_pretrained(tmp_path / "pipeline")
    export_pipeline(tmp_path / "pipeline", tmp_path / "int8", "openvino", int8_decoder=True, report=lambda _: None)
    loaded = load_pipeline(tmp_path / "int8")
    assert torch.equal(draw(loaded), draw(pipe))
    images, expected = draw(loaded, output_type="pt"), draw(pipe, output_type="pt")
    error = (images - expected).abs().mean().item()
    assert 1e-6 < error < 0.02


def test_text(tmp_path):
    pipe = tiny_text_pipeline()
    pipe.save_pretrained(tmp_path / "pipeline")
    export_pipeline(tmp_path / "pipeline", tmp_path / "onnx", "onnx", report=lambda _: None)
    loaded = load_pipeline(tmp_path / "onnx")
    prompts = ["a cat", "a dog"]
    assert torch.equal(draw(loaded, prompts), draw(pipe, prompts))


def test_inpainting_keeps_the_tokenizer_that_reads(tmp_path):
    source = make_pipeline("uvit")
    pipe = AutoNATInpaintPipeline(source.vqvae, source.transformer, source.scheduler, id2label=LABELS)
    pipe.save_pretrained(tmp_path / "pipeline")
    export_pipeline(tmp_path / "pipeline", tmp_path / "onnx", "onnx", report=lambda _: None)
    loaded = load_pipeline(tmp_path / "onnx", to_generate=False)
    image, hole = Image.new("L", (28, 28), 90), Image.new("L", (28, 28), 255)
    options = {"image": image, "mask_image": hole, "class_labels": 1, "output_type": "latent"}
    first, second = (one(**options, generator=torch.Generator().manual_seed(0)).images for one in (pipe, loaded))
    assert torch.equal(first, second)


def test_the_command_and_what_it_refuses(tmp_path, capsys):
    make_pipeline("uvit").save_pretrained(tmp_path / "pipeline")
    command = ["export", str(tmp_path / "pipeline"), "--format", "onnx", "--output"]
    main([*command, str(tmp_path / "onnx")])
    assert "saved to" in capsys.readouterr().out
    main(["generate", str(tmp_path / "onnx"), "--num-images", "1", "--output", str(tmp_path / "x.png")])
    assert Image.open(tmp_path / "x.png").size == (84, 84 * 4)
    for words, said in (
        (["export", str(tmp_path / "onnx"), "--format", "onnx", "--output", str(tmp_path / "y")], "exported already"),
        (["export", "/nowhere", "--format", "onnx", "--output", str(tmp_path / "y")], "/nowhere"),
        ([*command, str(tmp_path / "y"), "--int8-decoder"], "take --format openvino"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


def test_a_runtime_says_what_it_cannot_do(tmp_path):
    make_pipeline("uvit").save_pretrained(tmp_path / "pipeline")
    export_pipeline(tmp_path / "pipeline", tmp_path / "onnx", "onnx", report=lambda _: None)
    with pytest.raises(ValueError, match="float32, not in torch.bfloat16.*openvino"):
        load_pipeline(tmp_path / "onnx", dtype=torch.bfloat16)
    loaded = load_pipeline(tmp_path / "onnx")
    with pytest.raises(ValueError, match="only decodes"):
        loaded.vqvae.encode(torch.zeros(1, 1, 28, 28))
    (tmp_path / "onnx" / "transformer" / "model.onnx").unlink()
    with pytest.raises(ValueError, match="export the pipeline again"):
        load_pipeline(tmp_path / "onnx")


def test_a_missing_library_is_named_with_its_command(tmp_path, monkeypatch):
    make_pipeline("uvit").save_pretrained(tmp_path / "pipeline")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r'onnxscript is not installed: pip install "diffusers-autonat\[export\]"'):
        export_pipeline(tmp_path / "pipeline", tmp_path / "onnx", "onnx")
    assert not (tmp_path / "onnx").exists()
