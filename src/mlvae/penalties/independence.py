"""Does style know the group? How far each group's posteriors, mixed, are from the prior."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlvae.errors import ModelError
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


def told(posteriors: Normal, ids: Tensor | Pairs, moments: int = 5) -> tuple[Tensor, Tensor]:
    """`dependence`, and how well the posteriors' means alone would name the group.

    Of degree 1, the divergence of a group's means is D nats; log-likelihood ratios of groups scatter by √(2 D), and
    where chance names the group of a share P, they name about P √(2 D) more. The fewer share a group, the less it is.

    Args:
        posteriors: N in D dimensions.
        ids: (N,) the group in the data set, or the pairs that they make.
        moments: the highest degree that `dependence` looks at.

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
    n = len(posteriors.mean)
    rows, who = ids if isinstance(ids, Pairs) else Pairs.of(ids)
    pairs = who.to(posteriors.mean.dtype)
    every: Tensor
    every, means = _Hermite.apply(posteriors.mean, posteriors.precision, rows, pairs, moments)  # type: ignore[no-untyped-call]
    total = max(n * (n - 1), 1)
    return every / (2 * total), means * pairs.sum() / total**2


class Pairs(NamedTuple):
    """Observations side by side in blocks of K, so that pairs of one group share a block: few of all pairs do.

    Args:
        rows: (B K,) of the batch. A block that is not full is filled up with observations that are in no pair there.
        who: (B, K, K) bool, which of a block's are pairs of different observations of one group.
    """

    rows: Tensor
    who: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> Pairs:
        """The pairs of N observations by the groups (N,) they are in."""
        n = len(ids)
        if ids.device.type == "cpu":  # elsewhere counting would wait for the device
            labels, order = ids.sort()
            sizes = labels.unique_consecutive(return_counts=True)[1]
            largest = int(sizes.max())
            if len(sizes) * largest**2 < n**2:
                place = torch.arange(largest)
                there = place < sizes.unsqueeze(1)
                rows = order[((sizes.cumsum(0) - sizes).unsqueeze(1) + place).clamp_max(n - 1)]
                who = there.unsqueeze(2) & there.unsqueeze(1)
                who.diagonal(dim1=1, dim2=2).fill_(False)
                return cls(rows.flatten(), who)
        return cls(torch.arange(n, device=ids.device), (ids.unsqueeze(1) == ids).fill_diagonal_(False).unsqueeze(0))


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
