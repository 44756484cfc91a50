"""Does one level know the groups of another that it is crossed with?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlvae.grouping import Grouping

RIDGE = 1e-5
"""Of each dimension's variance within groups, added to it: the logarithm of nothing is not asked for. Of the mean of
all it would hide dimensions that hardly vary, which are counted where chance is taken off."""


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
    return leaks(means, Crossed.of(own, other, means.shape[1], means.dtype))


def leaks(means: Tensor, crossed: Crossed | None) -> Tensor:
    """`leakage` of codes (N, D) whose two groupings have been counted."""
    if crossed is None:
        return means.sum() * 0
    means = means if crossed.kept is None else means.index_select(0, crossed.kept)
    means = means.to(torch.promote_types(means.dtype, torch.float32))
    value: Tensor = _Leakage.apply(means, crossed)  # type: ignore[no-untyped-call]
    return value - crossed.expected


class _Leakage(torch.autograd.Function):
    """½ log det S - ½ log det S', its gradient by hand: taking means out is a projection, whose adjoint is itself."""

    @staticmethod
    def forward(context: Any, means: Tensor, crossed: Crossed) -> Tensor:
        mine = crossed.mine
        rest = means - mine.expand(mine.mean(means))
        left = crossed.out_of(rest)
        within = torch.stack([part.T @ part for part in (rest, left)]) / crossed.freedom
        ridged = within + torch.diag(RIDGE * within[0].diagonal() + torch.finfo(rest.dtype).tiny)
        # Of codes that are no numbers any more there is no factor: `fit` says so, once the loss is none either.
        factors, failed = torch.linalg.cholesky_ex(ridged)
        halves: Tensor = factors.diagonal(dim1=1, dim2=2).log().sum(1)  # of log determinants
        before, after = halves.masked_fill(failed > 0, torch.nan).unbind()
        context.save_for_backward(rest, left, factors)
        context.crossed = crossed
        return before - after

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rest, left, factors = context.saved_tensors
        before, after = torch.cholesky_inverse(factors).unbind()
        by_ridge = RIDGE * (before.diagonal() - after.diagonal())
        by_means = torch.addmm(by_ridge * rest - context.crossed.out_of(left @ after), rest, before)
        return by_means * (gradient / context.crossed.freedom), None


@dataclass(frozen=True, eq=False)
class Crossed:
    """Two groupings of observations, and what of the one is not in the other: all that leakage asks but the codes.

    Where not every pair of groups has observations, or some have more, taking out the one's means and then the other's
    would leave some of both; so means of the second's groups are fitted to what is left of values without the first's.

    Args:
        kept: (M,) the rows that are not alone in their group of the first; None where that is all of them.
        mine: the first grouping of those, G groups.
        theirs: the second, T groups.
        shares: (G, T), which share of each of the first's groups is in each of the second's.
        solving: (T, T), the inverse of the normal equations.
        expected: (), nats that normal codes come to where the second says nothing.
    """

    kept: Tensor | None
    mine: Grouping
    theirs: Grouping
    shares: Tensor
    solving: Tensor
    expected: Tensor

    @classmethod
    def of(cls, own: Tensor, other: Tensor, dim: int, dtype: torch.dtype) -> Crossed | None:
        """The groups (N,) of each observation in the one and in the other, counted.

        Args:
            own: of the one.
            other: of the other.
            dim: of the codes, D.
            dtype: of the codes; float32 where that is finer.

        Returns:
            None where they leave fewer than D free.
        """
        dtype = torch.promote_types(dtype, torch.float32)
        mine, kept = Grouping.from_ids(own), None
        together = mine.expand(mine.sizes > 1)
        if not together.any():
            return None
        if not together.all():
            kept = together.nonzero().flatten()
            mine, other = Grouping.from_ids(own[kept]), other[kept]
        theirs = Grouping.from_ids(other)
        freedom = len(other) - mine.num_groups
        if freedom - theirs.num_groups < dim:
            return None
        cells = mine.index * theirs.num_groups + theirs.index
        pairs = torch.bincount(cells, minlength=mine.num_groups * theirs.num_groups).to(dtype)
        pairs, sizes = pairs.reshape(mine.num_groups, -1), theirs.sizes.to(dtype)
        shares = pairs / mine.sizes.unsqueeze(1)
        # Means that are one number in all groups of a connected part say nothing: there the equations are singular.
        little = torch.finfo(dtype).eps ** 0.5 * sizes.mean()
        equations = (pairs.T @ shares).neg_()
        equations.diagonal().add_(sizes).add_(little)
        solving = torch.cholesky_inverse(torch.linalg.cholesky(equations))
        rank = len(equations) - little * solving.trace()
        # Of normal codes the ratio of determinants is Wilks's lambda, whose logarithm is expected to be this.
        spare = freedom - torch.arange(dim, dtype=dtype, device=own.device)
        all_spare, spare = torch.stack([spare, (spare - rank).clamp_min(1)]).div_(2).digamma_().sum(1).unbind()
        return cls(kept, mine, theirs, shares, solving, (all_spare - spare) / 2)

    @property
    def freedom(self) -> int:
        """Observations beyond the first of each group of the one."""
        return len(self.mine) - self.mine.num_groups

    def out_of(self, rest: Tensor) -> Tensor:
        """Values (M, D) without means of the one's groups, without these of the other's too."""
        fitted = self.solving @ self.theirs.sum(rest)
        return rest - self.theirs.expand(fitted) + self.mine.expand(self.shares @ fitted)
