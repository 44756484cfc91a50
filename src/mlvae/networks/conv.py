"""Convolutional networks for images of any size, (H, W), (C, H, W), or P numbers a pixel: (P, C, H, W).

Weights lie channels last, which is faster. Only the first layer of each has a bias before its normalisation: without
one the input's scale would be lost, with more they would be redundant.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlvae.errors import ModelError
from mlvae.networks.fast import Enlarging, GroupNorm
from mlvae.networks.gated import activation


def conv_encoder(shape: tuple[int, ...], width: int, residual_up_to: int = 0, gates: int = 0) -> nn.Module:
    """(N, *shape) to features (N, 8 width): shrink the image to 4 x 4, then one full layer and gated blocks.

    Residual blocks stand where the image is at most ``residual_up_to`` high and wide.
    """
    channels, sizes, widths = _plan(shape, width)
    layers: list[nn.Module] = [nn.Flatten(1, 2)] if len(shape) == 4 else []
    layers += [nn.Unflatten(1, (1, shape[0]))] if len(shape) == 2 else []
    for (before, after), (larger, size) in zip(pairwise([channels, *widths]), pairwise(sizes), strict=True):
        # 3 x 3 by steps of 2, or 7 x 7 by steps of 4 over the pixels of a large image.
        kernel, stride = (3, 2) if _step(larger) == 2 else (7, 4)
        first = larger == sizes[0]
        layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=first), *_normalised(after)]
        layers += _residual(after, size, residual_up_to)
    flat = widths[-1] * sizes[-1][0] * sizes[-1][1]
    layers += [nn.Flatten(), nn.Linear(flat, 8 * width, bias=False), nn.LayerNorm(8 * width)]
    layers.append(activation(8 * width, gates))
    network: nn.Module = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def conv_decoder(
    shape: tuple[int, ...], width: int, code_dim: int, residual_up_to: int = 0, gates: int = 0
) -> nn.Module:
    """Codes (N, code_dim) to (N, *shape): one full layer and gated blocks, then grow the image to its size."""
    channels, sizes, widths = _plan(shape, width)
    height, breadth = sizes[-1]
    flat = widths[-1] * height * breadth
    layers: list[nn.Module] = [nn.Linear(code_dim, 8 * width), nn.LayerNorm(8 * width)]
    layers.append(activation(8 * width, gates))
    layers += [nn.Linear(8 * width, flat, bias=False), nn.Unflatten(1, (widths[-1], height, breadth))]
    layers += _normalised(widths[-1])
    layers += _residual(widths[-1], sizes[-1], residual_up_to)
    for (before, after), size in zip(pairwise(widths[::-1]), sizes[-2:0:-1], strict=True):
        layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False), Crop(size)]
        layers += [*_normalised(after), *_residual(after, size, residual_up_to)]
    step = _step(sizes[0])
    layers += [Enlarging(widths[0], channels, step), Crop(sizes[0])]
    if len(shape) == 2:
        layers.append(nn.Flatten(1, 2))
    if len(shape) == 4:
        layers.append(nn.Unflatten(1, shape[:2]))
    network: nn.Module = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


class Residual(nn.Module):
    """x + conv(act(norm(x))), the image's size and channels kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            *_normalised(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.inner(x)
        return out


class Crop(nn.Module):
    """Cuts an image that growing made a few pixels too large."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] == self.size:
            return x
        # Not by slices, whose gradient would lie with channels first.
        return F.pad(x, (0, self.size[1] - x.shape[3], 0, self.size[0] - x.shape[2]))


def _plan(shape: tuple[int, ...], width: int) -> tuple[int, list[tuple[int, int]], list[int]]:
    """Channels of the image, its size after each stage (the whole image first), the width of each stage."""
    if len(shape) not in (2, 3, 4):
        raise ModelError(
            "Expected images of shape (height, width) or (channels, height, width) for the network 'conv'; got"
            f" {shape}. Reshape them, or use another network: 'mlp' takes any shape."
        )
    channels = math.prod(shape[:-2])
    height, breadth = shape[-2:]
    sizes = [(height, breadth)]
    while len(sizes) < 2 or max(sizes[-1]) > 4:
        step = _step(sizes[-1])
        sizes.append((-(-sizes[-1][0] // step), -(-sizes[-1][1] // step)))
    return channels, sizes, [width] + [2 * width] * (len(sizes) - 2)


def _step(size: tuple[int, int]) -> int:
    """How far one stage shrinks an image: large ones by 4 at once, where pixels are many and features few."""
    return 4 if max(size) > 32 else 2


def _normalised(channels: int) -> list[nn.Module]:
    return [GroupNorm(8 if channels % 8 == 0 else 1, channels), nn.SiLU()]


def _residual(channels: int, size: tuple[int, int], up_to: int) -> list[nn.Module]:
    return [Residual(channels)] if max(size) <= up_to else []
