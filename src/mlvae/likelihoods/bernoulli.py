"""Features that are on or off."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlvae.errors import DataError
from mlvae.likelihoods.base import Features, observed


class Bernoulli(Features):
    """Each feature a Bernoulli with the decoder's output as its logit; targets in [0, 1].

    Grey levels between 0 and 1 give the usual cross-entropy, which is no density: it is fine for learning, and its
    values are comparable only with themselves. ``binarise=True`` thresholds targets at ½, which makes it one.

    Example:
        >>> Bernoulli().log_prob(torch.ones(1, 2), torch.zeros(1, 2)).item()     # 2 log ½
        -1.3862943649291992
    """

    def __init__(self, binarise: bool = False, missing: bool = False) -> None:
        super().__init__(missing)
        self.binarise = binarise

    def check(self, x: Tensor) -> None:
        if not x.numel():
            return
        low, high = x.aminmax()
        if (
            low >= 0 and high <= 1
        ):  # false where there is a gap; leaving gaps out takes longer than encoding small pictures
            return
        x = observed(x)
        if x.numel() and (x.min() < 0 or x.max() > 1):
            raise DataError(
                f"Expected values in [0, 1] for the Bernoulli likelihood; got {x.min():.4g} to {x.max():.4g}."
                " Scale the data, or use the Normal likelihood (`--likelihood normal`)."
            )

    def per_feature(self, x: Tensor, output: Tensor) -> Tensor:
        if self.binarise:
            x = (x >= 0.5).to(output.dtype)
        # x·logit - log(1 + e^logit): finite for every finite logit.
        return x * output - F.softplus(output)

    def mean(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.bernoulli(torch.sigmoid(output), generator=generator)

    def settings(self) -> dict[str, Any]:
        return {"binarise": self.binarise, **super().settings()}
