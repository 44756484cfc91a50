"""Are posteriors as narrow as they say? What k observations conclude, against what all n of the group do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlvae.errors import DataError
from mlvae.evaluate.curve import check_ks, exact, named_readout, pooled
from mlvae.evidence import Evidence
from mlvae.grouping import Grouping

LEAST_GAP = 0.01
"""Dimensions whose variance falls by less say nothing about calibration: a ratio of two zeros."""
POSTERIORS = 2000
"""How many draws of all groups together there are at least."""
WITHIN_90 = 1.6449
"""Half the width of a 90 % interval in standard deviations."""


@dataclass(frozen=True)
class CalibrationPoint:
    """How far posteriors from k observations are from those of the whole group, in units of what they promised.

    Args:
        ratio: mean of (m_k - m_n)² / (V_k - V_n): 1 is calibrated, above is over-confident, below under-confident.
            None where no dimension took part.
        coverage90: share of m_n within the 90 % interval around m_k; 0.9 is calibrated. None where none took part.
        used: share of dimensions (over groups and draws) that took part, those with V_k - V_n > 0.01.
        groups: how many groups took part, those of at least 2k members.
    """

    ratio: float | None
    coverage90: float | None
    used: float
    groups: int


def calibration(
    votes: Evidence,
    groups: Any,
    readout: str = "product_with_prior",
    *,
    ks: Sequence[int] = (1, 2, 5, 10),
    draws: int | None = None,
    seed: int = 0,
) -> dict[int, CalibrationPoint]:
    """Compares the posterior from k random members of each group with that from all n of them.

    The k are among the n, so that for a right posterior the two means differ with variance V_k - V_n exactly, whatever
    n is. Groups of fewer than 2k members take no part: there the two posteriors are nearly one.
    It cannot show a bias that all members of a group share: both posteriors have it.

    Args:
        votes: of one level, N rows, one an observation.
        groups: (N,) labels.
        readout: the level's, a name in `mlvae.evidence.READOUTS`.
        ks: how many members; a k for which no group has 2k is left out.
        draws: random subsets of each group; by default 20, and with fewer than 100 groups as many as make 2,000
            posteriors: a few misread observations have most of the error, and some must be among them.
        seed: the same seed gives the same subsets.

    Returns:
        By k.

    Raises:
        DataError: votes and labels differ in number, votes are not finite, or some k or ``draws`` is below one.
        ModelError: there is no such readout.
        EvidenceError: the readout has no meaning for these votes.

    Example:
        >>> votes = Evidence.votes(torch.tensor([[-0.5], [0.5]]), torch.ones(2, 1))
        >>> result = calibration(votes, ["ann", "ann"])          # V_1 = 1/2, V_2 = 1/3, m_1 = ±1/4, m_2 = 0
        >>> {k: round(each.ratio, 3) for k, each in result.items()}
        {1: 0.375}
    """
    read = named_readout(readout)
    votes, labels = exact(votes, groups)
    check_ks(ks)
    if draws is not None and draws < 1:
        raise DataError(f"Expected `draws` of at least 1; got {draws}.")
    grouping = Grouping.from_ids(labels)
    index, sizes = grouping.index.numpy(), grouping.sizes.numpy()
    draws = draws or max(20, math.ceil(POSTERIORS / max(1, int((sizes >= 2 * min(ks)).sum()))))
    begin = np.cumsum(sizes) - sizes
    whole = read(votes.sum(grouping))
    random = np.random.default_rng(seed)
    # The first members of each group in an order of its own: all that are asked for, where a group has as many.
    places = np.minimum(begin[:, None] + np.arange(max(ks)), len(index) - 1)
    firsts = [np.lexsort((random.random(len(index)), index))[places] for _ in range(draws)]
    results = {}
    for k in ks:
        able = np.flatnonzero(sizes >= 2 * k)
        if not len(able):
            continue
        full = whole[torch.from_numpy(able)]
        ratios, taken = [], 0
        for members in firsts:
            part = read(pooled(votes, torch.from_numpy(members[able, :k])))
            gap = part.variance - full.variance
            kept = gap > LEAST_GAP
            ratios.append((part.mean - full.mean)[kept] ** 2 / gap[kept])
            taken += kept.numel()
        ratio = torch.cat(ratios)
        some = len(ratio) > 0
        results[k] = CalibrationPoint(
            ratio=ratio.mean().item() if some else None,
            coverage90=(ratio <= WITHIN_90**2).double().mean().item() if some else None,
            used=len(ratio) / taken,
            groups=len(able),
        )
    return results
