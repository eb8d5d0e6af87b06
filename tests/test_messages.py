"""Values in errors."""

import pytest

from diffusers_autonat.messages import shown


class Rude:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value, text",
    [(0.5, "0.5"), ("a\nb", r"'a\nb'"), (10**5000, "<int>"), (Rude(), "<Rude instance at"), ({"x": 1}, "{'x': 1}")],
    ids=["number", "text", "digits", "rude", "dict"],
)  # fmt: skip
def test_a_value_is_shown_as_it_is(value, text):
    assert shown(value).startswith(text)


def test_a_deep_and_wide_value_is_one_short_line():
    value = {"x" * 30 + str(i): {"y\n" * 20: ["z" * 30] * 9} for i in range(9)}
    assert len(shown(value)) <= 103 and "\n" not in shown(value)
