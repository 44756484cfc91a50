"""How far votes are to be believed, and where their groups lie: fitted on groups kept out of training.

Members are taken as independent given the latent, and seldom are; networks are surer of what they have seen; and groups
fill the latent space unevenly. So a level's votes, N(μ, 1/Λ), are read as

    precision Λ^β s² / T,    mean (μ - b) / s,    one T, β, b and s a dimension.

The *temperature* T and the *power* β make members scatter around their group as much as their precision says, whether
it is high or low; the *centre* b and *spread* s make groups N(0, 1), as the prior takes them to be. Each is a function
of one vote, so votes still add. The decoder is given b + s z, the coordinates it was trained in.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from mlvae.errors import DataError
from mlvae.evidence import Evidence
from mlvae.grouping import Grouping

COLDEST = 1e-3
"""The least temperature, at a typical precision: where a dimension holds nothing, votes need not scatter at all. Far
below what dimensions that hold a little need (.03 on MNIST), or they would promise less than they keep."""
NARROWEST = 0.005
"""The least spread. Where all groups are alike both are at their least, and a vote tells next to nothing: it weighs
s² / T = 1/40 of what the network says."""

FEWEST = 30
"""Members beyond the first of their group, over all groups, without which a temperature is not worth fitting."""
FEWEST_WITNESSES = 8
"""Likewise groups of a finer level, whole, beyond the first in each group: there are seldom many. Eight say a variance
to within a half; a coarse level that is not fitted is several times too sure."""
FEWEST_GROUPS = 8
"""Groups without which centre and spread are not: they stay 0 and 1."""

POWERS = torch.linspace(1, 0, 21, dtype=torch.float64)
WORTH = 2.0
"""Nats of likelihood that a power below one must gain, a likelihood ratio at the usual level."""
ROUNDS = 50
"""Of expectation and maximisation for centre and spread; all but empty dimensions settle in a few."""


class Calibration(nn.Module):
    """One level's four numbers a dimension. Without fitting, votes are what the network says.

    Args:
        dim: D.

    Example:
        >>> calibration = Calibration(2)
        >>> calibration.temperature.fill_(4.0)
        tensor([4., 4.])
        >>> calibration.votes(torch.ones(1, 2), torch.zeros(1, 2)).precision
        tensor([[0.2500, 0.2500]])
    """

    temperature: Tensor
    power: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(dim))
        self.register_buffer("power", torch.ones(dim))
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))

    def votes(self, mean: Tensor, log_precision: Tensor) -> Evidence:
        """Votes as they are to be believed, from what the network says: both (N, D)."""
        precision = torch.exp(self.power * log_precision) * (self.spread**2 / self.temperature)
        return Evidence.votes((mean - self.centre) / self.spread, precision)

    def latent(self, code: Tensor) -> Tensor:
        """Codes (N, D) in the coordinates that decoder and heads were trained in."""
        return torch.addcmul(self.centre, self.spread, code)

    def take(self, other: Calibration) -> None:
        """Takes another's numbers."""
        for name, value in other.named_buffers():
            getattr(self, name).copy_(value)

    @classmethod
    def fit(cls, votes: Evidence, grouping: Grouping, witnesses: Grouping | None = None) -> Self:
        """T and β of votes around their group (whose own value has a flat prior), β the likeliest, then b and s.

            T = Σ_i Λ_i^β (μ_i - m_g(i))² / (N - G - 2),    m_g = Σ Λ^β μ / Σ Λ^β over the members of g

        The 2 is what few members need: then it is errors over promises that are 1 in the mean, not T that is right in
        the mean.

        Args:
            votes: N votes of one level in D dimensions, as the network says them.
            grouping: their groups; those of one member say nothing of T and β.
            witnesses: groups of a finer level, each within one of these, whose votes speak together: people scatter
                around their country more than their pictures around them.

        Raises:
            DataError: fewer than 30 members, or 8 witnesses, beyond the first of each group.

        Example:
            >>> draws = torch.Generator().manual_seed(0)
            >>> mean = 3 * torch.randn(2000, 1, generator=draws)      # said to have variance 1, has 9
            >>> votes = Evidence.votes(mean, torch.ones(2000, 1))
            >>> Calibration.fit(votes, Grouping.from_ids([0, 1] * 1000)).temperature.round()
            tensor([9.], dtype=torch.float64)
        """
        units, fewest = (len(votes), FEWEST) if witnesses is None else (witnesses.num_groups, FEWEST_WITNESSES)
        if units - grouping.num_groups < fewest:
            what = "members" if witnesses is None else "groups of a finer level"
            raise DataError(
                f"Expected at least {fewest} {what} beyond the first of each group to fit a temperature; got"
                f" {units - grouping.num_groups} ({units} in {grouping.num_groups} groups). Keep more out of training."
            )
        votes = votes.to(torch.float64)
        mean, log_precision = votes.information / votes.precision, votes.precision.log()
        typical = log_precision.mean(0)
        found = cls(votes.dim).double()
        best: Tensor | None = None
        for power in POWERS:
            said = Evidence.votes(mean, torch.exp(power * log_precision))
            index = grouping
            if witnesses is not None:
                said, index = said.sum(witnesses), grouping.of(witnesses)
            centre = said.sum(index)
            free = len(said) - index.num_groups
            gap = said.information / said.precision - index.expand(centre.information / centre.precision)
            coldest = COLDEST * torch.exp((power - 1) * typical)
            scatter = (said.precision * gap**2).sum(0)
            scale = (scatter / free).maximum(coldest)
            likelihood = 0.5 * (said.precision.log().sum(0) - centre.precision.log().sum(0) - free * scale.log())
            better = torch.ones_like(scale, dtype=torch.bool) if best is None else likelihood > best
            best = likelihood + WORTH if best is None else best.maximum(likelihood)
            found.temperature[better], found.power[better] = (scatter / (free - 2)).maximum(coldest)[better], power
        if grouping.num_groups >= FEWEST_GROUPS:
            found._standardise(found.votes(mean, log_precision).sum(grouping))
        return found

    def _standardise(self, groups: Evidence) -> None:
        """Centre and spread under which the groups are N(0, 1), by expectation and maximisation."""
        mean = groups.information / groups.precision
        for _ in range(ROUNDS):
            precision = 1 + groups.precision * self.spread**2
            code = (mean - self.centre) / self.spread * (1 - 1 / precision)
            middle = code.mean(0)
            scatter = (1 / precision + (code - middle) ** 2).mean(0)
            self.centre = self.centre + self.spread * middle
            self.spread = (self.spread * scatter.sqrt()).clamp_min(NARROWEST)
