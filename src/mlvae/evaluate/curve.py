"""How much more observations of one group tell: accuracy and posterior variance at k = 1, 2, 5, ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError, ModelError, nearest
from mlvae.evaluate.probes import probe
from mlvae.evidence import READOUTS, Evidence, Readout
from mlvae.grouping import Grouping, shuffled
from mlvae.labels import among, as_labels, refuse_missing


@dataclass(frozen=True)
class CurvePoint:
    """What pools of k observations of one group tell.

    Args:
        k: observations in a pool.
        accuracy: share of pools named rightly.
        variance: of the pools' posteriors, averaged over dimensions and pools.
        pools: how many there were.
        groups: how many groups had a pool; smaller ones take no part, so points with other groups compare badly.
    """

    k: int
    accuracy: float
    variance: float
    pools: int
    groups: int


def k_curve(
    train_votes: Evidence,
    train_labels: Any,
    test_votes: Evidence,
    test_labels: Any,
    readout: str = "product_with_prior",
    *,
    ks: Sequence[int] = (1, 2, 5, 10, 20),
    seed: int = 0,
) -> list[CurvePoint]:
    """Names pools of k test observations by a linear probe fitted on pools of k training observations.

    The pools are made by the *test* labels: at k > 1 averaging alone names groups that the votes hardly tell apart, so
    that an untrained network comes near 100 %. Its own curve must stand beside this one. k = 1 needs no label, and is
    `probe` on the posterior means.

    Args:
        train_votes: of one level, N rows, one an observation.
        train_labels: (N,).
        test_votes: of the same level, M rows.
        test_labels: (M,), none that is not among the training labels.
        readout: the level's, a name in `mlvae.evidence.READOUTS`.
        ks: sizes of pools. A group's pools are disjoint, in a random order of its members; what is left over, and a k
            that no two groups reach, is left out.
        seed: the same seed gives the same pools.

    Returns:
        One point a k, in the order of ``ks``.

    Raises:
        DataError: shapes disagree, votes are not finite, there are not two training labels, a test label is unknown in
            training, or some k is below one.
        ModelError: there is no such readout.
        EvidenceError: the readout has no meaning for these votes.

    Example:
        >>> votes = Evidence.votes(torch.tensor([[-1.0], [-1.0], [1.0], [1.0]]), torch.ones(4, 1))
        >>> for point in k_curve(votes, [0, 0, 1, 1], votes, [0, 0, 1, 1]):
        ...     print(point.k, point.pools, point.accuracy, round(point.variance, 3))
        1 4 1.0 0.5
        2 2 1.0 0.333
    """
    read = named_readout(readout)
    train, labels = exact(train_votes, train_labels)
    test, named = exact(test_votes, test_labels)
    check_ks(ks)
    names = np.unique(labels)
    if len(names) < 2:
        raise DataError(f"Expected at least two training labels to tell apart; got {len(names)}.")
    if not (known := among(named, names)).all():
        raise DataError(
            f"Expected test labels that occur in training; got {named[~known].tolist()[0]!r}."
            " Groups that training never saw are for few_shot."
        )
    if train.dim != test.dim:
        raise DataError(f"Expected votes of {train.dim} dimensions in both parts; got {test.dim} in the test part.")

    random = np.random.default_rng(seed)
    points = []
    for k in ks:
        parts = [(votes, _pools(of, k, random)) for votes, of in ((train, labels), (test, named))]
        (fitted, y), (asked, right) = ((read(pooled(votes, rows)), of) for votes, (rows, of) in parts)
        # A group too small for a pool in training cannot be named.
        known = among(right, y)
        if len(np.unique(y)) < 2 or not known.any():
            continue
        asked, right = asked[torch.from_numpy(np.flatnonzero(known))], right[known]
        points.append(
            CurvePoint(
                k,
                accuracy=probe(fitted.mean, y, asked.mean, right, "linear", seed).accuracy,
                variance=asked.variance.mean().item(),
                pools=len(right),
                groups=len(np.unique(right)),
            )
        )
    return points


def _pools(labels: np.ndarray[Any, Any], k: int, random: np.random.Generator) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """Rows of disjoint pools (P, k), each of one group, in a random order of its members; and the label of each."""
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order, place = shuffled(index, random)
    rows = order[place < np.repeat(sizes // k * k, sizes)].reshape(-1, k)
    return torch.from_numpy(rows), labels[rows[:, 0]]


def named_readout(name: str) -> Readout:
    """The readout of that name.

    Raises:
        ModelError: there is none.
    """
    if name not in READOUTS:
        raise ModelError(f"Expected a readout by name; got {name!r}. {nearest(name, READOUTS)}")
    return READOUTS[name]


def check_ks(ks: Sequence[int]) -> None:
    """Raises a DataError where some k is no number of observations."""
    if wrong := [k for k in ks if k < 1]:
        raise DataError(f"Expected every k to be at least 1; got {wrong[0]}.")


def exact(votes: Evidence, groups: Any) -> tuple[Evidence, np.ndarray[Any, Any]]:
    """Votes in float64 on the CPU, and a group label for each.

    Raises:
        DataError: their numbers differ, a label is missing, or a vote is not finite.
    """
    labels = as_labels(groups)
    if labels.shape != (len(votes),) or not len(votes):
        raise DataError(f"Expected one group label for each of {len(votes)} observations, (N,); got {labels.shape}.")
    refuse_missing(labels, "the groups")
    votes = votes.to(torch.float64, "cpu")
    if not (torch.isfinite(votes.precision).all() and torch.isfinite(votes.information).all()):
        raise DataError("Expected finite votes; got NaN or infinity. Has training diverged?")
    return votes, labels


def pooled(votes: Evidence, rows: Tensor) -> Evidence:
    """The summed votes of each pool; ``rows`` (P, k) are the observations in each."""
    pools, k = rows.shape
    return votes[rows.flatten()].sum(Grouping(torch.arange(pools).repeat_interleave(k), pools))
