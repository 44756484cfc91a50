"""Pictures of groups that never were: all members of one turned, or bent, stretched and shaded, alike."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlvae.data.stored import Stored
from mlvae.errors import DataError

if TYPE_CHECKING:
    from mlvae.data.grouped import GroupedData

STRETCH = 0.15
"""Either side grows or shrinks by this share at most."""
SHEAR = 0.08
"""Of half the height, by which the ends lean at most."""
BEND, KNOTS = 0.08, 5
"""Of half a side, by which each of the 5 x 5 knots of a smooth displacement moves at most along it."""
GAMMA = 1.5
"""Brightnesses v in [0, 1] become v to the power of between 1/1.5 and 1.5."""


def quarter_turns(data: GroupedData) -> GroupedData:
    """Four times the data: every group turned by 0, 90, 180 and 270 degrees, each turn a new group.

    Returns:
        (4 N, *shape), the turns one after another, counter-clockwise; group labels become strings like
        "12@90", other columns repeat.

    Raises:
        DataError: the observations are not square images (H, H) or (C, H, H), or have no groups.

    Example:
        >>> from mlvae import GroupedData
        >>> data = GroupedData.from_arrays(torch.rand(4, 8, 8), [12, 12, 15, 15])
        >>> data.quarter_turns().groups[[0, 4, 8, 12]].tolist()
        ['12@0', '12@90', '12@180', '12@270']
    """
    by = data.grouping_column
    return _with_new_groups(data, by, _quarter_turned(_in_memory(data, "turn")), ["@0", "@90", "@180", "@270"])


def deformed(data: GroupedData, copies: int, *, seed: int = 0, amount: float = 1.0, alone: bool = False) -> GroupedData:
    """The data, and ``copies`` times each group deformed, as new groups: for pictures of few people.

    All members of a copy are bent, stretched, mirrored and shaded alike (`data.deform`), as if they were another
    person's. A network that has learned thirty people by heart knows little of the next.

    Args:
        copies: of each group.
        seed: of how each is deformed.
        amount: how far; three times as far, copies are as strange to a network that learned from others of them as
            new people are, so that levels can be calibrated on them (`fit`'s ``valid``).
        alone: the copies without the data.

    Returns:
        ((1 + copies) N, *shape), the data first, or (copies N, *shape); labels become strings like "ann+0" (as they
        are), "ann+1", other columns repeat.

    Raises:
        DataError: the observations are not pictures (H, W) or (C, H, W) of bytes or of numbers in [0, 1], have no
            groups or stay on disk, ``copies`` is below one, or ``amount`` no number above 0.

    Example:
        >>> from mlvae import GroupedData
        >>> data = GroupedData.from_arrays(torch.rand(4, 8, 8), ["ann", "ann", "bob", "bob"])
        >>> sorted(set(data.deformed(2).groups.tolist()))
        ['ann+0', 'ann+1', 'ann+2', 'bob+0', 'bob+1', 'bob+2']
        >>> sorted(set(data.deformed(2, seed=1, amount=3, alone=True).groups.tolist()))
        ['ann+1', 'ann+2', 'bob+1', 'bob+2']
    """
    by, x = data.grouping_column, _in_memory(data, "deform")
    more = _copies(x, data.codes(by), seed, copies, amount)
    marks = [f"+{copy}" for copy in range(1 + copies)]
    return _with_new_groups(data, by, more if alone else torch.cat([x, more]), marks[1:] if alone else marks)


def _with_new_groups(data: GroupedData, by: str, x: Tensor, marks: list[str]) -> GroupedData:
    """So many times the rows as there are marks, which tell the groups of one from those of another."""
    columns = {name: np.tile(labels, len(marks)) for name, labels in data.columns.items()}
    columns[by] = np.char.add(columns[by].astype(str), np.repeat(marks, len(data)))
    return replace(data, x=x, columns=columns)


def _in_memory(data: GroupedData, doing: str) -> Tensor:
    if isinstance(data.x, Stored):
        raise DataError(f"Expected observations in memory to {doing}; {data.name!r} stays on disk. Read fewer.")
    return data.x


def _quarter_turned(x: Tensor) -> Tensor:
    """Square pictures (N, ..., H, H) turned by 0, 90, 180 and 270 degrees counter-clockwise, one after another.

    Raises:
        DataError: they are not square.
    """
    if x.ndim not in (3, 4) or x.shape[-2] != x.shape[-1]:
        raise DataError(
            f"Expected square images of shape (H, H) or (C, H, H); got {tuple(x.shape[1:])}. Crop or pad them first."
        )
    return torch.cat([torch.rot90(x, quarter, (-2, -1)) for quarter in range(4)])


def _copies(x: Tensor, groups: Tensor, seed: int, copies: int, amount: float) -> Tensor:
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
    if x.is_floating_point() and torch.isnan(x).any():
        raise DataError("Expected pictures without gaps to deform; some values are missing. Fill them in.")
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
    members = groups.argsort(stable=True).split(groups.bincount().tolist())
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
