"""Findings, figures, grids and words, put into one page."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlvae import __version__, atomic
from mlvae.data import GroupedData
from mlvae.depict import Depiction
from mlvae.draw import DRAWINGS
from mlvae.evaluate import diagnose, measures
from mlvae.evaluate.report import calibrations, rows
from mlvae.evaluate.subject import roles
from mlvae.model import MLVAE
from mlvae.report import figures
from mlvae.report.findings import Findings, find
from mlvae.report.matrix import is_probe, matrix
from mlvae.report.words import learned

GRIDS = {
    "swap": (
        "Swaps",
        "The left column gives what a group shares, the top row what is an observation's own; between them is what the"
        " model makes of both.",
    ),
    "interpolate": (
        "Interpolations",
        "From the observation on the left to the one on the right. In the first third of the rows everything moves, in"
        " the second only what groups share, in the last only what is an observation's own.",
    ),
    "generate": (
        "New observations",
        "A row a group. First groups of the data, seen in styles drawn from the prior; then groups drawn from the"
        " population, likewise; in the last two rows every observation is of a group of its own.",
    ),
    "reconstruct": ("Reconstructions", "Above each reconstruction the observation that it is of."),
}
COUNT = {"image": 7, "sequence": 7, "table": 3}
"""Observations a row of a grid: those that hold words need room."""


def write(
    model: MLVAE,
    train: GroupedData,
    new: GroupedData,
    metrics: Mapping[str, float],
    out: str | Path,
    *,
    run: str | Path,
    factors: Sequence[str] = (),
    commands: Sequence[str] = (),
    seed: int = 0,
) -> tuple[Path, Path]:
    """Writes the page, and beside it every number that is in it: `report.json` for `report.html`.

    Args:
        model: trained.
        train: what it was trained on.
        new: what was kept out of training; everything that is shown is of it.
        metrics: as `mlvae.evaluate` gives them.
        out: the page.
        run: the folder that training wrote.
        factors: further columns that the maps are coloured by.
        commands: what made the model and the page, to be shown.
        seed: of what is chosen and drawn.

    Returns:
        The page's path, and that of the numbers.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    figures.require()
    from jinja2 import Environment, StrictUndefined

    found = find(model, train, new, run=run, factors=factors, seed=seed)
    numbers = {**metrics, **found.numbers}
    shown = Depiction.of(model, train)
    source = resources.files("mlvae.report").joinpath("template.html").read_text(encoding="utf-8")
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(source)
    head, *body = rows(numbers, *roles(model))
    page = template.render(
        title=f"What was learned from {new.name}",
        learned=learned(model, numbers, found.speakers.get(roles(model)[0])),
        facts=_facts(model, train, new),
        charts=_charts(model, train, new, numbers, found),
        grids=[grid for name in GRIDS if (grid := _grid(model, new, name, shown, seed)) is not None],
        head=head,
        body=[row for row in body if not is_probe(row[0])],
        matrix=matrix(model, numbers),
        levels="each level knows"
        if len(model.levels) != 2
        else f"{model.levels[0].name} and {model.levels[1].name} know",
        calibrations=_calibrations(numbers, found.speakers),
        speakers=found.speakers,
        diagnoses=diagnose(numbers, *roles(model)),
        strangest=_strangest(model, new, found, shown, found.strangest, found.scores),
        misfits=[] if found.odds is None else _strangest(model, new, found, shown, found.misfits, found.odds),
        groups=_strangest_groups(model, found),
        words=shown.kind == "table",
        median=f"{numbers['report.score.median']:,.1f}",
        looked=f"{len(found.scores):,}",
        of=f"{len(new):,}",
        commands=commands,
        beside=Path(out).with_suffix(".json").name,
        versions=[f"mlvae {__version__}", f"Python {platform.python_version()}"]
        + [f"{name} {version(name)}" for name in ("torch", "numpy", "scikit-learn", "matplotlib")],
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_suffix(".json")
    atomic.write(beside, json.dumps(numbers, indent=2).encode())
    atomic.write(out, page.encode())
    return out, beside


def _facts(model: MLVAE, train: GroupedData, new: GroupedData) -> list[tuple[str, str]]:
    parameters = sum(p.numel() for p in model.parameters())
    levels = [
        f"{level.name}: {level.dim} dimensions, "
        + ("each observation's own" if level.by is None else f"shared by {_joined(level.by)}")
        for level in model.levels
    ]
    return [
        ("Training part", _described(train)),
        ("Kept out of training", _described(new)),
        ("Levels", "; ".join(levels)),
        ("Likelihood", type(model.likelihood).__name__),
        ("Network", f"{model.network} of width {model.width}, {parameters:,} parameters"),
    ]


def _described(data: GroupedData) -> str:
    """How much there is of what, in words: who is sent the page need not know the library."""
    size = " x ".join(map(str, data.shape))
    text = f"{len(data):,} observations of {size} numbers"
    if data.by is None:
        return text
    sizes = np.bincount(data.codes(data.by).numpy())
    many = f"{sizes.min():,} to {sizes.max():,}" if sizes.min() < sizes.max() else f"{sizes.min():,}"
    return f"{text}, in {len(sizes):,} groups by {_joined(data.by)}, {many} members each"


def _charts(
    model: MLVAE, train: GroupedData, new: GroupedData, numbers: Mapping[str, float], found: Findings
) -> dict[str, list[figures.Figure]]:
    charts: dict[str, list[figures.Figure | None]] = {"data": [], "training": [], "maps": []}
    by = model.group_levels[0].by if model.group_levels else new.by
    first = model.group_levels[0].name if model.group_levels else "content"
    if by is not None:
        sizes = {name: np.bincount(data.codes(by).numpy()) for name, data in (("training", train), ("kept out", new))}
        charts["data"] = [figures.groups(sizes)] if len(np.unique(np.concatenate(list(sizes.values())))) > 1 else []
    if found.history:
        charts["training"] = [figures.training(found.history)]
    charts["evidence"] = [figures.evidence(numbers, first, found.speakers.get(first))]
    charts["calibration"] = [figures.calibration(numbers, found.speakers)]
    shares = {}
    for level in found.maps:
        axes = [numbers.get(f"report.map.{level}.axis{axis}", 0.0) for axis in (1, 2)]
        shares[level] = f"{100 * sum(axes):.0f} %"
    if by is not None:
        charts["maps"].append(figures.maps(found.maps, found.labels, _joined(by), shares, numeric=False))
    for name, values in found.further.items():
        charts["maps"].append(figures.maps(found.maps, values, name, shares, numeric=False))
    for factor, values in found.factors.items():
        name, label = measures.factor(factor, train, new)
        charts["maps"].append(figures.maps(found.maps, values, name, shares, numeric=not label))
    return {name: [figure for figure in some if figure is not None] for name, some in charts.items()}


def _grid(model: MLVAE, new: GroupedData, name: str, shown: Depiction, seed: int) -> dict[str, Any] | None:
    if name == "swap" and not model.group_levels:
        return None
    made = DRAWINGS[name](model, new, COUNT[shown.kind], seed).cpu()
    title, caption = GRIDS[name]
    caption = " ".join(part for part in (caption, shown.legend(model.shape)) if part)
    alt = f"{title}: {made.shape[0]} rows of {made.shape[1]}. {caption}"
    if shown.kind == "image":
        return {"title": title, "caption": caption, "alt": alt, "sheet": shown.sheet(made), "cells": [], "wide": False}
    cells = [[shown.uri(x) for x in row] for row in made]
    if name == "swap":
        cells[0][0] = ""
    return {"title": title, "caption": caption, "alt": alt, "sheet": "", "cells": cells, "wide": shown.kind == "table"}


def _strangest_groups(model: MLVAE, found: Findings) -> list[tuple[str, str, str]]:
    if not model.group_levels:
        return []
    return [(str(name), f"{mean:,.1f}", f"{size:,}") for name, mean, size in found.strangest_groups]


def _strangest(
    model: MLVAE,
    new: GroupedData,
    found: Findings,
    shown: Depiction,
    places: np.ndarray[Any, Any],
    values: np.ndarray[Any, Any],
) -> list[dict[str, str]]:
    rows = found.rows[torch.from_numpy(places)]
    x = model.prepare(new.x[rows]).cpu()
    return [
        {
            "uri": shown.uri(one),
            "row": f"{int(row):,}",
            "group": str(found.labels[place]),
            "score": f"{values[place]:,.1f}",
        }
        for one, row, place in zip(x, rows, places, strict=True)
    ]


def _calibrations(numbers: Mapping[str, float], speakers: Mapping[str, str]) -> list[tuple[str, str, str]]:
    by_level = calibrations(numbers)

    def called(level: str, k: int) -> str:
        if speakers:
            return f"{level}, {f'groups by {speakers[level]}' if level in speakers else 'observations'}: {k}"
        return f"{level}, {k}" if len(by_level) > 1 else str(k)

    return [
        (called(level, k), f"{ratio:.2f}", f"{100 * covered:.1f} %")
        for level, points in by_level.items()
        for k, ratio, covered in points
    ]


def _joined(by: str | tuple[str, ...]) -> str:
    return by if isinstance(by, str) else " and ".join(by)
