"""Who is it? Exact Bayes factors of queries against a gallery of up to millions of groups.

With the posterior N(m, v) of a known group, and a query of mean μ = η/Λ and precision Λ, the log Bayes factor

    log Z(A+B) - log Z(A) - log Z(B)

is how much likelier the query is under the group than under the prior, both blurred by the query's own variance:

    ½ Σ_d [μ² / (1 + 1/Λ) + log(1 + 1/Λ)] - ½ Σ_d [(m - μ)² / (v + 1/Λ) + log(v + 1/Λ)]

Nothing cancels in it, and of the groups it needs m and v alone. The logarithms of D dimensions are one logarithm of a
product, which is cut where it could leave the range of its type: v lies in (0, 1], so the query alone tells how far it
can go.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import EvidenceError
from mlvae.evidence import Evidence, product_with_prior
from mlvae.group_evidence import GroupEvidence
from mlvae.identification import Odds

BLOCK = 8192
"""Groups scored at a time: a block's intermediates stay in the processor's cache."""

CLOSE = 1e-3
"""Nats that float32 may be wrong by for a group within five standard deviations; beyond that, float64 is used."""

SCORES = 2**25
"""Scores held at a time, of some queries against all groups: 128 MiB."""

SPARE = 16
"""Candidates beyond k that are scored again in float64."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Ranking:
    """The likeliest groups of each of Q queries. Rankings over parts of a gallery add up to that of the whole.

    Args:
        groups: (Q, k) labels, likeliest first.
        log_odds: (Q, k), calibrated log Bayes factors in nats: of this group against a new one.
        log_total: (Q,), the log of the sum of the odds over the whole gallery.
        known: groups in the gallery.
        new: prior probability of "none of these"; the known groups share the rest equally.
    """

    groups: Array
    log_odds: Tensor
    log_total: Tensor
    known: int
    new: float

    @property
    def probability(self) -> Tensor:
        """(Q, k): of each group named, among all of the gallery and none of these."""
        return (self.log_odds + self._log_prior - self._log_all[:, None]).exp()

    @property
    def none(self) -> Tensor:
        """(Q,): the probability of none of these."""
        return (_log(self.new) - self._log_all).exp()

    @property
    def _log_prior(self) -> float:
        return _log(1 - self.new) - math.log(self.known)

    @property
    def _log_all(self) -> Tensor:
        return torch.logaddexp(self.log_total + self._log_prior, torch.full_like(self.log_total, _log(self.new)))

    def __add__(self, other: Ranking) -> Ranking:
        odds = torch.cat([self.log_odds, other.log_odds], 1)
        k = min(max(self.log_odds.shape[1], other.log_odds.shape[1]), odds.shape[1])
        best, place = odds.topk(k)
        groups = np.take_along_axis(np.concatenate([self.groups, other.groups], 1), place.numpy(), 1)
        total = torch.logaddexp(self.log_total, other.log_total)
        return Ranking(groups, best, total, self.known + other.known, self.new)


