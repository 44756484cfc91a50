"""How much more observations of one group tell: accuracy and posterior variance at k = 1, 2, 5, ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError, ModelError, nearest
from mlvae.evaluate.probes import _linear
from mlvae.evidence import READOUTS, Evidence, Readout
from mlvae.grouping import Grouping


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
    """Names pools of k test observations by the linear probe fitted on single training observations.

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
            that no group reaches, is left out.
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
    names, y = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise DataError(f"Expected at least two training labels to tell apart; got {len(names)}.")
    if not (known := np.isin(named, names)).all():
        raise DataError(
            f"Expected test labels that occur in training; got {named[~known].tolist()[0]!r}."
            " Groups that training never saw are for few_shot."
        )
    if train.dim != test.dim:
        raise DataError(f"Expected votes of {train.dim} dimensions in both parts; got {test.dim} in the test part.")

    # Fitted once for all k, exactly as `probe` fits it.
    x = read(train).mean
    centre, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        fitted = _linear((x - centre) / scale, torch.from_numpy(y), len(names))

    index = np.searchsorted(names, named)
    order = np.lexsort((np.random.default_rng(seed).random(len(index)), index))
    sizes = np.bincount(index, minlength=len(names))
    group, place = index[order], np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    points = []
    for k in ks:
        rows = order[place < sizes[group] // k * k].reshape(-1, k)
        if not len(rows):
            continue
        posterior, right = read(pooled(test, torch.from_numpy(rows))), index[rows[:, 0]]
        with torch.no_grad():
            best = fitted((posterior.mean - centre) / scale).argmax(1).numpy()
        points.append(
            CurvePoint(
                k,
                accuracy=float((best == right).mean()),
                variance=posterior.variance.mean().item(),
                pools=len(rows),
                groups=len(np.unique(right)),
            )
        )
    return points


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
        DataError: their numbers differ, or a vote is not finite.
    """
    labels = np.asarray(groups)
    if labels.shape != (len(votes),) or not len(votes):
        raise DataError(f"Expected one group label for each of {len(votes)} observations, (N,); got {labels.shape}.")
    votes = votes.to(torch.float64, "cpu")
    if not (torch.isfinite(votes.precision).all() and torch.isfinite(votes.information).all()):
        raise DataError("Expected finite votes; got NaN or infinity. Has training diverged?")
    return votes, labels


def pooled(votes: Evidence, rows: Tensor) -> Evidence:
    """The summed votes of each pool; ``rows`` (P, k) are the observations in each."""
    pools, k = rows.shape
    return votes[rows.flatten()].sum(Grouping(torch.arange(pools).repeat_interleave(k), pools))
