"""Charts as SVG, each with the words that stand in for it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np

from mlvae.depict import COLOURS
from mlvae.errors import MissingExtraError
from mlvae.evaluate.report import calibrations
from mlvae.report.findings import KS

MARKERS = "osD^vP*X"
ACROSS = 3
"""Training curves side by side."""
COUNTED = ("epoch", "loss", "seconds", "images_per_second")


@dataclass(frozen=True)
class Figure:
    """A picture in the page: where it comes from, what it shows, for those who do not see it too."""

    uri: str
    alt: str
    caption: str


def training(history: Sequence[Mapping[str, float]]) -> Figure:
    """The terms of the bound and of the loss by epoch, each on a scale of its own: they differ by thousands."""
    epochs = [row["epoch"] for row in history]
    names = [name for name in history[-1] if name not in COUNTED]
    high = -(-len(names) // ACROSS)
    figure, axes = _canvas(high, ACROSS, (8.6, 1.9 * high))
    spare = list(np.ravel(axes))
    for place, name in enumerate(names):
        axis = spare.pop(0)
        values = np.array([row.get(name, np.nan) for row in history])
        axis.plot(epochs, values, color=COLOURS[place % 8], marker="o" if len(epochs) <= 20 else "", ms=3, lw=1.3)
        # A first epoch can be a thousand times the rest, and would make a flat line of it.
        settled = values[len(values) // 20 + 1 :]
        settled = settled[np.isfinite(settled)]
        if len(settled) > 1 and settled.min() < settled.max():
            margin = 0.15 * np.ptp(settled)
            axis.set_ylim(settled.min() - margin, settled.max() + margin)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(_words(name) + (" (loss, a group)" if name == "valid" else ""), fontsize=9)
        axis.set_xlabel("epoch")
    for axis in spare:
        axis.set_axis_off()
    last = ", ".join(f"{_words(name)} {history[-1][name]:.4g}" for name in names if name in history[-1])
    return Figure(
        _uri(figure),
        f"Training curves over {len(epochs)} epochs, at the end: {last}.",
        "Training, in nats per observation: how well observations are explained, what the codes cost, and the"
        " penalties. Each has a scale of its own; the first epochs may lie outside."
        + (" Valid is the loss on validation groups, in nats per group." if "valid" in names else ""),
    )


def evidence(numbers: Mapping[str, float], level: str = "content", speaker: str | None = None) -> Figure | None:
    """Accuracy and posterior variance of a level after k observations of a group, or of k groups that speak for it."""
    counted = f"groups by {speaker}, one observation of each" if speaker else "observations of a group"
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
        axis.set_xlabel(_plain(counted))
    how = (
        f"{numbers['unseen.way']:.0f}-way naming of groups never seen, by Bayes factor."
        if unseen
        else "Pools are made by the test labels, which alone helps an untrained network: compare the two lines."
    )
    told.append("mean posterior variance: " + ", ".join(f"{v:.3f} at {k}" for k, v in variance))
    return Figure(
        _uri(figure),
        f"After k {counted}. " + "; ".join(told) + ".",
        f"What more {counted}{',' if speaker else ''} add. Left: {how} Right: the posterior of {level} narrows.",
    )


def calibration(numbers: Mapping[str, float], speakers: Mapping[str, str] = MappingProxyType({})) -> Figure | None:
    """Coverage of 90 % intervals by the number of observations, or of what speaks for a group, a line a level."""
    by_level = calibrations(numbers)
    if not by_level:
        return None
    figure, axis = _canvas(1, 1, (4.2, 2.7))
    axis.axhline(90, color="#555", lw=1, ls="--", label="right: 90 %")
    told = []
    for place, (level, points) in enumerate(by_level.items()):
        ks, covered = [k for k, *_ in points], [100 * share for *_, share in points]
        look = {"color": COLOURS[place % 8], "marker": MARKERS[place % 8]}
        called = f"{level}, groups by {speakers[level]}" if level in speakers else level
        axis.plot(ks, covered, label=_plain(called) if len(by_level) > 1 else None, ms=5, **look)
        told.append(f"{called}: " + ", ".join(f"{share:.1f} % at {k}" for k, share in zip(ks, covered, strict=True)))
    every = sorted({k for points in by_level.values() for k, *_ in points})
    axis.set_ylim(min(70.0, *(100 * share - 5 for points in by_level.values() for *_, share in points)), 100)
    axis.legend(frameon=False, fontsize=8, loc="lower left")
    axis.set_xscale("log")
    axis.set_xticks(every, [str(k) for k in every])
    axis.minorticks_off()
    axis.set_xlabel("members" if speakers else "observations of a group")
    axis.set_ylabel("covered, %")
    return Figure(
        _uri(figure),
        f"Coverage of 90 % posterior intervals of {'; '.join(told)}.",
        "How often 90 % intervals of a group's posterior hold what the rest of the group says. Below the line the"
        " posterior is too narrow, above it too wide."
        + "".join(f" Of {level} whole groups by {by} are counted, not observations." for level, by in speakers.items()),
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
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel("groups")
    axis.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
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
    wide = 4.3 if len(points) < 3 else 3.0
    figure, axes = _canvas(1, len(points), (wide * len(points), 0.84 * wide))
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
                    *of.T, c=COLOURS[place], marker=MARKERS[place], s=13, lw=0, label=_plain(name)[:16], rasterized=True
                )
        axis.set_title(f"{level} ({shares[level]} of its variance)", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    if numeric:
        figure.colorbar(drawn, ax=axes, label=_plain(called))
    else:
        np.atleast_1d(axes)[-1].legend(
            frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), title=_plain(called)
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
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=size, layout="constrained", dpi=130)
    axes = canvas.subplots(rows, columns)
    for axis in np.ravel(axes):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
    return canvas, axes


def _plain(text: Any) -> str:
    """Without formulas, which matplotlib would see between two dollars."""
    return str(text).replace("$", r"\$")


def _uri(canvas: Any) -> str:
    import matplotlib

    file = io.StringIO()
    # Glyphs as paths need no font where the page is read; a fixed salt makes the same figure the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "mlvae", "svg.fonttype": "path"}):
        canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue().encode()).decode()


def require() -> None:
    """Raises where a package of the extra is not there: before minutes of measuring, not after.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    for package in ("jinja2", "matplotlib"):
        try:
            import_module(package)
        except ImportError as error:
            raise MissingExtraError(
                f"Expected {package} to write a report; it is not installed. Install the extra: pip install"
                " 'mlvae[report]'."
            ) from error
