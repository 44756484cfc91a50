"""Figures of docs/results.md from metrics that `mlvae evaluate --out` wrote.

python tools/figures.py OUT.png NAME=metrics.json [NAME=metrics.json ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CONTROLS = {
    "": "model",
    "control.untrained.": "untrained",
    "control.vae.": "plain VAE",
    "control.permuted.": "shuffled",
}


def curve(axes: tuple[plt.Axes, plt.Axes], metrics: dict[str, float]) -> None:
    """Accuracy and posterior variance against the number of observations, with the controls."""
    for prefix, name in CONTROLS.items():
        start = f"{prefix}k_curve."
        ks = sorted({int(key.removeprefix(start).split(".")[0]) for key in metrics if key.startswith(start)})
        if not ks:
            continue
        for axis, what in zip(axes, ("accuracy", "variance"), strict=True):
            axis.plot(ks, [metrics[f"{start}{k}.{what}"] for k in ks], "o-", label=name)
    axes[0].set(
        xscale="log", xlabel="observations pooled by label", ylabel="accuracy of a linear probe", ylim=(0, 1.02)
    )
    axes[1].set(xscale="log", yscale="log", xlabel="observations", ylabel="mean posterior variance")
    axes[0].legend(frameon=False)


def shots(axis: plt.Axes, metrics: dict[str, float]) -> None:
    """Unseen groups named from one and from five observations, with the controls and raw pixels."""
    names, places = [], 0
    for prefix, name in CONTROLS.items():
        for k in (1, 5):
            if (value := metrics.get(f"{prefix}unseen.shots.{k}.accuracy")) is not None:
                low, high = (metrics[f"{prefix}unseen.shots.{k}.{end}"] for end in ("low", "high"))
                axis.bar(places, value, yerr=[[value - low], [high - value]], color=f"C{k // 5}", capsize=3)
                names.append(f"{name}, {k}")
                places += 1
    axis.bar(places, metrics["unseen.pixels.shots.1.accuracy"], color="C0")
    axis.axhline(1 / metrics["unseen.way"], color="grey", linestyle=":")
    axis.set(ylim=(0, 1), ylabel=f"{metrics['unseen.way']:.0f}-way accuracy")
    axis.set_xticks(range(places + 1), [*names, "pixels, 1"], rotation=60, ha="right")


def main(out: str, *sources: str) -> None:
    """One row of panels a data set."""
    count = sum(2 if _has_curve(source) else 1 for source in sources)
    figure, rows = plt.subplots(1, count, figsize=(4.2 * count, 4), squeeze=False)
    panels = list(rows.flat)
    for source in sources:
        name, _, file = source.partition("=")
        metrics = json.loads(Path(file).read_text())
        if _has_curve(source):
            pair = panels.pop(0), panels.pop(0)
            curve(pair, metrics)
            pair[0].set_title(name)
        else:
            panel = panels.pop(0)
            shots(panel, metrics)
            panel.set_title(name)
    figure.tight_layout()
    figure.savefig(out, dpi=80)


def _has_curve(source: str) -> bool:
    return any(key.startswith("k_curve.") for key in json.loads(Path(source.partition("=")[2]).read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
