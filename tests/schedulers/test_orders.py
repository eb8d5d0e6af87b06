"""What holds for every order: the laws of `NATScheduler`, in any pipeline, and in a search."""

import inspect

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from diffusers_autonat import (
    AutoNATInpaintPipeline,
    AutoNATPipeline,
    DilatedScheduler,
    EntropyBoundedScheduler,
    EntropyStrategy,
    GenerationStrategy,
    HaltonScheduler,
    NATScheduler,
    RandomScheduler,
    ReMDMScheduler,
    ReMDMStrategy,
)
from diffusers_autonat import schedulers as package
from diffusers_autonat.cost import pipeline_cost
from diffusers_autonat.plots import plot_schedules
from diffusers_autonat.search import FixedStepsSpace, generation_params, resample_strategy, save_strategy
from diffusers_autonat.search.objective import STRATEGY, strategy_of
from diffusers_autonat.search.report import load_scheduler
from diffusers_autonat.strategy_files import read_strategy
from tests.schedulers.test_scheduling_nat_properties import counts, generation_strategies, positive


ORDERS = [
    NATScheduler, HaltonScheduler, RandomScheduler, DilatedScheduler, EntropyBoundedScheduler, ReMDMScheduler,
]  # fmt: skip
every_order = pytest.mark.parametrize("order", ORDERS)
SIDE, K = 5, 9
N = SIDE**2


def test_every_order_of_the_package_is_tested():
    schedulers = [getattr(package, name) for name in package.__all__ if name.endswith("Scheduler")]
    assert set(schedulers) == set(ORDERS)
    # The loader of saved pipelines looks this name up in the module of a scheduler.
    assert all(hasattr(inspect.getmodule(order), "SchedulerMixin") for order in ORDERS)


@st.composite
def strategies_of(draw, order, steps=None):
    like = draw(generation_strategies(steps))
    T = like.num_inference_steps
    if order is EntropyBoundedScheduler:
        bounds = draw(st.lists(positive, min_size=T, max_size=T))
        return EntropyStrategy(bounds, like.sampling_temperatures, like.guidance_scales)
    if order is ReMDMScheduler:
        rates = draw(st.lists(st.floats(0, 1), min_size=T, max_size=T))
        return ReMDMStrategy(like.mask_ratios, like.sampling_temperatures, rates, like.guidance_scales)
    return like


@st.composite
def square_grids(draw):
    """Logits `[B, N, K]`, tokens `[B, N]` on a square with ragged given ones, and a seed."""
    B, side, codes = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**32 - 1))
    noise = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, side**2, codes, generator=noise) * draw(st.sampled_from([0.0, 1.0, 30.0, 1e30]))
    for value in draw(st.lists(st.sampled_from([float("nan"), float("inf"), -float("inf")]), max_size=2)):
        logits[torch.rand(logits.shape, generator=noise) < draw(st.sampled_from([0.02, 0.5, 1.0]))] = value
    tokens = torch.randint(0, codes, (B, side**2), generator=noise)
    masked = torch.rand(B, side**2, generator=noise) < torch.rand(B, 1, generator=noise) * draw(st.integers(0, 2))
    return logits, tokens.masked_fill(masked, codes), seed


def run(scheduler, logits, start, generator, strategy, num_to_fill=None):
    """The tokens before each step and at the end."""
    tokens, given = [start], start != scheduler.config.mask_token_id
    for t, parameters in enumerate(scheduler.plan(strategy=strategy).parameters):
        output = scheduler.step(
            logits, t, tokens[-1], generator, parameters=parameters, num_to_fill=num_to_fill, given=given
        )
        assert output.pred_original_sample.max() < scheduler.config.mask_token_id
        tokens.append(output.prev_sample)
    return tokens


