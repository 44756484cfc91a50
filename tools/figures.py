"""Figures of docs/results.md from metrics that `mlvae evaluate --out` wrote.

python tools/figures.py OUT.png NAME=metrics.json [NAME=metrics.json ...]

Metrics of several shared levels become a heat map, level by factor.
"""

from __future__ import annotations

import argparse
import json
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


def matrix(axis: plt.Axes, metrics: dict[str, float]) -> None:
    """What each level tells of each factor: a linear probe on means, an MLP on samples, chance beside the name."""
    factors = _factors(metrics)
    rows = [
        (f"{key.split('.')[1]}, {key.split('.')[3]}", [metrics[".".join([*key.split(".")[:2], f, *key.split(".")[3:]])]
                                                       for f in factors])
        for key in metrics
        if key.startswith("probe.") and key.count(".") == 4 and key.split(".")[2] == factors[0]
        and key.endswith((".k1.linear", ".sample.mlp", ".mean.linear"))
    ]  # fmt: skip
    axis.imshow([values for _, values in rows], vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for y, (_, values) in enumerate(rows):
        for x, value in enumerate(values):
            axis.text(x, y, f"{value:.3f}", ha="center", va="center", color="white" if value > 0.6 else "black")
    axis.set_xticks(range(len(factors)), [f"{f}\nchance {metrics[f'probe.{f}.chance']:.3f}" for f in factors])
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])


def _factors(metrics: dict[str, float]) -> list[str]:
    """The shared levels of a metrics file, where there are several."""
    found = [key.split(".")[1] for key in metrics if key.startswith("probe.") and key.endswith(".chance")]
    return [f for f in found if f != "chance" and f"probe.{f}.{f}.k1.linear" in metrics]


def main(out: str, sources: list[tuple[str, dict[str, float]]]) -> None:
    """One row of panels, one or two a data set: its name and its metrics."""
    count = sum(2 if _has_curve(metrics) else 1 for _, metrics in sources)
    figure, rows = plt.subplots(1, count, figsize=(4.2 * count, 4), squeeze=False)
    panels = iter(rows.flat)
    for name, metrics in sources:
        panel = next(panels)
        panel.set_title(name)
        if _factors(metrics):
            matrix(panel, metrics)
        elif _has_curve(metrics):
            curve((panel, next(panels)), metrics)
        else:
            shots(panel, metrics)
    figure.tight_layout()
    figure.savefig(out, dpi=80)


def _has_curve(metrics: dict[str, float]) -> bool:
    return not _factors(metrics) and any(key.startswith("k_curve.") for key in metrics)


def metrics_file(text: str) -> tuple[str, dict[str, float]]:
    """What NAME=metrics.json names."""
    name, _, file = text.partition("=")
    try:
        metrics = json.loads(Path(file).read_text())
        if _factors(metrics) or _has_curve(metrics) or "unseen.way" in metrics:
            return name, metrics
    except (OSError, ValueError, AttributeError):
        pass
    raise argparse.ArgumentTypeError(
        f"expected NAME=FILE, the file one that `mlvae evaluate --out` wrote, with a k-curve or shots; got {text!r}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", help="the picture to write")
    parser.add_argument("sources", nargs="+", type=metrics_file, metavar="NAME=metrics.json")
    main(**vars(parser.parse_args()))
