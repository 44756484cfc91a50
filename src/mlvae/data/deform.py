"""Pictures of groups that never were: all members of one bent, stretched and shaded alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STRETCH = 0.15
"""Either side grows or shrinks by this share at most."""
SHEAR = 0.08
"""Of half the height, by which the ends lean at most."""
BEND, KNOTS = 0.08, 5
"""Of half a side, by which each of the 5 x 5 knots of a smooth displacement moves at most along it."""
GAMMA = 1.5
"""Brightnesses v in [0, 1] become v to the power of between 1/1.5 and 1.5."""


def deformed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W) in [0, 1], all changed alike, and mirrored in half of the calls."""

    def either_way(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=generator) - 1

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
