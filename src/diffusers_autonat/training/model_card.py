"""The card of a freshly trained pipeline: how it was made, its curves and its samples, as its Hub repository shows them."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..provenance import hardware, versions
from ..strategies import TrainingStrategy
from .loop import History


if TYPE_CHECKING:
    from .tokens import TokenSetInfo

CARD = """---
library_name: diffusers
tags:
- diffusers
- autonat
- masked-image-generation
- unconditional-image-generation
---

# {name}

A class-conditional masked-token transformer ({paper}) of
{parameters:,} parameters on a {side} x {side} grid of {codebook_size} codes, trained with
[diffusers-autonat](https://pypi.org/project/diffusers-autonat/).

```python
from diffusers_autonat import AutoNATPipeline

pipe = AutoNATPipeline.from_pretrained("{name}")
image = pipe({label!r}, num_inference_steps={steps}).images[0]
```

![samples](samples.png)

## Training

| | |
|---|---|
| command | `{command}` |
| images | {num_images:,} ({num_unreadable} unreadable), {resolution} px, flips {flips} |
| steps x batch | {max_steps:,} x {batch} = {seen:,} images seen |
| mask ratios p(r) | {strategy} |
| loss, token accuracy at the end | {loss:.3f}, {accuracy:.1%} |
| wall time | {minutes:.0f} minutes, {speed:.0f} images/s, on {hardware}, {processes} process(es) |
| versions | {versions} |
| seed | {seed} |

![training curves](training.png)
"""


PAPERS = {
    "uvit": "the U-ViT of AutoNAT, [arXiv:2406.05478](https://huggingface.co/papers/2406.05478)",
    "enat": "ENAT, [arXiv:2411.06959](https://huggingface.co/papers/2411.06959)",
}


def plot_history(history: list[dict[str, float]], path: Path, columns: dict[str, str]) -> None:
    """Curves over steps, one panel for each of `columns` (key of a history row -> axis label)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(columns), figsize=(4.5 * len(columns), 3), layout="constrained")
    for axis, (key, label) in zip(axes, columns.items()):
        rows = [row for row in history if key in row]
        axis.plot([row["step"] for row in rows], [row[key] for row in rows], linewidth=1)
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save_model_card(
    folder: Path,
    args: Any,
    info: TokenSetInfo,
    strategy: TrainingStrategy,
    output_dir: Path,
    parameters: int,
    num_processes: int,
) -> None:
    """Write README.md, training.png and samples.png beside the pipeline in `folder`."""
    history = History.read(output_dir / "history.jsonl")
    plot_history(history, folder / "training.png", {"loss": "loss", "token_accuracy": "masked-token accuracy"})
    shutil.copy(max((output_dir / "samples").glob("step-*.png")), folder / "samples.png")
    last, batch = history[-1], args.train_batch_size * args.gradient_accumulation_steps * num_processes
    speeds = sorted(row["images_per_second"] for row in history)
    card = CARD.format(
        name=args.hub_model_id or output_dir.name,
        paper=PAPERS[args.transformer],
        parameters=parameters,
        side=info.sample_size,
        codebook_size=info.codebook_size,
        label=info.label_names[0] if info.label_names else 0,
        steps=max(args.num_inference_steps),
        command=shlex.join(["accelerate", "launch", *sys.argv]),
        num_images=info.num_images,
        num_unreadable=info.num_unreadable,
        resolution=info.resolution,
        flips="yes" if info.flips else "no",
        max_steps=int(last["step"]),
        batch=batch,
        seen=int(last["step"]) * batch,
        strategy=strategy.to_dict(),
        loss=last["loss"],
        accuracy=last["token_accuracy"],
        minutes=last["step"] * batch / speeds[len(speeds) // 2] / 60,
        speed=speeds[len(speeds) // 2],
        hardware=hardware(),
        processes=num_processes,
        versions=", ".join(f"{k} {v}" for k, v in versions("torch", "diffusers", "accelerate").items()),
        seed=args.seed,
    )
    (folder / "README.md").write_text(card)
