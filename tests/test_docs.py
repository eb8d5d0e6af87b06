"""What documents promise to be runnable is run, block after block as a reader would: Python here, commands on small data.

Every block of README, docs and cards is read in the normal suite: commands go through a shell to the parsers of what they call,
and Python is run, but for pages whose Python needs what their commands make. The slow tests run pages from top to bottom.
`tests/documents.py` has the tables of what is made small, and `tests/stand_ins.py` what stands for Hub ids and own images.
"""

import re
import runpy

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from tests import stand_ins
from tests.documents import CHECKS, LANGUAGES, ROOT, Block, assignments, blocks_of, pages, run_block


PAGES = pages()
# So many of their first Python blocks need nothing that their commands make; the slow tests run the others too.
BEFORE_COMMANDS = {"docs/conversion.md": 0, "docs/editing.md": 5, "docs/own_images.md": 1, "docs/text.md": 0}
# What a page takes for granted besides `stand_ins.lay_out`.
STAND_INS = {
    "README.md": [stand_ins.save_released, stand_ins.save_minilm],
    "model_cards/autonat-icons-text/README.md": [stand_ins.save_minilm],
    "model_cards/icons-text-judge/README.md": [stand_ins.save_minilm],
    "model_cards/icons-tokenizer/README.md": [stand_ins.save_packages],
    "docs/conversion.md": [stand_ins.save_released],
    "docs/editing.md": [
        stand_ins.save_minilm,
        stand_ins.save_held_out,
        stand_ins.save_text_pipelines,
        stand_ins.save_second_judge,
    ],
    "docs/evaluation.md": [stand_ins.save_second_judge],
    "docs/own_images.md": [stand_ins.save_packages],
    "docs/search.md": [stand_ins.save_text_pipelines, stand_ins.save_second_judge],
    "docs/search_results.md": [stand_ins.save_tokens],
    "docs/speed.md": [stand_ins.save_tokens],
    "docs/text.md": [stand_ins.save_packages, stand_ins.save_encoder, stand_ins.save_minilm],
}


@pytest.fixture
def folder(tmp_path, monkeypatch, fashion_mnist):
    """A reader's clone, and a way to put into it what a page needs besides."""
    stand_ins.lay_out(tmp_path, *fashion_mnist)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path


def run_python(block: Block, names: dict) -> None:
    exec(compile("\n" * block.line + block.text, block.page, "exec"), names)  # lines of errors are those of the page


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_rule(page):
    blocks = blocks_of(page)
    unknown = [f"{block}: {block.language or 'no language'}" for block in blocks if block.language not in LANGUAGES]
    assert not unknown, "no rule runs these blocks"
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    hidden = re.findall(r"^ {4}(?:python|pip|accelerate|diffusers-autonat|from|import) .*", text, re.MULTILINE)
    assert not hidden, f"{page}: put these between ```bash or ```python, so that they are tested"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_understood(page, tmp_path):
    """By the parsers of what it calls: programs, files, options, values, extras, targets."""
    before = ""
    for block in blocks_of(page):
        if block.language == "bash":
            for program, *words in run_block(block, tmp_path, before):
                CHECKS[program](words)
            before += assignments(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_runs(page, folder):
    blocks = [block for block in blocks_of(page) if block.language == "python"]
    for block in blocks:
        compile(block.text, str(block), "exec")
    blocks = blocks[: BEFORE_COMMANDS.get(page)]
    if blocks:
        for prepare in STAND_INS.get(page, []):
            prepare(folder)
    names: dict = {}
    for block in blocks:
        run_python(block, names)
    for name in {"image", "completed", "varied", "sad"} & set(names):
        assert isinstance(names[name], Image.Image) and np.asarray(names[name]).std() > 0, name  # it shows something


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_top_to_bottom(page, folder):
    for prepare in STAND_INS.get(page, []):
        prepare(folder)
    names, before = {}, ""
    for block in blocks_of(page):
        if block.language == "python":
            run_python(block, names)
        else:
            run_block(block, folder, before, run=True)
            before += assignments(block.text)
    # What pages say is written is there.
    for block in blocks_of(page):
        for name in re.findall(r"--output (outputs/\S+\.\w+)", block.text):
            assert (folder / name).stat().st_size > 100, name


def test_tables_are_those_of_the_results():
    tables = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    found = {page: (ROOT / page).read_text() for page in PAGES if "<!-- table " in (ROOT / page).read_text()}
    assert found and all(tables["written"](text) == text for text in found.values()), "`make tables`"


def test_plain_diffusers_cannot_load_them_as_the_readme_says():
    with pytest.raises(AttributeError, match="has no attribute AutoNATPipeline"):
        DiffusionPipeline.from_pretrained(ROOT / "model_cards" / "autonat-fashion-mnist")
