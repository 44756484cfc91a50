"""Charts as SVG, each with the words that stand in for it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlvae.depict import COLOURS
from mlvae.errors import MissingExtraError
from mlvae.report.findings import KS

MARKERS = "osD^vP*X"
COUNTED = ("epoch", "loss", "seconds", "images_per_second")


@dataclass(frozen=True)
class Figure:
    """A picture in the page: where it comes from, what it shows, for those who do not see it too."""

    uri: str
    alt: str
    caption: str


def training(history: Sequence[Mapping[str, float]]) -> Figure:
    """The terms of the bound and of the loss, by epoch."""
    epochs = [row["epoch"] for row in history]
    names = [name for name in history[-1] if name not in COUNTED]
    big = [name for name in names if "likelihood" in name or "elbo" in name]
    figure, axes = _canvas(1, 2, (8.6, 2.9))
    for axis, chosen in zip(axes, (big, [name for name in names if name not in big]), strict=True):
        for place, name in enumerate(chosen):
            values = [row.get(name, np.nan) for row in history]
            axis.plot(
                epochs, values, color=COLOURS[place % 8], marker=MARKERS[place % 8], ms=3, lw=1.3, label=_words(name)
            )
        axis.set_xlabel("epoch")
        axis.set_ylabel("nats per observation")
        axis.legend(frameon=False, fontsize=8)
    last = ", ".join(f"{_words(name)} {history[-1][name]:.4g}" for name in names if name in history[-1])
    return Figure(
        _uri(figure),
        f"Training curves over {len(epochs)} epochs, at the end: {last}.",
        "Training, in nats per observation. Left: how well observations are explained. Right: what the codes"
        " cost, and the penalties.",
    )


def evidence(numbers: Mapping[str, float]) -> Figure | None:
    """Accuracy and posterior variance after k observations of a group."""
    variance = [(k, numbers[key]) for k in KS if (key := f"report.posterior.{k}.variance") in numbers]
    if not variance:
        return None
    unseen = any(key.startswith("unseen.shots.") for key in numbers)
    name = "unseen.shots.{}.accuracy" if unseen else "k_curve.{}.accuracy"
    figure, axes = _canvas(1, 2, (8.6, 2.9))
    told = []
    for place, (prefix, label) in enumerate((("", "this model"), ("control.untrained.", "untrained network"))):
        points = [(k, numbers[key]) for k in KS if (key := prefix + name.format(k)) in numbers]
        if points:
            x, y = zip(*points, strict=True)
            axes[0].plot(
                x,
                [100 * v for v in y],
                color=COLOURS[place],
                marker=MARKERS[place],
                ms=5,
                label=label,
                ls=("-", "--")[place],
            )
            told.append(f"{label}: " + ", ".join(f"{100 * v:.1f} % at {k}" for k, v in points))
    if not told:
        axes[0].text(0.5, 0.5, "not measured", ha="center", transform=axes[0].transAxes)
    else:
        axes[0].legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("groups named rightly, %")
    axes[0].set_ylim(0, 103)
    axes[1].plot(*zip(*variance, strict=True), color=COLOURS[2], marker="o", ms=5)
    axes[1].set_ylabel("posterior variance (prior: 1)")
    axes[1].set_ylim(0, None)
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xticks(KS, [str(k) for k in KS])
        axis.minorticks_off()
        axis.set_xlabel("observations of the group")
    how = (
        f"{numbers['unseen.way']:.0f}-way naming of groups never seen, by Bayes factor."
        if unseen
        else "Pools are made by the test labels, which alone helps an untrained network: compare the two lines."
    )
    told.append("mean posterior variance: " + ", ".join(f"{v:.3f} at {k}" for k, v in variance))
    return Figure(
        _uri(figure),
        "After k observations of a group. " + "; ".join(told) + ".",
        f"What more observations of a group add. Left: {how} Right: the posterior of content narrows.",
    )


def calibration(numbers: Mapping[str, float]) -> Figure | None:
    """Coverage of 90 % intervals, by the number of observations."""
    points = [(k, numbers[key]) for k in KS if (key := f"calibration.k{k}.coverage90") in numbers]
    if not points:
        return None
    figure, axis = _canvas(1, 1, (4.2, 2.7))
    axis.axhline(90, color="#555", lw=1, ls="--")
    axis.text(points[-1][0], 90.6, "right: 90 %", ha="right", fontsize=8, color="#333")
    axis.plot([k for k, _ in points], [100 * v for _, v in points], color=COLOURS[0], marker="o", ms=5)
    axis.set_xscale("log")
    axis.set_xticks([k for k, _ in points], [str(k) for k, _ in points])
    axis.minorticks_off()
    axis.set_xlabel("observations of the group")
    axis.set_ylabel("covered, %")
    told = ", ".join(f"{100 * v:.1f} % at {k}" for k, v in points)
    return Figure(
        _uri(figure),
        f"Coverage of 90 % posterior intervals of content: {told}.",
        "How often the 90 % intervals of content hold what the rest of the group says. Below the line the"
        " posterior is too narrow, above it too wide.",
    )


def groups(sizes: Mapping[str, np.ndarray[Any, Any]]) -> Figure:
    """Histograms of how many members groups have."""
    figure, axis = _canvas(1, 1, (4.2, 2.5))
    everything = np.concatenate(list(sizes.values()))
    bins = np.linspace(everything.min() - 0.5, everything.max() + 0.5, min(25, int(np.ptp(everything)) + 2))
    for place, (name, values) in enumerate(sizes.items()):
        axis.hist(values, bins, histtype="stepfilled", color=COLOURS[place], alpha=0.55, label=name)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("members of a group")
    axis.set_ylabel("groups")
    axis.legend(frameon=False, fontsize=8)
    told = "; ".join(f"{name}: {len(v):,} groups of {v.min():,} to {v.max():,} members" for name, v in sizes.items())
    return Figure(_uri(figure), f"Histogram of group sizes. {told}.", "How many members groups have.")


def maps(
    points: Mapping[str, np.ndarray[Any, Any]],
    labels: np.ndarray[Any, Any],
    called: str,
    shares: Mapping[str, str],
    numeric: bool,
) -> Figure:
    """A map of each level's codes, coloured by one column: as numbers, or the eight commonest labels."""
    figure, axes = _canvas(1, len(points), (4.3 * len(points), 3.6))
    names, counts = np.unique(labels, return_counts=True)
    shown = names[np.sort(np.argsort(-counts, kind="stable")[:8])]
    for axis, (level, xy) in zip(np.atleast_1d(axes), points.items(), strict=True):
        if numeric:
            drawn = axis.scatter(*xy.T, c=labels.astype(float), cmap="cividis", s=7, lw=0, rasterized=True)
        else:
            rest = ~np.isin(labels, shown)
            axis.scatter(*xy[rest].T, c="#bbb", s=5, lw=0, label="others" if rest.any() else None, rasterized=True)
            for place, name in enumerate(shown):
                of = xy[labels == name]
                axis.scatter(
                    *of.T, c=COLOURS[place], marker=MARKERS[place], s=13, lw=0, label=str(name)[:16], rasterized=True
                )
        axis.set_title(f"{level} ({shares[level]} of its variance)", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    if numeric:
        figure.colorbar(drawn, ax=axes, label=called)
    else:
        np.atleast_1d(axes)[-1].legend(
            frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), title=called
        )
    where = ", ".join(f"{level}: {share}" for level, share in shares.items())
    return Figure(
        _uri(figure),
        f"Maps of {' and '.join(points)} codes coloured by {called}; two components show {where} of their variance.",
        f"Each point an observation understood alone, coloured by {called}.",
    )


def _words(name: str) -> str:
    return name.replace("kl_", "KL of ").replace("_", " ")


def _canvas(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise missing("matplotlib") from error
    canvas = Canvas(figsize=size, layout="constrained", dpi=130)
    axes = canvas.subplots(rows, columns)
    for axis in np.atleast_1d(axes):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
    return canvas, axes


def _uri(canvas: Any) -> str:
    import matplotlib

    file = io.StringIO()
    # Glyphs as paths need no font where the page is read; a fixed salt makes the same figure the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "mlvae", "svg.fonttype": "path"}):
        canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue().encode()).decode()


def missing(package: str) -> MissingExtraError:
    """What to raise where a package of the extra is not there."""
    return MissingExtraError(
        f"Expected {package} to write a report; it is not installed. Install the extra: pip install 'mlvae[report]'."
    )
