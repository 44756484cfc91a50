"""Counts: Poisson, and the negative binomial, whose variance is free and which may know the total of an observation."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from mlvae.errors import DataError, ModelError
from mlvae.likelihoods.base import LOG_MILLION, Features, bounded, finest, has_gaps, observed


class _Counts(Features):
    whole = True

    def check(self, x: Tensor) -> None:
        x = observed(x)
        wrong = (x != x.floor()) | (x < 0)
        if wrong.any():
            raise DataError(
                f"Expected counts, whole numbers from 0, for the {type(self).__name__} likelihood; got"
                f" {x[wrong][0]:.6g}. Pass raw counts, not normalised ones, or use the Normal likelihood."
            )

    def view(self, x: Tensor) -> Tensor:
        """log(1 + x): networks learn badly from numbers that span orders of magnitude."""
        return torch.log1p(x).unsqueeze(1)


class Poisson(_Counts):
    """Each feature a Poisson count with the decoder's output as the logarithm of its rate, kept within 1e-6 to 1e6.

    Example:
        >>> Poisson().log_prob(torch.tensor([[2.0]]), torch.zeros(1, 1)).item()    # -1 - log 2!
        -1.6931471824645996
    """

    def per_feature(self, x: Tensor, output: Tensor) -> Tensor:
        log_rate = bounded(output, LOG_MILLION)
        x, exact = finest(x), finest(log_rate)  # of large counts the terms are millions, their sum a few
        return (x * exact - torch.exp(exact) - torch.lgamma(x + 1)).to(log_rate)

    def mean(self, output: Tensor) -> Tensor:
        return torch.exp(bounded(output, LOG_MILLION))

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.poisson(self.mean(output), generator=generator)


class NegativeBinomial(_Counts):
    """Each feature a count of mean m and variance m + m²/r, with r learned for each feature.

    With a library size the decoder says how an observation's total is shared out: m = total · softmax(output), so how
    deeply a cell was sequenced need not be learned as content or style. The total is the observation's own in
    `log_prob` (the density is then conditional on it), and ``library`` in `mean` and `sample`.

    Args:
        shape: of one observation.
        library: the total of a typical observation; None makes the decoder's output the logarithm of m.
        missing: NaN means "not observed"; not with a library, whose total would be unknown.

    Example:
        >>> NegativeBinomial((4,), library=100.0).mean(torch.zeros(1, 4))
        tensor([[25., 25., 25., 25.]])
    """

    def __init__(self, shape: tuple[int, ...], library: float | None = None, missing: bool = False) -> None:
        super().__init__(missing)
        if library is not None and missing:
            raise ModelError("Expected no gaps with a library size: the total is unknown. Pass library=None.")
        if library is not None and not library > 0:
            raise ModelError(f"Expected a library size above 0; got {library}.")
        self.shape, self.library = tuple(shape), library
        self.raw_dispersion = nn.Parameter(torch.zeros(self.shape))

    @classmethod
    def for_data(cls, x: Tensor) -> Self:
        gaps = has_gaps(x)
        library = None if gaps else max(1.0, x.flatten(1).sum(1).median().item())
        return cls(tuple(x.shape[1:]), library, missing=gaps)

    def _mean(self, output: Tensor, total: Tensor | float) -> Tensor:
        if self.library is None:
            return torch.exp(bounded(output, LOG_MILLION))
        # A floor far below one count: log m of an impossible feature stays finite.
        share = torch.softmax(output.flatten(1), 1).clamp_min(1e-12)
        mean: Tensor = (total * share).unflatten(1, self.shape)
        return mean

    def per_feature(self, x: Tensor, output: Tensor) -> Tensor:
        # Of a count that is nearly Poisson r is large, and so are terms that cancel: float32 would be off by nats.
        mean = finest(self._mean(output, x.flatten(1).sum(1, keepdim=True).clamp_min(1)))
        r, x = torch.exp(finest(bounded(self.raw_dispersion, LOG_MILLION))).to(output.device), finest(x)
        log_total = torch.log(r + mean)
        nats = (
            torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
            + r * (torch.log(r) - log_total) + x * (torch.log(mean) - log_total)
        )  # fmt: skip
        return nats.to(output)

    def mean(self, output: Tensor) -> Tensor:
        return self._mean(output, self.library or 1.0)

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = self.mean(output)
        r = torch.exp(bounded(self.raw_dispersion, LOG_MILLION)).to(output).expand_as(mean)
        # A Poisson count whose rate is a gamma draw; torch's public gamma takes no generator.
        rate: Tensor = torch._standard_gamma(r, generator=generator) * mean / r
        counts: Tensor = torch.poisson(rate, generator=generator)
        return counts

    def settings(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "library": self.library, **super().settings()}
