"""Every kind of strategy file is read, and a wrong one is named in one line."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_autonat import EntropyStrategy, GenerationStrategy, NATScheduler, ReMDMStrategy
from diffusers_autonat.search.report import save_strategy
from diffusers_autonat.strategy_files import read_strategies, read_strategy
from tests.conversion.released import RELEASED_YAML


T3, T5 = GenerationStrategy.cosine(3), GenerationStrategy.cosine(5, remasking_temperature=0.1 + 0.2)
WRONG_FIELDS = {name: values[:2] for name, values in T3.to_dict().items()} | {"guidance_scales": [None, 0.0]}

T3_TEXT = json.dumps(T3.to_dict())
YAML = "{manual_ratios: [0.5], manual_temp: [0.1], manual_samp_temp: [1.0, 1.0], manual_cfg: [1, 1]}"


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
            "manual_ratios must be a list of floats, one per step, got 0.5",
        ),
        ("s.yaml", "manual_ratios: [a]\nmanual_temp: [1]\nmanual_samp_temp: [1, 1]\nmanual_cfg: [1, 1]", "'a'"),
        ("s.json", "{", "Expecting property name"),
        ("s.json", "[1]", r"has the keys .*got \[1\]"),
        ("s.json", json.dumps(WRONG_FIELDS), r"guidance_scales\[0\] = None must be a number"),
        ("s.json", json.dumps({"_class_name": "DDIMScheduler"}), "got \\['_class_name'\\]"),
        ("s.json", json.dumps({"_class_name": "NATScheduler", "strategies": None}), "stores no strategy"),
        ("s.json", json.dumps({"strategies": [3]}), "has the keys .*got 3"),
        ("s.json", json.dumps({"strategies": 3}), "got 3"),
        ("s.json", json.dumps({"strategies": 0}), "strategies must be a list of strategies, got 0"),
        ("s.json", json.dumps({"strategies": ""}), "strategies must be a list of strategies, got ''"),
        ("s.json", "[" * 50_000, "is nested too deeply"),
        ("s.json", '{"strategies": ' * 50_000, "is nested too deeply"),
        ("s.json", T3_TEXT.replace("2.0, 3.0", "2.0, 1" + "0" * 400), r"guidance_scales\[2\] = .* must be finite"),
        ("s.json", T3_TEXT.replace("2.0, 3.0", "2.0, 1" + "0" * 5000), "is not JSON"),
        (
            "s.json",
            T3_TEXT.replace("2.0, 3.0", "2.0, 1e39"),
            r"guidance_scales\[2\] = 1e\+39 must be finite .* 3.4e\+38, as float32",
        ),
        ("s.json", T3_TEXT.replace("2.0, 3.0", "2.0, true"), r"guidance_scales\[2\] = True must be a number"),
        ("s.json", T3_TEXT.replace("2.0, 3.0", "2.0, [3.0]"), r"guidance_scales\[2\] = \[3.0\] must be a number"),
        ("s.json", T3_TEXT.replace("[1.0, 1.0, 1.0]", '"111"'), "sampling_temperatures must be a list .* got '111'"),
        (
            "s.json",
            T3_TEXT.replace("[1.0, 1.0, 1.0]", '{"1": 1}'),
            "sampling_temperatures must be a list .* got {'1': 1}",
        ),
        ("s.yaml", YAML.replace("0.1", "-5"), r"manual_temp\[0\] = -5 must be finite and not negative"),
        ("s.yaml", YAML.replace("0.1", "1e-5"), r"manual_temp\[0\] = '1e-5' must be a number, .* with a point"),
        ("s.yaml", YAML.replace("0.1", ".nan"), r"manual_temp\[0\] = nan must be finite"),
        ("s.yaml", YAML.replace("0.1", "1.0e+39"), r"manual_temp\[0\] = 1e\+39 must be finite"),
        ("s.yaml", YAML.replace("0.1", "yes"), r"manual_temp\[0\] = True must be a number"),
        (
            "s.yaml",
            YAML.replace("0.1", "2024-01-02"),
            r"manual_temp\[0\] = datetime.date\(2024, 1, 2\) must be a number",
        ),
        ("s.yaml", YAML.replace("[0.1]", "!!binary aGk="), r"manual_temp must be a list of floats, .* got b'hi'"),
        ("s.yaml", YAML.replace("[0.1]", "{0.1}"), r"manual_temp must be a list .* got {0.1: None}"),
        ("s.yaml", YAML.replace("[0.1]", "!!set {0.1}"), r"manual_temp must be a list .* got {0.1}"),
        ("s.yaml", YAML.replace("0.1", "!!bool x"), "is not YAML"),
        ("s.yaml", YAML.replace("0.1", "!!timestamp x"), "is not YAML"),
        ("s.yaml", "[" * 5_000, "is not YAML"),
        ("s.yaml", "!!python/object/apply:os.system ['touch /tmp/no']", "is not YAML"),
        ("s.json", json.dumps({"strategies": [T3.to_dict()] * 2}), "more than one strategy for one number of steps"),
    ],
)
def test_wrong_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_strategy(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_values_at_the_released_clamp_are_off(tmp_path):
    (tmp_path / "s.yaml").write_text(YAML.replace("0.1", "0.0001"))
    assert read_strategy(tmp_path / "s.yaml").remasking_temperatures == (0.0, 0.0)


def test_a_file_of_one_strategy_names_itself(tmp_path):
    (tmp_path / "s.json").write_text(T3_TEXT.replace("2.0, 3.0", "2.0, -1"))
    with pytest.raises(ValueError, match=r"s.json: guidance_scales\[2\] = -1 must be"):
        GenerationStrategy.from_json(tmp_path / "s.json")


def lawful_or_one_line(suffix, content):
    """Reading ends in strategies, or in a line that names the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"s.{suffix}")
        path.write_bytes(content)
        try:
            strategies = read_strategies(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 500
            return
        assert strategies == [GenerationStrategy(**one.to_dict()) for one in strategies] != []


NAMES = list(T3.to_dict())
YAML_NAMES = ["manual_ratios", "manual_samp_temp", "manual_temp", "manual_cfg"]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner)
)
numbers = st.floats(0, 1) | st.floats() | st.integers(0, 10**400) | scalars
schedules = st.lists(numbers, max_size=4) | anything


