"""AutoNATPipeline with the ENAT transformer: what is handed from step to step."""

import pytest
import torch

from diffusers_autonat import AutoNATPipeline, ENATTransformer2DModel, GenerationStrategy, NATScheduler
from diffusers_autonat.conversion import convert_enat_state_dict
from diffusers_autonat.models.transformer_enat import ENATCache
from tests.conftest import LABELS, load_reference, tiny_vqvae


SEARCHED = GenerationStrategy(  # guidance comes and goes, as a search may leave it
    mask_ratios=(0.9, 0.8, 0.6, 0.5, 0.2, 0.0),
    sampling_temperatures=(1.0, 2.0, 1.5, 1.0, 1.0, 0.5),
    remasking_temperatures=(1.0, 0.5, 2.0, 0.0, 1.0, 0.0),
    guidance_scales=(0.0, 0.0, 1.5, 0.0, 2.0, 2.5),
)


def enat_pipeline() -> AutoNATPipeline:
    torch.manual_seed(0)
    transformer = ENATTransformer2DModel(
        sample_size=7, codebook_size=16, hidden_size=32, num_encoder_layers=2, num_decoder_layers=1,
        num_attention_heads=4, num_classes=4,
    ).eval()  # fmt: skip
    for name, parameter in transformer.named_parameters():
        if "modulation" in name:  # zero at the start, which makes every block the identity
            torch.nn.init.normal_(parameter, std=0.3)
    pipeline = AutoNATPipeline(tiny_vqvae(), transformer, NATScheduler(16), LABELS)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def record_calls(transformer) -> list[dict]:
    calls = []

    def hook(module, args, kwargs, output):
        calls.append({"ids": args[0], **kwargs, "sample": output.sample, "out": output.cache})

    transformer.register_forward_hook(hook, with_kwargs=True)
    return calls


def test_the_greedy_run_of_the_released_sampler():
    weights, reference = load_reference("enat")
    config, state_dict = convert_enat_state_dict(weights, num_attention_heads=4)
    transformer = ENATTransformer2DModel(**config).eval()
    transformer.load_state_dict(state_dict)
    pipe = AutoNATPipeline(tiny_vqvae(num_vq_embeddings=48), transformer, NATScheduler(48))
    pipe.set_progress_bar_config(disable=True)
    strategy = GenerationStrategy.enat(8, sampling_temperature=0, remasking_temperature=0, guidance_scale=2.5)
    # The released sampler keeps its sampling temperature above 1e-3 at the last steps: greedy all the same.
    strategy = GenerationStrategy(**{**strategy.to_dict(), "sampling_temperatures": (0.0,) * 8})
    seen = []
    final = pipe(
        reference["greedy.class_labels"], strategy=strategy, output_type="latent",
        callback_on_step_end=lambda pipe, i, t, kwargs: seen.append(kwargs["latents"]) or {},
    ).images  # fmt: skip
    for i in range(7):
        assert torch.equal(seen[i], reference[f"greedy.step{i + 1}.input_ids"])
    assert torch.equal(final, reference["greedy.final_ids"])


@pytest.mark.parametrize("strategy", [GenerationStrategy.enat(5), GenerationStrategy.cosine(5), SEARCHED])
def test_every_pass_reuses_what_its_own_half_has_encoded(strategy):
    """Replays the recorded steps without the pipeline's bookkeeping: two separate runs, one for each half."""
    pipe = enat_pipeline()
    calls = record_calls(pipe.transformer)
    pipe([0, 1, 2], strategy=strategy, generator=torch.Generator().manual_seed(0))
    labels, null = torch.arange(3), torch.full((3,), 4)
    steps, current = [], None
    for call in calls:  # calls of one step, joined
        ids = call["ids"][:3]
        if current is None or not torch.equal(ids, current):
            steps.append((ids, []))
            current = ids
        steps[-1][1].append(call)
    assert len(steps) == strategy.num_inference_steps

    with torch.no_grad():
        caches = [None, None]
        for t, ((ids, own_calls), scale) in enumerate(zip(steps, strategy.guidance_scales)):
            got = torch.cat([call["sample"] for call in own_calls])
            if t == 0 and scale > 0:  # the first step has one row for no class
                got = got[[0, 1, 2, 3, 3, 3]]
            assert len(got) == (6 if scale > 0 else 3)
            for half, half_labels in enumerate([labels, null]):
                if half == 1 and scale == 0:
                    caches[1] = None
                    continue
                output = pipe.transformer.forward(ids, class_labels=half_labels, cache=caches[half])
                caches[half] = output.cache
                torch.testing.assert_close(got[3 * half :][:3], output.sample, rtol=1e-4, atol=1e-5)


def test_conditional_and_unconditional_are_one_batch_wherever_both_have_a_cache():
    pipe = enat_pipeline()
    calls = record_calls(pipe.transformer)
    pipe([0, 1], strategy=GenerationStrategy.enat(5))  # unguided at the first step, where nothing is visible
    assert [len(call["ids"]) for call in calls] == [2, 4, 4, 4, 4]
    assert [call["cache"] is None for call in calls] == [True, True, False, False, False]


