"""Real numbers scattered around the decoder's output: Normal, and Laplace for heavier tails."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlvae.errors import ModelError, nearest
from mlvae.likelihoods.base import Features, has_gaps, observed
from mlvae.normal import LOG_2PI

SCALES = ("shared", "per_feature")


class _Scattered(Features):
    """A location, which is the decoder's output, and a scale.

    Args:
        scale: a fixed number, or ``"shared"`` (one learned number) or ``"per_feature"`` (one learned number a
            feature; needs ``shape``).
        shape: the shape of one observation.
        start: of a learned scale, best the data's own spread: a model of nothing but their mean.
        missing: NaN means "not observed".
    """

    SMALLEST = 1e-3

    def __init__(
        self,
        scale: float | Literal["shared", "per_feature"] = "shared",
        shape: tuple[int, ...] | None = None,
        start: float = 0.7,
        missing: bool = False,
    ) -> None:
        super().__init__(missing)
        self.scale_setting = scale
        self.shape = None if shape is None else tuple(shape)
        if isinstance(scale, str):
            if scale not in SCALES:
                raise ModelError(
                    f"Expected `scale` to be a number, 'shared' or 'per_feature'; got {scale!r}."
                    f" {nearest(scale, SCALES)}"
                )
            if scale == "per_feature" and shape is None:
                raise ModelError("Expected `shape` with scale='per_feature'. Pass the shape of one observation.")
            if not start > self.SMALLEST:
                raise ModelError(f"Expected `start` above {self.SMALLEST}; got {start}.")
            size: tuple[int, ...] = tuple(shape or ()) if scale == "per_feature" else ()
            self.raw_scale = nn.Parameter(torch.full(size, math.log(math.expm1(start - self.SMALLEST))))
        elif not (math.isfinite(scale) and scale > 0):
            raise ModelError(f"Expected a positive scale; got {scale}.")

    @classmethod
    def for_data(cls, x: Tensor) -> Self:
        spread = observed(x).std().item()
        return cls("shared", start=max(spread, 2 * cls.SMALLEST), missing=has_gaps(x))

    @property
    def scale(self) -> Tensor:
        """The scale, () or the shape of an observation."""
        if isinstance(self.scale_setting, str):
            return self.SMALLEST + F.softplus(self.raw_scale)
        return torch.tensor(float(self.scale_setting), dtype=torch.float64)

    def mean(self, output: Tensor) -> Tensor:
        return output

    def settings(self) -> dict[str, Any]:
        shape = None if self.shape is None else list(self.shape)
        return {"scale": self.scale_setting, "shape": shape, **super().settings()}


class Normal(_Scattered):
    """Each feature a Gaussian around the decoder's output; the scale is its standard deviation.

    Learned scales stay above 1e-3, so that a constant feature cannot earn unbounded density.

    Example:
        >>> Normal(scale=1.0).log_prob(torch.zeros(1, 1), torch.zeros(1, 1)).item()    # -½ log 2π
        -0.9189385175704956
    """

    def per_feature(self, x: Tensor, output: Tensor) -> Tensor:
        scale = self.scale.to(output)
        return -0.5 * ((x - output) / scale) ** 2 - torch.log(scale) - 0.5 * LOG_2PI

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.empty_like(output).normal_(generator=generator)
        return output + self.scale.to(output) * noise


class Laplace(_Scattered):
    """Each feature a Laplace density around the decoder's output: an error costs its size, not its square.

    Example:
        >>> Laplace(scale=1.0).log_prob(torch.ones(1, 1), torch.zeros(1, 1)).item()    # -1 - log 2
        -1.6931471824645996
    """

    def per_feature(self, x: Tensor, output: Tensor) -> Tensor:
        scale = self.scale.to(output)
        return -(x - output).abs() / scale - torch.log(2 * scale)

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        size = torch.empty_like(output).exponential_(generator=generator)
        sign = torch.empty_like(output).bernoulli_(0.5, generator=generator) * 2 - 1
        return output + self.scale.to(output) * size * sign
