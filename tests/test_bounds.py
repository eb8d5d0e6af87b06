"""The lower bounds that pyproject.toml promises are the versions that `make test-lowest` installs."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
APART = ("app", "openvino")  # extras that `make test-lowest` does not install: too large for what their few tests tell


def test_lower_bounds_are_those_that_are_tested():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [some for name, some in project["optional-dependencies"].items() if name not in APART]
    wanted = [*project["dependencies"], *(one for some in extras for one in some)]
    bounds = dict(
        re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", one).groups()
        for one in wanted
        if not one.startswith(project["name"])
    )
    lines = (ROOT / "constraints" / "lowest.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert list(tested) == list(bounds)
    for name, version in tested.items():  # 2.13 is 2.13.0
        assert re.fullmatch(re.escape(bounds[name]) + r"(\.0)*", version), f"{name}: {bounds[name]} and {version}"