@every_order
@settings(max_examples=40)
@given(data=st.data(), grid=square_grids(), shares=st.booleans())
def test_given_tokens_stay_every_step_reveals_and_the_last_fills_all(order, data, grid, shares):
    logits, start, seed = grid
    codes = logits.shape[-1]
    strategy = data.draw(strategies_of(order))
    to_fill = (start == codes).sum(dim=1)
    tokens = run(
        order(codes), logits, start, torch.Generator().manual_seed(seed), strategy, to_fill if shares else None
    )
    given_places = start != codes
    for t, (before, after) in enumerate(zip(tokens, tokens[1:])):
        assert after.dtype == torch.long and after.min() >= 0 and after.max() <= codes
        assert torch.equal(after[given_places], start[given_places])
        if order is not ReMDMScheduler:
            assert torch.equal(after[before != codes], before[before != codes])
        for was, now, free in zip(counts(before, codes), counts(after, codes), to_fill.tolist()):
            if t == strategy.num_inference_steps - 1:
                assert now == 0
            elif order is EntropyBoundedScheduler:
                assert now < was or was == 0
            else:
                r = torch.tensor(strategy.mask_ratios[t])
                m = int(((free if shares else start.shape[1]) * (r + 2e-7)).floor().clamp(min=1))
                assert now == max(min(m, was - 1), 0)


@every_order
@settings(max_examples=40)
@given(data=st.data(), steps=st.integers(1, 5), grid=square_grids())
def test_a_sample_depends_on_its_own_strategy_generator_and_tokens_only(order, data, steps, grid):
    logits, start, seed = grid
    scheduler = order(logits.shape[-1])
    strategies = [data.draw(strategies_of(order, steps)) for _ in start]

    def sample(rows):
        generators = [torch.Generator().manual_seed((seed + row) % 2**32) for row in rows]
        return run(scheduler, logits[rows], start[rows], generators, [strategies[row] for row in rows])[-1]

    rows = list(range(len(start)))
    together = sample(rows)
    assert torch.equal(together, torch.cat([sample([row]) for row in rows]))
    assert torch.equal(together.flip(0), sample(rows[::-1]))


@every_order
def test_a_plan_knows_the_counts_or_says_that_it_does_not(order):
    scheduler = order(K)
    plan = scheduler.plan(5, num_to_fill=N)
    if order in (EntropyBoundedScheduler, ReMDMScheduler):
        assert plan.num_masked is None
        return
    logits = torch.randn(2, N, K, generator=torch.Generator().manual_seed(0))
    tokens = run(scheduler, logits, torch.full((2, N), K), None, scheduler.heuristic(5))
    assert [counts(before, K) for before in tokens[:-1]] == [[count] * 2 for count in plan.num_masked]


@every_order
def test_a_step_never_asks_the_device(order):
    """Tensors without data, of which nothing can be read."""
    scheduler = order(K)
    logits, tokens = torch.empty(3, N, K, device="meta"), torch.empty(3, N, dtype=torch.long, device="meta")
    given, to_fill = torch.empty(3, N, dtype=torch.bool, device="meta"), torch.empty(3, device="meta")
    strategies = [scheduler.heuristic(4)] * 3
    for parameters in (scheduler.plan(4).parameters[0], scheduler.plan(strategy=strategies).parameters[1]):
        output = scheduler.step(logits, 0, tokens, parameters=parameters, given=given, num_to_fill=to_fill)
        assert output.prev_sample.shape == tokens.shape


@every_order
def test_strategies_are_stored_served_and_loaded_to_the_last_digit(order, tmp_path):
    heuristic = order(K).heuristic
    stored = order(K, [heuristic(4), heuristic(3)])
    stored.save_pretrained(tmp_path)
    loaded = order.from_pretrained(tmp_path)
    assert loaded.stored_strategies == {4: heuristic(4), 3: heuristic(3)}
    assert type(load_scheduler(tmp_path)) is order
    assert loaded.plan().parameters == heuristic(4).steps()
    with pytest.raises(ValueError, match=r"num_inference_steps=6, only for \[3, 4\].*strategy="):
        loaded.plan(6)
    with pytest.raises(ValueError, match="more than one strategy"):
        order(K, [heuristic(4), heuristic(4)])
    heuristic(3).to_json(tmp_path / "strategy.json")
    assert read_strategy(tmp_path / "strategy.json") == heuristic(3)
    assert read_strategy(tmp_path / "scheduler_config.json", 4) == heuristic(4)


@pytest.mark.parametrize("order", [EntropyBoundedScheduler, ReMDMScheduler])
def test_a_strategy_of_another_kind_is_refused_in_a_line(order):
    for call in (
        lambda: order(K, [GenerationStrategy.cosine(4)]),
        lambda: order(K).plan(strategy=GenerationStrategy.cosine(4)),
    ):
        with pytest.raises(ValueError, match=f"{order.__name__} takes a .*, not a GenerationStrategy: one with"):
            call()
    with pytest.raises(ValueError, match="NATScheduler takes a GenerationStrategy"):
        NATScheduler(K).plan(strategy=order(K).heuristic(4))


