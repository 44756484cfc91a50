"""Fully connected networks, for anything that fits in a vector."""

from __future__ import annotations

import math

from torch import nn


def mlp_encoder(shape: tuple[int, ...], width: int) -> nn.Module:
    """(N, *shape) to features (N, width): two layers, each normalised over its own features."""
    return nn.Sequential(nn.Flatten(), *_layer(math.prod(shape), width, bias=True), *_layer(width, width))


def mlp_decoder(shape: tuple[int, ...], width: int, code_dim: int) -> nn.Module:
    """Codes (N, code_dim) to (N, *shape)."""
    return nn.Sequential(
        *_layer(code_dim, width, bias=True),
        *_layer(width, width),
        nn.Linear(width, math.prod(shape)),
        nn.Unflatten(1, shape),
    )


def _layer(inputs: int, outputs: int, bias: bool = False) -> list[nn.Module]:
    # Only the first layer needs a bias before its normalisation: without one, the input's scale would be lost.
    return [nn.Linear(inputs, outputs, bias=bias), nn.LayerNorm(outputs), nn.SiLU()]
