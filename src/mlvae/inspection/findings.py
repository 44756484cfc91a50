"""A look at data before training: what is in them, what is wrong with them, and what to run next."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlvae.calibration import FEWEST
from mlvae.data import GroupedData, GroupSampler, LevelSampler
from mlvae.data.checks import COMPARED, leaks, near_duplicates
from mlvae.data.designs import Design
from mlvae.data.splits import SHARES, SPLITS, TEST, marked, spared
from mlvae.inspection.columns import combined, distinct, levels_of, relation
from mlvae.labels import is_missing
from mlvae.levels import Level
from mlvae.likelihoods import likelihood_for

SAMPLE = 20_000
"""Observations, evenly spaced, that features are judged by."""

STEPS, GROUPS, MEMBERS = 4000, 70, (2, 8)
"""What training makes without a number of epochs, the sub-groups of a batch, and how many members these have."""

FEW_GROUPS, FEW_MEMBERS = 100, 50
"""Up to so many groups of so few pictures, deformed copies are proposed. Seen to help with 30 groups of 10."""

RISES = 10
"""Steps within groups that whole numbers must all rise by to be taken for a counter: of fewer it may be chance."""

EXACT = 2**24
"""Below it, float32 tells whole numbers apart."""

SHOWN = 12
"""Features and columns told of one by one."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What `inspect` found.

    Args:
        data: that were looked at.
        sizes: (G,) members of each group.
        bins: the histogram of group sizes: for each bar its text and how many groups are in it.
        features: for each feature of a table, or "feature 3" of an array, what is wrong with it: missing, constant.
        columns: for each column of labels what it is to the grouping.
        likelihood: the suggested one, with its settings.
        levels: the suggested levels, or those that were asked about and what their groups are.
        layout: the batches of training's defaults.
        problems: what should be mended first.
        options: of `mlvae train`, by name, that the problems advise.
        kept_out: what is kept out of training, and by which column; empty where nothing is.
        asked: the levels are those that were asked about.
    """

    data: GroupedData
    sizes: np.ndarray[Any, Any]
    bins: list[tuple[str, int]]
    features: dict[str, str]
    columns: dict[str, str]
    likelihood: str
    levels: list[str]
    layout: str
    problems: list[str]
    options: dict[str, str]
    kept_out: str = ""
    asked: bool = False

    def text(self) -> str:
        """All of it, for a terminal."""
        sizes, data = self.sizes, self.data
        lines = [repr(data), "", f"Groups: {len(sizes):,} by {data.by!r}, of {sizes.min():,} to {sizes.max():,}, median"
                 f" {np.median(sizes):,.0f}; {int((sizes == 1).sum()):,} of one"]  # fmt: skip
        widest, most = max(len(name) for name, _ in self.bins), max(count for _, count in self.bins)
        lines += [f"  {name:>{widest}} | {'#' * -(-40 * count // most)} {count:,}" for name, count in self.bins]
        lines += ["", self.kept_out] if self.kept_out else []
        names = [feature.name for feature in data.schema.features]
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        lines += ["", f"Features: {', '.join(names[:SHOWN])}{more}"] if names else []
        for title, found in (("Columns", self.columns), ("Features to look at", self.features)):
            if found:
                lines += ["", f"{title}:", *(f"  {name}: {what}" for name, what in list(found.items())[:SHOWN])]
                lines += [f"  and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else []
        lines += ["", f"Likelihood: {self.likelihood}"]
        rows = ["Levels:", *(f"  {level}" for level in self.levels)]
        lines += rows if self.asked else [f"Levels to think of: {', '.join(self.levels)}"]
        lines += [f"Batches: {self.layout}"]
        lines += ["", *(f"! {problem}" for problem in self.problems)] if self.problems else []
        return "\n".join(lines)


def inspect(
    data: GroupedData,
    new: GroupedData | None = None,
    split: str | None = None,
    features: str | None = None,
    levels: Sequence[Level] = (),
) -> Inspection:
    """Looks at data with groups.

    Args:
        data: the training part, or all there are.
        new: the part kept out of it, if there is one: what is in both is told.
        split: the column that keeps it out.
        features: as `read` was asked for them, for advice on which to leave out.
        levels: that are to be learned, to be looked at in place of suggested ones.

    Returns:
        What was found. Features are judged by at most 20,000 observations, near-duplicates by at most 2,000.

    Example:
        >>> import mlvae
        >>> found = inspect(*mlvae.read("digits").split(column="split"), split="split")
        >>> found.likelihood, found.levels
        ('Bernoulli', ['content by group', 'style'])
        >>> found.kept_out
        "Kept out of training by 'split': 359 rows of 10 groups, 0 of them new"
    """
    shared = [level.by for level in levels if level.by is not None]
    if len(shared) == 1 and not isinstance(shared[0], str):
        data, new = combined(data, shared[0]), None if new is None else combined(new, shared[0])
    sizes = np.bincount(data.codes(data.by or "").numpy())
    sample = data.sample(SAMPLE)
    schema = data.schema.fitted(sample, data.columns)
    likelihood = likelihood_for(sample, schema)
    settings = {
        name: value for name, value in likelihood.settings().items() if value and name not in ("shape", "columns")
    }
    named = type(likelihood).__name__ + (f" {settings}" if settings else "")
    # Names of picture files are no factor, though 1.png may be in every folder.
    keys = [(level.by,) if isinstance(level.by, str) else level.by for level in levels if level.by]
    passed_over = {data.by, split, "file" if schema.image_size else None, *itertools.chain(*keys)}
    columns = {name: relation(data, name) for name in data.columns if name not in passed_over}
    troubles: list[str] = []
    above = [name for name, what in columns.items() if what.startswith("coarser")]
    coarser = distinct(data, [name for name in above if not is_missing(data.column(name)).any()])
    suggested = [f"{name} by {name}" for name in coarser] + [f"content by {data.by}"]
    suggested += [*(f"{covariate.name} as a covariate" for covariate in schema.covariates), "style"]
    if levels:
        suggested, troubles = levels_of(data, levels)
    several = len(shared) > 1
    if several:
        sampler = LevelSampler({each.name: data.codes(each.by) for each in levels if each.by}, GROUPS, MEMBERS)
        count = sampler.batches(0)
    else:
        count = len(GroupSampler(data.codes(data.by or ""), GROUPS, MEMBERS))
    layout = (
        f"{count:,} an epoch, each of up to {GROUPS} sub-groups of {MEMBERS[0]} to {MEMBERS[1]} members"
        f" ({len(data) / count:,.0f} observations); {-(-STEPS // count):,} epochs make {STEPS:,} steps"
    )
    kept_out = ""
    if new is not None:
        known, held = set(data.groups.tolist()), set(new.groups.tolist())
        by = f" by {split!r}" if split else ""
        kept_out = (
            f"Kept out of training{by}: {len(new):,} rows of {len(held):,} groups, {len(held - known):,} of them new"
        )
    problems, options = _problems(
        data, new, sizes, _counters(data, len(sample), _finest(data, levels)), features, levels if several else (),
        bool(levels),
    )  # fmt: skip
    return Inspection(
        data, sizes, _bins(sizes), _features(data, sample), columns, named, suggested, layout, troubles + problems,
        options, kept_out, bool(levels),
    )  # fmt: skip


def _bins(sizes: np.ndarray[Any, Any]) -> list[tuple[str, int]]:
    """Each size where there are few, else doubling ranges."""
    values, counts = np.unique(sizes, return_counts=True)
    if len(values) <= 10:
        return [(f"{value:,}", int(count)) for value, count in zip(values, counts, strict=True)]
    edges = 2 ** np.arange(int(np.log2(sizes.min())), int(np.log2(sizes.max())) + 2)
    counted = np.histogram(sizes, edges)[0]
    return [(f"{low:,}-{high - 1:,}", int(n)) for low, high, n in zip(edges, edges[1:], counted, strict=False)]


def _features(data: GroupedData, sample: torch.Tensor) -> dict[str, str]:
    """Features with gaps, and those that never vary; of images only how many pixels that are."""
    x = sample.flatten(1)
    gone = torch.isnan(x).double().mean(0) if x.is_floating_point() else torch.zeros(x.shape[1])
    filled = torch.where(torch.isnan(x), -torch.inf, x) if x.is_floating_point() else x
    lowest = torch.where(torch.isnan(x), torch.inf, x).amin(0) if x.is_floating_point() else x.amin(0)
    constant = filled.amax(0) <= lowest
    if len(data.shape) > 1:
        still = int(constant.sum())
        found = {"pixels": f"{still:,} of {x.shape[1]:,} never vary"} if still else {}
        return found | ({"gaps": f"{float(gone.mean()):.1%} of all values"} if gone.any() else {})
    names = [feature.name for feature in data.schema.features] or [f"feature {n}" for n in range(x.shape[1])]
    found = {}
    for name, share, still in zip(names, gone.tolist(), constant.tolist(), strict=True):
        parts = ["never varies"] if still else []
        parts += [f"{share:.1%} missing"] if share else []
        if parts:
            found[name] = ", ".join(parts)
    return found


def _finest(data: GroupedData, levels: Sequence[Level]) -> torch.Tensor:
    """The groups of the finest level: (N,) ids."""
    ids = [data.codes(level.by) for level in levels if level.by is not None] or [data.codes(data.by or "")]
    return max(ids, key=lambda each: int(each.max()))


def _counters(data: GroupedData, most: int, groups: torch.Tensor) -> list[str]:
    """Features of whole numbers that rise from each member of a group to the next, in the first rows.

    Beyond `EXACT` those that differ by less than what float32 can tell apart are equal here.
    """
    features = data.schema.features
    if not features:
        return []
    x, ids = data.x[:most], groups[:most]
    order = ids.argsort(stable=True)
    within = ids[order].diff() == 0
    steps, at = x[order].diff(dim=0)[within], x[order][1:][within]
    gone, up = torch.isnan(steps), steps > 0
    whole = ((x == x.round()) | torch.isnan(x)).all(0)
    rising = up | gone | ((steps == 0) & (at.abs() >= EXACT))
    found = whole & rising.all(0) & up.any(0) & ((~gone).sum(0) >= RISES)
    return [
        f.name for f, rises in zip(features, found.tolist(), strict=True) if rises and f.kind in ("number", "count")
    ]


def _validation(ids: np.ndarray[Any, Any]) -> float | None:
    """The least share that keeps enough out to calibrate by; None where training's default does, or none."""
    mask, _ = SPLITS[spared(ids.max() + 1)]
    for share in SHARES:
        kept = ids[mask(ids, share, np.random.default_rng(0))]
        if len(kept) - len(np.unique(kept)) >= FEWEST:
            return share if share != SHARES[0] else None
    return None


