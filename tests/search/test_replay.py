"""What strategies share is computed once: the same values, fewer passes, and no more memory than was allowed."""

import dataclasses

import pytest
import torch

from diffusers_autonat import (
    ENATTransformer2DModel,
    EntropyBoundedScheduler,
    GenerationStrategy,
    HaltonScheduler,
    ReMDMScheduler,
)
from diffusers_autonat.cost.passes import PassCounter
from diffusers_autonat.metrics import Evaluator, load_extractor, load_reference
from diffusers_autonat.search import (
    EvaluatorScore,
    StrategyObjective,
    make_sampler,
    open_storage,
    open_study,
    replay,
)
from diffusers_autonat.search.replay import ReplayingEvaluator
from diffusers_autonat.search.samplers import SAMPLERS, make_space


N = 48  # a whole call of 32 and a part of one
BASE = GenerationStrategy([0.9, 0.7, 0.4, 0.0], [1.0, 0.8, 0.5, 0.3], [2.0, 1.0, 0.5, 0.0], [0.0, 0.5, 1.0, 1.0])


def changed(**values: tuple[int, float]) -> GenerationStrategy:
    """The base with single values replaced: `changed(mask_ratios=(2, 0.5))`."""
    schedules = {name: list(schedule) for name, schedule in BASE.to_dict().items()}
    for name, (step, value) in values.items():
        schedules[name][step] = value
    return GenerationStrategy(**schedules)


@pytest.fixture
def evaluator(pipe, tiny):
    torch.nn.init.normal_(pipe.transformer.embed.word_embeddings.weight)  # else no temperature changes a token
    extractor = load_extractor(str(tiny / "judge"))
    return Evaluator(pipe, extractor, load_reference(tiny / "reference.npz", extractor), progress=False)


NEIGHBOURS = {
    "first step": changed(mask_ratios=(0, 0.8)),
    "r": changed(mask_ratios=(2, 0.3)),
    "tau1": changed(sampling_temperatures=(1, 1.0)),
    "tau1 of the last step": changed(sampling_temperatures=(3, 0.9)),
    "tau2": changed(remasking_temperatures=(1, 1.5)),
    "s": changed(guidance_scales=(2, 0.7)),
    "guidance off": changed(guidance_scales=(3, 0.0)),
    "two steps": changed(sampling_temperatures=(1, 1.0), guidance_scales=(3, 2.0)),
    "without effect": changed(remasking_temperatures=(3, 5.0)),
    "another length": GenerationStrategy.cosine(3),
}


