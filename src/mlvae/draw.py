"""Pictures of what a model learned: grids of observations, written as PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.atomic import replacing
from mlvae.data import GroupedData
from mlvae.depict import Depiction
from mlvae.errors import DataError, ModelError
from mlvae.model import MLVAE

GAP = 2
"""Pixels of white between pictures; a wider gap sets givers apart from what was made of them."""

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Endings of files of pictures, and what Pillow calls their format."""


def swap(model: MLVAE, data: GroupedData, count: int = 8, seed: int = 0, levels: Sequence[str] | None = None) -> Tensor:
    """Down the side who gives content, along the top who gives style, in the middle what the model makes of both.

    With ``levels`` it is these that the side gives, in place of all that groups share.

    Returns:
        (1 + count, 1 + count, *shape); the corner is white.
    """
    if not model.group_levels:
        raise ModelError("Expected a model with a level that groups share to swap; this one has none (a plain VAE).")
    x, known = _one_a_group(model, data, count, seed)
    n = len(x)
    covariates = (None, None) if known is None else (known.repeat_interleave(n, 0), known.repeat(n, 1))
    given = model.restore(x)
    a, b = given.repeat_interleave(n, 0), given.repeat(n, *[1] * len(model.shape))
    made = model.swap(a, b, levels, covariates=covariates)
    made = made.cpu().unflatten(0, (n, n))
    corner = torch.ones_like(x[:1])
    return torch.cat([torch.cat([corner, x])[None], torch.cat([x[:, None], made], 1)])


def interpolate(
    model: MLVAE, data: GroupedData, count: int = 8, seed: int = 0, levels: Sequence[str] | None = None
) -> Tensor:
    """Each row a walk between two groups: first content and style, then content alone, then style alone, in thirds.

    With ``levels`` it is these alone that move.

    Returns:
        (rows, count + 2, *shape), the true observations at both ends.
    """
    x, known = _one_a_group(model, data, 6, seed)
    half = len(x) // 2
    a, b = x[:half], x[half : 2 * half]
    covariates = (None, None) if known is None else (known[:half], known[half : 2 * half])
    shared = [level.name for level in model.group_levels]
    own = [level.name for level in model.levels if level.name not in shared]
    walks = [
        model.interpolate(model.restore(a), model.restore(b), count, moving, covariates).cpu()
        for moving in ((None, shared, own) if levels is None else (levels,))
        if moving is None or moving
    ]
    return torch.cat([torch.cat([a[:, None], walk, b[:, None]], 1) for walk in walks])


def generate(model: MLVAE, data: GroupedData, count: int = 8, seed: int = 0) -> Tensor:
    """A third of the rows new pictures of known groups, a third one new content in new styles, a third all new.

    Returns:
        (rows, count, *shape).
    """
    x, known = _one_a_group(model, data, 3, seed)
    told = None if known is None else known[:1].expand(count, -1)
    if not model.group_levels:
        return torch.stack([model.generate(count, seed=seed + row, covariates=told) for row in range(count)]).cpu()
    level = model.group_levels[0]
    familiar = model.codes(model.restore(x), covariates=known)[level.name].mean
    noise = torch.Generator().manual_seed(seed)
    new = model.population(level.name).draw(3, noise)
    fixed = [
        model.generate(count, seed=seed + row, covariates=told, **{level.name: code})
        for row, code in enumerate([*familiar, *new])
    ]
    free = [model.generate(count, seed=seed + 100 + row, covariates=told) for row in range(2)]
    return torch.stack([*fixed, *free]).cpu()


def reconstruct(model: MLVAE, data: GroupedData, count: int = 8, seed: int = 0) -> Tensor:
    """Above each reconstruction the observation that it is of: (rows, count, *shape)."""
    x, known = _one_a_group(model, data, 4 * count, seed)
    x = x[: len(x) // count * count] if len(x) >= count else x
    width = min(count, len(x))
    made = model.reconstruct(model.restore(x), covariates=None if known is None else known[: len(x)])
    pairs = torch.stack([x.unflatten(0, (-1, width)), made.cpu().unflatten(0, (-1, width))], 1)
    return pairs.flatten(0, 1)


DRAWINGS: dict[str, Callable[..., Tensor]] = {
    "swap": swap,
    "interpolate": interpolate,
    "generate": generate,
    "reconstruct": reconstruct,
}


def picture_file(path: str | Path) -> Path:
    """Raises DataError where pictures cannot be written to a file of that name."""
    path = Path(path)
    if path.suffix.lower() not in PICTURES:
        raise DataError(f"Expected a file that ends in {', '.join(PICTURES)} for pictures; got {path}. Rename it.")
    return path


def save_grid(pictures: Tensor, path: str | Path, shown: Depiction | None = None) -> Path:
    """Writes pictures (rows, columns, *shape) as one PNG, each at least 56 pixels high.

    Args:
        pictures: shape (H, W), (1, H, W) or (3, H, W).
        path: of the file.
        shown: what is black and what is white, `Depiction.of` model and data; None takes 0 and 1.

    Raises:
        DataError: the observations are no images, or the file would not be one.
    """
    from PIL import Image

    path = picture_file(path)

    shape = pictures.shape[2:]
    if len(shape) == 2:
        pictures = pictures.unsqueeze(2)
    if pictures.ndim != 5 or pictures.shape[2] not in (1, 3):
        raise DataError(
            f"Expected images, (H, W), (1, H, W) or (3, H, W), to draw; got observations of shape {tuple(shape)}. Of a"
            " table `mlvae draw generate ... --out new.csv` writes rows, and `mlvae report` shows swaps and others."
        )
    sheet = (shown or Depiction("image", 0.0, 1.0)).pixels(pictures.cpu(), -(-56 // pictures.shape[3]), GAP)
    with replacing(path) as beside:
        Image.fromarray(sheet).save(beside, format=PICTURES[path.suffix.lower()])
    return path


def _one_a_group(model: MLVAE, data: GroupedData, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Up to ``count`` observations, each of another group as long as there are groups, as the model takes them.

    With them their known covariates, where the model takes some.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(data))
    labels: np.ndarray[Any, Any] = data.groups if data.by is not None else order
    _, inverse = np.unique(labels, return_inverse=True)
    _, first = np.unique(inverse[order], return_index=True)
    chosen = order[random.permutation(first)]
    rest = order[np.isin(order, chosen, invert=True)]
    rows = torch.from_numpy(np.concatenate([chosen, rest])[:count])
    known = model.covariates({name: values[rows.numpy()] for name, values in data.columns.items()}, len(rows))
    return model.prepare(data.x[rows]).cpu(), None if known is None else known.cpu()
