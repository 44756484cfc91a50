"""Pictures of groups that never were: all members of one turned, or bent, stretched and shaded, alike."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mlvae.errors import DataError

STRETCH = 0.15
"""Either side grows or shrinks by this share at most."""
SHEAR = 0.08
"""Of half the height, by which the ends lean at most."""
BEND, KNOTS = 0.08, 5
"""Of half a side, by which each of the 5 x 5 knots of a smooth displacement moves at most along it."""
GAMMA = 1.5
"""Brightnesses v in [0, 1] become v to the power of between 1/1.5 and 1.5."""


def quarter_turned(x: Tensor) -> Tensor:
    """Square pictures (N, ..., H, H) turned by 0, 90, 180 and 270 degrees counter-clockwise, one after another.

    Raises:
        DataError: they are not square.
    """
    if x.ndim not in (3, 4) or x.shape[-2] != x.shape[-1]:
        raise DataError(
            f"Expected square images of shape (H, H) or (C, H, H); got {tuple(x.shape[1:])}. Crop or pad them first."
        )
    return torch.cat([torch.rot90(x, quarter, (-2, -1)) for quarter in range(4)])


def deformed(x: Tensor, groups: Tensor, seed: int, copies: int, amount: float) -> Tensor:
    """Pictures (N, ...), ``copies`` times one after another, in each of which every group is changed in its own way.

    Args:
        x: (N, H, W) or (N, C, H, W), uint8 or in [0, 1].
        groups: (N,) numbers from 0, none left out.
        seed: of all that is drawn.
        copies: how many.
        amount: how far, 1 being what the constants above say.

    Raises:
        DataError: other pictures, no copy, or an amount that is no number above 0.
    """
    if x.ndim not in (3, 4) or not (x.dtype == torch.uint8 or (x.min() >= 0 and x.max() <= 1)):
        raise DataError(
            f"Expected pictures (H, W) or (C, H, W) of bytes or of numbers in [0, 1]; got {tuple(x.shape[1:])},"
            f" {x.dtype}. Scale them first, or leave them as they are."
        )
    if copies < 1:
        raise DataError(f"Expected at least one deformed copy of each group; got {copies}. For none, leave it out.")
    if not 0 < amount < math.inf:
        raise DataError(f"Expected a number above 0 by which to deform; got {amount}. 1 is usual.")
    generator = torch.Generator().manual_seed(seed)
    scale = 255 if x.dtype == torch.uint8 else 1
    out = x.repeat(copies, *[1] * (x.ndim - 1))
    members = [(groups == group).nonzero().squeeze(1) for group in range(int(groups.max()) + 1)]
    for copy in range(copies):
        for rows in members:
            images = x[rows].reshape(len(rows), -1, *x.shape[-2:])
            changed = scale * _alike(images / scale, generator, amount).reshape(len(rows), *x.shape[1:])
            out[copy * len(x) + rows] = (changed.round() if scale > 1 else changed).to(x.dtype)
    return out


def _alike(images: Tensor, generator: torch.Generator, amount: float) -> Tensor:
    """Images (N, C, H, W) in [0, 1], all changed in one way, and mirrored in half of the calls."""

    def either_way(*shape: int) -> Tensor:
        return amount * (2 * torch.rand(shape, generator=generator) - 1)

    across, down = ((1 + STRETCH) ** either_way(2)).tolist()
    mirror = -1.0 if torch.rand((), generator=generator) < 0.5 else 1.0
    affine = torch.tensor([[mirror * across, SHEAR * float(either_way())], [0.0, down]])
    size = images.shape[-2:]
    knots = BEND * either_way(1, 2, KNOTS, KNOTS)
    bend = F.interpolate(knots, size=size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    theta = torch.cat([affine, torch.zeros(2, 1)], 1).unsqueeze(0)
    grid = F.affine_grid(theta, [1, 1, *size], align_corners=False) + bend
    moved = F.grid_sample(images, grid.expand(len(images), -1, -1, -1), padding_mode="border", align_corners=False)
    return moved.clamp(0, 1).pow(GAMMA ** float(either_way()))
