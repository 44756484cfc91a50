"""Observation models p(x | z): one small class each, all under one contract test.

A likelihood reads the decoder's output, which has the shape of one observation. To add one: subclass `Likelihood`,
name it in `LIKELIHOODS`, add its line to the contract test.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlvae.errors import DataError, ModelError, nearest
from mlvae.normal import LOG_2PI


class Likelihood(nn.Module, ABC):
    """What every observation model offers; log densities are in nats, summed over the features of an observation."""

    def check(self, x: Tensor) -> None:
        """Raises DataError where ``x`` (N, *shape) lies outside the likelihood's domain."""

    @abstractmethod
    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """log p(x | z) in nats from the decoder's output, both (N, *shape); (N,)."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """E[x | z], (N, *shape): what pictures show."""

    @abstractmethod
    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One draw of x given z, (N, *shape)."""

    def settings(self) -> dict[str, Any]:
        """The arguments that make this likelihood again, as JSON values."""
        return {}


class Bernoulli(Likelihood):
    """Each feature a Bernoulli with the decoder's output as its logit; targets in [0, 1].

    Grey levels between 0 and 1 give the usual cross-entropy, which is no density: it is fine for learning, and its
    values are comparable only with themselves. ``binarise=True`` thresholds targets at ½, which makes it one.

    Example:
        >>> Bernoulli().log_prob(torch.ones(1, 2), torch.zeros(1, 2)).item()     # 2 log ½
        -1.3862943649291992
    """

    def __init__(self, binarise: bool = False) -> None:
        super().__init__()
        self.binarise = binarise

    def check(self, x: Tensor) -> None:
        if x.numel() and (x.min() < 0 or x.max() > 1):
            raise DataError(
                f"Expected values in [0, 1] for the Bernoulli likelihood; got {x.min():.4g} to {x.max():.4g}."
                " Scale the data, or use the Normal likelihood (`--likelihood normal`)."
            )

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        if self.binarise:
            x = (x >= 0.5).to(output.dtype)
        # x·logit - log(1 + e^logit): finite for every finite logit.
        return (x * output - F.softplus(output)).flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.bernoulli(torch.sigmoid(output), generator=generator)

    def settings(self) -> dict[str, Any]:
        return {"binarise": self.binarise}


class Normal(Likelihood):
    """Each feature a Gaussian around the decoder's output.

    Args:
        scale: a fixed standard deviation, or ``"shared"`` (one learned number) or ``"per_feature"`` (one learned
            number a feature; needs ``shape``).
        shape: the shape of one observation.
        start: of a learned scale, best the data's own standard deviation: a model of nothing but their mean.

    Learned scales stay above 1e-3, so that a constant feature cannot earn unbounded density.

    Example:
        >>> Normal(scale=1.0).log_prob(torch.zeros(1, 1), torch.zeros(1, 1)).item()    # -½ log 2π
        -0.9189385175704956
    """

    SMALLEST = 1e-3

    def __init__(
        self,
        scale: float | Literal["shared", "per_feature"] = "shared",
        shape: tuple[int, ...] | None = None,
        start: float = 0.7,
    ) -> None:
        super().__init__()
        self.scale_setting = scale
        self.shape = None if shape is None else tuple(shape)
        if isinstance(scale, str):
            if scale not in ("shared", "per_feature"):
                raise ModelError(
                    f"Expected `scale` to be a number, 'shared' or 'per_feature'; got {scale!r}."
                    f" {nearest(scale, ['shared', 'per_feature'])}"
                )
            if scale == "per_feature" and shape is None:
                raise ModelError("Expected `shape` with scale='per_feature'. Pass the shape of one observation.")
            if not start > self.SMALLEST:
                raise ModelError(f"Expected `start` above {self.SMALLEST}; got {start}.")
            size: tuple[int, ...] = tuple(shape or ()) if scale == "per_feature" else ()
            self.raw_scale = nn.Parameter(torch.full(size, math.log(math.expm1(start - self.SMALLEST))))
        elif not (math.isfinite(scale) and scale > 0):
            raise ModelError(f"Expected a positive standard deviation; got {scale}.")

    @property
    def scale(self) -> Tensor:
        """The standard deviation, () or the shape of an observation."""
        if isinstance(self.scale_setting, str):
            return self.SMALLEST + F.softplus(self.raw_scale)
        return torch.tensor(float(self.scale_setting), dtype=torch.float64)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        scale = self.scale.to(output)
        per_feature = -0.5 * ((x - output) / scale) ** 2 - torch.log(scale) - 0.5 * LOG_2PI
        return per_feature.flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return output

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.empty_like(output).normal_(generator=generator)
        return output + self.scale.to(output) * noise

    def settings(self) -> dict[str, Any]:
        return {"scale": self.scale_setting, "shape": None if self.shape is None else list(self.shape)}


LIKELIHOODS: dict[str, type[Likelihood]] = {"bernoulli": Bernoulli, "normal": Normal}
