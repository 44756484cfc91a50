"""The diagonal Gaussian: the only distribution that latents have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlvae.notebook import table

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False, repr=False)
class Normal:
    """A diagonal Gaussian N(mean, 1/precision) for each row; the last axis is the latent dimension.

    Args:
        mean: (..., D).
        precision: (..., D), positive.

    Example:
        >>> posterior = Normal(torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 1.0]]))
        >>> posterior.variance.tolist()
        [[0.25, 1.0]]
        >>> round(posterior.kl().item(), 4)          # nats, summed over D
        0.8181
    """

    mean: Tensor
    precision: Tensor

    @classmethod
    def standard(cls, *shape: int, like: Tensor | None = None) -> Normal:
        """N(0, 1) of the given shape, on the device and in the type of ``like``."""
        options: dict[str, Any] = {} if like is None else {"dtype": like.dtype, "device": like.device}
        return cls(torch.zeros(*shape, **options), torch.ones(*shape, **options))

    @property
    def variance(self) -> Tensor:
        """(..., D)."""
        return self.precision.reciprocal()

    @property
    def log_var(self) -> Tensor:
        """(..., D)."""
        return -torch.log(self.precision)

    def __getitem__(self, rows: int | slice | Tensor) -> Normal:
        return Normal(self.mean[rows], self.precision[rows])

    def __repr__(self) -> str:
        shape = tuple(self.mean.shape)
        return (
            f"Normal({shape}, mean variance {self.variance.mean().item():.3g})"
            if self.mean.numel()
            else f"Normal({shape})"
        )

    def _repr_html_(self) -> str:
        """In a notebook: for each row its first means ± standard deviations, and its divergence from the prior."""
        mean, deviation, kl = (
            v.detach().reshape(-1, v.shape[-1]) for v in (self.mean, self.variance.sqrt(), self.kl()[..., None])
        )
        first = range(min(4, mean.shape[1]))
        rows = (
            [row, *(f"{m[d]:.2f} ± {s[d]:.2f}" for d in first), k.item()]
            for row, (m, s, k) in enumerate(zip(mean, deviation, kl, strict=True))
        )
        head = ["row", *(f"z{d}" for d in first), "KL (nats)"]
        return table(repr(self), head, rows, len(mean))

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """One reparametrised draw a row: mean + noise / sqrt(precision), (..., D)."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return torch.addcmul(self.mean, noise, torch.rsqrt(self.precision))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, summed over D.

        Args:
            value: (..., D), broadcast against the parameters.

        Returns:
            (...).
        """
        squared = self.precision * (value - self.mean) ** 2
        return 0.5 * (torch.log(self.precision) - squared - LOG_2PI).sum(-1)

    def kl(self) -> Tensor:
        """Divergence from the prior N(0, 1) in nats, summed over D: ½ Σ (μ² + 1/Λ - 1 + log Λ), (...)."""
        terms = torch.addcmul(self.precision.reciprocal(), self.mean, self.mean) + torch.log(self.precision)
        return 0.5 * (terms - 1).sum(-1)