@every_order
def test_every_pipeline_takes_it_and_comes_back_with_it(order, pipe, tmp_path):
    mask_token_id = pipe.scheduler.config.mask_token_id
    chosen = order(mask_token_id, [order(mask_token_id).heuristic(3)])
    pipe = AutoNATPipeline(pipe.vqvae, pipe.transformer, scheduler=chosen)
    pipe.set_progress_bar_config(disable=True)

    def tokens(pipe, **options):
        each = [torch.Generator().manual_seed(i) for i in range(2)]
        return pipe([0, 3], generator=each, output_type="latent", **options).images

    drawn = tokens(pipe)
    assert pipe.num_timesteps == 3 and drawn.max() < mask_token_id
    strategies = [chosen.heuristic(4), chosen.heuristic(4)]
    assert torch.equal(tokens(pipe, strategy=strategies), tokens(pipe, strategy=strategies[0]))
    pipe.save_pretrained(tmp_path)
    loaded = AutoNATPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is order and torch.equal(tokens(loaded), drawn)

    ragged = torch.full((2, 49), mask_token_id)
    ragged[0, 5:30], ragged[1, :3] = 7, 2
    kept = tokens(pipe, latents=ragged)
    assert torch.equal(kept[ragged != mask_token_id], ragged[ragged != mask_token_id])

    edit = AutoNATInpaintPipeline.from_pipe(pipe)
    edit.set_progress_bar_config(disable=True)
    image, mask = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 1, 28, 28)
    mask[0, :, :12], mask[1, :, 8:] = 1, 1
    painted = edit(image, mask, [0, 3], output_type="latent").images
    known = edit(image, torch.zeros_like(mask), [0, 3], output_type="latent").images
    outside = torch.nn.functional.max_pool2d(mask, 4).flatten(1) == 0
    assert torch.equal(painted[outside], known[outside])


@pytest.mark.parametrize("order", [HaltonScheduler, RandomScheduler, DilatedScheduler])
def test_from_the_config_of_another_scheduler(order, pipe):
    changed = AutoNATPipeline(pipe.vqvae, pipe.transformer, scheduler=order.from_config(pipe.scheduler.config))
    changed.set_progress_bar_config(disable=True)
    assert changed.scheduler.stored_strategies == pipe.scheduler.stored_strategies
    strategy = GenerationStrategy.cosine(4, remasking_temperature=0.0)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    first, second = (
        one([0], strategy=strategy, generator=noise, output_type="latent").images
        for one, noise in zip((pipe, changed), generators)
    )
    assert not torch.equal(first, second)


@every_order
def test_its_strategies_are_searched(order, tmp_path, pipe):
    scheduler = order(16)
    start = scheduler.heuristic(4)
    space = FixedStepsSpace(start)
    assert {name.split(".")[0] for name in space.parameters} == set(start.to_dict())
    params = {name: parameter.clamp(parameter.start * 0.9) for name, parameter in space.parameters.items()}
    trial = FixedTrial(params)
    found = space.suggest(trial)
    assert type(found) is type(start) and found != start
    assert generation_params(found, space.parameters) == pytest.approx(params)
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=0.0, user_attrs={STRATEGY: found.to_dict()}))
    assert strategy_of(study.trials[0]) == found
    save_strategy(tmp_path, scheduler, found, {"study": "s"})
    save_strategy(tmp_path, load_scheduler(tmp_path), scheduler.heuristic(3), {"study": "s"})
    assert load_scheduler(tmp_path).stored_strategies == {3: scheduler.heuristic(3), 4: found}
    assert resample_strategy(found, 6).num_inference_steps == 6
    pipe.scheduler = scheduler
    assert pipeline_cost(pipe, found).num_guided_steps == 4
    plot_schedules({"found": found, "start": start}, tmp_path / "schedules.png")
    assert (tmp_path / "schedules.png").stat().st_size > 1000


@pytest.mark.parametrize("order", [HaltonScheduler, DilatedScheduler])
def test_an_order_of_places_needs_a_square(order):
    with pytest.raises(ValueError, match="20 tokens fill no square grid"):
        order(K).step(torch.zeros(1, 20, K), 0, torch.full((1, 20), K))