class Gallery:
    """Known groups, laid out for one pass through memory a query: 8 D bytes a group beside their evidence.

    Args:
        evidence: named groups of a level whose readout is "product_with_prior".
        level: whose groups.

    Raises:
        EvidenceError: the groups have no names, none has evidence, or the readout has no prior.

    Example:
        >>> from mlvae import MLVAE, Level
        >>> model = MLVAE((4,), [Level("content", 2, by="person"), Level("style", 2)], likelihood="normal")
        >>> x = torch.randn(6, 4)
        >>> gallery = Gallery(model.evidence(x, ["ann", "ann", "bob", "bob", "cat", "cat"]))
        >>> ranking = gallery.identify(model.evidence(x[:1]), k=2, new=0.1)
        >>> ranking.groups.shape, len(ranking.none)
        ((1, 2), 1)
    """

    def __init__(self, evidence: GroupEvidence, level: str = "content") -> None:
        evidence.check_comparable(level)
        labels = evidence.groups[level]
        if labels is None or not len(labels):
            raise EvidenceError("Expected a gallery of named groups; got none. Pass `groups` to model.evidence.")
        # Of a group whose votes were all taken back, or that never had any, nothing is known.
        known = (evidence.levels[level].count > 0).cpu()
        if not known.any():
            raise EvidenceError("Expected a gallery with evidence; all of its groups have none. Add some.")
        self.level, self.labels, self.evidence = level, labels, evidence.levels[level]
        if not known.all():  # else nothing is copied
            self.labels, self.evidence = labels[known.numpy()], self.evidence[known]
        self.model = evidence.model
        self._blocks = list(self._posteriors(torch.float32))
        self._largest = torch.stack([mean.abs().amax(1) for mean, _ in self._blocks]).amax(0)

    def __len__(self) -> int:
        return len(self.labels)

    def log_bayes_factors(self, queries: Evidence) -> Tensor:
        """(Q, G) nats: float32, but float64 where the queries' precision is too high for it.

        Raises:
            EvidenceError: the queries have another number of dimensions.
        """
        if queries.dim != self.evidence.dim:
            raise EvidenceError(
                f"Expected queries of {self.evidence.dim} dimensions; got {queries.dim}. Use one model's evidence."
            )
        if not len(queries):
            return torch.zeros(0, len(self))
        exact = bool((self._float32_error(queries) > CLOSE).any())
        blocks = self._posteriors(torch.float64) if exact else iter(self._blocks)
        terms = [_Query.of(queries, row, torch.float64 if exact else torch.float32) for row in range(len(queries))]
        return torch.cat([torch.stack([term.against(*block) for term in terms]) for block in blocks], 1)

    def identify(
        self, queries: GroupEvidence, k: int = 5, *, new: float = 0.0, calibration: Odds | None = None
    ) -> Ranking:
        """The k likeliest groups of each query, and none of these.

        The k have float64 odds; the sum over all others may be off by a factor of exp(±0.001).

        Args:
            queries: evidence of one model with the gallery's.
            k: how many to name, at most; a small gallery has fewer.
            new: prior probability of "none of these".
            calibration: of the odds; None takes Bayes factors as they are.

        Raises:
            EvidenceError: ``k`` or ``new`` out of range, or evidence of another layout.
        """
        if k < 1 or not 0 <= new <= 1:
            raise EvidenceError(f"Expected k of 1 or more and `new` between 0 and 1; got k={k}, new={new}.")
        calibration = calibration or Odds()
        queries.check_comparable(self.level)
        queries.check_model(self.model)
        if not len(queries.levels[self.level]):
            raise EvidenceError("Expected at least one query to identify; got none.")
        rows = max(1, SCORES // len(self))
        parts = [
            self._identify(queries.levels[self.level][start : start + rows], k, calibration)
            for start in range(0, len(queries.levels[self.level]), rows)
        ]
        groups, odds, total = zip(*parts, strict=True)
        return Ranking(np.concatenate(groups), torch.cat(odds), torch.cat(total), len(self), new)

    def _identify(self, asked: Evidence, k: int, calibration: Odds) -> tuple[Array, Tensor, Tensor]:
        """Labels (Q, k), odds (Q, k) and the log of all odds' sum (Q,)."""
        rough = self.log_bayes_factors(asked)
        candidates = rough.topk(min(k + SPARE, len(self))).indices
        exact = torch.stack(
            [
                _Query.of(asked, row, torch.float64).against(*_posterior(self.evidence[places], torch.float64))
                for row, places in enumerate(candidates)
            ]
        )
        odds = calibration(rough.scatter(1, candidates, exact.to(rough.dtype)))
        best, place = exact.topk(min(k, len(self)))
        return self.labels[candidates.gather(1, place).numpy()], calibration(best), odds.logsumexp(1).double()

    def _posteriors(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        return (_posterior(self.evidence[start : start + BLOCK], dtype) for start in range(0, len(self), BLOCK))

    def _float32_error(self, queries: Evidence) -> Tensor:
        """(Q,): how far rounding the means can move the score of a group within five standard deviations, in nats."""
        mean = torch.where(queries.precision > 0, queries.information / queries.precision, 0)
        return 5 * 2.0**-24 * ((self._largest + mean.abs()) * queries.precision.sqrt()).sum(1)


@dataclass(frozen=True, eq=False)
class _Query:
    """What the formula needs of one query; dimensions without precision say nothing and are left out."""

    used: Tensor | None
    mean: Tensor
    variance: Tensor
    start: float
    cuts: list[int]

    @classmethod
    def of(cls, queries: Evidence, row: int, dtype: torch.dtype) -> _Query:
        precision, information = queries.precision[row].double(), queries.information[row].double()
        used = precision > 0
        precision, information = precision[used], information[used]
        mean, variance = information / precision, 1 / precision
        start = 0.5 * float((mean**2 / (1 + variance) + torch.log1p(variance)).sum())
        cuts = _cuts(variance, math.log(torch.finfo(dtype).max) - 1)
        only = None if bool(used.all()) else used
        return cls(only, mean.to(dtype)[:, None], variance.to(dtype)[:, None], start, cuts)

    def against(self, mean: Tensor, variance: Tensor) -> Tensor:
        """(G,) log Bayes factors for posteriors (D, G)."""
        if self.used is not None:
            mean, variance = mean[self.used], variance[self.used]
        gap = mean - self.mean
        spread = variance + self.variance
        total = gap.mul_(gap).div_(spread).sum(0)
        for part in spread.split(self.cuts):
            total += part.prod(0).log_()
        return total.mul_(-0.5).add_(self.start)


def _cuts(variance: Tensor, limit: float) -> list[int]:
    """Lengths of runs of dimensions over which Π (v + variance), 0 < v <= 1, stays within exp(±limit)."""
    lengths: list[int] = []
    low, high = 0.0, 0.0
    for least, most in zip(variance.log().tolist(), torch.log1p(variance).tolist(), strict=True):
        low, high = low + least, high + most
        if not lengths or high > limit or low < -limit:
            lengths.append(0)
            low, high = least, most
        lengths[-1] += 1
    return lengths


def _posterior(evidence: Evidence, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Means and variances, (D, G): a dimension's groups lie side by side."""
    posterior = product_with_prior(evidence.to(torch.float64))
    return posterior.mean.to(dtype).t().contiguous(), posterior.variance.to(dtype).t().contiguous()


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf
