"""Whether observations occur twice: in both parts of a split, or nearly so within a group."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.data.grouped import GroupedData
from mlvae.grouping import Grouping

NEAR = 0.05
"""Members are near-duplicates below this share of the root mean square distance between observations."""

CHANCE = 0.05
"""Pairs of independent members that are told of, in the mean."""

COMPARED = 2000
"""Observations that near-duplicates are looked for among."""


def fingerprints(data: GroupedData) -> np.ndarray[Any, Any]:
    """(N,) uint64 of each observation: equal where its numbers are, else different but for one chance in 2^64."""
    marks = []
    for part in data.chunks():
        rows = part.contiguous().numpy().reshape(len(part), -1)
        marks.append(b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows))
    return np.frombuffer(b"".join(marks), np.uint64)


def leaks(train: GroupedData, new: GroupedData) -> np.ndarray[Any, Any]:
    """Observations that are in both parts, to the last bit.

    Returns:
        (M, 2) a row of `train` and a row of `new` that are equal; each row of `new` at most once, in its order.

    Example:
        >>> train = GroupedData.from_arrays([[1.0], [2.0], [3.0]], [0, 0, 1])
        >>> leaks(train, GroupedData.from_arrays([[9.0], [2.0]], [5, 5])).tolist()
        [[1, 1]]
    """
    known, asked = fingerprints(train), fingerprints(new)
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], asked).clip(max=len(known) - 1)
    rows = np.flatnonzero(known[order][place] == asked)
    return np.stack([order[place[rows]], rows], 1)


def near_duplicates(data: GroupedData, near: float = NEAR, seed: int = 0) -> np.ndarray[Any, Any]:
    """Members of one group that are almost the same observation: their votes count twice what one is worth.

    Looked for among at most 2,000 observations, in whole groups drawn at random; of a larger group its first 2,000.

    Args:
        data: with groups.
        near: how near, as a share of the root mean square distance between observations; where these have few
            directions, as in a table of few columns, nearer, so that independent members are seldom told of.
        seed: of the groups.

    Returns:
        (M, 2) rows of pairs, the first the smaller.
    """
    ids = data.codes(data.by or "").numpy()
    order = np.random.default_rng(seed).permutation(int(ids.max()) + 1)
    place = np.argsort(order)[ids]
    rows = np.argsort(place, kind="stable")[:COMPARED]
    x = _standard(data.x[torch.from_numpy(rows)])
    limit = torch.minimum(near * (2 * x.var(0, correction=0).sum()).sqrt(), _by_chance(x, place[rows]))
    pairs = []
    for start in np.unique(place[rows]):
        members = np.flatnonzero(place[rows] == start)
        distance = torch.cdist(x[members], x[members], compute_mode="donot_use_mm_for_euclid_dist")
        close = torch.triu(distance < limit, diagonal=1).nonzero().numpy()
        pairs.append(np.sort(rows[members[close]], 1))
    return np.concatenate(pairs).reshape(-1, 2)


def _by_chance(x: Tensor, owner: np.ndarray[Any, Any]) -> Tensor:
    """A distance below which no two of these would be expected, (), were members independent and normal.

    Of n pairs p = .05/n lie below ε times their root mean square distance where, in d directions,
    (d ε²/2)^(d/2) / Γ(d/2 + 1) = p; d is (tr S)² / tr S² of the covariance S within groups.
    """
    grouping = Grouping.from_ids(owner)
    rest = x - grouping.expand(grouping.mean(x))
    square = rest.square().sum() / len(rest)
    gram = rest.T @ rest if rest.shape[1] < len(rest) else rest @ rest.T
    if not square > 0:
        return torch.tensor(torch.inf, dtype=x.dtype)
    d = float((square * len(rest)) ** 2 / gram.square().sum())
    pairs = float((grouping.sizes * (grouping.sizes - 1)).sum()) / 2
    share = 2 / d * math.exp(2 / d * (math.log(CHANCE / max(pairs, 1.0)) + math.lgamma(d / 2 + 1)))
    return (2 * square * share).sqrt()


def _standard(x: Tensor) -> Tensor:
    """Numbers with gaps at their mean; of tables each column by its own spread, so that none drowns the rest."""
    x = x.flatten(1).double()
    gone = torch.isnan(x)
    mean = torch.where(gone, 0.0, x).sum(0) / (~gone).sum(0).clamp_min(1)
    x = torch.where(gone, mean, x)
    spread = x.std(0)
    return x if x.shape[1] > 64 else x / torch.where(spread > 0, spread, 1.0)
