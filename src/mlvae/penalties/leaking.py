"""Does one level know the groups of another that it is crossed with?"""

from __future__ import annotations

from dataclasses import dataclass
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

    S the covariance within the level's own groups and S' what is left of it when means of the other's groups are taken
    out at once; less its expectation where there is none to find. Like a linear probe it does not ask how large
    the direction is that gives the other grouping away, so nothing is gained by making codes small or large.

    Args:
        means: (N, D), posterior means of observations understood alone.
        own: (N,) the groups of their level, in the data set.
        other: (N,) the groups that the level should not know.

    Returns:
        (); zero where no two observations share a group of their own level, or both groupings leave too little free.

    Reference: Wilks 1932, "Certain generalizations in the analysis of variance".

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
    other_groups = Grouping.from_ids(other)
    if len(means) - mine.num_groups - other_groups.num_groups < means.shape[1]:
        return means.sum() * 0
    means = means.to(torch.promote_types(means.dtype, torch.float32))
    value: Tensor = _Leakage.apply(means, mine, other_groups)  # type: ignore[no-untyped-call]
    return value


class _Leakage(torch.autograd.Function):
    """Its gradient by hand: taking means out is a projection of codes, whose adjoint is itself."""

    @staticmethod
    def forward(context: Any, means: Tensor, mine: Grouping, theirs: Grouping) -> Tensor:
        n, dim = means.shape
        freedom = n - mine.num_groups
        rest = means - mine.expand(mine.mean(means))
        beside = _Beside.of(mine, theirs, rest)
        left = beside.out_of(rest)
        within = torch.stack([part.T @ part for part in (rest, left)]) / freedom
        ridge = RIDGE / dim * within[0].trace() + torch.finfo(rest.dtype).tiny
        factors: Tensor = torch.linalg.cholesky(within + ridge * torch.eye(dim, dtype=rest.dtype, device=rest.device))
        before, after = factors.diagonal(dim1=1, dim2=2).log().sum(1).unbind()  # half of log determinants
        context.save_for_backward(rest, left, factors)
        context.beside, context.freedom = beside, freedom
        # Of normal codes the ratio of determinants is Wilks's lambda, whose logarithm is expected to be this.
        spare = freedom - torch.arange(dim, dtype=rest.dtype, device=rest.device)
        all_spare, spare = torch.stack([spare, (spare - beside.rank).clamp_min(1)]).div_(2).digamma_().sum(1).unbind()
        return before - after - (all_spare - spare) / 2

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rest, left, factors = context.saved_tensors
        before, after = torch.cholesky_inverse(factors).unbind()
        by_ridge = RIDGE / rest.shape[1] * (before.trace() - after.trace())
        by_means = torch.addmm(by_ridge * rest - context.beside.out_of(left @ after), rest, before)
        return by_means * (gradient / context.freedom), None, None


@dataclass(frozen=True, eq=False)
class _Beside:
    """What of a grouping is not in another: means of its groups that fit what is left of values without the other's.

    Where not every pair of groups has observations, or some have more, taking out the one's means and then the other's
    would leave some of both.

    Args:
        mine: the other grouping, G groups.
        theirs: T groups.
        shares: (G, T), which share of each of the other's groups is in each of these.
        solving: (T, T), the inverse of theirs's normal equations.
        rank: (), how many directions it adds.
    """

    mine: Grouping
    theirs: Grouping
    shares: Tensor
    solving: Tensor
    rank: Tensor

    @classmethod
    def of(cls, mine: Grouping, theirs: Grouping, like: Tensor) -> _Beside:
        cells = mine.index * theirs.num_groups + theirs.index
        pairs = torch.bincount(cells, minlength=mine.num_groups * theirs.num_groups).to(like)
        pairs, sizes = pairs.reshape(mine.num_groups, -1), theirs.sizes.to(like)
        shares = pairs / mine.sizes.unsqueeze(1)
        # Means that are one number in all groups of a connected part say nothing: there the equations are singular.
        little = torch.finfo(like.dtype).eps ** 0.5 * sizes.mean()
        own = (pairs.T @ shares).neg_()
        own.diagonal().add_(sizes).add_(little)
        solving = torch.cholesky_inverse(torch.linalg.cholesky(own))
        return cls(mine, theirs, shares, solving, len(own) - little * solving.trace())

    def out_of(self, rest: Tensor) -> Tensor:
        """Values (N, D) without the other's means, without these too."""
        fitted = self.solving @ self.theirs.sum(rest)
        return rest - self.theirs.expand(fitted) + self.mine.expand(self.shares @ fitted)
