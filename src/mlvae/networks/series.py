"""Convolutional networks for windows of several channels: sensors, recordings.

A window is (C, T), or (P, C, T) where there are P numbers for each value, as beside gaps.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from mlvae.errors import ModelError
from mlvae.networks.gated import activation

SHORTEST = 8
"""Windows are halved until they are at most so many steps long."""


def series_encoder(shape: tuple[int, ...], width: int, gates: int = 0) -> nn.Module:
    """(N, *shape) to features (N, 4 width): halve the window to at most 8 steps, one full layer, gated blocks."""
    channels, lengths = _plan(shape)
    layers: list[nn.Module] = [nn.Flatten(1, 2)] if len(shape) == 3 else []
    for stage in range(len(lengths) - 1):
        before, after = channels if stage == 0 else _channels(stage - 1, width), _channels(stage, width)
        # Only the first layer needs a bias before its normalisation: without one, the input's scale would be lost.
        layers += [nn.Conv1d(before, after, 5, 2, 2, bias=stage == 0), nn.GroupNorm(_parts(after), after), nn.SiLU()]
    flat = _channels(len(lengths) - 2, width) * lengths[-1]
    layers += [nn.Flatten(), nn.Linear(flat, 4 * width, bias=False), nn.LayerNorm(4 * width)]
    layers.append(activation(4 * width, gates))
    return nn.Sequential(*layers)


def series_decoder(shape: tuple[int, ...], width: int, code_dim: int, gates: int = 0) -> nn.Module:
    """Codes (N, code_dim) to (N, *shape): one full layer and gated blocks, then double the window to its length."""
    channels, lengths = _plan(shape)
    last = len(lengths) - 2
    wide = _channels(last, width)
    layers: list[nn.Module] = [nn.Linear(code_dim, 4 * width), nn.LayerNorm(4 * width)]
    layers.append(activation(4 * width, gates))
    layers += [nn.Linear(4 * width, wide * lengths[-1], bias=False), nn.Unflatten(1, (wide, lengths[-1]))]
    layers += [nn.GroupNorm(_parts(wide), wide), nn.SiLU()]
    for stage in range(last, -1, -1):
        before, after = _channels(stage, width), _channels(stage - 1, width) if stage else channels
        layers += [nn.ConvTranspose1d(before, after, 6, 2, 2, bias=stage == 0), Cut(lengths[stage])]
        layers += [nn.GroupNorm(_parts(after), after), nn.SiLU()] if stage else []
    if len(shape) == 3:
        layers.append(nn.Unflatten(1, shape[:2]))
    return nn.Sequential(*layers)


class Cut(nn.Module):
    """Cuts a window that doubling made a step too long."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.length]


def _plan(shape: tuple[int, ...]) -> tuple[int, list[int]]:
    """Channels, all numbers of each counted, and the window's length after each stage, the whole first."""
    if len(shape) not in (2, 3):
        raise ModelError(
            f"Expected windows of shape (channels, steps) for the network 'series'; got {shape}. Reshape them, or use"
            " another network."
        )
    lengths = [shape[-1]]
    while len(lengths) < 2 or lengths[-1] > SHORTEST:
        lengths.append(-(-lengths[-1] // 2))
    return math.prod(shape[:-1]), lengths


def _channels(stage: int, width: int) -> int:
    return width if stage == 0 else 2 * width


def _parts(channels: int) -> int:
    return 8 if channels % 8 == 0 else 1
