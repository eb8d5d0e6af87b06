"""Compiling and exporting: few graphs for many shapes, and ONNX that agrees."""

import pytest
import torch
from model_contract import relative_error

from diffusers_autonat import AutoNATPipeline, ENATTransformer2DModel, NATScheduler, UViTTransformer2DModel
from tests.conftest import tiny_vqvae


MASK = 16
COMMON = {"sample_size": 7, "codebook_size": MASK, "hidden_size": 32, "num_attention_heads": 4, "num_classes": 4}
MODELS = {
    "uvit": (UViTTransformer2DModel, {"num_layers": 3}),
    "enat": (ENATTransformer2DModel, {"num_encoder_layers": 2, "num_decoder_layers": 2}),
}


@pytest.fixture(params=MODELS)
def transformer(request):
    torch.manual_seed(0)
    model_class, sizes = MODELS[request.param]
    model = model_class(**COMMON, **sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # ENAT's gates begin at zero
    return model


@pytest.fixture(autouse=True)
def fresh_graphs():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def num_graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def inputs(batch_size: int = 2) -> dict[str, torch.Tensor]:
    """Some masked tokens, not the same number in every sample."""
    ids = torch.arange(batch_size * 49).view(batch_size, 49) % MASK
    masked = torch.arange(49) < 12 * torch.arange(1, batch_size + 1)[:, None]
    return {"input_ids": ids.masked_fill(masked, MASK), "class_labels": torch.arange(batch_size) % 5}


def test_pipeline_with_compiled_blocks_makes_few_graphs(transformer):
    pipe = AutoNATPipeline(tiny_vqvae(), transformer, NATScheduler(MASK))
    pipe.set_progress_bar_config(disable=True)
    calls = [([0, 1], 4), ([0, 1], 8), ([0, 1, 2], 8), ([3], 4), ([0, 1, 2, 3, 1], 6)]

    def draw(labels, steps):
        generators = [torch.Generator().manual_seed(i) for i in range(len(labels))]
        return pipe(labels, num_inference_steps=steps, generator=generators, output_type="latent").images

    expected = [draw(*call) for call in calls]
    transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    for call, tokens in zip(calls, expected):
        assert torch.equal(draw(*call), tokens)
    assert 0 < num_graphs() <= 8


@torch.no_grad()
def test_the_whole_model_compiles_without_known_counts(transformer):
    expected = [transformer(**inputs(size)).sample for size in (2, 3, 5)]
    transformer.compile(fullgraph=True, backend="eager")
    for size, logits in zip((2, 3, 5), expected):
        assert relative_error(transformer(**inputs(size)).sample, logits) < 1e-5
    assert num_graphs() <= 2


@torch.no_grad()
def test_export(transformer):
    example = inputs()
    program = torch.export.export(transformer, (), example, strict=False)
    assert relative_error(program.module()(**example).sample, transformer(**example).sample) < 1e-5
    other = inputs()
    other["input_ids"] = other["input_ids"].flip(1).masked_fill(torch.arange(49) > 20, MASK)
    assert relative_error(program.module()(**other).sample, transformer(**other).sample) < 1e-5


@torch.no_grad()
def test_onnx(transformer, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    example = inputs()

    class Logits(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, input_ids, class_labels):
            return self.model(input_ids, class_labels=class_labels, return_dict=False)[0]

    path = tmp_path / "model.onnx"
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.onnx.export(
        Logits(transformer),
        (),
        path,
        kwargs=example,
        dynamo=True,
        dynamic_shapes={name: {0: batch} for name in example},
    )
    session = onnxruntime.InferenceSession(path)
    for size in (2, 5):
        arrays = {name: tensor.numpy() for name, tensor in inputs(size).items()}
        (logits,) = session.run(None, arrays)
        assert relative_error(torch.from_numpy(logits), transformer(**inputs(size)).sample) < 1e-4
