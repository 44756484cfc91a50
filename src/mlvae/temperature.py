"""How far votes are to be believed: one temperature a dimension, fitted on groups kept out of training.

Members are taken as independent given the latent, and seldom are; so votes of groups never seen scatter around their
group's value more (or less) than their precision promises. Divided by its temperature a vote is worth what it says,
and votes still add.

    T = Σ_i Λ_i (μ_i - m_g(i))² / (N - G),    m_g = Σ Λμ / Σ Λ over the members of g
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlvae import inference
from mlvae.batch import nests
from mlvae.errors import DataError
from mlvae.evidence import Evidence
from mlvae.grouping import Grouping

if TYPE_CHECKING:
    from mlvae.model import MLVAE
from mlvae.schema import Covariates

COLDEST = 0.25
"""The least: where a dimension holds nothing, votes do not scatter at all and would come out infinitely sure."""

FEWEST = 30
"""Members beyond the first of their group, over all groups, without which a temperature is not worth fitting."""


def temperature(votes: Evidence, grouping: Grouping) -> Tensor:
    """By how much the votes of a group scatter beyond their promise: the maximum-likelihood scale of their variances.

    Args:
        votes: N votes of one level, in D dimensions.
        grouping: their groups; those of one member say nothing.

    Returns:
        (D,), at least 0.25. One for votes whose variance is what it is said to be.

    Raises:
        DataError: fewer than 30 members beyond the first of each group.

    Example:
        >>> import torch
        >>> draws = torch.Generator().manual_seed(0)
        >>> mean = 3 * torch.randn(2000, 1, generator=draws)      # said to have variance 1, has 9
        >>> temperature(Evidence.votes(mean, torch.ones(2000, 1)), Grouping.from_ids([0, 1] * 1000)).round()
        tensor([9.])
    """
    surplus = len(votes) - grouping.num_groups
    if surplus < FEWEST:
        raise DataError(
            f"Expected at least {FEWEST} members beyond the first of each group to fit a temperature; got {surplus}"
            f" ({len(votes)} observations of {grouping.num_groups} groups). Keep more observations out of training."
        )
    return _scatter(votes, grouping)


def _scatter(votes: Evidence, grouping: Grouping) -> Tensor:
    surplus = len(votes) - grouping.num_groups
    centre = votes.sum(grouping)
    gap = votes.information / votes.precision - grouping.expand(centre.information / centre.precision)
    return ((votes.precision * gap**2).sum(0) / surplus).clamp_min(COLDEST)


@torch.no_grad()
def temper(model: MLVAE, x: inference.Array, groups: inference.Groups, covariates: Covariates = None) -> None:
    """Fits the temperatures of every shared level, in place; a former temperature is forgotten.

    Where a level is nested in another, the coarser one is fitted on the summed votes of the finer one's groups: people
    scatter around their country more than their pictures around them. It is right for groups of the size seen here.

    Args:
        model: after training.
        x: (N, *shape), observations that training did not see: of groups that it did not see, where there are enough.
        groups: labels, as `MLVAE.evidence` takes them.
        covariates: likewise.

    Raises:
        DataError: too few members.
    """
    for level in model.group_levels:
        model.temperature(level.name).fill_(1)
    cast = inference.votes(model, x, groups, covariates)
    nested = nests({name: grouping for name, (_, grouping) in cast.items()})
    for name, (votes, grouping) in cast.items():
        fitted = temperature(votes, grouping)
        if finer := [cast[fine][1] for fine, coarse in nested if coarse == name]:
            witnesses = min(finer, key=lambda each: each.num_groups)
            owners = Grouping(grouping.index[witnesses.first], grouping.num_groups)
            fitted = _scatter(votes.sum(witnesses), owners)
        model.temperature(name).copy_(fitted)
