"""Fully connected networks, for anything that fits in a vector."""

from __future__ import annotations

import math

from torch import nn

from mlvae.networks.gated import activation


def mlp_encoder(shape: tuple[int, ...], width: int, gates: int = 0) -> nn.Module:
    """(N, *shape) to features (N, width): two layers, each normalised over its own features, and gated blocks."""
    first = _layer(math.prod(shape), width, bias=True)
    return nn.Sequential(nn.Flatten(), *first, *_layer(width, width, gates=gates))


def mlp_decoder(shape: tuple[int, ...], width: int, code_dim: int, gates: int = 0) -> nn.Module:
    """Codes (N, code_dim) to (N, *shape); gated blocks stand behind the first layer."""
    return nn.Sequential(
        *_layer(code_dim, width, bias=True, gates=gates),
        *_layer(width, width),
        nn.Linear(width, math.prod(shape)),
        nn.Unflatten(1, shape),
    )


def _layer(inputs: int, outputs: int, bias: bool = False, gates: int = 0) -> list[nn.Module]:
    # Only the first layer needs a bias before its normalisation: without one, the input's scale would be lost.
    return [nn.Linear(inputs, outputs, bias=bias), nn.LayerNorm(outputs), activation(outputs, gates)]
