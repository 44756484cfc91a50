"""Real numbers scattered around the decoder's output: Normal, and Laplace for heavier tails."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlvae.errors import ModelError, nearest
from mlvae.likelihoods.base import Features, has_gaps, observed
from mlvae.normal import LOG_2PI

FAR = 100
"""Standard deviations of the data beyond all means, from which values are told to be unlike those of training."""

SCALES = ("shared", "per_feature")


class _Scattered(Features):
    """A location, which the decoder's output gives, and a scale.

    Args:
        scale: a fixed number, or ``"shared"`` (one learned number) or ``"per_feature"`` (one learned number a
            feature; needs ``shape``).
        shape: the shape of one observation.
        start: of a learned scale, best the data's own spread (1 where ``relative``): a model of nothing but their mean.
        missing: NaN means "not observed".
        centred: the encoder sees how an observation differs from ``centre``, the mean observation, in units of
            ``spread``, and the decoder's output is that difference; needs ``shape``. Else what all observations have in
            common, as faces have, must be learned before what tells them apart. `for_data` sets both.
        relative: a learned scale counts in units of ``spread`` too, so that data in other units are learned alike;
            needs ``centred``.
    """

    SMALLEST = 1e-3

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        scale: float | Literal["shared", "per_feature"] = "shared",
        shape: tuple[int, ...] | None = None,
        start: float = 0.7,
        missing: bool = False,
        centred: bool = False,
        relative: bool = False,
    ) -> None:
        super().__init__(missing)
        self.centred, self.relative = centred, relative
        if relative and not centred:
            raise ModelError("Expected centred=True with relative=True: without it there is no spread. Pass both.")
        if (centred or scale == "per_feature") and shape is None:
            raise ModelError(
                "Expected `shape` with scale='per_feature' or centred=True. Pass the shape of one observation."
            )
        self.scale_setting = scale
        self.shape = None if shape is None else tuple(shape)
        if isinstance(scale, str):
            if scale not in SCALES:
                raise ModelError(
                    f"Expected `scale` to be a number, 'shared' or 'per_feature'; got {scale!r}."
                    f" {nearest(scale, SCALES)}"
                )
            if not start > self.SMALLEST:
                raise ModelError(f"Expected `start` above {self.SMALLEST}; got {start}.")
            size: tuple[int, ...] = tuple(shape or ()) if scale == "per_feature" else ()
            self.raw_scale = nn.Parameter(torch.full(size, _before_softplus(start - self.SMALLEST)))
        elif not (math.isfinite(scale) and scale > 0):
            raise ModelError(f"Expected a positive scale; got {scale}.")
        if centred:
            self.register_buffer("centre", torch.zeros(tuple(shape or ())))
            self.register_buffer("spread", torch.ones(()))

    @classmethod
    def for_data(cls, x: Tensor, scale: float | Literal["shared"] = "shared") -> Self:
        """Centred on observations (N, *shape), with a scale that is learned from their spread where none is given."""
        x = x.cpu()
        centre = x.nanmean(0).nan_to_num(0.0)
        # Of data that hardly differ, what float32 makes of their size.
        least = 1e-6 * observed(x).abs().max().item()
        spread = max(observed(x - centre).double().square().mean().sqrt().item(), least) or 1.0
        made = cls(scale, tuple(x.shape[1:]), 1.0, has_gaps(x), centred=True, relative=isinstance(scale, str))
        made.centre.copy_(centre)
        made.spread.fill_(spread)
        return made

    @property
    def scale(self) -> Tensor:
        """The scale, () or the shape of an observation."""
        if isinstance(self.scale_setting, str):
            scale = self.SMALLEST + F.softplus(self.raw_scale)
            return self.spread.to(scale) * scale if self.relative else scale
        return torch.tensor(float(self.scale_setting), dtype=torch.float64)

    def scale_for(self, output: Tensor) -> Tensor:
        """The scale where ``output`` is, in its type; a fixed one is not sent there, which would wait."""
        fixed = None if isinstance(self.scale_setting, str) else self.scale_setting
        return self.scale.to(output) if fixed is None else output.new_full((), fixed)

    def check(self, x: Tensor) -> None:
        if not self.centred or not x.numel():
            return
        low, high = x.aminmax()
        if self.missing and high.isnan():
            low, high = torch.cat([observed(x), self.centre.flatten()[:1].to(x)]).aminmax()
        beyond = torch.maximum(high - self.centre.max().to(x), self.centre.min().to(x) - low) / self.spread.to(x)
        if beyond > FAR:
            warnings.warn(
                f"Expected values like those of training; got {low:.4g} to {high:.4g}, {beyond:.0f} times as far from"
                " the mean observation as is usual. Is it the same unit? (uint8 pictures are divided by 255, floats are"
                " not.)",
                stacklevel=2,
            )

    def view(self, x: Tensor) -> Tensor:
        return super().view((x - self.centre.to(x)) / self.spread.to(x) if self.centred else x)

    def mean(self, output: Tensor) -> Tensor:
        return self.centre.to(output) + self.spread.to(output) * output if self.centred else output

    def settings(self) -> dict[str, Any]:
        shape = None if self.shape is None else list(self.shape)
        true = {name: True for name in ("centred", "relative") if getattr(self, name)}
        return {"scale": self.scale_setting, "shape": shape, **true, **super().settings()}


def _before_softplus(value: float) -> float:
    """What softplus makes ``value`` of, which may be large."""
    return value + math.log(-math.expm1(-value))


class Normal(_Scattered):
    """Each feature a Gaussian around the decoder's output; the scale is its standard deviation.

    Learned scales stay above 1e-3 (where ``relative``, of the data's spread), so that a constant feature cannot earn
    unbounded density.

    Example:
        >>> Normal(scale=1.0).log_prob(torch.zeros(1, 1), torch.zeros(1, 1)).item()    # -½ log 2π
        -0.9189385175704956
    """

    def per_feature(self, x: Tensor, output: Tensor) -> Tensor:
        scale = self.scale_for(output)
        return -0.5 * ((x - self.mean(output)) / scale) ** 2 - torch.log(scale) - 0.5 * LOG_2PI

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.empty_like(output).normal_(generator=generator)
        return self.mean(output) + self.scale_for(output) * noise


class Laplace(_Scattered):
    """Each feature a Laplace density around the decoder's output: an error costs its size, not its square.

    Example:
        >>> Laplace(scale=1.0).log_prob(torch.ones(1, 1), torch.zeros(1, 1)).item()    # -1 - log 2
        -1.6931471824645996
    """

    def per_feature(self, x: Tensor, output: Tensor) -> Tensor:
        scale = self.scale_for(output)
        return -(x - self.mean(output)).abs() / scale - torch.log(2 * scale)

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        size = torch.empty_like(output).exponential_(generator=generator)
        sign = torch.empty_like(output).bernoulli_(0.5, generator=generator) * 2 - 1
        return self.mean(output) + self.scale_for(output) * size * sign
