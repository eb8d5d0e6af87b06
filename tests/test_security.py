"""Nothing that is read runs code: the package and its scripts are walked for whatever could. No path comes from a file."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

from diffusers_autonat import GenerationStrategy, NATScheduler, TrainingStrategy
from diffusers_autonat.cards import escape
from diffusers_autonat.cards.sections import classes
from diffusers_autonat.files import write_json


ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "training", "search", "benchmarks", "model_cards", "demo", "comfyui")

# What is imported for nothing else, and what is called.
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "runpy",
    "code",
}
CALLS = {
    "eval", "exec", "compile", "__import__", "importlib.import_module", "os.system", "os.popen",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all",
    "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.utils.data.get_worker_info.load",
    "pandas.read_pickle", "shutil.unpack_archive",
}  # fmt: skip
METHODS = {  # of accelerate, which unpickles states and whatever is registered; of archives, which may hold `../`
    "load_state", "save_state", "register_for_checkpointing", "load_checkpoint_in_model", "extractall",
}  # fmt: skip
ARGUMENTS = {
    "trust_remote_code": True,
    "shell": True,
    "allow_pickle": True,
    "use_safetensors": False,
    "weights_only": False,
}

ALLOWED = {
    # names that stand in our own text
    ("src/diffusers_autonat/__init__.py", "importlib.import_module"): "the module of the public names",
    ("src/diffusers_autonat/models/runtimes.py", "importlib.import_module"): "the library of a format",
    ("src/diffusers_autonat/commands/scripts.py", "import runpy"): "a script of this package or of its repository",
    (
        "src/diffusers_autonat/conversion/source_format.py",
        "importlib.import_module",
    ): "the class of a source's component",
    (
        "src/diffusers_autonat/conversion/checkpoint.py",
        "import pickle",
    ): "the name of the error of a refused checkpoint",
    ("src/diffusers_autonat/search/optuna_samplers.py", "import pickle"): (
        "Optuna's CMA-ES keeps its state so; read by an unpickler that knows the optimizer and arrays, and nothing to call"
    ),
}


def dangers(text: str) -> set[str]:
    """What in a Python text could run code that it reads, or write where an archive says."""
    tree, names, found = ast.parse(text), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                if alias.name.split(".")[0] in MODULES:
                    found.add(f"import {alias.name.split('.')[0]}")
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            if node.module.split(".")[0] in MODULES:
                found.add(f"import {node.module.split('.')[0]}")
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Name, ast.Attribute)):
            continue
        name = dotted(node, names)
        if name in CALLS:  # also where it is passed on and called elsewhere
            found.add(name)
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            found.add(node.attr)
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        for argument, value in ARGUMENTS.items():
            safe = isinstance(given.get(argument), ast.Constant) and given[argument].value == (not value)
            if argument in given and not safe:
                found.add(f"{argument}={ast.unparse(given[argument])}")
        if dotted(call.func, names) in ("torch.load", "torch.serialization.load") and "weights_only" not in given:
            found.add("torch.load without weights_only=True")
    return found


def dotted(node: ast.AST, names: dict[str, str]) -> str | None:
    """`np.load` as `numpy.load`, whatever it was imported as."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (before := dotted(node.value, names)):
        return f"{before}.{node.attr}"
    return None


