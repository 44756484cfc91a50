"""The probe matrix: what each level's codes tell of each factor, with chance and controls in the cell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlvae.evaluate.report import CONTROLS
from mlvae.evaluate.subject import roles
from mlvae.model import MLVAE

PROBE = re.compile(r"probe\.([^.]+)\.(?:(.+)\.)?(k1|sample|mean)\.mlp(\.r2)?")
CODES = {"k1": "", "sample": ", a sample", "mean": ", its mean"}
GROUP = "(group)"


@dataclass(frozen=True)
class Cell:
    """One probe: what it reads, what chance and the controls read, and how far that is beyond chance, 0 to 1."""

    value: str
    beside: str
    depth: float


@dataclass(frozen=True)
class Matrix:
    """Factors down the side, codes along the top; None where it was not measured."""

    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]


def matrix(model: MLVAE, numbers: Mapping[str, float]) -> Matrix | None:
    """Every MLP probe of the metrics, or None where there is none.

    The protocol's "content" and "style" are the first level that groups share and the last that none shares.
    """
    shared = model.group_levels
    names = dict(zip(("content", "style"), roles(model), strict=True))
    order = [level.name for level in model.levels]
    grouping = shared[0].name if len(shared) > 1 else GROUP
    by = {level.name: _joined(level.by) for level in shared}
    # A column that is also a level's is asked about once.
    level_of = {column: name for name, column in by.items()} if len(shared) > 1 else {}
    found: dict[tuple[str, str, str], str] = {}
    for key in numbers:
        if match := PROBE.fullmatch(key):
            level, factor, code, explained = match.groups()
            # Only of shared levels' own groups is every level asked, by its name; else a name is of who plays it.
            if factor not in by or len(shared) < 2 or explained:
                level = names.get(level, level)
            if level in order:
                found.setdefault((level_of.get(factor, factor) or grouping, level, code), key)
    if not found:
        return None
    columns = sorted(
        {(level, code) for _, level, code in found}, key=lambda c: (order.index(c[0]), list(CODES).index(c[1]))
    )
    rows = sorted(
        {factor for factor, _, _ in found}, key=lambda f: (f != GROUP, order.index(f) if f in order else len(order), f)
    )
    asked = {GROUP: _joined(shared[0].by) if shared else "group"} | (by if len(shared) > 1 else {})
    return Matrix(
        [level + CODES[code] for level, code in columns],
        [
            (asked.get(factor, factor), [_cell(numbers, found.get((factor, *column))) for column in columns])
            for factor in rows
        ],
    )


def is_probe(label: str) -> bool:
    """Whether a row of the protocol's table is a key that the matrix shows."""
    return PROBE.fullmatch(f"probe.{label}") is not None


def _cell(numbers: Mapping[str, float], key: str | None) -> Cell | None:
    if key is None:
        return None
    explained = key.endswith(".r2")
    factor = key.split(".")[2:-2]
    chance = 0.0 if explained else numbers.get(".".join(["probe", *factor, "chance"]), numbers.get("probe.chance"))

    def text(value: float) -> str:
        return f"R² {value:.2f}" if explained else f"{100 * value:.1f}"

    beside = [] if chance is None or explained else [f"chance {text(chance)}"]
    beside += [
        f"{name} {text(numbers[place])}"
        for control, name in CONTROLS.items()
        if (place := f"control.{control}.{key}") in numbers
    ]
    beyond = (numbers[key] - chance) / (1 - chance) if chance is not None and chance < 1 else 0.0
    return Cell(text(numbers[key]), ", ".join(beside), round(min(1.0, max(0.0, beyond)), 2))


def _joined(by: str | tuple[str, ...] | None) -> str:
    return by if isinstance(by, str) else " and ".join(by or ())
