"""Do generated samples look like real ones (density), and do they show all that real ones show (coverage)?

Reference: Naeem, Oh, Uh, Choi, Yoo 2020, "Reliable Fidelity and Diversity Metrics for Generative Models",
arXiv:2002.09797.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError

BLOCK = 2**22
"""Distances held at a time."""

Array = Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True)
class Generation:
    """Generated samples against real ones; a ball reaches from a real sample to its k-th nearest real neighbour.

    Args:
        coverage: share of the balls with a generated sample inside. About 1 - 2^-k (0.97 at k = 5) where equally many
            samples come from the same distribution, so 1 is no target; more generated samples raise it.
        density: balls that a generated sample lies in, over k, on average. About 1 for the same distribution; above
            where samples crowd in the dense regions, as those of a blurry decoder may.
    """

    coverage: float
    density: float


NEAREST = 5
"""The neighbour that a ball around a real sample reaches to."""


def coverage_density(real: Array, generated: Array, k: int = NEAREST) -> Generation:
    """Coverage and density in a feature space.

    Args:
        real: (N, F) features of real observations.
        generated: (M, F) features of generated ones, of the same network.
        k: the neighbour that a ball reaches to, the sample itself not counted.

    Raises:
        DataError: shapes disagree, features are not finite, or there are not more than ``k`` real samples.

    Example:
        >>> real = torch.arange(8.0)[:, None]
        >>> coverage_density(real, real, k=1), coverage_density(real, real + 100, k=1)
        (Generation(coverage=1.0, density=2.75), Generation(coverage=0.0, density=0.0))
    """
    x, z = _features("real", real), _features("generated", generated)
    if x.shape[1] != z.shape[1]:
        raise DataError(
            f"Expected generated features of {x.shape[1]} dimensions, as the real ones; got {z.shape[1]}."
            " Take both from one network."
        )
    if not 1 <= k < len(x):
        raise DataError(f"Expected `k` of at least 1 and more than k real samples; got k={k} and {len(x)} samples.")
    # Distances come from products, which lose digits far from the origin.
    centre = x.mean(0)
    x, z = x - centre, z - centre
    rows = torch.arange(len(x)).split(max(1, BLOCK // max(len(x), len(z))))
    covered, inside = 0, 0
    for block in rows:
        own = torch.cdist(x[block], x)
        own[torch.arange(len(block)), block] = torch.inf
        radius = own.kthvalue(k, 1, keepdim=True).values
        within = torch.cdist(x[block], z) <= radius
        covered += int(within.any(1).sum())
        inside += int(within.sum())
    return Generation(covered / len(x), inside / (k * len(z)))


def _features(name: str, values: Array) -> Tensor:
    x = torch.as_tensor(values).detach().cpu().double()
    if x.ndim != 2 or len(x) == 0:
        raise DataError(f"Expected {name} features (N, F); got {tuple(x.shape)}. Flatten each observation's.")
    if not torch.isfinite(x).all():
        raise DataError(f"Expected finite {name} features; got NaN or infinity. Has training diverged?")
    return x