def test_nothing_that_is_read_can_run_code():
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 100
    found = {(str(path.relative_to(ROOT)), danger) for path in files for danger in dangers(path.read_text())}
    assert found - set(ALLOWED) == set()
    assert set(ALLOWED) <= found, "is allowed and not there: delete the line"


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "import dill._dill",
        "def f():\n    from joblib import load",
        "import torch\ntorch.load(p)",
        "import torch\ntorch.load(p, weights_only=False)",
        "import torch\ntorch.load(p, weights_only=safe)",
        "from torch import load as read\nread(p)",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import numpy\nnumpy.load(p, allow_pickle=flag)",
        "import yaml\nyaml.load(p, Loader=yaml.Loader)",
        "from yaml import unsafe_load\nunsafe_load(p)",
        "import yaml as y\nread = y.full_load",
        "accelerator.load_state(p)",
        "self.accelerator.register_for_checkpointing(ema)",
        "eval(text)",
        "list(map(exec, texts))",
        "__import__(name)",
        "import importlib\nimportlib.import_module(name)",
        "import subprocess\nsubprocess.run(words, shell=True)",
        "import os\nos.system(words)",
        "DiffusionPipeline.from_pretrained(p, trust_remote_code=True)",
        "Model.from_pretrained(p, use_safetensors=False)",
        "import tarfile\ntarfile.open(p).extractall(q)",
    ],
)
def test_the_walk_finds(text):
    assert dangers(text)


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(p, weights_only=True)",
        "import numpy as np\nnp.load(p)\nnp.load(p, allow_pickle=False)",
        "import yaml\nyaml.safe_load(p)",
        "model.eval()\nmodel.load_state_dict(state)\nre.compile(x)",
        "import subprocess\nsubprocess.run(words)",
        "import importlib.resources\nimportlib.resources.files(x)",
    ],
)
def test_the_walk_passes(text):
    assert not dangers(text)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_a_file_of_a_study_names_no_path(tmp_path):
    """A candidate's folder is named after p(r), which a study's attributes hold; they say numbers or nothing."""
    optuna = pytest.importorskip("optuna")
    from diffusers_autonat.search import CandidateTrainer, open_storage, score_candidates
    from diffusers_autonat.search.confirm import CANDIDATES

    output = tmp_path / "output"
    (tmp_path / "train.py").write_text("")
    train = CandidateTrainer(output / "candidates", tmp_path / "train.py", ["--train_data_dir", "x"])
    storage, candidates = open_storage(output / "search.journal"), {"Beta": TrainingStrategy(1, 2)}
    calls = []

    def score(strategy, trial):
        calls.append(strategy)
        train(strategy)
        return 1.0

    score_candidates(storage, "s", {}, candidates, score, progress=False)
    study = optuna.load_study(study_name="s", storage=storage)
    for up in (
        {"distribution": "arccos", "alpha": "../../up"},
        {"distribution": "../up"},
        {"alpha": "../../up", "beta": 1},
    ):
        listed = study.user_attrs[CANDIDATES]
        study.set_user_attr(CANDIDATES, [*listed, {"label": "../../up", "strategy": up}])
        score_candidates(storage, "s", {}, candidates, score, progress=False)
    assert calls == [TrainingStrategy(1, 2)]
    assert {path.parts[0] for path in map(Path, files_below(tmp_path))} == {"output", "train.py"}
    assert all(name.startswith(("candidates/1", "search.journal")) for name in files_below(output))


def test_a_strategy_file_names_no_path(tmp_path):
    from diffusers_autonat.strategy_files import read_strategies

    path = tmp_path / "in" / "s.json"
    write_json(path, {"strategies": [GenerationStrategy.cosine(2).to_dict() | {"../up": [0.0, 0.0]}]})
    with pytest.raises(ValueError, match="has the keys"):
        read_strategies(path)
    write_json(path, {"_class_name": "../up", "strategies": [GenerationStrategy.cosine(2).to_dict()]})
    assert read_strategies(path) == [GenerationStrategy.cosine(2)]
    assert files_below(tmp_path) == ["in/s.json"]


def test_results_of_a_search_are_not_written_through_links(tmp_path):
    """A link that lies in an output folder is replaced, and what it points to is left alone; a journal is named."""
    pytest.importorskip("optuna")
    from diffusers_autonat.search import open_storage, save_strategy

    victim, output = tmp_path / "victim.json", tmp_path / "output"
    output.mkdir()
    victim.write_text("{}")
    for name in ("scheduler_config.json", "search.json", "search.journal"):
        (output / name).symlink_to(victim)
    save_strategy(output, NATScheduler(16), GenerationStrategy.cosine(2), {"metric": "fid"})
    assert victim.read_text() == "{}" and not (output / "search.json").is_symlink()
    assert "2" in json.loads((output / "search.json").read_text())
    with pytest.raises(ValueError, match=f"{victim} is not a journal"):
        open_storage(output / "search.journal")
    assert victim.read_text() == "{}" and sorted(os.listdir(tmp_path)) == ["output", "victim.json"]


EVIL = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a</details>b", "[x](javascript:alert(1))", "a\n\n# b",
        "`x` | *y* _z_", "&lt;b&gt;", "![x](http://x)"]  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_class_names_do_nothing_on_a_card(name):
    for many in (1, 30):
        section = classes(dict.fromkeys(range(many), name), many)
        body = section.replace("<details><summary>", "").replace("</summary>", "").replace("</details>", "")
        assert "<" not in body and not re.search(r"(?<!\\)[\[\]`*_|]", body)
        assert not any(line.startswith("#") for line in section.splitlines()[1:])
    assert "\n" not in escape(name)
