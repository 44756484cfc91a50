"""Where a level's groups lie: a mixture of Gaussians, fitted after training to the evidence on many groups.

Learning takes groups to be N(0, I), and evidence, posteriors and Bayes factors stay under it: each is one Gaussian, and
they add. But ten digits are ten places and no cloud. What asks how groups are *distributed* asks the population: new
groups that are drawn, and the importance-weighted bound.

    p(z) = Σ_k w_k N(z; m_k, v_k),    the last part N(0, I), for a group like none that was seen

Reference: Dai and Wipf 2019, "Diagnosing and Enhancing VAE Models", arXiv:1903.05789 (a prior fitted after training).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlvae.evidence import Evidence, log_normaliser
from mlvae.normal import Normal

PARTS = (1, 3, 10, 30, 100)
"""Numbers of parts that are tried."""
ROUNDS = 50
"""Of expectation and maximisation, at most."""
ENOUGH = 1e-3
"""Nats a group; a round that gains fewer is the last."""
CHUNK = 256
"""Groups at a time, whose numbers fit in a processor's cache."""
WIDTH = 0.03
"""What a part's variance counts as seen to be by one group: alone, a group does not say how wide its place is."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """K diagonal Gaussians with weights, for each row.

    Args:
        weight: (..., K), sums to one.
        parts: (..., K, D).

    Example:
        >>> two = Mixture(torch.tensor([0.5, 0.5]), Normal(torch.tensor([[-9.0], [9.0]]), torch.ones(2, 1)))
        >>> two.log_prob(torch.tensor([9.0])).exp()                   # half of a standard Gaussian's 0.3989
        tensor(0.1995)
        >>> vote = Evidence.votes(torch.tensor([[8.0]]), torch.tensor([[1.0]]))
        >>> two.given(vote).weight.round(), two.given(vote).parts.mean[0, 1]
        (tensor([[0., 1.]]), tensor([8.5000]))
    """

    weight: Tensor
    parts: Normal

    def expand(self, rows: int) -> Mixture:
        """The same for each of ``rows`` rows."""
        mean, precision = (values.expand(rows, -1, -1) for values in (self.parts.mean, self.parts.precision))
        return Mixture(self.weight.expand(rows, -1), Normal(mean, precision))

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw for each of (R, K) weights, (R, D)."""
        part = torch.multinomial(self.weight, 1, generator=generator).squeeze(1)
        row = torch.arange(len(part), device=part.device)
        return Normal(self.parts.mean[row, part], self.parts.precision[row, part]).rsample(generator)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats of ``value`` (..., D), (...)."""
        return (self.weight.log() + self.parts.log_prob(value.unsqueeze(-2))).logsumexp(-1)

    def given(self, evidence: Evidence) -> Mixture:
        """The posteriors of G groups, each (K): by Bayes' rule, with this for the prior."""
        scores, posteriors = self.each(evidence)
        return Mixture(scores.softmax(-1), posteriors)

    def log_evidence(self, evidence: Evidence) -> Tensor:
        """log Z in nats, (G,): `Evidence.log_evidence` with this for the prior."""
        return torch.cat([self.each(evidence[rows])[0].logsumexp(-1) for rows in _chunks(evidence)])

    def each(self, evidence: Evidence) -> tuple[Tensor, Normal]:
        """With each part for the prior: its log Z and its weight's logarithm together (G, K), and posteriors (G, K)."""
        precision, information = evidence.precision.unsqueeze(-2), evidence.information.unsqueeze(-2)
        mean, variance = self.parts.mean, self.parts.variance
        # In coordinates about the part, in units of its width, the part is N(0, 1).
        deviation = variance.sqrt()
        near_precision, near_information = precision * variance, (information - precision * mean) * deviation
        moved = (information * mean - 0.5 * precision * mean**2).sum(-1)
        scores = self.weight.log() + moved + log_normaliser(near_precision, near_information)
        near_mean = near_information / (1 + near_precision)
        return scores, Normal(mean + deviation * near_mean, (1 + near_precision) * self.parts.precision)


