"""Whatever a call is given: lawful images, or one line that names the value."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from diffusers_autonat import AutoNATInpaintPipeline, GenerationStrategy
from diffusers_autonat.models.tokenizer import encode_images
from tests.conftest import tiny_pipeline
from tests.pipelines.test_pipeline_enat import enat_pipeline
from tests.schedulers.test_scheduling_nat_properties import generation_strategies, junk


PIPELINES = {"autonat": tiny_pipeline(), "enat": enat_pipeline()}
INPAINT = {name: AutoNATInpaintPipeline(**pipe.components) for name, pipe in PIPELINES.items()}
N, K, CLASSES, SIDE = 49, 16, 4, 28
both = st.sampled_from(sorted(PIPELINES))
labels = st.lists(st.integers(0, CLASSES) | st.sampled_from(["kitty", "DOG", " cat "]), min_size=1, max_size=4)
moderate = generation_strategies().filter(lambda s: max(s.guidance_scales) < 1e30)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(both, labels, moderate, st.integers(1, 2), st.integers(0, 2**32 - 1), st.floats(0, 10), st.data())
def test_lawful_calls_give_lawful_images(name, class_labels, strategy, per_label, seed, guidance_scale, data):
    batch = len(class_labels) * per_label
    latents = None
    if data.draw(st.booleans()):
        latents = torch.randint(0, K + 1, (batch, N), generator=generator(seed))
    one_each = data.draw(st.booleans())
    noise = [generator(seed) for _ in range(batch)] if one_each else generator(seed)
    images = PIPELINES[name](
        class_labels, strategy=strategy, num_images_per_prompt=per_label, generator=noise, latents=latents,
        guidance_scale=guidance_scale, output_type="latent",
    ).images  # fmt: skip
    assert images.shape == (batch, N) and images.dtype == torch.long
    assert images.min() >= 0 and images.max() < K
    if latents is not None:
        assert torch.equal(images[latents < K], latents[latents < K])


@given(both, labels, st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_the_same_seed_gives_the_same_tokens_in_every_batch(name, class_labels, seed, cut):
    def draw(rows: list[int]) -> torch.Tensor:
        return PIPELINES[name](
            [class_labels[row] for row in rows], num_inference_steps=4, output_type="latent",
            generator=[generator(seed ^ row) for row in rows],
        ).images  # fmt: skip

    rows = list(range(len(class_labels)))
    together = draw(rows)
    assert torch.equal(together, draw(rows))
    assert torch.equal(together.flip(0), draw(rows[::-1]))
    assert torch.equal(together, torch.cat([draw(part) for part in (rows[:cut], rows[cut:]) if part]))


shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
pixels = st.sampled_from([0.0, 0.4, 0.5, 1.0])
masks = st.one_of(
    hnp.arrays(np.float32, shapes, elements=pixels),
    hnp.arrays(np.uint8, shapes).map(Image.fromarray),
    hnp.arrays(np.bool_, shapes).map(Image.fromarray),
    hnp.arrays(np.float32, (1, 1, SIDE, SIDE), elements=pixels | st.just(math.nan)).map(torch.from_numpy),
)


@given(both, masks, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_whatever_the_mask_tokens_outside_it_stay(name, mask, strength, seed):
    pipe, image = INPAINT[name], torch.rand(1, 1, SIDE, SIDE, generator=generator(seed))
    call = {"generator": generator(seed), "num_inference_steps": 4, "output_type": "latent"}
    given_tokens = encode_images(pipe.vqvae, image)
    try:
        drawn = pipe(image, mask, 0, strength=strength, **call).images
    except ValueError as error:
        assert "mask_image" in str(error) and "\n" not in str(error) and len(str(error)) < 400
        return
    assert drawn.shape == (1, N) and drawn.min() >= 0 and drawn.max() < K
    if isinstance(mask, torch.Tensor):
        hole = torch.nn.functional.max_pool2d((mask >= 0.5).float(), SIDE // 7).flatten(1) > 0
        assert torch.equal(drawn[~hole], given_tokens[~hole])


WRONG = {
    "class_labels": junk.filter(lambda value: not lawful_labels(value)),
    "num_inference_steps": junk.filter(lambda value: value is not None and value not in range(1, 10_001)),
    "strategy": junk.filter(lambda value: value is not None),
    "guidance_scale": st.sampled_from([math.nan, math.inf, -1.0, 1e39, 10**400, "3", None, [3.0], True, 1j]),
    "num_images_per_prompt": junk.filter(lambda value: isinstance(value, bool) or not isinstance(value, int))
    | st.integers(max_value=0),
    "generator": junk.filter(lambda value: value is not None),
    "latents": junk.filter(lambda value: value is not None)
    | st.sampled_from(
        [torch.zeros(1, N), torch.full((1, N), K + 1), torch.zeros(N, dtype=torch.long), np.zeros((1, N))]
    ),
    "output_type": junk.filter(lambda value: value not in ("pil", "np", "pt", "latent")),
    "callback_on_step_end_tensor_inputs": st.lists(junk, min_size=1, max_size=2),
}


def lawful_labels(value) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(type(v) is int and 0 <= v <= CLASSES for v in values)


@pytest.mark.parametrize("argument", sorted(WRONG))
@given(name=both, data=st.data())
def test_one_wrong_argument_is_refused_in_a_line_before_any_work(argument, name, data):
    pipe, value = PIPELINES[name], data.draw(WRONG[argument])
    arguments = {"class_labels": 0, "strategy": GenerationStrategy.cosine(2), argument: value}
    if argument == "num_inference_steps":
        del arguments["strategy"]

    def fail(*_):
        raise AssertionError("work began before the input was checked")

    hook = pipe.transformer.register_forward_pre_hook(fail)
    try:
        with pytest.raises(ValueError) as error:
            pipe(**arguments)
    finally:
        hook.remove()
    assert str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_half_precision_keeps_the_extreme_ids(name, dtype):
    pipe = {"autonat": tiny_pipeline, "enat": enat_pipeline}[name]().to(dtype)
    given_tokens = torch.tensor([[0, K - 1, K] * 16 + [K]])
    images = pipe([CLASSES], latents=given_tokens, num_inference_steps=4, output_type="latent").images
    assert torch.equal(images[given_tokens < K], given_tokens[given_tokens < K]) and images.max() < K
    assert pipe([0], latents=images, num_inference_steps=4, output_type="pt").images.isfinite().all()
