"""What is gained, in units of the noise, and what only the first extractor sees of it."""

import pytest

from diffusers_autonat import GenerationStrategy
from diffusers_autonat.search import Scored
from diffusers_autonat.search.gains import Gain, comparison, gains_of, unseen


def scored(label, value, second=None, error=0.03, second_error=0.04):
    values = {"frechet_distance": value, "frechet_distance_error": error, "class_consistency": 0.9}
    if second is not None:
        values |= {"second_frechet_distance": second, "second_frechet_distance_error": second_error}
    return Scored(label, GenerationStrategy.cosine(2), value, {"values": values})


def test_gains_are_differences_and_their_noise_is_of_both():
    found, start, stored = (
        scored("trial 3", 0.8, 1.1),
        scored("start", 1.2, 1.5),
        scored("stored", 0.9, 1.2, 0.04, 0.03),
    )
    gains = gains_of(found, [start, found, stored], "frechet_distance", "second_frechet_distance")
    assert [gain.over for gain in gains] == ["start", "stored"]
    assert gains[1].value == pytest.approx(0.1) and gains[1].noise == pytest.approx(0.05)
    assert gains[1].second_value == pytest.approx(0.1) and gains[1].second_noise == pytest.approx(0.05)
    assert str(gains[1]) == gains[1].second == "2.0 times the noise"
    assert unseen(gains) is None and not gains[0].to_dict()["unseen"]


def test_a_gain_that_the_second_does_not_see_is_said():
    found, start, stored = scored("trial 3", 0.8, 1.45), scored("start", 1.2, 1.5), scored("stored", 0.9, 1.6)
    gains = gains_of(found, [start, stored], "frechet_distance", "second_frechet_distance")
    assert unseen(gains) == (
        "the gain over start (9.4 times the noise) is not seen by the second extractor (0.9 times the noise): it may please "
        "the first alone"
    )
    assert [gain.to_dict()["unseen"] for gain in gains] == [True, False]
    worse = gains_of(stored, [found], "frechet_distance", "second_frechet_distance")
    assert worse[0].value < 0 and unseen(worse) is None  # nothing is gained that could be doubted


def test_without_errors_or_a_second_extractor_there_is_less_to_say():
    old = Scored("start", GenerationStrategy.cosine(2), 1.0, {"values": {"frechet_distance": 1.0}})
    [gain] = gains_of(scored("trial 3", 0.8), [old], "frechet_distance")
    assert str(gain) == "0.2000" and gain.second == "-" and unseen([gain]) is None
    assert gain.to_dict() == {"over": "start", "gain": pytest.approx(0.2), "noise": None}
    assert (
        Gain("start", 0.2, 0.1, second_value=0.0).is_unseen and not Gain("start", 0.2, 0.1, second_value=0.1).is_unseen
    )


def test_the_table_has_columns_of_the_second_where_there_is_one():
    same = [scored("trial 3", 0.8, 1.45), scored("start", 1.2, 1.5)]
    head, rows = comparison(same, "frechet_distance")
    assert head == ["strategy", "frechet_distance", "error", "recognised", "the first gains"]
    assert rows[0] == ["found, trial 3", "0.8000", "0.0300", "90.0%", "-"]
    assert rows[1][-1] == "9.4 times the noise"
    head, rows = comparison(same, "frechet_distance", "second_frechet_distance")
    assert head[5:] == ["second_frechet_distance", "error", "the first gains there"]
    assert rows[1][5:] == ["1.5000", "0.0400", "0.9 times the noise"]
