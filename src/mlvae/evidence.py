"""Evidence adds: the sum of a group's votes, and what is read out of it.

An observation's vote on a latent is a Gaussian factor with precision Λ and mean μ. In natural parameters, (Λ, η = Λμ),
the product of factors is a sum, so evidence is a commutative monoid with removal: it can be split, merged, streamed and
taken back, and the group's posterior never notices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlvae.errors import EvidenceError
from mlvae.grouping import Grouping
from mlvae.normal import Normal

ROUNDING = 0.01
"""How far, beside the prior and what was there, a retraction may miss: votes that are taken out may come from another
device than those that went in, and convolutions on a GPU round to three digits."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Summed votes on G latents of D dimensions.

    Args:
        precision: (G, D), Σ Λ.
        information: (G, D), Σ Λμ.
        count: (G,) int64, the number of votes.

    Example:
        >>> vote = Evidence.votes(mean=torch.tensor([[2.0]]), precision=torch.tensor([[3.0]]))
        >>> product_with_prior(vote).mean.item(), product_with_prior(vote).precision.item()
        (1.5, 4.0)
        >>> product_with_prior(vote - vote).precision.item()      # empty evidence is the prior
        1.0
    """

    precision: Tensor
    information: Tensor
    count: Tensor

    @classmethod
    def votes(cls, mean: Tensor, precision: Tensor) -> Evidence:
        """One vote a row, from its mean and precision, both (N, D)."""
        return cls(precision, precision * mean, torch.ones(mean.shape[0], dtype=torch.int64, device=mean.device))

    @classmethod
    def empty(cls, groups: int, dim: int, dtype: torch.dtype = torch.float64) -> Evidence:
        """No votes at all on ``groups`` latents: the neutral element of addition."""
        zero = torch.zeros(groups, dim, dtype=dtype)
        return cls(zero, zero, torch.zeros(groups, dtype=torch.int64))

    @classmethod
    def chosen(cls, first: Tensor, one: Evidence, other: Evidence) -> Evidence:
        """The rows of ``one`` where ``first`` (N,), and of ``other`` elsewhere."""
        wide = first.unsqueeze(-1)
        return cls(
            torch.where(wide, one.precision, other.precision),
            torch.where(wide, one.information, other.information),
            torch.where(first, one.count, other.count),
        )

    @classmethod
    def joined(cls, parts: Sequence[Evidence], dim: int) -> Evidence:
        """The rows of all parts, one after another; none where there are no parts."""
        parts = list(parts) or [cls.empty(0, dim)]
        return cls(
            torch.cat([part.precision for part in parts]),
            torch.cat([part.information for part in parts]),
            torch.cat([part.count for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.count)

    @property
    def dim(self) -> int:
        """D."""
        return self.precision.shape[-1]

    def __getitem__(self, rows: slice | Tensor) -> Evidence:
        return Evidence(self.precision[rows], self.information[rows], self.count[rows])

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Evidence:
        """The same evidence in another floating type; kept evidence is float64, so that removal is exact."""
        return Evidence(self.precision.to(device, dtype), self.information.to(device, dtype), self.count.to(device))

    def sum(self, grouping: Grouping) -> Evidence:
        """Adds up the evidence of each group's members: N rows in, G rows out."""
        if grouping.singletons:
            return self
        return Evidence(grouping.sum(self.precision), grouping.sum(self.information), grouping.sum(self.count))

    def sum_others(self, grouping: Grouping) -> Evidence:
        """For each member, the evidence of the others of its group; its own where it is alone (N rows)."""
        if grouping.singletons:
            return self
        # Both at once, as each of the sum's steps costs the same for twice the dimensions. Whole numbers do not cancel.
        own = torch.cat([self.precision, self.information], 1)
        alone = grouping.expand(grouping.sizes == 1)
        rest = torch.where(alone.unsqueeze(1), own, grouping.sum_others(own))
        count = torch.where(alone, self.count, grouping.expand(grouping.sum(self.count)) - self.count)
        precision, information = rest.split(self.dim, 1)
        return Evidence(precision, information, count)

    def __add__(self, other: Evidence) -> Evidence:
        self._same_layout(other)
        return Evidence(
            self.precision + other.precision, self.information + other.information, self.count + other.count
        )

    def __sub__(self, other: Evidence) -> Evidence:
        """Takes votes back out; a count of zero is exactly empty.

        Raises:
            EvidenceError: more votes would be taken out than went in, or others than went in, as far as sums can tell.
        """
        return self.without(other)

    def without(self, other: Evidence, names: Sequence[object] | None = None) -> Evidence:
        """`self - other`, where an error calls groups by their ``names``; None numbers them."""
        self._same_layout(other)
        count = self.count - other.count
        if (count < 0).any():
            row = int((count < 0).nonzero()[0])
            group = row if names is None else names[row]
            raise EvidenceError(
                f"Expected to remove at most the {int(self.count[row])} votes of group {group}; got"
                f" {int(other.count[row])}. Remove only evidence that was added before."
            )
        some = (count > 0).unsqueeze(-1)
        precision, information = self.precision - other.precision, self.information - other.information
        allowed = ROUNDING * (1 + self.precision)
        strange = torch.where(
            some,
            precision < -allowed,
            (precision.abs() > allowed) | (information.abs() > allowed + ROUNDING * self.information.abs()),
        ).any(-1)
        if strange.any():
            row = int(strange.nonzero()[0])
            group = row if names is None else names[row]
            raise EvidenceError(
                f"Expected to remove votes that were added; of the {int(self.count[row])} votes of group {group}"
                f" those {int(other.count[row])} can be no part, as what would be left is no evidence. Remove only"
                " evidence that was added before."
            )
        return Evidence(
            # Rounding may leave a precision of -1e-17 where nothing but a vote of zero precision remains.
            torch.where(some, precision.clamp_min(0), 0),
            torch.where(some, information, 0),
            count,
        )

    def log_evidence(self) -> Tensor:
        """log Z = ½ Σ_d [η² / (1 + Λ) - log(1 + Λ)] in nats, (G,): how well the votes agree under the prior.

        Up to factors that no grouping changes, log Z is the marginal likelihood of the votes being about one latent, so
        log Z(A + B) - log Z(A) - log Z(B) is the log Bayes factor of one group against two.
        """
        return log_normaliser(self.precision, self.information)

    def _same_layout(self, other: Evidence) -> None:
        if self.precision.shape != other.precision.shape:
            raise EvidenceError(
                f"Expected evidence of shape {tuple(self.precision.shape)} on both sides; got"
                f" {tuple(other.precision.shape)}. Add evidence of the same level and the same groups."
            )


