"""Two questions asked beyond the bound: does style know the group, and does content name it?

Both are nats per observation, need no network and no label beyond the grouping. To add one: a function of samples or
votes and groups here, its weight in `Objective`, its line in `objective._penalties`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlvae.evidence import Evidence, log_normaliser
from mlvae.grouping import Grouping

BANDWIDTHS = (0.25, 1.0, 4.0)
"""Of the RBF kernels, in units of the latent dimension: squared distances between two prior samples average 2 D."""


def dependence(samples: Tensor, ids: Tensor) -> Tensor:
    """Normalised kernel dependence between samples and group identity: 0 for independence in expectation, at most 1.

    The unbiased estimate of HSIC between RBF kernels over samples and the kernel "same group", divided by the square
    root of the two kernels' own (detached). It compares pairs, so it needs no density and no adversary.

    Args:
        samples: (N, D), N >= 4, of a latent that should not know the group.
        ids: (N,) the group in the data set.

    Returns:
        (); zero where all observations, or none, share a group.

    Reference: Song et al. 2012, "Feature selection via dependence maximization", eq. 4-5.

    Example:
        >>> ids = torch.arange(100) % 2
        >>> round(dependence(torch.nn.functional.one_hot(ids).float(), ids).item(), 2)
        1.0
    """
    if len(ids) < 4:
        return samples.sum() * 0
    squared = torch.cdist(samples, samples, compute_mode="use_mm_for_euclid_dist").square() / samples.shape[1]
    kernel = torch.stack([torch.exp(squared * (-0.5 / width)) for width in BANDWIDTHS]).mean(0)
    same = (ids[:, None] == ids[None, :]).to(kernel.dtype)
    a, b = _centred(kernel), _centred(same)
    scale = (a.detach().square().sum() * b.square().sum()).sqrt()
    # One group only, or no two of one: what is left of `same` is rounding, and there is nothing to depend on.
    some = scale > 1e-6 * len(ids) ** 2
    return torch.where(some, (a * b).sum() / torch.where(some, scale, 1), 0)


def _centred(kernel: Tensor) -> Tensor:
    """The kernel over pairs of different observations, its rows, columns and whole summing to zero."""
    n = len(kernel)
    off = 1 - torch.eye(n, dtype=kernel.dtype, device=kernel.device)
    kernel = kernel * off
    rows = kernel.sum(1, keepdim=True) / (n - 2)
    whole = kernel.sum() / ((n - 1) * (n - 2))
    return (kernel - rows - rows.T + whole) * off


def misidentification(votes: Evidence, grouping: Grouping, ids: Tensor) -> Tensor:
    """How badly the model's own Bayes factor names an observation's group among the batch's, in nats.

    Softmax cross-entropy over log Z(E_g + t_i) - log Z(E_g), the vote t_i left out of its own group's evidence.
    Sub-groups of one data-set group are the same answer. Observations alone in their group have nothing to be named by.

    Args:
        votes: N votes of one level.
        grouping: who is a group in this batch.
        ids: (N,) the group in the data set.

    Returns:
        (), mean over the observations that are not alone; zero where there are none.
    """
    precision, information = votes.precision, votes.information
    totals = votes.sum(grouping)
    others = votes.sum_others(grouping)
    # Every observation against every group of the batch, then its own group with its own vote left out.
    with_vote = log_normaliser(
        totals.precision[None] + precision[:, None], totals.information[None] + information[:, None]
    )
    scores = with_vote - totals.log_evidence()
    own = totals.log_evidence()[grouping.index] - others.log_evidence()
    place = grouping.index.unsqueeze(1)
    scores = scores.scatter(1, place, own.unsqueeze(1))
    same = ids.unsqueeze(1) == ids[grouping.first].unsqueeze(0)
    right = scores.masked_fill(~same, -torch.inf).logsumexp(1)
    nats = scores.logsumexp(1) - right
    named = grouping.expand(grouping.sizes > 1)
    return torch.where(named, nats, 0).sum() / named.sum().clamp_min(1)
