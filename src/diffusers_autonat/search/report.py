"""What a search leaves behind: a scheduler config with its provenance, and a table of all trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.study import Study

from .. import schedulers
from ..files import whole_file, write_json
from ..provenance import pipeline_hash, versions
from ..schedulers.masked_token_scheduler import MaskedTokenScheduler
from ..strategies import Strategy, read_json
from .objective import POPULATION, STRATEGY, is_population
from .population import EFFECTS


PROVENANCE = "search.json"  # beside scheduler_config.json: where each stored strategy comes from


def origin_of(identity: Mapping[str, Any], pipeline: Any, **more: Any) -> dict[str, Any]:
    """What `search.json` says about a stored strategy: what its value depends on, hash of the weights, versions."""
    packages = ("diffusers-autonat", "optuna", "torch", "diffusers")
    return {**more, **identity, "pipeline": pipeline_hash(pipeline), "versions": versions(*packages)}


@contextmanager
def writing(folder: str | Path) -> Iterator[None]:
    """Write results into a folder alone: all workers of a search end at the same moment, and each writes them.

    The lock of a worker that is killed goes with its process.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(folder, ".results.lock")):
        yield


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """What a folder's `search.json` says by number of steps; a ValueError that names it where it is something else."""
    path = Path(folder, PROVENANCE)
    known = read_json(path) if path.exists() else {}
    if not isinstance(known, dict):
        raise ValueError(f"{path} does not say where strategies come from: move it away")
    return known


def load_scheduler(folder: str | Path) -> MaskedTokenScheduler | None:
    """The scheduler, of whichever order, whose config the folder holds; None where it holds none.

    Raises:
        ValueError: the config is of no order of this package.
    """
    path = Path(folder, MaskedTokenScheduler.config_name)
    if not path.exists():
        return None
    config = read_json(path)
    name = config.get("_class_name", "NATScheduler") if isinstance(config, dict) else None
    if name not in schedulers.__all__:
        raise ValueError(f"{path} is not of a scheduler of this package: move it away")
    return getattr(schedulers, name).from_pretrained(folder)


def save_strategy(
    folder: str | Path, scheduler: MaskedTokenScheduler, strategy: Strategy, provenance: Mapping[str, Any]
) -> None:
    """Write `scheduler_config.json`, which the order's scheduler loads, and `search.json`, which says where it comes from.

    Args:
        folder: A scheduler folder, e.g. that of a pipeline. Provenance of other numbers of steps that it holds stays.
        scheduler: Its other strategies are kept; one of the same number of steps is replaced.
        strategy: What was found.
        provenance: Study, trial, metric, N, seed, versions and so on, as JSON data.

    Raises:
        ValueError: the folder's `search.json` is something else.
    """
    folder, steps = Path(folder), strategy.num_inference_steps
    known = read_provenance(folder)
    kept = [one for number, one in scheduler.stored_strategies.items() if number != steps]
    strategies = sorted([*kept, strategy], key=lambda one: one.num_inference_steps)
    found = type(scheduler)(scheduler.config.mask_token_id, [one.to_dict() for one in strategies])
    with whole_file(folder / found.config_name) as partial:
        found.to_json_file(partial)
    write_json(folder / PROVENANCE, {**known, str(steps): dict(provenance)})


def save_trials(study: Study, path: str | Path) -> None:
    """
    All trials as CSV: number, state, value(s), times, every parameter, and what the score recorded; of the population sampler
    `population`, whether the value is that of many strategies around those parameters.
    """
    frame = study.trials_dataframe(
        ("number", "state", "value", "datetime_start", "duration", "params", "user_attrs"), multi_index=False
    )
    populations = [is_population(trial) for trial in study.get_trials(deepcopy=False)]
    if any(populations):
        frame["population"] = populations
    # The parameters say the same as the strategy; the others are a sampler's memory.
    frame = frame.drop(columns=[f"user_attrs_{name}" for name in (STRATEGY, POPULATION, EFFECTS)], errors="ignore")
    values = frame.pop("user_attrs_values") if "user_attrs_values" in frame else []
    for index, recorded in enumerate(values):
        for name, value in recorded.items() if isinstance(recorded, dict) else ():
            frame.loc[index, name] = value
    frame.columns = [column.removeprefix("params_").removeprefix("user_attrs_") for column in frame.columns]
    with whole_file(path) as partial:
        frame.to_csv(partial, index=False)
