"""Is it the same? Claims verified, odds calibrated, and observations that do not belong to their group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlvae.errors import EvidenceError
from mlvae.evidence import Evidence, product_with_prior
from mlvae.group_evidence import GroupEvidence
from mlvae.labels import alike

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Odds:
    """Log-odds from log Bayes factors: ``scale * factor + offset``.

    Example:
        >>> same, different = 4 * torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
        >>> 0.8 < Odds.fit(same + 8, different - 8).scale < 1.2       # their true log-odds are x
        True
    """

    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, factor: Tensor) -> Tensor:
        return self.scale * factor + self.offset

    @classmethod
    def fit(cls, same: Tensor, different: Tensor) -> Odds:
        """The logistic regression of "same" on the log Bayes factor, both kinds of pair weighing the same.

        Args:
            same: log Bayes factors of pairs of one group.
            different: of pairs of two groups.

        Raises:
            EvidenceError: there are no pairs of one kind.
        """
        if not len(same) or not len(different):
            raise EvidenceError(
                f"Expected pairs of one group and of two to calibrate with; got {len(same)} and {len(different)}."
                " Take probes of groups that the gallery knows, and a gallery of at least two."
            )
        # A weak pull towards (1, 0) keeps pairs that are told apart perfectly from asking for an infinite scale.
        pull = 1 / (len(same) + len(different))
        parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
        start = parameters.detach().clone()
        solver = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            solver.zero_grad()
            odds = (parameters[0] * factors.double() + parameters[1] for factors in (same, different))
            value = _nats(*odds) + pull * ((parameters - start) ** 2).sum()
            value.backward()
            return value

        solver.step(loss)
        return cls(*parameters.tolist())

    def nats(self, same: Tensor, different: Tensor) -> float:
        """What log-odds of pairs cost, in nats a pair, both kinds weighing the same: 0 is perfect, log 2 no better than
        chance.

        Args:
            same: log Bayes factors of pairs of one group.
            different: of pairs of two groups.
        """
        return _nats(self(same.double()), self(different.double())).item()


def _nats(same: Tensor, different: Tensor) -> Tensor:
    """The logistic loss of log-odds, both kinds of pair weighing the same."""
    return (F.softplus(-same).mean() + F.softplus(different).mean()) / 2


def verify(
    known: GroupEvidence, claimed: GroupEvidence, level: str = "content", *, calibration: Odds | None = None
) -> tuple[Array, Tensor]:
    """Is each claimed group the known one of the same name?

    Returns:
        The labels that both have, (P,), and for each the calibrated log-odds of one group against two, (P,) nats:
        above zero speaks for the claim.

    Raises:
        EvidenceError: no label is on both sides, a readout has no prior, or evidence of another layout.
    """
    known.check_model(claimed.model)
    calibration = calibration or Odds()
    sides: list[Array] = []
    for side in (known, claimed):
        side.check_comparable(level)
        labels = side.groups[level]
        sides.append(np.empty(0) if labels is None else labels)
    both, here, there = np.intersect1d(*alike(*sides), return_indices=True)
    if not len(both):
        raise EvidenceError("Expected a group of the same name on both sides; got none. Check the labels.")
    a, b = known.levels[level][torch.from_numpy(here)], claimed.levels[level][torch.from_numpy(there)]
    return both, calibration((a + b).log_evidence() - a.log_evidence() - b.log_evidence())


@dataclass(frozen=True, eq=False)
class Belonging:
    """Does an observation belong to its group?

    Args:
        log_odds: (N,) log Bayes factors in nats, of this group against a new one.
        p_value: (N,) the chance that a member's vote lies as far from what the group predicts as this one; uniform for
            members where the model is right, near zero for what does not belong.
    """

    log_odds: Tensor
    p_value: Tensor


def belonging(votes: Evidence, groups: Evidence) -> Belonging:
    """Scores N votes, each under the evidence of one group (N rows, the vote itself left out)."""
    posterior, mean = (
        product_with_prior(groups),
        torch.where(votes.precision > 0, votes.information / votes.precision, 0),
    )
    # 1 / (v + 1/Λ), which is zero for a vote that says nothing.
    precision = votes.precision / (1 + votes.precision * posterior.variance)
    distance = (precision * (posterior.mean - mean) ** 2).sum(-1)
    odds = (groups + votes).log_evidence() - groups.log_evidence() - votes.log_evidence()
    return Belonging(odds, torch.special.gammaincc(torch.full_like(distance, votes.dim / 2), distance / 2))
