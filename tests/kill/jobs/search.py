"""`search/search_generation.py` by one worker and by two: the same points with the same values, the same strategy found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import optuna
import torchmetrics  # noqa: F401
from job import ROOT, Job, forked, run_script

from diffusers_autonat import metrics, search  # noqa: F401
from diffusers_autonat.pipelines import pipeline_autonat  # noqa: F401
from diffusers_autonat.search import journal, parts
from tests.conftest import load_fashion_mnist, save_tiny_study


SCRIPT = ROOT / "search" / "search_generation.py"
sys.path.insert(0, str(SCRIPT.parent))  # as Python does for a script: `arguments` is its neighbour


class HastyLock(journal.JournalLock):
    """A lock whose holder was killed is broken after a second rather than thirty, of which a test has many."""

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.grace_period = 1


class Search(Job):
    def __init__(self, workers: int):
        self.name, self.processes = f"search/{workers}-worker", workers

    def prepare(self, folder: Path) -> None:
        forked(lambda: save_tiny_study(folder, load_fashion_mnist()[0]))

    def run(self, folder: Path, output: Path) -> None:
        journal.JournalLock = HastyLock
        parts.PART_IMAGES = 32  # so that two workers share a candidate
        run_script(SCRIPT, folder / "pipeline", "--reference", folder / "reference.npz", "--feature-extractor",
                   folder / "judge", "--num-images", 12, "--num-inference-steps", 4, "--free", "sampling_temperatures",
                   "--sampler", "released", "--num-trials", 11, "--confirm-top", 2, "--confirm-images", 80,
                   "--output", output)  # fmt: skip

    def result(self, output: Path) -> dict[str, Any]:
        storage = journal.open_journal(output / "search.journal")
        result: dict[str, Any] = {}
        for name in optuna.get_all_study_names(storage):
            trials = optuna.load_study(study_name=name, storage=storage).trials
            complete = [t for t in trials if t.values is not None]
            if any("candidate" in t.params for t in complete):  # in parts: who made the last of them may differ
                result[name] = {t.params["candidate"]: t.values for t in complete}
                made = [str(t.params) for t in trials if parts.SEEN in t.user_attrs]
                twice = len(set(made)) != len(made)
            else:
                result[name] = {str(search.workers.slot_of(t)): (t.params, t.values) for t in complete}
                twice = len(result[name]) != len(complete)
            result[f"{name}: something was evaluated twice"] = twice
        found = json.loads((output / "result.json").read_text())["candidates"]
        result["found"] = [(one["value"], one["strategy"]) for one in found]
        result["scheduler"] = (output / "scheduler_config.json").read_text()
        result["leftovers"] = [path.name for path in output.iterdir() if "partial" in path.name]
        return result

    def damage(self, output: Path, random: Random) -> str | None:
        """The last line of the journal is torn: what a full disk or a power cut leaves."""
        path = output / "search.journal"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if not lines:
            return None
        cut = random.randrange(1, len(lines[-1]) + 1)
        path.write_bytes(b"".join(lines)[:-cut])
        return f"damage (the last {cut} bytes of the journal cut)"


JOBS = [Search(1), Search(2)]