@pytest.mark.parametrize("strategy", NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_values_are_those_of_the_evaluator(evaluator, strategy):
    replaying = ReplayingEvaluator(evaluator)
    assert replaying(N, seed=3, strategy=BASE) == evaluator(N, seed=3, strategy=BASE)
    assert replaying(N, seed=3, strategy=strategy) == pytest.approx(evaluator(N, seed=3, strategy=strategy), abs=1e-6)
    # The neighbour's trace is whole: a neighbour of its own is replayed from it.
    further = dataclasses.replace(strategy, guidance_scales=[*strategy.guidance_scales[:-1], 0.3])
    assert replaying(N, seed=3, strategy=further) == pytest.approx(evaluator(N, seed=3, strategy=further), abs=1e-6)


@pytest.mark.parametrize("order", [HaltonScheduler, EntropyBoundedScheduler, ReMDMScheduler])
def test_of_other_orders_too(evaluator, order):
    """One that takes tokens back shares nothing: in the middle of a strategy all that is revealed would count as given."""
    evaluator.pipeline.scheduler = order(16)
    replaying, base = ReplayingEvaluator(evaluator), order(16).heuristic(4)
    neighbour = dataclasses.replace(base, sampling_temperatures=[1.0, 1.0, 3.0, 1.0])
    for strategy in (base, neighbour, base):
        expected = evaluator(N, seed=3, strategy=strategy)
        assert replaying(N, seed=3, strategy=strategy) == pytest.approx(expected, abs=1e-6)


def passes_of(evaluator, strategies, **settings) -> list[int]:
    """Passes that each strategy takes, one after the other."""
    replaying = ReplayingEvaluator(evaluator, **settings)
    counter, counts = PassCounter(evaluator.pipeline.transformer), []
    for strategy in strategies:
        before = counter.count
        replaying(N, seed=3, strategy=strategy)
        counts.append(counter.count - before)
    return counts


def test_only_what_differs_is_computed(evaluator):
    # 64 images of the two calls; from the second step on BASE is guided, so that a pass is two. The first step is one pass
    # for each of the four classes, once.
    made = 64
    counts = passes_of(evaluator, [BASE, NEIGHBOURS["tau1 of the last step"], NEIGHBOURS["without effect"], BASE])
    assert counts == [4 + 6 * made, 0, 0, 0]  # what the transformer says in the last step is known
    assert passes_of(evaluator, [BASE, NEIGHBOURS["s"]])[1] > 2 * made  # but not without its guidance
    guided = changed(guidance_scales=(0, 1.0))  # one pass for no class, and six for each image that it changes
    kept = passes_of(evaluator, [BASE, NEIGHBOURS["first step"], guided])
    assert kept[:2] == [6 * made, 6 * made] and kept[2] % 6 == 1
    both = passes_of(evaluator, [BASE, NEIGHBOURS["r"], NEIGHBOURS["tau1"]])
    assert both[1] == 2 * made  # fewer tokens are masked on every image, so none is spared the last step
    assert 0 < both[2] < 4 * made  # on some images no token is drawn otherwise: they are spared the last two
    two = passes_of(evaluator, [BASE, NEIGHBOURS["two steps"]])[1]
    assert 2 * made < two < 4 * made  # of the third step those, and all of the last, where guidance changes
    once_more = changed(sampling_temperatures=(1, 1.0), remasking_temperatures=(3, 5.0))
    assert passes_of(evaluator, [BASE, once_more])[1] == both[2]  # an image that is as it was needs none in between


def test_without_room_for_logits_a_changed_step_is_run(evaluator, monkeypatch):
    made, neighbours = 64, [NEIGHBOURS[name] for name in ("s", "tau1 of the last step", "r")]
    assert passes_of(evaluator, [BASE, *neighbours])[2:] == [0, 2 * made]
    monkeypatch.setattr(
        replay._Trace, "has_room", property(lambda trace: False, lambda trace, value: None), raising=False
    )
    assert passes_of(evaluator, [BASE, *neighbours])[2:] == [2 * made, 4 * made]


def test_earlier_neighbours_make_room_for_a_centre(evaluator):
    replaying = ReplayingEvaluator(evaluator)
    replaying(N, seed=3, strategy=BASE)
    [trace] = replaying._traces.values()
    room = sum(2 * call.nbytes + call.logits_nbytes for call in trace.calls.values())  # the centre and one neighbour
    around = [changed(sampling_temperatures=(3, 0.3 + 0.1 * number)) for number in range(1, 5)]
    moved = dataclasses.replace(BASE, mask_ratios=[0.8, 0.6, 0.3, 0.0])
    beyond = dataclasses.replace(moved, sampling_temperatures=[1.0, 0.8, 0.5, 0.9])
    counts = passes_of(evaluator, [BASE, *around, moved, beyond], trace_bytes=room)
    assert counts[1:5] == [0] * 4 and counts[5] and counts[6] == 0


def test_a_centre_is_made_first_where_it_was_not_made(evaluator):
    """As of a worker that was killed after the centre, or of a second one."""
    counter = PassCounter(evaluator.pipeline.transformer)

    def counted(replaying, *names):
        counts = []
        for name in names:
            before = counter.count
            value = replaying(N, seed=3, strategy=NEIGHBOURS[name], near=BASE)
            counts.append(counter.count - before)
            assert value == pytest.approx(evaluator(N, seed=3, strategy=NEIGHBOURS[name]), abs=1e-6)
            counter.count = before + counts[-1]
        return counts

    names = ("r", "tau1", "s")
    whole, *unbroken = passes_of(evaluator, [BASE, *(NEIGHBOURS[name] for name in names)])
    whole -= 4  # the first step of the four classes
    first, *others = counted(ReplayingEvaluator(evaluator), *names)
    assert first == whole + unbroken[0] and others == unbroken[1:]
    # Where there is no room to keep it, it is not made again for each.
    _, *others = counted(ReplayingEvaluator(evaluator, trace_bytes=1), *names)
    assert others[0] == whole and others[1] < whole  # some of the last one is left


def test_a_search_that_is_killed_shares_as_much(evaluator, tmp_path):
    """Trials of finite differences in one process, and in one for each trial: every process makes the centre once."""
    space = make_space("finite-difference", BASE, ["sampling_temperatures"])

    def passes_in(folder, num_each):
        storage, counter = open_storage(tmp_path / folder), PassCounter(evaluator.pipeline.transformer)
        for number in range(num_each, 10, num_each):
            score = SAMPLERS["finite-difference"].score(
                EvaluatorScore(ReplayingEvaluator(evaluator), N, passes=counter), space
            )
            sampler = make_sampler("finite-difference", space.parameters, 13)
            study = open_study(storage, "s", {}, sampler)
            study.optimize(StrategyObjective(space, score), n_trials=num_each)
        return [trial.user_attrs["passes"] for trial in study.trials[1:9]], [trial.value for trial in study.trials]

    (unbroken, values), (broken, same) = passes_in("one", 9), passes_in("many", 1)
    assert same == pytest.approx(values)
    whole = 6 * 64
    assert broken == [whole + passes for passes in unbroken]


def test_images_of_another_seed_share_nothing(evaluator):
    replaying = ReplayingEvaluator(evaluator)
    replaying(N, seed=3, strategy=BASE)
    strategy = NEIGHBOURS["tau1 of the last step"]
    assert replaying(N, seed=4, strategy=strategy) == evaluator(N, seed=4, strategy=strategy)


def test_rungs_and_longer_runs_go_on_with_what_is_there(evaluator):
    replaying = ReplayingEvaluator(evaluator)
    replaying(32, seed=3, strategy=BASE)
    strategy = NEIGHBOURS["s"]
    values = dict(replaying.rungs([32, N], seed=3, strategy=strategy))
    assert values[N] == pytest.approx(evaluator(N, seed=3, strategy=strategy), abs=1e-6)
    assert values[32] == pytest.approx(evaluator(32, seed=3, strategy=strategy), abs=1e-6)


def test_memory_is_bounded(evaluator):
    replaying = ReplayingEvaluator(evaluator, trace_bytes=1)
    for strategy in (BASE, NEIGHBOURS["r"], NEIGHBOURS["s"]):
        replaying(N, seed=3, strategy=strategy)
        assert [key[1] for key in replaying._traces] == [strategy]
        assert not any(call.logits for trace in replaying._traces.values() for call in trace.calls.values())


def test_what_was_used_last_stays(evaluator):
    replaying = ReplayingEvaluator(evaluator)
    replaying(32, seed=3, strategy=BASE)
    size = sum(call.nbytes for trace in replaying._traces.values() for call in trace.calls.values())
    replaying.trace_bytes = 2.5 * size
    for strategy in (NEIGHBOURS["tau1 of the last step"], NEIGHBOURS["guidance off"], NEIGHBOURS["s"]):
        replaying(32, seed=3, strategy=strategy)
    assert {key[1] for key in replaying._traces} == {BASE, NEIGHBOURS["s"]}  # the base of all three, and the last


def test_a_transformer_that_reuses_features_shares_nothing(tiny, pipe):
    torch.manual_seed(0)
    pipe.register_modules(
        transformer=ENATTransformer2DModel(
            sample_size=7, codebook_size=16, hidden_size=32, num_encoder_layers=2, num_decoder_layers=1,
            num_attention_heads=4, num_classes=4,
        ).eval()
    )  # fmt: skip
    extractor = load_extractor(str(tiny / "judge"))
    evaluator = Evaluator(pipe, extractor, load_reference(tiny / "reference.npz", extractor), progress=False)
    replaying, strategy = ReplayingEvaluator(evaluator), NEIGHBOURS["tau1"]
    replaying(N, seed=3, strategy=BASE)
    assert replaying(N, seed=3, strategy=strategy) == evaluator(N, seed=3, strategy=strategy)


def test_a_strategy_is_needed(evaluator):
    with pytest.raises(ValueError, match="give one"):
        ReplayingEvaluator(evaluator)(N)
