"""Every kind of strategy file is read, and a wrong one is named in one line."""

import json

import pytest

from diffusers_autonat import GenerationStrategy, NATScheduler
from diffusers_autonat.search.report import save_strategy
from diffusers_autonat.strategy_files import read_strategies, read_strategy
from tests.conversion.released import RELEASED_YAML


T3, T5 = GenerationStrategy.cosine(3), GenerationStrategy.cosine(5, remasking_temperature=0.1 + 0.2)
WRONG_FIELDS = {name: values[:2] for name, values in T3.to_dict().items()} | {"guidance_scales": [None, 0.0]}


@pytest.fixture
def searched(tmp_path):
    """What a search writes, with one strategy and with two."""
    save_strategy(tmp_path / "one", NATScheduler(16), T3, {})
    save_strategy(tmp_path / "two", NATScheduler(16, [T5]), T3, {})
    return {name: str(tmp_path / name / "scheduler_config.json") for name in ("one", "two")}


def test_what_a_search_writes(searched):
    assert read_strategy(searched["one"]) == T3 == read_strategy(searched["one"], 3)
    assert read_strategies(searched["two"]) == [T3, T5]
    assert [read_strategy(searched["two"], steps) for steps in (3, 5)] == [T3, T5]


def test_one_of_several_has_to_be_chosen(searched):
    with pytest.raises(
        ValueError, match=r"two/scheduler_config.json .* \[3, 5\] steps: choose .* --num-inference-steps"
    ):
        read_strategy(searched["two"])
    with pytest.raises(
        ValueError, match=r"two/scheduler_config.json holds no strategy for 4 steps, only for \[3, 5\]"
    ):
        read_strategy(searched["two"], 4)
    with pytest.raises(ValueError, match=r"no strategy for 4 steps, only for \[3\]"):
        read_strategy(searched["one"], 4)


def test_files_of_one_strategy(tmp_path):
    T5.to_json(tmp_path / "s.json")
    (tmp_path / "s.yaml").write_text(RELEASED_YAML)
    assert read_strategy(str(tmp_path / "s.json")) == T5
    assert read_strategy(str(tmp_path / "s.yaml"), 8) == GenerationStrategy.from_yaml(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.yaml", "manual_ratios: [0.5, 0.2\nmanual_temp: [1.0]\n", "is not YAML"),
        ("s.yaml", "\tmanual_ratios", "is not YAML"),
        ("s.yaml", b"\x80\x81", "is not YAML"),
        (
            "s.yaml",
            "manual_ratios: 0.5\nmanual_temp: [1]\nmanual_samp_temp: [1, 1]\nmanual_cfg: [1, 1]",
            "not iterable",
        ),
        ("s.yaml", "manual_ratios: [a]\nmanual_temp: [1]\nmanual_samp_temp: [1, 1]\nmanual_cfg: [1, 1]", "'a'"),
        ("s.json", "{", "Expecting property name"),
        ("s.json", "[1]", r"has the keys .*got \[1\]"),
        ("s.json", json.dumps(WRONG_FIELDS), r"guidance_scales must be a list of floats.*\[None, 0.0\]"),
        ("s.json", json.dumps({"_class_name": "DDIMScheduler"}), "got \\['_class_name'\\]"),
        ("s.json", json.dumps({"_class_name": "NATScheduler", "strategies": None}), "stores no strategy"),
        ("s.json", json.dumps({"strategies": [3]}), "has the keys .*got 3"),
        ("s.json", json.dumps({"strategies": 3}), "got 3"),
        ("s.json", json.dumps({"strategies": [T3.to_dict()] * 2}), "more than one strategy for one number of steps"),
    ],
)
def test_wrong_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_strategy(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
