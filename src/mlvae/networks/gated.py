"""A block in which features multiply each other."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Gated(nn.Module):
    """x + W (silu(u) v), where u and v are two products with the normalised x: (N, F) to (N, F).

    What a style is must not depend on the group: each group's styles have to be moved and stretched in their own way,
    in encoder and decoder. Products of features do that at once, which sums learn slowly.

    Reference: Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.inner = nn.Linear(features, 2 * features, bias=False)
        self.outer = nn.Linear(features, features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.inner(self.norm(x)).chunk(2, -1)
        out: Tensor = x + self.outer(F.silu(gate) * value)
        return out


def activation(features: int, gates: int) -> nn.Module:
    """SiLU, and behind it as many gated blocks."""
    return nn.Sequential(nn.SiLU(), *(Gated(features) for _ in range(gates))) if gates else nn.SiLU()
