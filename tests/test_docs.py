"""The Python of documents that promise to be runnable, block after block as a reader would."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["orders", "policies", "speed"])
def test_the_blocks_run(page, tmp_path, monkeypatch):
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(compile(block, f"docs/{page}.md", "exec"), names)
        assert names["image"].size == (28, 28)
