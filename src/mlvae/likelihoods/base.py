"""What every observation model offers, and what those have in common whose features are independent given z."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn


class Likelihood(nn.Module, ABC):
    """What every observation model offers; log densities are in nats, summed over the features of an observation.

    ``missing`` says whether NaN in an observation means "not observed". Where it is False, NaN is refused. ``whole``
    says that values are whole numbers, so that uint8 is taken as it is, and not scaled to [0, 1].
    """

    missing: bool = False
    whole: bool = False

    @classmethod
    def for_data(cls, x: Tensor) -> Self:
        """The likelihood for observations (N, *shape) as the model sees them: sizes and starting values are theirs."""
        return cls()

    def check(self, x: Tensor) -> None:
        """Raises DataError where ``x`` (N, *shape) lies outside the likelihood's domain; NaN is no concern of it."""

    def input_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what the encoder sees of an observation of that shape."""
        return shape

    def embed(self, x: Tensor) -> Tensor:
        """What the encoder sees: (N, *input_shape), finite."""
        return x

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the decoder's output for an observation of that shape."""
        return shape

    def unordered(self, shape: tuple[int, ...]) -> Tensor:
        """Which features of an observation of that shape are categories, numbers that have no order; (*shape) bool."""
        return torch.zeros(shape, dtype=torch.bool)

    @abstractmethod
    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """log p(x | z) in nats from observations (N, *shape) and the decoder's output (N, *output_shape); (N,)."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """E[x | z], (N, *shape): what pictures show. Of unordered categories, the likeliest."""

    @abstractmethod
    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One draw of x given z, (N, *shape)."""

    def settings(self) -> dict[str, Any]:
        """The arguments that make this likelihood again, as JSON values."""
        return {}


class Features(Likelihood):
    """A likelihood that is a product over features.

    Args:
        missing: NaN means "not observed": it costs no nats, and the encoder sees 0 and, beside the values, which of
            them were observed.
    """

    outputs = 1
    """Numbers that the decoder gives for each feature."""

    views = 1
    """Numbers that the encoder sees of each feature."""

    def __init__(self, missing: bool = False) -> None:
        super().__init__()
        self.missing = missing

    @classmethod
    def for_data(cls, x: Tensor) -> Self:
        return cls(missing=has_gaps(x))

    @abstractmethod
    def per_feature(self, x: Tensor, output: Tensor) -> Tensor:
        """log p of every feature in nats, (N, *shape), for x without a gap."""

    def view(self, x: Tensor) -> Tensor:
        """What the encoder sees of values without a gap, (N, views, *shape)."""
        return x.unsqueeze(1)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        if not self.missing:
            return self.per_feature(x, output).flatten(1).sum(1)
        seen = ~torch.isnan(x)
        # Filled before the density, not only masked after it: the gradient of 0 times NaN is NaN.
        nats = self.per_feature(filled(x, seen), output)
        return torch.where(seen, nats, 0.0).flatten(1).sum(1)

    def input_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return stacked(shape, self.views + self.missing)

    def embed(self, x: Tensor) -> Tensor:
        if not self.missing:
            values = self.view(x)
            return values.squeeze(1) if self.views == 1 else values
        seen = ~torch.isnan(x)
        values = torch.where(seen.unsqueeze(1), self.view(filled(x, seen)), 0.0)
        return torch.cat([values, seen.unsqueeze(1).to(x.dtype)], 1)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return stacked(shape, self.outputs)

    def settings(self) -> dict[str, Any]:
        return {"missing": True} if self.missing else {}


def stacked(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The shape of ``count`` numbers a feature: one more axis in front, where they are more than one.

    Example:
        >>> stacked((8, 8), 3), stacked((8, 8), 1)
        ((3, 8, 8), (8, 8))
    """
    return shape if count == 1 else (count, *shape)


def has_gaps(x: Tensor) -> bool:
    """Whether any value is NaN."""
    return x.is_floating_point() and bool(torch.isnan(x).any())


def observed(x: Tensor) -> Tensor:
    """The values that are there, in one row."""
    return x[~torch.isnan(x)]


def filled(x: Tensor, seen: Tensor) -> Tensor:
    """Values (N, *shape) with something in place of gaps that any density takes: what was observed is in its domain.

    It is the largest value of the feature here, else of all features; ½ where nothing is observed.

    Example:
        >>> x = torch.tensor([[2.0, torch.nan, torch.nan], [torch.nan, 3.0, torch.nan]])
        >>> filled(x, ~torch.isnan(x)).tolist()
        [[2.0, 3.0, 3.0], [2.0, 3.0, 3.0]]
    """
    if not x.numel():  # which has no largest value
        return x
    largest = torch.where(seen, x, -torch.inf).amax(0)
    overall = largest.flatten().amax(0)
    largest = torch.where(torch.isfinite(largest), largest, torch.where(torch.isfinite(overall), overall, 0.5))
    return torch.where(seen, x, largest)


def bounded(raw: Tensor, bound: float) -> Tensor:
    """A logarithm kept between ± ``bound``, approached smoothly, so that its exponential is finite and positive."""
    return bound * torch.tanh(raw / bound)


def finest(values: Tensor) -> Tensor:
    """In float64, where the device has it; else, as on Apple's, in float32."""
    return values.float() if values.device.type == "mps" else values.double()


LOG_MILLION = math.log(1e6)
"""Rates and the like lie between 1e-6 and 1e6."""
