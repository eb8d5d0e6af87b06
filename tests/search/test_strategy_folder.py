"""What a folder had before a search, and what of it stays."""

import pytest

from diffusers_autonat import DilatedScheduler, GenerationStrategy, NATScheduler
from diffusers_autonat.search.confirm import Scored
from diffusers_autonat.search.report import save_strategy
from diffusers_autonat.search.strategy_folder import EARLIER, STORED, StrategyFolder


HERE, OTHER = GenerationStrategy.cosine(4, guidance_scale=2.0), GenerationStrategy.cosine(4, guidance_scale=3.0)
EIGHT = GenerationStrategy.cosine(8)
ORIGIN = {"pipeline": "weights", "study": "this"}
SAID = {"pipeline": "weights", "study": "earlier", "confirmed": True, "value": 0.5}


@pytest.fixture
def folder(tmp_path):
    save_strategy(tmp_path, NATScheduler(16, [EIGHT]), HERE, SAID)
    return tmp_path


def of(folder, label=EARLIER):
    return StrategyFolder(folder, label, NATScheduler(16))


def candidate(label, strategy=HERE):
    return Scored(label, strategy, 0.5, {"values": {}})


def test_its_strategies_are_candidates(folder):
    assert of(folder).candidates([4, 6, 8]) == {"earlier, T = 4": HERE, "earlier, T = 8": EIGHT}
    assert of(folder, STORED).has_candidate(candidate("stored, T = 4"))
    assert not of(folder, STORED).has_candidate(candidate("earlier, T = 4"))


def test_an_empty_folder_has_those_of_the_pipeline(tmp_path):
    empty = StrategyFolder(tmp_path / "new", EARLIER, NATScheduler(16, [HERE]))
    assert empty.candidates([4]) == {"earlier, T = 4": HERE}
    assert empty.said_of(HERE, ORIGIN) == {} and empty.confirmed_by_other([4], "this") is None
    assert not empty.keeps(candidate("stored, T = 4"), ORIGIN)  # it has no file yet
    empty.store(HERE, ORIGIN)
    assert NATScheduler.from_pretrained(tmp_path / "new").get_strategy(4) == HERE


def test_what_it_says_holds_for_the_same_weights_only(folder):
    assert of(folder).said_of(HERE, ORIGIN) == SAID
    assert of(folder).said_of(HERE, {**ORIGIN, "pipeline": "others"}) == {}
    assert of(folder).said_of(EIGHT, ORIGIN) == {}


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


def test_a_search_writes_its_own_outcome_again(folder):
    assert not of(folder).keeps(candidate("start, T = 4"), {**ORIGIN, "study": "earlier"})


def test_a_confirmed_strategy_of_another_study_is_named(folder):
    assert of(folder).confirmed_by_other([8, 4], "this") == (4, "earlier")
    assert of(folder).confirmed_by_other([4], "earlier") is None


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
