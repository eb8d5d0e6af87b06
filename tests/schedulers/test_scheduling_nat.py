"""Laws of the sampler, and the recorded runs of the authors' code (tests/fixtures/uvit.safetensors)."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from diffusers_autonat import GenerationStrategy, NATScheduler
from diffusers_autonat.conversion import convert_uvit_state_dict
from diffusers_autonat.models.transformer_uvit import UViTTransformer2DModel
from diffusers_autonat.schedulers.masked_sampling import (
    draw_tokens,
    gumbel_noise,
    log_confidence,
    mask_count,
    mask_lowest,
)


FIXTURE = Path(__file__).parents[1] / "fixtures" / "uvit.safetensors"
K, N = 12, 20
MASK = K

# The released AutoNAT-L strategy for T = 8, the one of the recorded stochastic run.
RELEASED = GenerationStrategy(
    [0.9531645174140464, 0.8795409806037042, 0.7940230737075623, 0.745995860948045,
     0.6249785820461957, 0.407321956652571, 0.260658917067054, 0.0],
    [2.8999037830310685, 1.867261830931786, 1.1443729673819831, 1.3796334226014182,
     1.4699896959810144, 1.3760684112198358, 1.7082165405200722, 0.7133060703601533],
    [2.404912789740805, 2.477616274962803, 1.191696577294597, 0.7685444738649722,
     1.0673489052089495, 0.9353720330515827, 0.7843839537838292, 0.0],
    [0.0, 0.0, 0.0, 0.9151274967591447, 1.6160182878189675, 1.1945509026838659, 1.38322370140345, 1.22678520936251],
)  # fmt: skip


def run(scheduler, logits, sample, generator=None):
    samples = [sample]
    for t in scheduler.timesteps:
        samples.append(scheduler.step(logits, t, samples[-1], generator=generator).prev_sample)
    return samples


def masked_counts(sample):
    return (sample == MASK).sum(-1).tolist()


@pytest.fixture
def logits():
    return torch.randn(3, N, K, generator=torch.Generator().manual_seed(0)) * 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_counts_follow_the_schedule(logits):
    scheduler = NATScheduler(MASK)
    scheduler.set_timesteps(strategy=GenerationStrategy([0.9, 0.55, 0.2, 0.0], [1.0] * 4, [1.0] * 4, [0.0] * 4))
    samples = run(scheduler, logits, torch.full((3, N), MASK), generator())
    assert [masked_counts(s)[0] for s in samples] == [20, 18, 11, 4, 0]
    assert all(len(set(masked_counts(s))) == 1 for s in samples)


def test_every_step_reveals_a_token_and_keeps_one_masked(logits):
    scheduler = NATScheduler(MASK)
    scheduler.set_timesteps(strategy=GenerationStrategy([1.0, 1.0, 0.0, 0.0], [1.0] * 4, [1.0] * 4, [0.0] * 4))
    samples = run(scheduler, logits, torch.full((3, N), MASK), generator())
    assert [masked_counts(s)[0] for s in samples] == [20, 19, 18, 1, 0]


def test_a_ratio_that_is_whole_up_to_rounding_counts_as_whole(logits):
    # 0.7 is below 7/10 in float32 and 0.29 * 100 below 29 even in float64.
    for ratio, tokens, expected in ((0.7, 10, 7), (0.29, 100, 29), (0.35, 20, 7), (0.3499, 20, 6)):
        big = torch.randn(1, tokens, K, generator=generator())
        scheduler = NATScheduler(MASK)
        scheduler.set_timesteps(strategy=GenerationStrategy([ratio, 0.0], [1.0] * 2, [1.0] * 2, [0.0] * 2))
        assert masked_counts(scheduler.step(big, 0, torch.full((1, tokens), MASK)).prev_sample) == [expected]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, N), min_size=3, max_size=3), st.integers(1, 6), st.integers(0, 10**6))
def test_given_tokens_are_never_touched(known, steps, seed):
    logits = torch.randn(3, N, K, generator=generator(seed))
    sample = torch.full((3, N), MASK)
    for row, count in enumerate(known):  # ragged: each sample has its own number of given tokens
        places = torch.randperm(N, generator=generator(seed + row))[:count]
        sample[row, places] = torch.randint(0, K, (count,), generator=generator(seed))
    given_places = sample != MASK
    scheduler = NATScheduler(MASK)
    scheduler.set_timesteps(steps)
    for t, (before, after) in enumerate(zip(*(lambda s: (s, s[1:]))(run(scheduler, logits, sample, generator(seed))))):
        assert torch.equal(after[given_places], sample[given_places])
        assert torch.equal(after[before != MASK], before[before != MASK])
        for row in range(3):
            left, now = (before[row] == MASK).sum(), (after[row] == MASK).sum()
            assert now == 0 if t == steps - 1 else now < left or left == 0


def test_greedy_takes_the_most_likely_and_keeps_the_most_confident(logits):
    scheduler = NATScheduler(MASK)
    scheduler.set_timesteps(strategy=GenerationStrategy([0.5, 0.0], [0.0] * 2, [0.0] * 2, [0.0] * 2))
    out = scheduler.step(logits, 0, torch.full((3, N), MASK))
    assert torch.equal(out.pred_original_sample, logits.argmax(-1))
    confidence = logits.log_softmax(-1).amax(-1)
    kept = out.prev_sample != MASK
    for row in range(3):
        assert confidence[row][kept[row]].min() > confidence[row][~kept[row]].max()


def test_tokens_are_drawn_from_the_tempered_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(1, 60_000, 3)
    gumbel = gumbel_noise(logits.shape, generator(), logits.device)
    share = torch.bincount(draw_tokens(logits, torch.tensor(0.5), gumbel)[0], minlength=3) / 60_000
    assert share.tolist() == pytest.approx((logits[0, 0] / 0.5).softmax(0).tolist(), abs=0.01)


def test_confidence_is_untempered(logits):
    """A high tau1 changes which token is drawn, but not how it is scored."""
    sample, tokens = torch.full((3, N), MASK), torch.zeros(3, N, dtype=torch.long)
    count = mask_count(N, torch.tensor([[0.5]]))
    after = mask_lowest(tokens, log_confidence(logits, tokens), sample == MASK, count, MASK)
    expected = logits.log_softmax(-1)[..., 0].argsort(-1)[:, : N // 2]
    assert torch.equal(after == MASK, torch.zeros(3, N, dtype=torch.bool).scatter(1, expected, True))


def test_same_seed_same_tokens_and_global_generator_untouched(logits):
    scheduler = NATScheduler(MASK)
    scheduler.set_timesteps(4)
    state = torch.get_rng_state()
    first, second = (run(scheduler, logits, torch.full((3, N), MASK), generator(7))[-1] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, run(scheduler, logits, torch.full((3, N), MASK), generator(8))[-1])


def test_a_list_of_generators_makes_samples_independent_of_their_batch(logits):
    scheduler = NATScheduler(MASK)
    scheduler.set_timesteps(4)
    mask = torch.full((3, N), MASK)
    together = run(scheduler, logits, mask, [generator(i) for i in range(3)])[-1]
    alone = [run(scheduler, logits[i : i + 1], mask[:1], [generator(i)])[-1] for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_strategies_per_sample_equal_single_runs(logits):
    strategies = [GenerationStrategy.cosine(4), GenerationStrategy.enat(4), GenerationStrategy.cosine(4, 0.5, 1, 0)]
    scheduler = NATScheduler(MASK)
    scheduler.set_timesteps(strategy=strategies)
    assert scheduler.mask_ratios.shape == (4, 3)
    mask = torch.full((3, N), MASK)
    together = run(scheduler, logits, mask, [generator(i) for i in range(3)])[-1]
    for i, strategy in enumerate(strategies):
        scheduler.set_timesteps(strategy=strategy)
        assert torch.equal(together[i : i + 1], run(scheduler, logits[i : i + 1], mask[:1], [generator(i)])[-1])


def test_a_plan_is_a_value_that_leaves_the_scheduler_alone(logits):
    scheduler = NATScheduler(MASK)
    scheduler.set_timesteps(4)
    plan = scheduler.plan(strategy=RELEASED, num_to_fill=N)
    assert len(plan.parameters) == len(plan.timesteps) == 8 and len(scheduler.timesteps) == 4
    assert [step.is_guided for step in plan.parameters] == [False] * 3 + [True] * 5
    assert [step.is_last for step in plan.parameters] == [False] * 7 + [True]
    sample, other = torch.full((3, N), MASK), NATScheduler(MASK)
    other.set_timesteps(strategy=RELEASED)
    for t, parameters in enumerate(plan.parameters):
        assert masked_counts(sample) == [plan.num_masked[t]] * 3
        after = scheduler.step(logits, t, sample, generator(t), parameters=parameters).prev_sample
        assert torch.equal(after, other.step(logits, t, sample, generator(t)).prev_sample)
        sample = after


def test_what_differs_between_samples_is_a_tensor_in_a_plan():
    strategies = [GenerationStrategy.cosine(4), GenerationStrategy.cosine(4, guidance_scale=0)]
    plan = NATScheduler(MASK).plan(strategy=strategies, num_to_fill=N)
    first = plan.parameters[0]
    assert plan.num_masked is None and isinstance(first.mask_ratio, float)
    assert first.guidance_scale.tolist() == [0.75, 0.0] and first.is_guided


def test_tuple_dict_and_dtypes(logits):
    scheduler = NATScheduler(MASK)
    scheduler.set_timesteps(4)
    sample = torch.full((3, N), MASK)
    out = scheduler.step(logits.half(), torch.tensor(0), sample, generator=generator())
    prev, original = scheduler.step(logits.half(), 0, sample, generator=generator(), return_dict=False)
    assert torch.equal(out.prev_sample, prev) and torch.equal(out.pred_original_sample, original)
    assert prev.dtype == torch.long and prev.shape == sample.shape and not (original == MASK).any()


def test_one_step_fills_everything(logits):
    scheduler = NATScheduler(MASK)
    scheduler.set_timesteps(1)
    assert masked_counts(run(scheduler, logits, torch.full((3, N), MASK))[-1]) == [0, 0, 0]


def test_a_step_that_was_not_set_is_an_error(logits):
    scheduler = NATScheduler(MASK)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="timestep = 4"):
        scheduler.step(logits, 4, torch.full((3, N), MASK))


def test_without_stored_strategies_any_number_of_steps_is_cosine():
    scheduler = NATScheduler(MASK)
    for steps in (1, 5, 16):
        scheduler.set_timesteps(steps)
        assert scheduler.mask_ratios.tolist() == pytest.approx(GenerationStrategy.cosine(steps).mask_ratios)
    with pytest.raises(ValueError, match="0"):
        scheduler.set_timesteps(0)


def test_stored_strategies_are_served_and_nothing_else():
    stored = [GenerationStrategy.cosine(4), RELEASED]
    scheduler = NATScheduler(MASK, stored)
    scheduler.set_timesteps(4)
    assert len(scheduler.timesteps) == 4
    scheduler.set_timesteps()
    assert len(scheduler.timesteps) == 8
    with pytest.raises(ValueError, match=r"num_inference_steps=6, only for \[4, 8\].*strategy="):
        scheduler.set_timesteps(6)
    scheduler.set_timesteps(6, strategy=GenerationStrategy.cosine(6))
    with pytest.raises(ValueError, match=r"\[4, 6\]"):
        scheduler.set_timesteps(6, strategy=GenerationStrategy.cosine(4))
    with pytest.raises(ValueError, match="more than one strategy"):
        NATScheduler(MASK, [GenerationStrategy.cosine(4), GenerationStrategy.enat(4)])
    with pytest.raises(ValueError, match="mask_token_id = 0"):
        NATScheduler(0)


def test_config_round_trip_to_the_last_digit(tmp_path):
    scheduler = NATScheduler(MASK, [RELEASED, GenerationStrategy.cosine(3, 1 / 3, 0.1 + 0.2)])
    scheduler.save_pretrained(tmp_path)
    loaded = NATScheduler.from_pretrained(tmp_path)
    assert loaded.stored_strategies == {8: RELEASED, 3: GenerationStrategy.cosine(3, 1 / 3, 0.1 + 0.2)}
    assert dict(loaded.config)["strategies"] == dict(scheduler.config)["strategies"]
    json.loads((tmp_path / "scheduler_config.json").read_text())
    assert NATScheduler.from_config(scheduler.config, mask_token_id=5).config.mask_token_id == 5


def test_instances_share_no_state():
    first = NATScheduler(MASK, [RELEASED])
    assert NATScheduler(MASK).config.strategies is None and first.compatibles == []


def test_add_noise():
    scheduler = NATScheduler(MASK)
    sample = torch.randint(0, K, (4, N), generator=generator())
    noisy = scheduler.add_noise(sample, torch.tensor([0.0, 0.24, 0.26, 1.0]), generator())
    assert masked_counts(noisy) == [1, 5, 5, 20]
    assert torch.equal(noisy[noisy != MASK], sample[noisy != MASK])
    assert masked_counts(scheduler.add_noise(sample, 0.5)) == [10] * 4
    each = [generator(i) for i in range(4)]
    alone = torch.cat([scheduler.add_noise(sample[i : i + 1], 0.5, [generator(i)]) for i in range(4)])
    assert torch.equal(scheduler.add_noise(sample, 0.5, each), alone)


def test_masked_positions_are_uniform():
    noisy = NATScheduler(MASK).add_noise(torch.zeros(20_000, N, dtype=torch.long), 0.3, generator())
    assert (noisy == MASK).float().mean(0).tolist() == pytest.approx([0.3] * N, abs=0.02)


@pytest.fixture(scope="module")
def reference():
    with safe_open(FIXTURE, "pt") as file:
        heads = json.loads(file.metadata()["config"])["num_heads"]
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    weights = {k.removeprefix("nnet_ema."): v for k, v in tensors.items() if k.startswith("nnet_ema.")}
    config, state = convert_uvit_state_dict(weights, num_attention_heads=heads)
    model = UViTTransformer2DModel(**config).eval()
    model.load_state_dict(state)
    return model, tensors


@torch.no_grad()
def guided_logits(model, ids, labels, scale):
    cond = model(ids, class_labels=labels).sample
    if scale == 0:
        return cond
    return cond + scale * (cond - model(ids, class_labels=torch.full_like(labels, model.config.num_classes)).sample)


def test_reference_greedy_run(reference):
    model, tensors = reference
    scheduler = NATScheduler(model.config.codebook_size)
    strategy = GenerationStrategy([0.9, 0.7, 0.35, 0.0], [0.0] * 4, [0.0] * 4, [0.0, 0.5, 1.5, 2.5])
    scheduler.set_timesteps(strategy=strategy)
    labels = tensors["greedy.class_labels"]
    ids = torch.full((3, 256), scheduler.config.mask_token_id)
    for t in range(4):
        assert torch.equal(ids, tensors[f"greedy.step{t}.input_ids"])
        ids = scheduler.step(guided_logits(model, ids, labels, strategy.guidance_scales[t]), t, ids).prev_sample
    assert torch.equal(ids, tensors["greedy.final_ids"])


def test_reference_stochastic_run_with_its_recorded_draws(reference):
    model, tensors = reference
    mask_id = model.config.codebook_size
    labels = tensors["stochastic.class_labels"]
    ids = torch.full((3, 256), mask_id)
    for t in range(8):
        assert torch.equal(ids, tensors[f"stochastic.step{t}.input_ids"])
        masked = ids == mask_id
        ids = torch.where(masked, tensors[f"stochastic.step{t}.sampled_ids"], ids)
        if t < 7:
            before = tensors[f"stochastic.step{t}.input_ids"]
            logits = guided_logits(model, before, labels, RELEASED.guidance_scales[t])
            gumbel = tensors[f"stochastic.step{t}.gumbel"]
            score = log_confidence(logits, ids) + RELEASED.remasking_temperatures[t] * gumbel
            count = mask_count(256, torch.tensor([[RELEASED.mask_ratios[t]]]))
            ids = mask_lowest(ids, score, masked, count, mask_id)
    assert torch.equal(ids, tensors["stochastic.final_ids"])


@pytest.mark.parametrize("strategy", [{}, [], "found.yaml", 0, [{}]])
def test_a_plan_of_what_is_no_strategy_is_refused_in_a_line(strategy):
    with pytest.raises(ValueError, match="is no GenerationStrategy"):
        NATScheduler(MASK).plan(strategy=strategy)
