"""Settings by the size of the data: lawful options of the scripts, and behind what is given."""

import runpy
import sys
from pathlib import Path

import pytest

from diffusers_autonat.command_line import Parser
from diffusers_autonat.training.presets import AUTONAT_PRESETS, VQGAN_PRESETS, parse_with_preset


SCRIPTS = Path(__file__).parents[2] / "training"


def test_what_is_given_goes_before_the_preset_and_the_preset_before_the_default():
    def parse(*words):
        parser = Parser(prog="train")
        parser.add_argument("--steps", type=int, default=1)
        parser.add_argument("--channels", type=int, nargs="+", default=[8])
        return parse_with_preset(parser, {"tiny": {"steps": 5, "channels": [2, 4]}, "paper": {}}, words)

    assert (parse().steps, parse("--preset", "paper").steps) == (1, 1)
    tiny = parse("--steps", "1", "--preset=tiny")
    assert (tiny.steps, tiny.channels, tiny.preset) == (1, [2, 4], "tiny")
    assert tiny.given == {"steps", "preset"} and parse().given == set()
    with pytest.raises(SystemExit):
        parse("--preset", "huge")


@pytest.mark.parametrize("script, presets", [("train_vqgan.py", VQGAN_PRESETS), ("train_autonat.py", AUTONAT_PRESETS)])
def test_presets_set_options_of_the_script_to_lawful_values(script, presets, monkeypatch):
    """As though each setting were typed: the parser knows the option and takes the value."""
    parsers = []
    parse = Parser.parse_args

    def look(self, words=None, namespace=None):
        parsers.append(self)
        raise SystemExit

    monkeypatch.setattr(Parser, "parse_args", look)
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    for settings in presets.values():
        words = ["--output_dir", "out"]
        for name, value in settings.items():
            values = [] if value is True else [str(one) for one in (value if isinstance(value, list) else [value])]
            words += [f"--{name}", *values]
        args = parse(parsers[0], words)
        assert {name: getattr(args, name) for name in settings} == settings
