"""What a folder had before a search, and what of it stays."""

import pytest

from diffusers_autonat import DilatedScheduler, GenerationStrategy, NATScheduler
from diffusers_autonat.search.confirm import Scored
from diffusers_autonat.search.report import save_strategy
from diffusers_autonat.search.strategy_folder import EARLIER, STORED, StrategyFolder


HERE, OTHER = GenerationStrategy.cosine(4, guidance_scale=2.0), GenerationStrategy.cosine(4, guidance_scale=3.0)
EIGHT = GenerationStrategy.cosine(8)
ORIGIN = {"study": "this", "search": {"num_trials": 1}}
SAID = {"pipeline": "weights", "study": "earlier", "search": {"num_trials": 1}, "confirmed": True, "value": 0.5}


@pytest.fixture
def folder(tmp_path):
    save_strategy(tmp_path, NATScheduler(16, [EIGHT]), HERE, SAID)
    return tmp_path


def of(folder, label=EARLIER):
    return StrategyFolder(folder, label, NATScheduler(16), "weights")


def candidate(label, strategy=HERE):
    return Scored(label, strategy, 0.5, {"values": {}})


def test_its_strategies_are_candidates(folder):
    assert of(folder).candidates([4, 6, 8]) == {"earlier, T = 4": HERE, "earlier, T = 8": EIGHT}
    assert of(folder, STORED).has_candidate(candidate("stored, T = 4"))
    assert not of(folder, STORED).has_candidate(candidate("earlier, T = 4"))


def test_an_empty_folder_has_those_of_the_pipeline(tmp_path):
    empty = StrategyFolder(tmp_path / "new", EARLIER, NATScheduler(16, [HERE]), "weights")
    assert empty.candidates([4]) == {"earlier, T = 4": HERE}
    assert empty.said_of(HERE) == {} and empty.confirmed([4]) is None
    assert not empty.keeps(candidate("stored, T = 4"), ORIGIN)  # it has no file yet
    empty.store(HERE, ORIGIN)
    assert NATScheduler.from_pretrained(tmp_path / "new").get_strategy(4) == HERE


def test_what_it_says_holds_for_the_same_weights_only(folder):
    assert of(folder).said_of(HERE) == SAID and of(folder).said_of(EIGHT) == {}
    assert StrategyFolder(folder, STORED, NATScheduler(16), "others").said_of(HERE) == {}


def test_what_was_found_for_another_pipeline_is_refused(folder):
    with pytest.raises(ValueError, match="found for another pipeline: name another folder"):
        StrategyFolder(folder, EARLIER, NATScheduler(16), "others")


@pytest.mark.parametrize("label, best, kept", [
    (EARLIER, candidate("earlier, T = 4"), True),
    (EARLIER, candidate("start, T = 4"), True),  # found by another study
    (EARLIER, candidate("trial 3"), False),
    (EARLIER, candidate("start, T = 4", OTHER), False),
    (STORED, candidate("stored, T = 4"), True),
    (STORED, candidate("trial 3"), False),
])  # fmt: skip
def test_it_keeps_what_is_the_best_already(folder, label, best, kept):
    assert of(folder, label).keeps(best, ORIGIN) is kept


def test_a_search_writes_its_own_outcome_again_and_not_that_of_a_namesake(folder):
    best, own = candidate("start, T = 4"), {**ORIGIN, "study": "earlier"}
    assert not of(folder).keeps(best, own) and of(folder).keeps(best, {**own, "search": {"num_trials": 2}})


def test_confirmed_strategies_are_known(folder):
    assert of(folder).confirmed([8, 4]) == 4 and of(folder).confirmed([8]) is None


def test_storing_keeps_other_numbers_of_steps(folder):
    before = of(folder)
    save_strategy(folder, NATScheduler.from_pretrained(folder), GenerationStrategy.cosine(6), {})  # by another worker
    before.store(OTHER, ORIGIN)
    assert sorted(NATScheduler.from_pretrained(folder).stored_strategies) == [4, 6, 8]
    assert of(folder).strategies[4] == OTHER


def test_strategies_of_another_order_are_refused(tmp_path):
    DilatedScheduler(16).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds strategies of DilatedScheduler, those of NATScheduler are searched"):
        of(tmp_path)