class Population(nn.Module):
    """One level's. Until it is given a mixture it is N(0, I), and nothing of it is saved.

    Args:
        dim: D.

    Example:
        >>> population = Population(2)
        >>> population.draw(3).shape, population.mixture
        (torch.Size([3, 2]), None)
    """

    weight: Tensor | None
    mean: Tensor | None
    precision: Tensor | None

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        for name in ("weight", "mean", "precision"):
            self.register_buffer(name, None)

    @property
    def mixture(self) -> Mixture | None:
        """K parts; None where it is N(0, I)."""
        if self.weight is None or self.mean is None or self.precision is None:
            return None
        return Mixture(self.weight, Normal(self.mean, self.precision))

    def take(self, mixture: Mixture | None) -> None:
        """Takes a mixture, or None for N(0, I), in place of what it was."""
        values = (None,) * 3 if mixture is None else (mixture.weight, mixture.parts.mean, mixture.parts.precision)
        self.weight, self.mean, self.precision = values

    def expect(self, state: Mapping[str, Tensor], prefix: str, like: Tensor) -> None:
        """Makes room, of the type and on the device of ``like``, for what a saved state has of it: parts, or none."""
        weight, *parts = (state.get(f"{prefix}{name}") for name in ("weight", "mean", "precision"))
        self.take(None)
        # A file is believed as to its size only as far as it goes itself.
        if weight is not None and all(part is not None and part.shape == (len(weight), self.dim) for part in parts):
            place = like.new_empty(len(weight), self.dim)
            self.take(Mixture(like.new_empty(len(weight)), Normal(place, place.clone())))

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes of n new groups, (n, D), on the CPU."""
        mixture = self.mixture
        if mixture is None:
            return torch.randn(n, self.dim, generator=generator)
        parts = Normal(mixture.parts.mean.cpu(), mixture.parts.precision.cpu())
        return Mixture(mixture.weight.cpu(), parts).expand(n).rsample(generator)


def fitted(evidence: Evidence, kept: Evidence) -> Mixture | None:
    """The population under which kept-out groups are likeliest, by expectation and maximisation over groups.

    Args:
        evidence: on G groups, for one mixture of each number of parts.
        kept: on groups, or on others' members, that those are chosen by.

    Returns:
        The best of `PARTS`, and N(0, I) with the weight of one group; None where that gains less over N(0, I) than two
        standard errors.

    Example:
        >>> draws = torch.Generator().manual_seed(0)
        >>> places = torch.tensor([[-2.0], [2.0]])[torch.arange(400) % 2]
        >>> votes = Evidence.votes(places + 0.1 * torch.randn(400, 1, generator=draws), torch.full((400, 1), 100.0))
        >>> fitted(votes[:300], votes[300:]).expand(1000).rsample(draws).abs().mean().round()
        tensor(2., dtype=torch.float64)
        >>> around = Evidence.votes(torch.randn(400, 1, generator=draws), torch.full((400, 1), 100.0))
        >>> fitted(around[:300], around[300:])
    """
    evidence, kept = evidence.to(torch.float64), kept.to(torch.float64)
    mixtures = [_maximised(evidence, number) for number in PARTS if number <= len(evidence)]
    gains = [mixture.log_evidence(kept) - kept.log_evidence() for mixture in mixtures]
    best = max(range(len(mixtures)), key=lambda place: gains[place].mean())
    sure = len(kept) > 1 and gains[best].mean() > 2 * gains[best].std() / math.sqrt(len(kept))
    return mixtures[best] if sure else None


def _maximised(evidence: Evidence, number: int) -> Mixture:
    """The likeliest mixture of so many parts, begun at as many groups."""
    groups, dim = len(evidence), evidence.dim
    began = torch.randperm(groups, generator=torch.Generator().manual_seed(0))[:number]
    mean = (evidence.information / (1 + evidence.precision))[began]
    weight, variance = torch.full((number,), 1 / number).to(mean), torch.full_like(mean, WIDTH)
    reached = -math.inf
    for _ in range(ROUNDS):
        mixture = Mixture(weight, Normal(mean, variance.reciprocal()))
        likelihood, members = 0.0, torch.zeros_like(weight)
        first, second = torch.zeros_like(mean), torch.zeros_like(mean)
        for rows in _chunks(evidence):
            scores, posteriors = mixture.each(evidence[rows])
            share = scores.softmax(-1)
            likelihood += scores.logsumexp(-1).sum().item() / groups
            members += share.sum(0)
            first += torch.einsum("gk,gkd->kd", share, posteriors.mean)
            second += torch.einsum("gk,gkd->kd", share, posteriors.variance + posteriors.mean**2)
        members = members.clamp_min(1e-9).unsqueeze(1)
        mean = first / members
        variance = (second - members * mean**2 + WIDTH) / (members + 1)
        weight = members.squeeze(1) / members.sum()
        if likelihood - reached < ENOUGH:
            break
        reached = likelihood
    unseen = 1 / (groups + 1)
    return Mixture(
        torch.cat([(1 - unseen) * weight, weight.new_tensor([unseen])]),
        Normal(torch.cat([mean, mean.new_zeros(1, dim)]), torch.cat([1 / variance, mean.new_ones(1, dim)])),
    )


def _chunks(evidence: Evidence) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, max(len(evidence), 1), CHUNK)]
