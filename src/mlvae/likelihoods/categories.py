"""Features that take one of a number of values: without an order (Categorical), or with one (8-bit grey values)."""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from mlvae.errors import DataError, ModelError
from mlvae.likelihoods.base import Features, bounded, has_gaps, observed


class Categorical(Features):
    """Each feature one of K categories, coded 0..K-1, with the decoder's K outputs as its logits.

    The encoder sees one number a category. The mean is the likeliest category: codes have no order to average over.

    Args:
        categories: K, of every feature.
        missing: NaN means "not observed".

    Example:
        >>> Categorical(4).log_prob(torch.tensor([[3.0]]), torch.zeros(1, 4, 1)).item()    # log ¼
        -1.3862943649291992
    """

    whole = True

    def __init__(self, categories: int, missing: bool = False) -> None:
        super().__init__(missing)
        if categories < 2:
            raise ModelError(f"Expected at least 2 categories; got {categories}. Drop a feature that never varies.")
        self.categories = self.outputs = self.views = categories

    @classmethod
    def for_data(cls, x: Tensor) -> Self:
        return cls(max(2, int(observed(x).max()) + 1), missing=has_gaps(x))

    def check(self, x: Tensor) -> None:
        x = observed(x)
        wrong = (x != x.floor()) | (x < 0) | (x >= self.categories)
        if wrong.any():
            raise DataError(
                f"Expected categories coded 0 to {self.categories - 1}; got {x[wrong][0]:.6g}. Code them as the"
                " training data were: read(..., like=model)."
            )

    def view(self, x: Tensor) -> Tensor:
        return F.one_hot(x.long(), self.categories).movedim(-1, 1).to(x.dtype)

    def unordered(self, shape: tuple[int, ...]) -> Tensor:
        return torch.ones(shape, dtype=torch.bool)

    def per_feature(self, x: Tensor, output: Tensor) -> Tensor:
        return F.log_softmax(output, 1).gather(1, x.long().unsqueeze(1)).squeeze(1)

    def mean(self, output: Tensor) -> Tensor:
        return output.argmax(1).to(output.dtype)

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        gumbel = -torch.empty_like(output).exponential_(generator=generator).log()
        return (output + gumbel).argmax(1).to(output.dtype)

    def settings(self) -> dict[str, Any]:
        return {"categories": self.categories, **super().settings()}


class DiscretisedLogistic(Features):
    """Grey values in steps: the mass that a logistic density puts on each step, the tails on the first and the last.

    The decoder gives a location and a log scale for each feature. Values lie in [0, 1], in equal steps: what `prepare`
    makes of uint8. Unlike the Bernoulli likelihood of grey values it is a probability, so its nats compare with those
    of other models.

    Args:
        levels: how many values there are.
        missing: NaN means "not observed".

    Example:
        >>> sharp = torch.tensor([[[0.5], [-7.0]]])                      # location ½, a scale far below a step
        >>> round(DiscretisedLogistic(3).log_prob(torch.tensor([[0.5]]), sharp).exp().item(), 3)
        1.0
    """

    outputs = 2

    def __init__(self, levels: int = 256, missing: bool = False) -> None:
        super().__init__(missing)
        if levels < 2:
            raise ModelError(f"Expected at least 2 levels; got {levels}.")
        self.levels = levels

    def check(self, x: Tensor) -> None:
        steps = observed(x) * (self.levels - 1)
        wrong = ((steps - steps.round()).abs() > 1e-3) | (steps < -1e-3) | (steps > self.levels - 1 + 1e-3)
        if wrong.any():
            raise DataError(
                f"Expected values in [0, 1] in steps of 1/{self.levels - 1} for the discretised logistic likelihood;"
                f" got {float(steps[wrong][0]) / (self.levels - 1):.6g}. Pass uint8 images, or use the Normal"
                f" likelihood."
            )

    def _location_scale(self, output: Tensor) -> tuple[Tensor, Tensor]:
        location, raw = output.unbind(1)
        return location, torch.exp(bounded(raw, 5.0) - 2)  # scales from 1e-3 to 20, at the start 0.14

    def per_feature(self, x: Tensor, output: Tensor) -> Tensor:
        location, scale = self._location_scale(output)
        half = 0.5 / (self.levels - 1)
        upper, lower = (x + half - location) / scale, (x - half - location) / scale
        # σ(u) - σ(l) = σ(u) σ(-l) (1 - e^(l-u)), which does not cancel.
        below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
        inner = below + above + torch.log(-torch.expm1(-2 * half / scale))
        return torch.where(x < half, below, torch.where(x > 1 - half, above, inner))

    def mean(self, output: Tensor) -> Tensor:
        """Of the density before its values are rounded to steps."""
        location, scale = self._location_scale(output)
        return scale * (F.softplus(location / scale) - F.softplus((location - 1) / scale))

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        location, scale = self._location_scale(output)
        uniform = torch.rand(location.shape, generator=generator, device=output.device, dtype=output.dtype)
        value = location + scale * torch.logit(uniform, 1e-6)
        return (value.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)

    def settings(self) -> dict[str, Any]:
        return {"levels": self.levels, **super().settings()}