def test_only_new_tokens_are_encoded():
    pipe = enat_pipeline()
    calls, encoded = record_calls(pipe.transformer), []
    pipe.transformer.encoder_blocks[0].register_forward_pre_hook(lambda module, args: encoded.append(args[0].shape[1]))
    strategy = GenerationStrategy.enat(5)
    pipe([0, 1], strategy=strategy)
    masked = [call["num_masked"] for call in calls]
    assert masked[0] == 49 and sum(encoded) == 49 - masked[-1]
    assert encoded == [before - after for before, after in zip(masked, masked[1:])]


def test_nothing_waits_for_the_device():
    pipe = enat_pipeline()
    calls = record_calls(pipe.transformer)
    pipe([0, 1], strategy=SEARCHED)
    assert all(call["num_masked"] is not None for call in calls)
    assert all(call["out"].valid is None for call in calls[1:])
    plan = pipe.scheduler.plan(strategy=SEARCHED, num_to_fill=49, device="meta")  # whose values nobody can read
    assert plan.num_masked == (49, 44, 39, 29, 24, 9)


def test_given_tokens_may_differ_in_number():
    pipe = enat_pipeline()
    latents = torch.full((2, 49), 16)
    latents[0, :30], latents[1, 5:9] = 3, 7
    both = pipe([0, 1], latents=latents, strategy=SEARCHED, output_type="latent", generator=generators(2)).images
    assert torch.equal(both[0, :30], latents[0, :30]) and torch.equal(both[1, 5:9], latents[1, 5:9])
    for i in range(2):
        alone = pipe(
            [i], latents=latents[i : i + 1], strategy=SEARCHED, output_type="latent", generator=[generators(2)[i]]
        ).images
        assert torch.equal(alone[0], both[i])


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


@pytest.mark.parametrize("in_place", [False, True])
def test_tokens_changed_by_a_callback_are_encoded_afresh(in_place):
    pipe = enat_pipeline()

    def swap(pipe, i, t, kwargs):
        if i != 2:
            return {}
        latents = kwargs["latents"] if in_place else kwargs["latents"].clone()
        latents[latents != 16] = 2
        return {"latents": latents}

    calls = record_calls(pipe.transformer)
    final = pipe([0, 1], strategy=GenerationStrategy.cosine(5), output_type="latent", callback_on_step_end=swap).images
    assert (final != 16).all()
    after = next(call for call in calls if (call["ids"] == 2).any() and call["cache"] is None)
    assert after["num_masked"] is None and isinstance(after["out"], ENATCache)


def test_saved_and_loaded(tmp_path):
    pipe = enat_pipeline()
    pipe.save_pretrained(tmp_path)
    loaded = AutoNATPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.transformer, ENATTransformer2DModel)
    images = [one([0, 1], generator=generators(2), output_type="pt").images for one in (pipe, loaded)]
    assert torch.equal(*images)


@pytest.mark.parametrize("strategy", [GenerationStrategy.enat(6), SEARCHED], ids=["enat", "guidance comes and goes"])
def test_a_modulation_is_computed_once_and_changes_no_bit(strategy):
    pipe = enat_pipeline()
    modulation = pipe.transformer.decoder_blocks[0].modulation
    counted = []
    modulation.register_forward_hook(lambda *_: counted.append(1))

    def run(keeps):
        pipe.transformer.keeps_modulation = keeps
        counted.clear()
        logits = []

        def keep(pipe, step, timestep, kwargs):
            logits.append(kwargs["logits"].clone())
            return {}

        pipe([0, 3], strategy=strategy, generator=torch.Generator().manual_seed(0), output_type="latent",
             callback_on_step_end=keep, callback_on_step_end_tensor_inputs=["logits"])  # fmt: skip
        return torch.stack(logits), len(counted)

    (kept, few), (anew, many) = run(True), run(False)
    if strategy is SEARCHED:  # both halves' are computed as one batch or as two, which rounds otherwise
        torch.testing.assert_close(kept, anew, rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(kept, anew)
    assert few < many - 2
    # With gradients it is computed by the model that learns, whatever the cache holds.
    tokens, labels = torch.full((1, 49), 16), torch.tensor([1])
    tokens[0, :9] = 3
    pipe.transformer.keeps_modulation = True
    with torch.no_grad():
        cache = pipe.transformer(tokens, class_labels=labels).cache
    assert cache.modulation.shape == (1, 3, 8 * 32)
    cache.modulation = cache.modulation + 1
    tokens[0, 9:12] = 4
    with torch.no_grad():
        other = pipe.transformer(tokens, class_labels=labels, cache=cache).sample
    recorded = pipe.transformer(tokens, class_labels=labels, cache=cache).sample
    recorded.sum().backward()
    assert modulation.weight.grad.abs().sum() > 0 and not torch.allclose(other, recorded)
