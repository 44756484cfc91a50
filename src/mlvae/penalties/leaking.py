"""Does one level know the groups of another that it is crossed with?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlvae.grouping import Grouping

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
    if not kept.all():
        means, mine, other = means[kept], Grouping.from_ids(own[kept]), other[kept]
    means = means.to(torch.promote_types(means.dtype, torch.float32))
    value: Tensor = _Leakage.apply(means, mine, Grouping.from_ids(other))  # type: ignore[no-untyped-call]
    return value


class _Leakage(torch.autograd.Function):
    """Its gradient by hand: taking group means out is a projection, so what is left needs none of it again."""

    @staticmethod
    def forward(context: Any, means: Tensor, mine: Grouping, theirs: Grouping) -> Tensor:
        n, dim = means.shape
        freedom = n - mine.num_groups
        rest = means - mine.expand(mine.mean(means))
        left = rest - theirs.expand(theirs.mean(rest))
        within = torch.stack([part.T @ part for part in (rest, left)]) / freedom
        ridge = RIDGE / dim * within[0].trace() + torch.finfo(rest.dtype).tiny
        factors: Tensor = torch.linalg.cholesky(within + ridge * torch.eye(dim, dtype=rest.dtype, device=rest.device))
        before, after = factors.diagonal(dim1=1, dim2=2).log().sum(1).unbind()  # half of log determinants
        context.save_for_backward(rest, left, factors)
        context.mine, context.freedom = mine, freedom
        return before - after - dim * (theirs.num_groups - 1) / freedom / 2

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rest, left, factors = context.saved_tensors
        before, after = torch.cholesky_inverse(factors).unbind()
        by_ridge = RIDGE / rest.shape[1] * (before.trace() - after.trace())
        by_left = left @ after
        by_left = by_left - context.mine.expand(context.mine.mean(by_left))
        by_means = torch.addmm(by_ridge * rest - by_left, rest, before)
        return by_means * (gradient / context.freedom), None, None
