"""Questions asked beyond the bound: does style know the group, does content name it, does one level know another's?

All are in nats, need no network and no label beyond the grouping. To add one: a function of samples or
votes and groups here, its weight in `Objective`, its line in `objective._penalties`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlvae.errors import ModelError
from mlvae.evidence import Evidence
from mlvae.grouping import Grouping
from mlvae.normal import Normal

FAR = 10.0
"""Deviations of the prior. A mean farther out counts as this far: products of what is wilder overflow, and its own KL
brings it back."""


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

    Raises:
        ModelError: ``moments`` is below one.

    Example:
        >>> ids = torch.arange(100) % 2
        >>> mean = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) / 2
        >>> apart = 2.0 * (ids - 0.5).unsqueeze(1)               # two groups, two apart in each D
        >>> precision = torch.full((100, 2), 4 / 3)              # so that without them samples are N(0, 1)
        >>> dependence(Normal(mean, precision), ids) < 0.1, dependence(Normal(mean + apart, precision), ids) > 1.0
        (tensor(True), tensor(True))
    """
    return told(posteriors, ids, moments)[0]


def told(posteriors: Normal, ids: Tensor, moments: int = 5) -> tuple[Tensor, Tensor]:
    """`dependence`, and how well the posteriors' means alone would name the group.

    Of degree 1, the divergence of a group's means is D nats; log-likelihood ratios of groups scatter by √(2 D), and
    where chance names the group of a share P, they name about P √(2 D) more. The fewer share a group, the less it is.

    Returns:
        (), as `dependence`; and (), P² 2 D, the *square* of that gain, which has an unbiased estimate, below zero by
        chance. Without a gradient.

    Example:
        >>> means = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])            # D = ½ in both groups; 4 of 12 pairs
        >>> told(Normal(means, torch.ones(4, 1)), torch.tensor([0, 0, 1, 1]))[1].sqrt()
        tensor(0.3333)
    """
    if moments < 1:
        raise ModelError(f"Expected `moments` of at least 1, the means; got {moments}. For none, weigh them 0.")
    rows, pairs = _blocks(ids)
    pairs = pairs.to(posteriors.mean.dtype)
    every: Tensor
    every, means = _Hermite.apply(posteriors.mean, posteriors.precision, rows, pairs, moments)  # type: ignore[no-untyped-call]
    total = max(len(ids) * (len(ids) - 1), 1)
    return every / (2 * total), means * pairs.sum() / total**2


