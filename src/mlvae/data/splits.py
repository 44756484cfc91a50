"""Which rows are new: whole groups that training never sees, or a share of each group's members."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlvae.errors import DataError


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
    return np.asarray(_ranks(ids, random) < counts[ids])


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
    return np.asarray((_ranks(within, random) < counts[within])[ids])


def _ranks(ids: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """The place of each row among those of its group, in a random order."""
    sizes = np.bincount(ids)
    order = np.lexsort((random.random(len(ids)), ids))
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rank


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
