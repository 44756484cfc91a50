"""Encoders and decoders: plain functions of an observation's shape and a width, under one dict of names.

No network here uses batch statistics: x_i would leak into the votes of others. Any `nn.Module` serves in their place:
an encoder maps (N, *shape) to features (N, F), a decoder maps codes (N, D) to the likelihood's output (N, *shape).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mlvae.networks.conv import conv_decoder, conv_encoder
from mlvae.networks.mlp import mlp_decoder, mlp_encoder
from mlvae.networks.series import series_decoder, series_encoder

__all__ = ["LAYOUTS", "NETWORKS", "Network", "beside", "default_network", "joined"]


@dataclass(frozen=True)
class Network:
    """A pair that belongs together: ``encoder(shape, width)`` and ``decoder(shape, width, code_dim)``."""

    encoder: Callable[[tuple[int, ...], int], nn.Module]
    decoder: Callable[[tuple[int, ...], int, int], nn.Module]
    width: int


GATES = 2
"""Gated blocks at the encoder's end, and at the decoder's beginning."""


def _named(gates: int, residual_up_to: int = 0) -> dict[str, Network]:
    def pair(encoder: Callable[..., nn.Module], decoder: Callable[..., nn.Module], width: int, **more: int) -> Network:
        return Network(partial(encoder, gates=gates, **more), partial(decoder, gates=gates, **more), width)

    return {
        "mlp-small": pair(mlp_encoder, mlp_decoder, 64),
        "mlp": pair(mlp_encoder, mlp_decoder, 256),
        "mlp-large": pair(mlp_encoder, mlp_decoder, 1024),
        "conv-small": pair(conv_encoder, conv_decoder, 16, residual_up_to=residual_up_to),
        "conv": pair(conv_encoder, conv_decoder, 32, residual_up_to=residual_up_to),
        # For a GPU: residual blocks from 16 x 16 pixels down.
        "conv-large": pair(conv_encoder, conv_decoder, 96, residual_up_to=16),
        "series": pair(series_encoder, series_decoder, 32),
    }


NETWORKS = _named(GATES)
LAYOUTS = {1: _named(0, 4), 2: _named(GATES, 4), 3: NETWORKS}
"""What models saved before are made of: 1 has no gated blocks, 1 and 2 have residual ones at 4 x 4."""


def beside(shape: tuple[int, ...], known: int) -> tuple[int, ...]:
    """The shape of what the encoder sees where ``known`` numbers stand beside it: a longer vector, or more channels.

    Example:
        >>> beside((5,), 2), beside((8, 8), 2), beside((3, 8, 8), 2), beside((8, 8), 0)
        ((7,), (3, 8, 8), (5, 8, 8), (8, 8))
    """
    if not known:
        return shape
    return (math.prod(shape) + known,) if len(shape) == 1 else (math.prod(shape[:-2]) + known, *shape[-2:])


def joined(x: Tensor, known: Tensor) -> Tensor:
    """What the encoder sees (N, *shape) and known numbers (N, C) as one: (N, *beside(shape, C))."""
    if x.ndim == 2:
        return torch.cat([x, known], 1)
    planes = known[:, :, None, None].expand(-1, -1, *x.shape[-2:])
    # No length is asked for: `len(x)` would fix the number of observations of an exported model.
    return torch.cat([x.unsqueeze(1) if x.ndim == 3 else x.flatten(1, -3), planes], 1)


def default_network(shape: tuple[int, ...]) -> str:
    """``conv`` for images of at least 16 x 16 pixels, (H, W) or (C, H, W) with up to 4 channels, else ``mlp``.

    Example:
        >>> default_network((28, 28)), default_network((3, 64, 64)), default_network((12,))
        ('conv', 'conv', 'mlp')
    """
    is_image = len(shape) == 2 or (len(shape) == 3 and shape[0] <= 4)
    return "conv" if is_image and min(shape[-2:]) >= 16 else "mlp"