def _blocks(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Observations side by side in blocks of K, so that pairs of one group share a block: few of all pairs do.

    Returns:
        (B K,) rows of the batch, and (B, K, K) bool, which of a block's are pairs of different observations of one
        group. A block that is not full is filled up with observations that are in no pair there.
    """
    n = len(ids)
    if ids.device.type == "cpu":  # elsewhere counting would wait for the device
        labels, order = ids.sort()
        sizes = labels.unique_consecutive(return_counts=True)[1]
        largest = int(sizes.max())
        if len(sizes) * largest**2 < n**2:
            place = torch.arange(largest)
            there = place < sizes.unsqueeze(1)
            rows = order[((sizes.cumsum(0) - sizes).unsqueeze(1) + place).clamp_max(n - 1)]
            pairs = there.unsqueeze(2) & there.unsqueeze(1)
            pairs.diagonal(dim1=1, dim2=2).fill_(False)
            return rows.flatten(), pairs
    return torch.arange(n, device=ids.device), (ids.unsqueeze(1) == ids).fill_diagonal_(False).unsqueeze(0)


class _Hermite(torch.autograd.Function):
    """Σ_ij pairs_ij Σ_n K_n(i, j) over pairs of N posteriors; and, without a gradient, the part of n = 1.

    In Mehler's formula for one dimension, integrated over posteriors N(μ, 1 - v), with w = v_i v_j

        Σ_n ρⁿ E_i He_n E_j He_n / n! = exp[(ρ μ_i μ_j - ½ ρ² (v_i μ_j² + μ_i² v_j)) / (1 - ρ² w)] / √(1 - ρ² w),

    the logarithm adds over dimensions, and each coefficient L_n of its series is made of inner products. With
    k = n // 2, u = 1 - v, r_k = μ uᵏ, s_k = μ² uᵏ⁻¹ and t_k = uᵏ - k s_k, n L_n is

        n r_k r_k  for odd n,  t_k t_k - k² s_k s_k  for even n.

    From Σ_n ρⁿ K_n = exp Σ_n ρⁿ L_n the sums C_n = K_0 + .. + K_n have the series exp(Σ_n ρⁿ L_n) / (1 - ρ), so
    n C_n = Σ_j (j L_j + 1) C_{n-j}; and as the series' derivative by L_n is ρⁿ times itself, that of C_N is C_{N-n},
    which has been made on the way. All features are multiplied at once, as small operations cost what large ones do.
    """

    @staticmethod
    def forward(
        context: Any, mean: Tensor, precision: Tensor, rows: Tensor, pairs: Tensor, moments: int
    ) -> tuple[Tensor, Tensor]:
        variance = precision.reciprocal()
        near, kept = mean.clamp(-FAR, FAR), 1 - variance
        powers, odd, squares = [torch.ones_like(kept)], [near], []  # uᵏ, r_k and s_k+1
        firsts = [near]  # of each degree r_k or t_k
        for degree in range(2, moments + 1):
            if degree % 2:
                odd.append(near * powers[-1])
                firsts.append(odd[-1])
            else:
                squares.append(near * odd[-1])
                powers.append(powers[-1] * kept)
                firsts.append(torch.sub(powers[-1], squares[-1], alpha=degree // 2))
        features = torch.stack([*firsts, *squares]).index_select(1, rows)
        blocks = features.unflatten(1, pairs.shape[:2]).flatten(0, 1)
        products = torch.bmm(blocks, blocks.mT).unflatten(0, (len(features), -1))
        rates: list[Tensor] = []  # n L_n + 1
        sums = [torch.ones_like(pairs)]
        for degree in range(1, moments + 1):
            half = degree // 2
            if degree % 2:
                rate = 1 + products[degree - 1] * degree
            else:
                rate = torch.sub(products[degree - 1], products[moments + half - 1], alpha=half**2).add_(1)
            rates.append(rate)
            total = rate / degree
            for place in range(1, degree):
                total.addcmul_(rates[place - 1], sums[degree - place], value=1 / degree)
            sums.append(total)
        context.save_for_backward(mean, variance, rows, pairs, blocks, *sums[:-1], *powers, *odd, *squares)
        context.moments = moments
        every, means = (torch.dot(pairs.flatten(), (kernel - 1).flatten()) for kernel in (sums[-1], sums[1]))
        context.mark_non_differentiable(means)
        return every, means

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        moments: int = context.moments
        mean, variance, rows, pairs, blocks, *saved = context.saved_tensors
        evens = moments // 2
        sums, powers = saved[:moments], saved[moments : moments + evens + 1]
        odd, squares = saved[moments + evens + 1 : len(saved) - evens], saved[len(saved) - evens :]
        # Each feature is on both sides of its products, and those of an even degree count 1/n; s_k in t_k at once.
        left = [sums[moments - degree] for degree in [*range(1, moments + 1), *range(2, moments + 1, 2)]]
        by_degree = torch.stack(left).mul_(2 * gradient * pairs)
        wide = torch.bmm(by_degree.flatten(0, 1), blocks).reshape(-1, len(rows), mean.shape[1])
        by_features = wide.new_zeros(len(wide), *mean.shape).index_add_(1, rows, wide)
        by_mean, by_kept = by_features[0], torch.zeros_like(mean)
        for degree in range(2, moments + 1):
            half, by = degree // 2, by_features[degree - 1]
            if degree % 2:
                by_mean.addcmul_(by, powers[half])
                by_kept.addcmul_(by, odd[half - 1], value=half)
                continue
            by_kept.addcmul_(by, powers[half - 1], value=0.5)
            by_square = by.add_(by_features[moments + half - 1], alpha=half)
            by_mean.addcmul_(by_square, odd[half - 1], value=-1)
            if half > 1:
                by_kept.addcmul_(by_square, squares[half - 2], value=(1 - half) / 2)
        by_mean = by_mean * (mean.abs() <= FAR)
        return by_mean, by_kept.mul_(variance).mul_(variance), None, None, None


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
        factors: Tensor = torch.linalg.cholesky(within + ridge * torch.eye(dim).to(rest))
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
    others = votes.sum_others(grouping) if others is None else others
    foreign = ids.unsqueeze(1) != ids[grouping.first]
    accompanied = grouping.expand((grouping.sizes > 1).to(votes.precision))
    value: Tensor = _Misidentification.apply(  # type: ignore[no-untyped-call]
        votes.precision, votes.information, others.precision, others.information, grouping, foreign, accompanied
    )
    return value


class _Misidentification(torch.autograd.Function):
    """Most of what learning costs beyond its networks, where groups are many; so its gradient is made with it, by hand.

    log Z of (Λ, η) has the gradients -½ (μ² + 1/(1 + Λ)) and μ = η / (1 + Λ). ``foreign`` (N, G) are the groups that
    would be a wrong answer; ``accompanied`` (N,) is 0 where an observation is alone, else 1.
    """

    @staticmethod
    def forward(
        context: Any,
        precision: Tensor,
        information: Tensor,
        others_precision: Tensor,
        others_information: Tensor,
        grouping: Grouping,
        foreign: Tensor,
        accompanied: Tensor,
    ) -> Tensor:
        groups, dim, index = grouping.num_groups, precision.shape[1], grouping.index.unsqueeze(1)
        # The evidence of G groups; then, for each of N votes, that of its own group without it.
        totals = grouping.sum(torch.cat([precision, information], 1))
        before = torch.cat([totals, torch.cat([others_precision, others_information], 1)])
        posterior, summed = before[:, :dim] + 1, before[:, dim:]
        mean = summed / posterior
        normaliser = 0.5 * torch.sub(summed * mean, posterior.log()).sum(1)
        # Each of N votes with each of G groups, (N, G, D), and then its own group with its own vote left out.
        with_posterior = posterior[:groups] + precision.unsqueeze(1)
        with_summed = summed[:groups] + information.unsqueeze(1)
        with_mean = with_summed / with_posterior
        scores = 0.5 * with_summed.mul_(with_mean).sub_(with_posterior.log()).sum(2) - normaliser[:groups]
        scores.scatter_(1, index, normaliser[grouping.index].sub_(normaliser[groups:]).unsqueeze(1))
        named = scores.log_softmax(1)
        right = named.masked_fill(foreign, -torch.inf)
        nats = -right.logsumexp(1, keepdim=True)
        weight = accompanied / accompanied.sum().clamp_min(1)
        value = torch.dot(nats.flatten(), weight)
        if not any(context.needs_input_grad):
            return value

        by_scores = (named.exp_() - right.add_(nats).exp_()).mul_(weight.unsqueeze(1))
        by_own = by_scores.gather(1, index)
        by_scores.scatter_(1, index, 0)
        by_normaliser = torch.cat([grouping.sum(by_own) - by_scores.sum(0).unsqueeze(1), -by_own])
        by_before = torch.cat([torch.addcmul(posterior.reciprocal(), mean, mean).mul_(-0.5), mean], 1) * by_normaliser
        by_each = by_scores.unsqueeze(2)
        by_precision = with_posterior.reciprocal_().addcmul_(with_mean, with_mean).mul_(by_each)
        by_information = with_mean.mul_(by_each)
        by_groups, by_votes = (
            torch.cat([by_precision.sum(axis).mul_(-0.5), by_information.sum(axis)], 1) for axis in (0, 1)
        )
        by_votes += grouping.expand(by_groups + by_before[:groups])
        context.save_for_backward(by_votes, by_before[groups:])
        return value

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        votes, others = (saved * gradient for saved in context.saved_tensors)
        return *votes.chunk(2, 1), *others.chunk(2, 1), None, None, None
