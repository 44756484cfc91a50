"""How far what a model shows lies from observations: by squares, and of categories whether it is another."""

from __future__ import annotations

import torch
from torch import Tensor

from mlvae.model import MLVAE

BATCH = 1000
"""Observations prepared at a time."""


def errors(model: MLVAE, shown: Tensor, x: Tensor) -> Tensor:
    """Of each feature, (N, *shape) float64: zero where there is no value.

    Args:
        model: says which features are categories.
        shown: (N, *shape) or (*shape), what stands for the observations.
        x: (N, *shape), as the model sees them.

    Example:
        >>> from mlvae import Level
        >>> from mlvae.likelihoods import Mixed
        >>> model = MLVAE((2,), [Level("content", 2, by="person")], likelihood=Mixed(["normal", 5], missing=True))
        >>> errors(model, torch.tensor([0.0, 1.0]), torch.tensor([[3.0, 4.0], [torch.nan, 1.0]]))
        tensor([[9., 1.],
                [0., 0.]], dtype=torch.float64)
    """
    unordered = model.likelihood.unordered(model.shape).to(x.device)
    found = torch.where(unordered, (shown != x).double(), (shown - x).double().square())
    return torch.where(x.isnan(), 0.0, found)


def usual(model: MLVAE, x: Tensor) -> Tensor:
    """What observations (N, *shape) are without knowing them, (*shape): means, and of categories the commonest.

    NaN where none has a value.
    """
    total = seen = torch.zeros((), device=model.device)
    unordered = model.likelihood.unordered(model.shape).to(model.device)
    categories: list[Tensor] = []
    for part in x.split(BATCH):
        made = model.prepare(part)
        total, seen = total + made.nan_to_num(0.0).sum(0), seen + (~made.isnan()).sum(0)
        categories.append(made[:, unordered])
    found = total / seen
    if unordered.any():
        found[unordered] = torch.stack([_commonest(column) for column in torch.cat(categories).unbind(1)])
    return found


def _commonest(values: Tensor) -> Tensor:
    known = values[~values.isnan()]
    return known.mode().values if len(known) else values.new_tensor(torch.nan)
