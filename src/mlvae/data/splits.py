"""Which rows are new: whole groups that training never sees, or a share of each group's members."""

from __future__ import annotations

import numpy as np


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
    order = np.lexsort((random.random(len(ids)), ids))
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(rank < counts[ids])