@given(st.binary(max_size=200), st.sampled_from(["json", "yaml"]))
def test_any_bytes(content, suffix):
    lawful_or_one_line(suffix, content)


@given(st.fixed_dictionaries(dict.fromkeys(NAMES, schedules)), st.booleans())
def test_any_json(strategy, stored):
    lawful_or_one_line("json", json.dumps({"strategies": [strategy]} if stored else strategy).encode())


@given(anything)
def test_any_json_config(content):
    lawful_or_one_line("json", json.dumps({"strategies": content}).encode())


@given(st.fixed_dictionaries(dict.fromkeys(YAML_NAMES, schedules)))
def test_any_yaml(strategy):
    lawful_or_one_line("yaml", json.dumps(strategy).encode())  # YAML, too


@given(st.text("manual_cfg:[]{}!&*#0.1e-5,\n \t'\"|>?%@<", max_size=60))
def test_any_text_that_looks_like_yaml(text):
    lawful_or_one_line("yaml", text.encode())
    lawful_or_one_line("yaml", YAML.replace("[0.1]", text).encode())


def test_every_order_is_known_to_who_has_imported_none(tmp_path):
    """In a process of its own: here all of them are imported."""
    strategies = [GenerationStrategy.cosine(3), ReMDMStrategy.cosine(3), EntropyStrategy.constant(3, 2.0)]
    for number, strategy in enumerate(strategies):
        strategy.to_json(tmp_path / f"{number}.json")
    code = (
        "import sys; from diffusers_autonat.strategy_files import read_strategy\n"
        "print(*(type(read_strategy(path)).__name__ for path in sys.argv[1:]))"
    )
    paths = [str(tmp_path / f"{number}.json") for number in range(3)]
    ran = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["GenerationStrategy", "ReMDMStrategy", "EntropyStrategy"]
