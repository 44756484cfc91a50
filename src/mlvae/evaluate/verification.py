"""One group or two, and known or new: decisions by the exact Bayes factor, and what its odds are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError
from mlvae.evaluate.curve import exact, pooled
from mlvae.evaluate.few_shot import BOOTSTRAPS, draw
from mlvae.evidence import Evidence
from mlvae.group_evidence import GroupEvidence

BINS = 10
COMPARED = 2000
"""Groups, at most, of a draw of `open_set`: each is compared with half of them."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Reliability:
    """Predicted probabilities of "same" against what happened, in bins of equally many pairs.

    Args:
        error: expected calibration error, the mean over pairs of a bin's |predicted - observed|; 0 is perfect, and
            chance alone leaves about 0.01 at 10,000 pairs.
        predicted: by bin, from low to high, the mean probability.
        observed: by bin, the share of pairs that are the same.
    """

    error: float
    predicted: tuple[float, ...]
    observed: tuple[float, ...]


@dataclass(frozen=True)
class Verification:
    """How well the Bayes factor tells pairs of one group from pairs of two.

    Args:
        auc: chance that a same pair scores above a different one, a tie counting half; 0.5 is chance.
        low: lower end of its 95 % interval, by a bootstrap over groups: what other groups would have given. It is
            cautious: with a dozen groups about half as wide again as it need be.
        high: its upper end.
        eer: equal error rate, where as many different pairs are accepted as same pairs are refused.
        reliability: of the log-odds as probabilities.
        shots: observations on each side of a pair.
    """

    auc: float
    low: float
    high: float
    eer: float
    reliability: Reliability
    shots: int


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows to compare: left and right (P, shots), same (P,) bool, and the dense group index of each side, (P, 2)."""

    left: Tensor
    right: Tensor
    same: Array
    groups: Array


def draw_pairs(groups: Any, *, shots: int = 1, pairs: int = 10_000, seed: int = 0) -> Pairs:
    """Draws as many pairs of one group as of two; groups are equally likely, no observation is on both sides.

    Args:
        groups: (N,) labels; groups of fewer than ``2 * shots`` members take no part, in either kind of pair.
        shots: observations on each side.
        pairs: P; an odd one is rounded down.
        seed: the same seed gives the same pairs.

    Raises:
        DataError: fewer than two groups have ``2 * shots`` members, or a number is below its least.
    """
    for name, value, least in (("shots", shots, 1), ("pairs", pairs, 2)):
        if value < least:
            raise DataError(f"Expected `{name}` of at least {least}; got {value}.")
    able = int((np.unique(np.asarray(groups), return_counts=True)[1] >= 2 * shots).sum())
    if able < 2:
        raise DataError(
            f"Expected at least two groups of {2 * shots} members or more for pairs of {shots} against {shots}; got"
            f" {able}. Ask for fewer shots."
        )
    # Two groups and 2 * shots members of each: the first group's two halves are the same pair, and its first half
    # with the other group's second is the different one. So both kinds have sides of one distribution.
    drawn = draw(groups, way=2, shots=2 * shots - 1, episodes=pairs // 2, seed=seed)
    rows, both = torch.cat([drawn.support, drawn.query[..., None]], 2), drawn.groups.numpy()
    return Pairs(
        left=rows[:, 0, :shots].repeat(2, 1),
        right=torch.cat([rows[:, 0, shots:], rows[:, 1, shots:]]),
        same=np.repeat([True, False], len(rows)),
        groups=np.concatenate([both[:, [0, 0]], both]),
    )


def verify(votes: Evidence, groups: Any, *, shots: int = 1, pairs: int = 10_000, seed: int = 0) -> Verification:
    """Same or different, by log Z(A + B) - log Z(A) - log Z(B) of two evidences of ``shots`` observations each.

    The Bayes factor has a meaning only where the level's readout is "product_with_prior". Pairs are half same and half
    different, so its logarithm is also the log posterior odds, and `Reliability` reads it so.

    Args:
        votes: of one level, N rows, one an observation.
        groups: (N,) labels.
        shots, pairs, seed: as for `draw_pairs`.

    Raises:
        DataError: as `draw_pairs`; votes and labels differ in number, or votes are not finite.

    Example:
        >>> votes = Evidence.votes(torch.tensor([[-3.0], [-3.1], [3.0], [3.1]]), torch.full((4, 1), 10.0))
        >>> result = verify(votes, ["a", "a", "b", "b"])
        >>> result.auc, result.eer, result.reliability.error < 0.01
        (1.0, 0.0, True)
    """
    votes, labels = exact(votes, groups)
    drawn = draw_pairs(labels, shots=shots, pairs=pairs, seed=seed)
    left, right = pooled(votes, drawn.left), pooled(votes, drawn.right)
    scores = (left + right).log_evidence() - left.log_evidence() - right.log_evidence()
    values, rank = np.unique(scores.numpy(), return_inverse=True)
    same, different = drawn.same.astype(float), (~drawn.same).astype(float)
    low, high = _interval(rank, drawn)
    return Verification(
        auc=_auc(rank, same, different),
        low=low,
        high=high,
        eer=_eer(rank, same, different),
        reliability=_reliability(torch.sigmoid(torch.from_numpy(values)).numpy(), rank, same),
        shots=shots,
    )


@dataclass(frozen=True)
class OpenSet:
    """Queries of known and of new groups against a gallery of the known.

    Args:
        auc: chance that a query of a known group scores above one of a new group; 0.5 is chance.
        accuracy: share of the known groups' queries whose own group has the largest Bayes factor.
        known: groups in the gallery; chance of ``accuracy`` is one over it.
        new: groups that are not.
        shots: support observations of each known group.
    """

    auc: float
    accuracy: float
    known: int
    new: int
    shots: int


def open_set(
    votes: Evidence, groups: Any, *, share: float = 0.5, shots: int = 1, draws: int = 20, seed: int = 0
) -> OpenSet:
    """Is a query of some group of the gallery, or of none? By log mean_g BF_g, the log-odds of known against new.

    In a draw, a random share of the groups is the gallery, with ``shots`` members each; every group, known or new, has
    one more member as its query. These are the odds of `GroupEvidence.identify` with ``new=0.5``.

    Args:
        votes: of one level, N rows, one an observation; the level's readout is "product_with_prior".
        groups: (N,) labels; groups of ``shots`` members or fewer take no part.
        share: of the groups, in the gallery; at least one group is in it and one is not.
        shots: support observations of each known group.
        draws: galleries; auc and accuracy are means over them.
        seed: the same seed gives the same galleries.

    Raises:
        DataError: fewer than two groups have ``shots + 1`` members, a number is out of its range, votes and labels
            differ in number, or votes are not finite.

    Example:
        >>> votes = Evidence.votes(torch.tensor([[-3.0], [-3.1], [3.0], [3.1]]), torch.full((4, 1), 10.0))
        >>> open_set(votes, ["a", "a", "b", "b"])
        OpenSet(auc=1.0, accuracy=1.0, known=1, new=1, shots=1)
    """
    votes, labels = exact(votes, groups)
    for name, value in (("shots", shots), ("draws", draws)):
        if value < 1:
            raise DataError(f"Expected `{name}` of at least 1; got {value}.")
    if not 0 < share < 1:
        raise DataError(f"Expected `share` between 0 and 1, the part of the groups in the gallery; got {share}.")
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    begin, able = np.cumsum(sizes) - sizes, np.flatnonzero(sizes > shots)
    if len(able) < 2:
        raise DataError(
            f"Expected at least two groups of {shots + 1} members or more, one known and one new; got {len(able)}."
            " Ask for fewer shots."
        )
    count = min(len(able), COMPARED)
    known = min(max(round(share * count), 1), count - 1)
    is_known = np.arange(count) < known
    random = np.random.default_rng(seed)
    results = []
    for _ in range(draws):
        order = np.lexsort((random.random(len(index)), index))
        rows = torch.from_numpy(order[begin[random.permutation(able)[:count]][:, None] + np.arange(shots + 1)])
        factors = _log_bayes_factors(pooled(votes, rows[:, -1:]), pooled(votes, rows[:known, :-1]))
        _, rank = np.unique(factors.logsumexp(1).numpy(), return_inverse=True)
        right = factors[:known].argmax(1) == torch.arange(known)
        results.append((_auc(rank, is_known.astype(float), (~is_known).astype(float)), right.double().mean().item()))
    auc, accuracy = np.mean(results, 0).tolist()
    return OpenSet(auc, accuracy, known, count - known, shots)


def _log_bayes_factors(queries: Evidence, gallery: Evidence) -> Tensor:
    """(Q, G) nats."""
    q, g = (GroupEvidence({"": e}, {"": "product_with_prior"}, {"": None}) for e in (queries, gallery))
    return q.log_bayes_factor(g, "")


def _auc(rank: Array, positive: Array, negative: Array) -> float:
    """Weighted chance that a positive ranks above a negative; scores are given as dense ranks."""
    p, n = np.bincount(rank, positive), np.bincount(rank, negative)
    return float(p @ (np.cumsum(n) - n / 2) / (p.sum() * n.sum()))


def _eer(rank: Array, positive: Array, negative: Array) -> float:
    """Where the ROC, straight between its points, crosses accepted negatives = refused positives."""
    curves = (np.append(0, np.cumsum(np.bincount(rank, w)[::-1])) / w.sum() for w in (positive, negative))
    accepted, false = curves
    return float(np.interp(0, accepted + false - 1, false))


def _reliability(probability: Array, rank: Array, same: Array) -> Reliability:
    """Bins of equally many pairs; within a tie every pair takes the tie's share, so that their order is nothing."""
    observed = np.bincount(rank, same) / np.bincount(rank)
    parts = np.array_split(np.sort(rank), min(BINS, len(rank)))
    predicted, seen, count = np.array([(probability[r].mean(), observed[r].mean(), len(r)) for r in parts]).T
    error = float(np.abs(predicted - seen) @ count / count.sum())
    return Reliability(error, tuple(predicted.tolist()), tuple(seen.tolist()))


def _interval(rank: Array, drawn: Pairs) -> tuple[float, float]:
    """Of the AUC, over resampled groups: a pair counts as often as its groups were drawn."""
    used, index = np.unique(drawn.groups, return_inverse=True)
    index = index.reshape(drawn.groups.shape)
    random = np.random.default_rng(0)
    areas = []
    for times in random.multinomial(len(used), np.full(len(used), 1 / len(used)), BOOTSTRAPS):
        a, b = times[index[:, 0]], times[index[:, 1]]
        same, different = a * drawn.same, a * b * ~drawn.same
        # A few groups may all be drawn away; then there is nothing to compare.
        if same.any() and different.any():
            areas.append(_auc(rank, same, different))
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(low), float(high)
