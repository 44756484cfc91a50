"""Encoders and decoders: plain functions of an observation's shape and a width, under one dict of names.

No network here uses batch statistics: x_i would leak into the votes of others. Any `nn.Module` serves in their place:
an encoder maps (N, *shape) to features (N, F), a decoder maps codes (N, D) to the likelihood's output (N, *shape).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from mlvae.networks.conv import conv_decoder, conv_encoder
from mlvae.networks.mlp import mlp_decoder, mlp_encoder

__all__ = ["NETWORKS", "Network", "default_network"]


@dataclass(frozen=True)
class Network:
    """A pair that belongs together: ``encoder(shape, width)`` and ``decoder(shape, width, code_dim)``."""

    encoder: Callable[[tuple[int, ...], int], nn.Module]
    decoder: Callable[[tuple[int, ...], int, int], nn.Module]
    width: int


NETWORKS: dict[str, Network] = {
    "mlp": Network(mlp_encoder, mlp_decoder, width=256),
    "conv": Network(conv_encoder, conv_decoder, width=32),
}


def default_network(shape: tuple[int, ...]) -> str:
    """``conv`` for images of at least 16 x 16 pixels, (H, W) or (C, H, W) with up to 4 channels, else ``mlp``.

    Example:
        >>> default_network((28, 28)), default_network((3, 64, 64)), default_network((12,))
        ('conv', 'conv', 'mlp')
    """
    is_image = len(shape) == 2 or (len(shape) == 3 and shape[0] <= 4)
    return "conv" if is_image and min(shape[-2:]) >= 16 else "mlp"
