"""Pictures of a training's course."""

from __future__ import annotations

from pathlib import Path


def plot_history(history: list[dict[str, float]], path: Path, columns: dict[str, str]) -> None:
    """Curves over steps, one panel for each of `columns` (key of a history row -> axis label)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(columns), figsize=(4.5 * len(columns), 3), layout="constrained", squeeze=False)
    for axis, (key, label) in zip(axes[0], columns.items()):
        rows = [row for row in history if key in row]
        axis.plot([row["step"] for row in rows], [row[key] for row in rows], linewidth=1)
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
