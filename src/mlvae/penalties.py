"""Questions asked beyond the bound: does style know the group, does content name it, does one level know another's?

All are in nats, need no network and no label beyond the grouping. To add one: a function of samples or
votes and groups here, its weight in `Objective`, its line in `objective._penalties`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mlvae.evidence import Evidence
from mlvae.grouping import Grouping
from mlvae.normal import Normal


def dependence(posteriors: Normal, ids: Tensor, moments: int = 5) -> Tensor:
    """What posteriors tell of their group: how far each group's mixture of them is from the prior N(0, I).

    Expanded in Hermite polynomials, the divergence of a group's samples q from the prior is near

        ½ Σ_α (E_q He_α)² / α!   nats, over the multi-indices α of degree 1 (means), 2 (covariances), 3 and on.

    The squares are estimated from pairs of different observations of one group, each integrated over its posterior
    instead of sampled, so the value is unbiased: 0 in expectation where every group's samples have the prior's moments,
    at any size of groups and batch. The sum over such pairs is divided by the number of *all* pairs: two groups count
    half of the divergence, a thousand a thousandth, as their few pairs say little. That makes it HSIC (Gretton et al.
    2005) between "same group" and a kernel that the prior centres by itself: no density, no adversary, no bandwidth.

    Args:
        posteriors: N in D dimensions, of a latent that should not know the group.
        ids: (N,) the group in the data set.
        moments: the highest degree that is looked at.

    Returns:
        (); zero where no two observations share a group.

    Example:
        >>> ids = torch.arange(100) % 2
        >>> mean = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) / 2
        >>> apart = 2.0 * (ids - 0.5).unsqueeze(1)               # two groups, two apart in each D
        >>> precision = torch.full((100, 2), 4 / 3)              # so that without them samples are N(0, 1)
        >>> dependence(Normal(mean, precision), ids) < 0.1, dependence(Normal(mean + apart, precision), ids) > 1.0
        (tensor(True), tensor(True))
    """
    same = (ids[:, None] == ids[None, :]).to(posteriors.mean.dtype).fill_diagonal_(0)
    kernel = torch.stack(_hermite(posteriors, moments)).sum(0)
    return (kernel * same).sum() / (2 * max(len(ids) * (len(ids) - 1), 1))


def _hermite(posteriors: Normal, highest: int) -> list[Tensor]:
    """K_n(i, j) = Σ_{|α| = n} E_i He_α E_j He_α / α! of each pair of posteriors, (N, N), for n = 1 .. ``highest``.

    Mehler's formula for one dimension, integrated over posteriors N(μ, 1 - v), is

        Σ_n ρⁿ K_n = exp[(ρ μ_i μ_j - ½ ρ² (v_i μ_j² + μ_i² v_j)) / (1 - ρ² v_i v_j)] / √(1 - ρ² v_i v_j).

    Its logarithm adds over dimensions, so each of that series' coefficients L_n is one or two matrix products, and the
    exponential of a series gives n K_n = Σ_k k L_k K_{n-k}.
    """
    mean, kept = posteriors.mean, 1 - posteriors.variance
    logarithm: list[Tensor] = []
    series: list[Tensor] = []
    for n in range(1, highest + 1):
        half = n // 2
        if n % 2:
            odd = mean * kept**half
            logarithm.append(odd @ odd.T)
        else:
            square = mean**2 * kept ** (half - 1)
            even = kept**half - half * square
            logarithm.append(even @ even.T / n - half / 2 * (square @ square.T))
        products = (k * logarithm[k - 1] * series[n - k - 1] for k in range(1, n))
        series.append(sum(products, n * logarithm[-1]) / n)
    return series


RIDGE = 1e-5
"""Of the mean variance within groups, added to every direction of it: the logarithm of nothing is not asked for."""


def leakage(means: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """What a level's codes of single observations tell of a crossed grouping beyond what their own group tells.

    Were the codes of each group normal, it would be their information about the other grouping in nats,

        ½ log det S - ½ log det S',

    S the covariance within the level's own groups and S' what is left of it when the mean of each of the other's groups
    is taken out too; less its expectation where there is none to find. Like a linear probe it does not ask how large
    the direction is that gives the other grouping away, so nothing is gained by making codes small or large.

    Args:
        means: (N, D), posterior means of observations understood alone.
        own: (N,) the groups of their level, in the data set.
        other: (N,) the groups that the level should not know.

    Returns:
        (); zero where no two observations share a group of their own level.

    Example:
        >>> speaker, word = torch.arange(400) % 4, torch.arange(400) // 4 % 10
        >>> means = speaker.unsqueeze(1) + torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> leakage(means, speaker, word) < 0.05, leakage(means + word.unsqueeze(1), speaker, word) > 1.0
        (tensor(True), tensor(True))
    """
    mine = Grouping.from_ids(own)
    kept = mine.expand(mine.sizes > 1)
    if not kept.any():
        return means.sum() * 0
    means, mine, theirs = means[kept], Grouping.from_ids(own[kept]), Grouping.from_ids(other[kept])
    n, dim = means.shape
    freedom = n - mine.num_groups
    means = means.to(torch.promote_types(means.dtype, torch.float32))
    rest = means - mine.expand(mine.mean(means))
    left = rest - theirs.expand(theirs.mean(rest))
    ridge = (RIDGE * rest.square().sum() / freedom / dim + torch.finfo(rest.dtype).tiny) * torch.eye(dim).to(rest)
    before, after = (torch.logdet(part.T @ part / freedom + ridge) for part in (rest, left))
    return (before - after - dim * (theirs.num_groups - 1) / freedom) / 2


def misidentification(votes: Evidence, grouping: Grouping, ids: Tensor, others: Evidence | None = None) -> Tensor:
    """How badly the model's own Bayes factor names an observation's group among the batch's, in nats.

    Softmax cross-entropy over log Z(E_g + t_i) - log Z(E_g), the vote t_i left out of its own group's evidence.
    Sub-groups of one data-set group are the same answer. Observations alone in their group have nothing to be named by.

    Args:
        votes: N votes of one level.
        grouping: who is a group in this batch.
        ids: (N,) the group in the data set.
        others: ``votes.sum_others(grouping)``, where it is known already.

    Returns:
        (), mean over the observations that are not alone; zero where there are none.
    """
    totals = votes.sum(grouping)
    others = votes.sum_others(grouping) if others is None else others
    # Every observation against every group of the batch, then its own group with its own vote left out.
    with_vote: Tensor = _LogNormalisers.apply(  # type: ignore[no-untyped-call]
        votes.precision, votes.information, totals.precision, totals.information
    )
    before = totals.log_evidence()
    place = grouping.index.unsqueeze(1)
    own = before[grouping.index] - others.log_evidence()
    scores = (with_vote - before).scatter(1, place, own.unsqueeze(1))
    same = ids.unsqueeze(1) == ids[grouping.first].unsqueeze(0)
    nats = scores.logsumexp(1) - scores.masked_fill(~same, -torch.inf).logsumexp(1)
    named = grouping.expand(grouping.sizes > 1)
    return torch.where(named, nats, 0).sum() / named.sum().clamp_min(1)


class _LogNormalisers(torch.autograd.Function):
    """log Z of each of N votes added to each of G groups' evidence, (N, G).

    Most of what learning costs beyond its networks, where groups are many; its gradient by hand is half of autograd's.
    """

    @staticmethod
    def forward(
        context: Any, precision: Tensor, information: Tensor, group_precision: Tensor, group_information: Tensor
    ) -> Tensor:
        total = (1 + group_precision) + precision.unsqueeze(1)
        summed = group_information + information.unsqueeze(1)
        mean = summed / total
        context.save_for_backward(mean, total)
        return 0.5 * summed.mul_(mean).sub_(torch.log(total)).sum(-1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        mean, total = context.saved_tensors
        by_information = gradient.unsqueeze(-1) * mean
        by_precision = -0.5 * (by_information * mean + gradient.unsqueeze(-1) / total)
        return by_precision.sum(1), by_information.sum(1), by_precision.sum(0), by_information.sum(0)
