"""What columns are to the grouping and to each other, and what levels would make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mlvae.batch import nests
from mlvae.data import GroupedData
from mlvae.errors import DataError
from mlvae.grouping import Grouping
from mlvae.labels import is_missing
from mlvae.levels import Level, check_groups, checked

STRAY = 0.1
"""Of groups, the share that lie in several of another level's where the levels were perhaps meant to be nested."""


def levels_of(data: GroupedData, levels: Sequence[Level]) -> tuple[list[str], list[str]]:
    """Each level that groups share in words, and what stands in the way of learning them, if anything.

    Example:
        >>> columns = {"land": [0, 0, 0, 0, 1, 1, 1, 1], "who": [0, 0, 1, 1, 2, 2, 3, 3]}
        >>> data = GroupedData.from_arrays(np.zeros((8, 2)), columns=columns, by="land")
        >>> for text in levels_of(data, [Level("land", 2, by="land"), Level("who", 4, by="who"), Level("style", 2)])[0]:
        ...     print(text)
        land: 2 groups of 4 rows, 2 of who in each
        who: 4 groups of 2 rows
        style: each row's own
    """
    groupings = {level.name: Grouping.from_ids(data.codes(level.by)) for level in checked(levels) if level.by}
    problems = []
    try:
        check_groups(levels, groupings)
    except DataError as error:
        problems.append(str(error))
    nested, lines = nests(groupings), []
    for level in levels:
        if level.by is None:
            lines.append(f"{level.name}: each row's own")
            continue
        grouping = groupings[level.name]
        by = level.by if isinstance(level.by, str) else ",".join(level.by)
        text = level.name if by == level.name else f"{level.name} by {by}"
        text += f": {grouping.num_groups:,} groups of {_range(grouping.sizes.numpy())} rows"
        for other, own in groupings.items():
            if (other, level.name) in nested:
                text += f", {_range(grouping.of(own).sizes.numpy())} of {other} in each"
            elif other != level.name and (level.name, other) not in nested:
                pairs = np.unique(own.index.numpy() * grouping.num_groups + grouping.index.numpy())
                share = len(pairs) / (grouping.num_groups * own.num_groups)
                text += f", crossed with {other} ({share:.0%} of the pairs)"
                several = int((np.bincount(pairs // grouping.num_groups) > 1).sum())
                if several <= STRAY * own.num_groups:
                    text += f", as {several:,} of {own.num_groups:,} {other} groups lie in several of {level.name}"
        lines.append(text)
    return lines, problems


def combined(data: GroupedData, by: tuple[str, ...]) -> GroupedData:
    """The same data, grouped by a combination of columns that is one column now."""
    name = ",".join(by)
    return replace(data, columns={**data.columns, name: data.column(by)}, by=name)


def _range(sizes: np.ndarray) -> str:
    low, high = int(sizes.min()), int(sizes.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def distinct(data: GroupedData, names: list[str]) -> list[str]:
    """Of columns with the same groups, as a country and its code, the first: they make one level."""
    kept: dict[str, Grouping] = {}
    for name in names:
        found = Grouping.from_ids(data.codes(name))
        if not any(found.num_groups == other.num_groups and found.refines(other) for other in kept.values()):
            kept[name] = found
    return list(kept)


def relation(data: GroupedData, name: str) -> str:
    """What a column is to the grouping: above it, across it, or within it."""
    labels = data.column(name)
    gone = is_missing(labels)
    gaps = f", {int(gone.sum()):,} missing" if gone.any() else ""
    values = np.unique(labels[~gone], return_inverse=True)[1] if data.by is not None else labels[~gone]
    if data.by is None or not len(values):
        return f"{len(set(values.tolist())):,} values{gaps}"
    ids = np.unique(data.codes(data.by).numpy()[~gone], return_inverse=True)[1]
    groups, count = int(ids.max()) + 1, int(values.max()) + 1
    if count == 1:
        return f"one value{gaps}: it says nothing"
    pairs = len(np.unique(ids * count + values))
    if count == len(data):
        return f"{count:,} values, each observation its own"
    if pairs == groups and count < groups:
        return f"coarser: {count:,} values{gaps}, one for each group; a level above content, or a covariate"
    if pairs == groups:
        return f"{count:,} values{gaps}, the same as the grouping"
    if pairs == groups * count:
        return f"crossed: {count:,} values{gaps}, each in every group; a level of its own, or a covariate"
    return f"{count:,} values{gaps}, {pairs / groups:.1f} in a group"