def log_normaliser(precision: Tensor, information: Tensor) -> Tensor:
    """½ Σ_d [η² / (1 + Λ) - log(1 + Λ)] of (..., D) tensors, in nats, (...)."""
    return 0.5 * (information**2 / (1 + precision) - torch.log1p(precision)).sum(-1)


Readout = Callable[[Evidence], Normal]


def product_with_prior(evidence: Evidence) -> Normal:
    """The posterior under the prior N(0, 1): precision 1 + Λ, mean η / (1 + Λ). Never wider than the prior."""
    precision = 1 + evidence.precision
    return Normal(evidence.information / precision, precision)


def product(evidence: Evidence) -> Normal:
    """The paper's product of the votes alone: precision Λ, mean η / Λ.

    Raises:
        EvidenceError: some group has no votes, or votes without precision, and no prior to fall back on.

    Reference: Bouchacourt, Tomioka, Nowozin 2018, eq. 6-7.
    """
    _some(evidence, "product")
    return Normal(evidence.information / evidence.precision, evidence.precision)


def average(evidence: Evidence) -> Normal:
    """The votes' average: Λ/n and η/n. Evidence never sharpens it; an ablation, not a posterior.

    Raises:
        EvidenceError: some group has no votes.
    """
    _some(evidence, "average")
    count = evidence.count.unsqueeze(-1)
    return Normal(evidence.information / evidence.precision, evidence.precision / count)


READOUTS: dict[str, Readout] = {
    "product_with_prior": product_with_prior,
    "product": product,
    "average": average,
}


def _some(evidence: Evidence, name: str) -> None:
    if (evidence.precision <= 0).any():
        row = int((evidence.precision <= 0).any(-1).nonzero()[0])
        raise EvidenceError(
            f"Expected at least one vote with a precision above zero for every group under the readout"
            f" {name!r}; group {row} has {int(evidence.count[row])} votes and a precision of zero somewhere."
            " Add evidence, or use 'product_with_prior', under which no evidence is the prior."
        )
