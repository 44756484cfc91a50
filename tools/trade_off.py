"""The figure of docs/defaults.md from its own tables: what style tells of the group against what pictures keep.

python tools/trade_off.py docs/defaults.md docs/pictures/trade-off.png
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SETS = {"MNIST, MLP": "MNIST", "Fashion-MNIST, MLP": "Fashion-MNIST"}
KINDS = {"a weight of one course": "C0", "other changes": "C7", "held": "C1"}
AIM = 0.05


def rows(text: str) -> dict[str, list[tuple[str, str, float, float]]]:
    """By set: what was asked, which kind of change that is, nats, log-likelihood."""
    found: dict[str, list[tuple[str, str, float, float]]] = {name: [] for name in SETS.values()}
    current, held = None, False
    for line in text.splitlines():
        cells = [cell.strip().replace("*", "") for cell in line.strip("|").split("|")]
        if len(cells) != 8:
            current = None
            continue
        if heading := re.match(r"(.+?), (MLP|convolutional)", cells[0]):
            current, held = SETS.get(f"{heading[1]}, MLP") if heading[2] == "MLP" else None, False
        elif cells[0].startswith("convolutional"):
            current = None
        held = held or "held" in cells[0]
        if current and cells[3]:
            asked = cells[0].split(": ", 1)[-1] if "epochs" in cells[0] else cells[0]
            course = re.fullmatch(r"\d+ to \d+(, the default before)?", asked)
            kind = "held" if held else "a weight of one course" if course else "other changes"
            found[current].append((asked, kind, float(cells[3]), float(cells[4])))
    return found


def main(source: str, target: str) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, (name, points) in zip(axes, rows(Path(source).read_text()).items(), strict=True):
        for kind, colour in KINDS.items():
            xs, ys = zip(*[(nats, likelihood) for _, k, nats, likelihood in points if k == kind], strict=True)
            axis.scatter(xs, ys, color=colour, label=kind, s=25)
        default = next(point for point in points if "the default" in point[0] and "before" not in point[0])
        axis.scatter(*default[2:], s=140, facecolors="none", edgecolors="black", label="the default")
        axis.axvline(AIM, color="grey", linestyle=":", label=f"aim, {AIM} nats")
        axis.set(title=f"{name}, 10 epochs, validation", xlabel="nats of the group in style samples (MLP probe)")
        axis.set_ylabel("log-likelihood in training, nats an observation")
    axes[0].legend(frameon=False, loc="lower right")
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="docs/defaults.md")
    parser.add_argument("target", help="the picture to write")
    main(**vars(parser.parse_args()))
