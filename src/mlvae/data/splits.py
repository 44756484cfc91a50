"""Which rows are new: whole groups that training never sees, or a share of each group's members."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mlvae.errors import DataError
from mlvae.grouping import places

if TYPE_CHECKING:
    from mlvae.data.grouped import GroupedData


def unseen_groups(ids: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """A share of the groups, at least one and not all: (N,) bool, True for every member of them.

    Example:
        >>> unseen_groups(np.array([0, 0, 1, 1]), 0.1, np.random.default_rng(0)).sum()
        np.int64(2)
    """
    total = int(ids.max()) + 1
    count = int(np.clip(round(share * total), min(1, total - 1), total - 1))
    return np.isin(ids, random.permutation(total)[:count])


def unseen_members(ids: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """A share of each group's members, at least one and not all: (N,) bool; nothing of groups of one.

    Example:
        >>> unseen_members(np.array([0, 0, 1]), 0.1, np.random.default_rng(0)).sum()
        np.int64(1)
    """
    sizes = np.bincount(ids)
    counts = np.clip(np.rint(share * sizes), np.minimum(1, sizes - 1), sizes - 1)
    return np.asarray(places(ids, random) < counts[ids])


def unseen_nested(
    ids: np.ndarray[Any, Any], coarse: np.ndarray[Any, Any], share: float, random: np.random.Generator
) -> np.ndarray[Any, Any]:
    """A share of the groups in each coarser one, never all of them: (N,) bool, True for every member of them.

    Raises:
        DataError: a group lies in several of the coarser ones.

    Example:
        >>> people, countries = np.arange(12) // 2, np.repeat([0, 1], 6)
        >>> new = unseen_nested(people, countries, 0.3, np.random.default_rng(0))
        >>> np.unique(people[new]), np.unique(countries[new])
        (array([2, 3]), array([0, 1]))
    """
    _, first = np.unique(ids, return_index=True)
    within = coarse[first]
    if (within[ids] != coarse).any():
        raise DataError("Expected each group to lie within one of the coarser groups; some lie in several.")
    sizes = np.bincount(within)
    counts = np.clip(np.floor(share * sizes + 0.5), 0, np.maximum(sizes - 1, 0))
    return np.asarray((places(within, random) < counts[within])[ids])


def members_of_many(ids: np.ndarray[Any, Any], most: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Rows in order, up to ``most``: of groups in a random order up to 20 members each, of few groups more.

    Rows drawn one by one from many groups would be alone in theirs.

    Example:
        >>> rows = members_of_many(np.arange(10_000) // 10, 2000, np.random.default_rng(0))
        >>> np.unique(np.bincount(rows // 10))
        array([ 0, 10])
    """
    groups = int(ids.max()) + 1
    rank, order = places(ids, random), random.permutation(groups)
    some = np.flatnonzero(rank < max(20, most // groups))
    return np.sort(some[np.argsort(order[ids[some]], kind="stable")][:most])


SPLITS = {
    "group": (unseen_groups, "at least two groups"),
    "observation": (unseen_members, "a group of at least two"),
}
"""By name: which rows are new, and what data must have for it."""

MANY_GROUPS = 20
"""From as many groups on, whole ones can be spared; with fewer, only observations of each."""

TEST = 0.2
"""The share that is proposed to be kept out of training, to measure on."""

SHARES = (0.05, 0.1, 0.15, 0.2, 0.3)
"""Of the training part, to calibrate levels on: the default, and what else is proposed where that is too little."""

WHOLE = 0.2
"""The most that is kept for it without being asked, of groups nested in others: few people tell of a country."""


def spared(groups: int) -> str:
    """How to take a share out of data of so many groups, as `SPLITS` has it."""
    return "group" if groups >= MANY_GROUPS else "observation"


def share(test: float) -> float:
    """Raises:
    DataError: `test` is no share.
    """
    if not 0 < test < 1:
        raise DataError(f"Expected a share between 0 and 1 to keep out; got {test}.")
    return test


def chosen(
    by: str, ids: np.ndarray[Any, Any], coarse: np.ndarray[Any, Any] | None, test: float, seed: int
) -> np.ndarray[Any, Any]:
    """Which rows are new, (N,) bool: as `SPLITS` has it, or with coarser groups a share of the groups in each.

    Raises:
        DataError: `test` is no share, or a group lies in several of the coarser ones.
    """
    random = np.random.default_rng(seed)
    if coarse is not None:
        return unseen_nested(ids, coarse, share(test), random)
    return SPLITS[by][0](ids, share(test), random)


def marked(labels: np.ndarray[Any, Any], column: str) -> tuple[np.ndarray[Any, Any], str]:
    """Rows whose label is neither 0 nor "train", (N,) bool, and what the column must have.

    Raises:
        DataError: no row says either.

    Example:
        >>> marked(np.array(["train", "test", "train"]), "part")[0], marked(np.array(["0", "1"]), "part")[0]
        (array([False,  True, False]), array([False,  True]))
    """
    old = labels == 0 if labels.dtype.kind in "biuf" else np.isin(labels.astype(str), ("0", "train"))
    if not old.any():
        found = np.unique(labels).tolist()
        raise DataError(
            f"Expected 0 or 'train' in those rows of column {column!r} that are for training; it has"
            f" {', '.join(map(repr, found[:3]))}{' and others' * (len(found) > 3)}. Change them, or name another"
            " column."
        )
    return ~old, f"column {column!r} to be 0 or 'train' in some rows and not in others"


def latest(times: np.ndarray[Any, Any], column: str, share: float) -> np.ndarray[Any, Any]:
    """The rows that came last, about a share of all: (N,) bool. Rows of one time are on one side.

    Raises:
        DataError: neither numbers nor times, or some are missing.

    Example:
        >>> latest(np.array([3, 1, 2, 2]), "when", 0.25)
        array([ True, False, False, False])
    """
    if times.dtype.kind not in "iufMm" or bool((np.isnat if times.dtype.kind in "mM" else np.isnan)(times).any()):
        raise DataError(f"Expected a number or a time in every row of {column!r}; got {times.dtype}, or gaps.")
    ordered = np.sort(times)
    count = int(np.clip(round(share * len(times)), 1, len(times) - 1))
    cut = ordered[-count]
    return np.asarray(times >= cut if cut > ordered[0] else times > cut)


def group_folds(ids: np.ndarray[Any, Any], k: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """The fold of each row, (N,) of 0..k-1: whole groups, as many in each to within one.

    Raises:
        DataError: fewer groups than folds, or fewer than two folds.
    """
    total = int(ids.max()) + 1
    if not 2 <= k <= total:
        raise DataError(f"Expected from 2 folds to as many as there are groups, {total}; got {k}.")
    return np.asarray((random.permutation(total) % k)[ids])


def split(
    data: GroupedData,
    by: str = "group",
    *,
    of: str | tuple[str, ...] | None = None,
    within: str | tuple[str, ...] | None = None,
    column: str | None = None,
    time: str | None = None,
    test: float = 0.2,
    seed: int = 0,
) -> tuple[GroupedData, GroupedData]:
    """Training data and new data.

    Args:
        by: "group": the two share no group. "observation": a share of each group's members is new, at
            least one; groups of one stay in training. "time": what came last, by the column `time`, is new.
        of: the grouping, a column or a combination of several, in place of the data's own.
        within: with by="group" a coarser grouping, of whose each group a share of groups is new, people of each
            country; never all of them, and none where that is less than half a group.
        column: split by this column instead: rows of value 0 (or "train") are for training, all others are new.
        time: the column of numbers or times for by="time"; rows of one time stay together.
        test: the share that is new, between 0 and 1.
        seed: the same seed gives the same split.

    Returns:
        (train, new): together every observation, none in both.

    Raises:
        DataError: an argument is out of range, or one side would be empty.

    Example:
        >>> from mlvae import GroupedData
        >>> data = GroupedData.from_arrays(np.zeros((10, 2)), np.arange(10) // 2)
        >>> train, new = data.split(by="group", test=0.2)
        >>> len(train), len(new), set(train.groups) & set(new.groups)
        (8, 2, set())
        >>> data = GroupedData.from_arrays(np.zeros((10, 2)), columns={"who": np.arange(10) // 2, "land": [0] * 10})
        >>> _, new = data.split(of="who", within="land")
        >>> np.unique(new.column("who"))
        array([3])
    """
    if (of, within) != (None, None) and (column is not None or by == "time"):
        raise DataError("Expected `of` and `within` with by='group' or 'observation' alone; got more. Drop some.")
    if within is not None and (by != "group" or of is None):
        raise DataError(f"Expected by='group' and `of` beside within={within!r}; got by={by!r}, of={of!r}.")
    if column is not None:
        new, what = marked(data.column(column), column)
    elif by == "time":
        if time is None:
            raise DataError("Expected the column of times for by='time'; got none. Pass time='...'.")
        new, what = latest(data.column(time), time, share(test)), f"at least two different times in {time!r}"
    elif by in SPLITS:
        coarse = None if within is None else data.codes(within).numpy()
        new = chosen(by, data.codes(data.grouping_column if of is None else of).numpy(), coarse, test, seed)
        what = SPLITS[by][1] if within is None else f"enough groups of {of!r} in those of {within!r}"
    else:
        raise DataError(
            f"Expected `by` 'group', 'observation' or 'time'; got {by!r}. For a column: split(column={by!r})."
        )
    if new.all() or not new.any():
        raise DataError(f"Expected {what}, to have both training and new data; got none of one side in {data!r}.")
    return data.subset(~new), data.subset(new)


def folds(data: GroupedData, k: int = 5, *, seed: int = 0) -> Iterator[tuple[GroupedData, GroupedData]]:
    """Group k-fold: k times (train, new), whose new parts are k disjoint sets of whole groups, about equally many.

    Raises:
        DataError: fewer groups than folds, or fewer than two folds.

    Example:
        >>> from mlvae import GroupedData
        >>> data = GroupedData.from_arrays(np.zeros((10, 2)), np.arange(10) // 2)
        >>> [len(new) for _, new in data.folds(5)]
        [2, 2, 2, 2, 2]
    """
    ids = data.codes(data.grouping_column).numpy()
    fold = group_folds(ids, k, np.random.default_rng(seed))
    return ((data.subset(fold != number), data.subset(fold == number)) for number in range(k))
