#!/usr/bin/env python
"""Turn the policies that `bash search/evidence.sh WORK policies` has trained into the folders shipped here: of each number of steps
the seed that did best in validation, its pictures, and a card whose every figure is read from what the folder keeps. Machine and
versions are those it runs with: run it where the policies were trained.

    python model_cards/make_policy_cards.py outputs/evidence
"""

import argparse
import os
import shutil
from pathlib import Path

import torch
from card_texts import AUTONAT, wall_seconds
from make_cards import DRAWN, SEARCHES, forget_names
from policy_texts import STEPS, card, folder_of

from diffusers_autonat import AdaptivePolicyModel
from diffusers_autonat.cards import make_card, save_card
from diffusers_autonat.cli import main as diffusers_autonat
from diffusers_autonat.files import write_json
from diffusers_autonat.loading import load_pipeline
from diffusers_autonat.plots import plot_samples
from diffusers_autonat.provenance import hardware, versions
from diffusers_autonat.training.loop import History
from diffusers_autonat.training.reward_guard import RewardGuard, score


IMAGES_PER_UPDATE, VALIDATION_IMAGES = 1024, 2000  # as search/evidence.sh trains them


def saved(run: Path) -> dict:
    """The validation whose policy a training has saved: what its guard chose."""
    guard, policy = RewardGuard(), AdaptivePolicyModel.from_pretrained(run / "pipeline" / "policy")
    for row in History.read(run / "validation.jsonl"):
        guard.add(row["step"], {name: value for name, value in row.items() if name != "step"}, policy)
    return guard.best_values


def draw_samples(steps: int, policy: AdaptivePolicyModel, path: Path) -> None:
    """Of each class the first images of the stored strategy, and those of the policy from the same noise."""
    pipe, groups = load_pipeline(AUTONAT.folder), {}
    pipe.set_progress_bar_config(disable=True)
    labels = list(pipe.id2label)
    for name, component in (("stored strategy", None), ("policy", policy)):
        pipe.register_modules(policy=component)
        generators = [torch.Generator().manual_seed(i) for i in range(len(labels) * DRAWN)]
        images = pipe(labels, num_images_per_prompt=DRAWN, generator=generators, num_inference_steps=steps).images
        groups[name] = [images[i : i + DRAWN] for i in range(0, len(images), DRAWN)]
    plot_samples(groups, list(pipe.id2label.values()), path)


def make_policy(steps: int, work: Path) -> None:
    """The shipped folder of T = `steps`, new."""
    runs = sorted(work.glob(f"policy-T{steps}-seed*"))
    best = {run: saved(run) for run in runs}
    run = min(runs, key=lambda run: score(best[run]))
    seed, folder = run.name.rpartition("seed")[2], folder_of(steps)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run / "pipeline" / "policy", folder)
    forget_names(folder)
    shutil.copy(run / "pipeline" / "training.png", folder)
    policy = AdaptivePolicyModel.from_pretrained(folder)
    history, validations = (History.read(run / f"{name}.jsonl") for name in ("history", "validation"))
    write_json(folder / "training.json", {
        "seed": int(seed), "seeds": len(runs), "updates": history[-1]["step"], "images_per_update": IMAGES_PER_UPDATE,
        "validation_images": VALIDATION_IMAGES, "seconds": wall_seconds(history), "start": validations[0], "best": best[run],
        "parameters": policy.num_parameters(), "hardware": hardware(),
        "versions": versions("torch", "diffusers", "accelerate"),
    })  # fmt: skip
    (folder / "evaluation").mkdir()
    reports = SEARCHES / f"policy-fashion-mnist-T{steps}"
    for source, name in (("strategy", "strategy"), (f"policy-seed{seed}", "policy")):
        shutil.copy(reports / f"{source}.json", folder / "evaluation" / f"{name}.json")
    draw_samples(steps, policy, folder / "samples.png")
    diffusers_autonat(["train", "plot-policy", str(run / "pipeline"), "--output_dir", str(folder)])
    save_card(folder, make_card(*card(steps)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of the studies")
    work = parser.parse_args().work.resolve()
    os.chdir(Path(__file__).parent)
    for steps in STEPS:
        make_policy(steps, work)


if __name__ == "__main__":
    main()
