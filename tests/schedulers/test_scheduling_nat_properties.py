"""Whatever strategy, logits and given tokens a sampler meets: its laws hold."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_autonat import GenerationStrategy, NATScheduler


FLOAT32_MAX = 3.4e38
positive = st.one_of(st.floats(0, 10), st.floats(0, FLOAT32_MAX), st.just(0.0))


@st.composite
def generation_strategies(draw, steps: int | None = None) -> GenerationStrategy:
    T = steps or draw(st.integers(1, 12))
    ratios = draw(st.lists(st.floats(0, 1), min_size=T - 1, max_size=T - 1))
    schedules = [draw(st.lists(positive, min_size=T, max_size=T)) for _ in range(3)]
    return GenerationStrategy([*ratios, 0.0], *schedules)


@st.composite
def grids(draw) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Logits `[B, N, K]`, some of them huge, infinite or NaN, tokens `[B, N]` with ragged given ones, and a seed."""
    B, N, K = draw(st.integers(1, 4)), draw(st.integers(1, 24)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**32 - 1))
    noise = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, N, K, generator=noise) * draw(st.sampled_from([0.0, 1.0, 30.0, 1e30]))
    for value in draw(st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 3.4e38, -3.4e38]), max_size=3)):
        logits[torch.rand(B, N, K, generator=noise) < draw(st.sampled_from([0.02, 0.5, 1.0]))] = value
    tokens = torch.randint(0, K, (B, N), generator=noise)
    masked = torch.rand(B, N, generator=noise) < torch.rand(B, 1, generator=noise) * draw(st.sampled_from([0, 1, 2]))
    return logits, tokens.masked_fill(masked, K), seed


def counts(tokens: torch.Tensor, mask_token_id: int) -> list[int]:
    return (tokens == mask_token_id).sum(dim=1).tolist()


@given(generation_strategies(), grids())
def test_counts_follow_r_given_tokens_stay_and_ids_are_of_the_codebook(strategy, grid):
    logits, start, seed = grid
    (B, N), K = start.shape, logits.shape[-1]
    scheduler, noise, tokens = NATScheduler(K), torch.Generator().manual_seed(seed), start
    for t, parameters in enumerate(scheduler.plan(strategy=strategy).parameters):
        output = scheduler.step(logits, t, tokens, noise, parameters=parameters)
        assert output.pred_original_sample.max() < K
        for after in (output.prev_sample, output.pred_original_sample):
            assert after.dtype == torch.long and after.min() >= 0 and after.max() <= K
            assert torch.equal(after[tokens != K], tokens[tokens != K])
        # r counts as whole where it is but for rounding in float32.
        m = int(N * torch.tensor(strategy.mask_ratios[t]) + N * 2e-7) if t < len(strategy.mask_ratios) - 1 else 0
        wanted = [max(min(max(m, 1), before - 1), 0) for before in counts(tokens, K)]
        if t == strategy.num_inference_steps - 1:
            wanted = [0] * B
        assert all(
            abs(a - b) <= (m > 0 and near_whole(N, strategy.mask_ratios[t]))
            for a, b in zip(counts(output.prev_sample, K), wanted)
        )
        tokens = output.prev_sample
    assert tokens.max() < K


def near_whole(num_tokens: int, ratio: float) -> bool:
    """Whether rounding may decide how many tokens this is."""
    product = num_tokens * ratio
    return abs(product - round(product)) < num_tokens * 1e-6


@given(generation_strategies(), st.integers(1, 24), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_a_plan_knows_the_counts_of_a_fresh_grid(strategy, num_tokens, codes, seed):
    noise = torch.Generator().manual_seed(seed)
    scheduler, tokens = NATScheduler(codes), torch.full((2, num_tokens), codes)
    plan = scheduler.plan(strategy=strategy, num_to_fill=num_tokens)
    for t, (parameters, num_masked) in enumerate(zip(plan.parameters, plan.num_masked, strict=True)):
        assert counts(tokens, codes) == [num_masked] * 2
        logits = torch.randn(2, num_tokens, codes, generator=noise)
        tokens = scheduler.step(logits, t, tokens, noise, parameters=parameters).prev_sample


@given(st.data(), st.integers(1, 6), grids())
def test_a_sample_depends_on_its_own_strategy_generator_and_tokens_only(data, steps, grid):
    logits, start, seed = grid
    strategies = [data.draw(generation_strategies(steps)) for _ in start]
    scheduler = NATScheduler(logits.shape[-1])

    def sample(rows: list[int]) -> torch.Tensor:
        plan, tokens = scheduler.plan(strategy=[strategies[row] for row in rows]), start[rows]
        generators = [torch.Generator().manual_seed((seed + row) % 2**32) for row in rows]
        for t, parameters in enumerate(plan.parameters):
            tokens = scheduler.step(logits[rows], t, tokens, generators, parameters=parameters).prev_sample
        return tokens

    rows = list(range(len(start)))
    together = sample(rows)
    assert torch.equal(together, torch.cat([sample([row]) for row in rows]))
    assert torch.equal(together.flip(0), sample(rows[::-1]))


@given(st.floats(0, 1), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_noise_masks_so_many_and_leaves_the_rest(ratio, num_tokens, seed):
    tokens = torch.arange(num_tokens).repeat(3, 1)
    masked = NATScheduler(num_tokens).add_noise(tokens, ratio, torch.Generator().manual_seed(seed))
    count = max(round(num_tokens * ratio), 1)
    tolerance = abs(num_tokens * ratio % 1 - 0.5) < 1e-4
    assert all(abs(found - count) <= tolerance for found in counts(masked, num_tokens))
    assert torch.equal(masked[masked != num_tokens], tokens[masked != num_tokens])


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(junk, junk)
def test_a_config_is_lawful_or_refused_in_a_line(mask_token_id, strategies):
    try:
        scheduler = NATScheduler(mask_token_id, strategies)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert isinstance(mask_token_id, int) and mask_token_id > 0 and not strategies
        assert scheduler.get_strategy(4).num_inference_steps == 4


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(ValueError, match="mask_ratio"):
        NATScheduler(4).add_noise(torch.zeros(1, 4, dtype=torch.long), ratio)