def _problems(
    data: GroupedData,
    new: GroupedData | None,
    sizes: np.ndarray[Any, Any],
    counters: list[str],
    features: str | None,
    several: Sequence[Level],
    named: bool,
) -> tuple[list[str], dict[str, str]]:
    """What should be mended, and the options that it advises: fewer where levels are named, and where several share."""
    problems: list[str] = []
    options: dict[str, str] = {}
    if data.skipped:
        problems.append(
            f"{len(data.skipped):,} files cannot be read, the first {data.skipped[0]}. Restore or remove them."
        )
    if len(sizes) == 1:
        problems.append("There is one group: nothing to tell groups apart by. Group by another column.")
    if (alone := int((sizes == 1).sum())) and len(sizes) > 1:
        problems.append(f"{alone:,} groups have one member: they teach nothing of what members share.")
    if 0 < len(counters) < len(data.schema.features):
        options["features"] = ",".join([features or "numbers", *(f"-{name}" for name in counters)])
        problems.append(
            f"{', '.join(counters)}: whole numbers that only rise within a group, as counters and identifiers do. What"
            f" is one should be no feature: --features {shlex.quote(options['features'])}."
        )
    picture = data.x.dtype == torch.uint8 and len(data.shape) > 1 and min(data.shape[-2:]) >= 16
    if not named and picture and 1 < len(sizes) <= FEW_GROUPS and np.median(sizes) <= FEW_MEMBERS:
        problems.append(
            f"{len(sizes):,} groups with {np.median(sizes):,.0f} pictures each are few to tell new ones by. Where a"
            " bent or stretched picture could be of another group, as of faces, train with --deformed 15."
        )
        options["deformed"] = "15"
    ids = data.codes(data.by or "").numpy()
    texts = {name: labels for name, labels in data.columns.items() if labels.dtype.kind in "OU" and name != data.by}
    split = next((name for name, labels in texts.items() if (labels == "train").any()), None)
    if new is None and split is not None:
        problems.append(
            f"{split}: says 'train' of some rows. To keep the others out of training: --split-column {split}."
        )
        options["split-column"] = split
    elif new is None and "split" not in data.columns and len(ids) > len(sizes) > 1:
        problems.append(f"No rows are kept out of training, so nothing could be measured on new ones: --test {TEST}.")
        options["test"] = str(TEST)
        left = ~SPLITS[spared(len(sizes))][0](ids, TEST, np.random.default_rng(0))
        ids = np.unique(ids[left], return_inverse=True)[1]
    if not several and "deformed" not in options and (share := _validation(ids)):
        problems.append(
            f"{SHARES[0]:.0%} of so few {spared(ids.max() + 1)}s are too few to"
            f" calibrate levels by. Keep more of them out of training: --validation {share}."
        )
        options["validation"] = str(share)
    if several:
        design = Design.of(data, several)
        if "split-column" in options:
            design = Design.of(data, several, ~marked(data.column(options["split-column"]), "")[0])
        elif "test" in options and (away := design.apart(design.out(TEST, 0), TEST, 0)) is not None:
            design = Design.of(data, several, ~away)
        found = design.calibrating(SHARES[0], 0, asked=False)
        problems += [f"{text}." for text in (found.sure, found.few) if text]
        if found.better is not None:
            options["validation"] = f"{found.better:g}"
    if not several and sizes.max() > 100 * np.median(sizes):
        problems.append(
            f"The largest group has {sizes.max() / len(data):.0%} of all observations. --resample draws groups with"
            " equal probability."
        )
        options["resample"] = ""
    if new is not None and len(common := leaks(data, new)):
        rows = ", ".join(f"{a} and {b}" for a, b in common[:3])
        problems.append(
            f"{len(common):,} of {len(new):,} rows kept out are in the training part too (rows of either"
            f" part, the first being 0: {rows})."
            " Remove them, or what is measured says nothing."
        )
    pairs = near_duplicates(data)
    if len(pairs):
        looked = min(len(data), COMPARED)
        rows = ", ".join(f"{a} and {b}" for a, b in pairs[:3])
        problems.append(
            f"{len(pairs):,} pairs of members are nearly the same, among {looked:,} observations looked at (rows,"
            f" the first being 0: {rows})."
            " Their votes count twice what one is worth: drop one of each."
        )
    return problems, options
