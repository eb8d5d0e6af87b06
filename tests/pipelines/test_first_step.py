"""The first step once for each condition: the same images, fewer rows, and none where tokens are given."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from diffusers_autonat import (
    AutoNATAmusedPipeline,
    AutoNATInpaintPipeline,
    AutoNATPipeline,
    GenerationStrategy,
    ReMDMScheduler,
    StepParameters,
)
from diffusers_autonat.models.transformer_enat import ENATCache
from diffusers_autonat.pipelines.first_step import FirstPass, FirstStep, FirstStepCache
from diffusers_autonat.pipelines.guided import GuidedTransformer
from tests.conftest import tiny_pipeline
from tests.pipelines.amused import tiny_amused
from tests.pipelines.test_pipeline_enat import enat_pipeline
from tests.pipelines.test_pipeline_policy import policy_of
from tests.pipelines.text_encoders import tiny_text_pipeline


GUIDED = GenerationStrategy.cosine(4)  # in every step
UNGUIDED_FIRST = GenerationStrategy.enat(4)
CLASSES, PROMPTS = [1, 0, 1, 3, 1], ["a boat", "a tree", "a boat", "the lake", "a boat"]


def adaptive_pipeline():
    pipe = tiny_pipeline()
    pipe = AutoNATPipeline(**pipe.components | {"policy": policy_of(pipe)})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def amused_pipeline():
    pipe = AutoNATAmusedPipeline.from_amused(tiny_amused(), [GenerationStrategy.cosine(4)])
    pipe.set_progress_bar_config(disable=True)
    return pipe


MAKE = {"uvit": tiny_pipeline, "enat": enat_pipeline, "text": tiny_text_pipeline, "amused": amused_pipeline}


def rows_of(pipe) -> list[int]:
    """Sizes of the batches that the transformer is called with, as they come."""
    sizes: list[int] = []
    pipe.transformer.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    return sizes


def draw(pipe, wanted, **options):
    noise = [torch.Generator().manual_seed(i) for i in range(len(wanted) * options.get("num_images_per_prompt", 1))]
    return pipe(wanted, generator=noise, output_type="latent", **options).images


def masks(pipe, size):
    """Tokens as a caller gives them: no pipeline looks whether all are masked, and each image has a row of its own."""
    return torch.full((size, pipe.transformer.config.sample_size**2), 16)


@pytest.mark.parametrize("strategy", [GUIDED, UNGUIDED_FIRST], ids=["guided", "unguided first"])
@pytest.mark.parametrize("name", MAKE)
def test_images_are_those_of_a_row_for_each_image(name, strategy):
    pipe = MAKE[name]()
    wanted = CLASSES if name in ("uvit", "enat") else PROMPTS
    sizes = rows_of(pipe)
    shared = draw(pipe, wanted, strategy=strategy)
    assert sizes[:2] == ([4, 10] if strategy is GUIDED else [3, 10])
    sizes.clear()
    assert torch.equal(shared, draw(pipe, wanted, strategy=strategy, latents=masks(pipe, 5)))
    assert sizes[:2] == ([10, 10] if strategy is GUIDED else [5, 10])


def test_features_of_a_policy_are_handed_out_too():
    pipe = adaptive_pipeline()
    seen: list[torch.Tensor] = []
    pipe.policy.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    shared = draw(pipe, CLASSES)
    assert torch.equal(shared, draw(pipe, CLASSES, latents=masks(pipe, 5)))
    torch.testing.assert_close(seen[0], seen[4], rtol=1e-5, atol=1e-5)
    assert torch.equal(seen[0][0], seen[0][2]) and not torch.equal(seen[0][0], seen[0][1])


@pytest.mark.parametrize("scheduler", [None, ReMDMScheduler])
def test_guidance_of_each_image_and_orders_that_take_back(pipe, scheduler):
    options = {}
    if scheduler is None:
        options["strategy"] = [GenerationStrategy.cosine(4, guidance_scale=s) for s in (0.0, 1.0, 2.0, 3.0, 9.0)]
    else:
        pipe.register_modules(scheduler=scheduler(16))
    sizes = rows_of(pipe)
    shared = draw(pipe, CLASSES, **options)
    assert sizes[:2] == [4, 10]
    assert torch.equal(shared, draw(pipe, CLASSES, latents=masks(pipe, 5), **options))
    assert not torch.equal(shared[0], shared[2])


def test_images_per_prompt_and_negative_prompts():
    pipe = tiny_text_pipeline()
    sizes = rows_of(pipe)
    options = {"num_images_per_prompt": 2, "strategy": GUIDED}
    plain = draw(pipe, ["a boat", "a tree"], **options)
    each = draw(pipe, ["a boat", "a tree"], negative_prompt=["the lake", "red"], **options)
    draw(pipe, ["a boat", "a tree"], negative_prompt=["the lake", "a tree"], **options)  # which is asked for too
    assert sizes[::4] == [3, 4, 3] and not torch.equal(plain, each)
    assert torch.equal(each, draw(pipe, ["a boat", "a tree"], negative_prompt=["the lake", "red"],
                                  latents=masks(pipe, 4), **options))  # fmt: skip
    states, null_states = pipe.encode_prompt(["a boat", "a tree"])
    sizes.clear()
    embedded = pipe(
        prompt_embeds=states, negative_prompt_embeds=null_states[:1], num_images_per_prompt=2, strategy=GUIDED,
        generator=[torch.Generator().manual_seed(i) for i in range(4)], output_type="latent",
    ).images  # fmt: skip
    assert sizes[0] == 3 and torch.equal(embedded, plain)


def test_in_editing_only_where_no_token_is_given(fashion_mnist):
    pipe = AutoNATInpaintPipeline(**tiny_pipeline().components)
    pipe.set_progress_bar_config(disable=True)
    sizes, image = rows_of(pipe), Image.fromarray(fashion_mnist[0][0])
    mask = Image.new("L", image.size, "white")
    options = {"class_labels": "dog", "strategy": GUIDED, "num_images_per_prompt": 3, "output_type": "latent"}
    whole = pipe(image, mask, generator=torch.Generator().manual_seed(0), **options).images
    assert sizes == [2, 6, 6, 6]
    generated = AutoNATPipeline(**{name: part for name, part in pipe.components.items() if part is not None
                                   and name in ("vqvae", "transformer", "scheduler")})  # fmt: skip
    generated.set_progress_bar_config(disable=True)
    assert torch.equal(whole, generated([1] * 3, strategy=GUIDED, generator=torch.Generator().manual_seed(0),
                                        output_type="latent", latents=masks(pipe, 3)).images)  # fmt: skip
    sizes.clear()
    mask.paste("black", (0, 0, 4, 4))  # one token
    pipe(image, mask, **options)
    pipe(image, None, strength=0.9, **options)
    assert sizes == [6] * 8


def test_rows_of_what_a_step_hands_to_the_next():
    cache = ENATCache(torch.randn(3, 2, 8), torch.randint(9, (3, 2)), torch.rand(3, 2) > 0.5)
    first = FirstPass(torch.randn(3, 9, 16), cache, torch.randn(3, 9, 8))
    rows = first.rows()
    assert [len(row.logits) for row in rows] == [1, 1, 1]
    joined = FirstPass.cat([rows[2], rows[0], rows[2]])
    for place, row in enumerate([2, 0, 2]):
        assert torch.equal(joined.logits[place], first.logits[row])
        assert torch.equal(joined.features[place], first.features[row])
        for name, tensor in cache.items():
            assert torch.equal(joined.cache[name][place], tensor[row])


@pytest.mark.parametrize("kept", [False, True])
def test_a_transformer_that_hands_out_a_cache_at_once(kept):
    """As ENAT does when it is compiled as a whole: every image gets that of its condition, and no row that of another."""

    def transformer(tokens, cache, num_masked, class_labels):
        assert cache is None and num_masked == 4
        labels = class_labels[:, None].expand(-1, 4)
        cache = ENATCache(labels[..., None].float(), labels, labels > 1)
        return SimpleNamespace(sample=labels[..., None].float(), cache=cache)

    labels, null = torch.tensor([1, 0, 1]), torch.tensor([2, 2, 2])
    predict = GuidedTransformer(
        transformer, {"class_labels": labels}, {"class_labels": null}, first_step=FirstStep([1, 0, 1], [2] * 3, ())
    )
    with FirstStepCache().in_use() if kept else nullcontext():
        logits = predict(torch.full((3, 4), 16), StepParameters(0.5, 1.0, 1.0, 1.0))
    assert logits[:, 0, 0].tolist() == [0, -2, 0]  # 2 cond - uncond
    assert predict._cache.indices[:, 0].tolist() == [1, 0, 1, 2, 2, 2] and predict._both_cached


# From call to call


@pytest.mark.parametrize("name", MAKE)
def test_what_is_kept_gives_the_same_images_without_passes(name):
    pipe = MAKE[name]()
    wanted = CLASSES if name in ("uvit", "enat") else PROMPTS
    plain, sizes, cache = draw(pipe, wanted, strategy=GUIDED), rows_of(pipe), FirstStepCache()
    with cache.in_use():
        assert torch.equal(draw(pipe, wanted, strategy=GUIDED), plain)
        assert sizes[:5] == [1, 1, 1, 1, 10]
        sizes.clear()
        assert torch.equal(draw(pipe, wanted, strategy=GUIDED), plain)
        assert sizes == [10, 10, 10]
    sizes.clear()
    assert torch.equal(draw(pipe, wanted, strategy=GUIDED), plain)
    assert sizes == [4, 10, 10, 10]


def test_kept_by_weights_and_condition():
    pipe, cache = tiny_text_pipeline(), FirstStepCache()
    sizes = rows_of(pipe)

    def rows(**options) -> int:
        sizes.clear()
        draw(pipe, ["a boat"], strategy=GUIDED, **options)
        return sum(sizes) - 6

    with cache.in_use():
        assert [rows(), rows()] == [2, 0]
        assert rows(negative_prompt="red") == 1
        with torch.no_grad():
            pipe.transformer.head.bias.add_(1)
        assert [rows(), rows()] == [2, 0]
        with torch.no_grad():
            pipe.text_encoder.get_input_embeddings().weight.mul_(2)
        assert [rows(), rows()] == [2, 0]
        pipe.to(dtype=torch.bfloat16)
        assert [rows(), rows()] == [2, 0]
        pipe.register_modules(transformer=tiny_text_pipeline().transformer)
        sizes = rows_of(pipe)
        assert [rows(), rows()] == [2, 0]


def test_features_are_kept_for_a_policy():
    adaptive, cache = adaptive_pipeline(), FirstStepCache()
    static = AutoNATPipeline(**adaptive.components | {"policy": None})
    static.set_progress_bar_config(disable=True)
    expected = draw(adaptive, CLASSES)
    with cache.in_use():
        draw(static, CLASSES)
        assert torch.equal(draw(adaptive, CLASSES), expected)


def test_memory_is_bounded_and_the_latest_stay(pipe):
    one = 4 * 49 * 16
    cache, sizes = FirstStepCache(max_bytes=2 * one), rows_of(pipe)
    with cache.in_use():
        for label in (0, 1, 0, 2):  # 2 takes the place of 1
            draw(pipe, [label], strategy=UNGUIDED_FIRST)
        sizes.clear()
        for label in (0, 2, 1):
            draw(pipe, [label], strategy=UNGUIDED_FIRST)
    assert sizes == [2, 2, 2, 2, 2, 2, 1, 2, 2, 2]
    assert cache.has_room_for(2, pipe.transformer.config) and not cache.has_room_for(3, pipe.transformer.config)


def test_states_that_are_given_are_not_kept():
    pipe, cache = tiny_text_pipeline(), FirstStepCache()
    states, null_states = pipe.encode_prompt("a boat")
    sizes = rows_of(pipe)
    with cache.in_use():
        for _ in range(2):
            pipe(prompt_embeds=states, negative_prompt_embeds=null_states, strategy=GUIDED, output_type="latent")
    assert sizes == [2] * 8


def test_names_are_one_for_all_or_one_for_each():
    step = FirstStep(["a", "b"], [None], ()).repeat(2, 2)
    assert (step.names, step.null_names) == (["a", "a", "b", "b"], [None] * 4)
