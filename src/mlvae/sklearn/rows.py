"""Rows of numbers as a model's observations."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from mlvae.errors import DataError
from mlvae.model import MLVAE

Array = np.ndarray[Any, Any]


def shaped(X: Array, shape: tuple[int, ...]) -> Array:  # noqa: N803
    """Rows (N, F) as observations (N, *shape)."""
    if X.shape[1] != np.prod(shape):
        raise DataError(
            f"Expected rows of {int(np.prod(shape))} numbers, for observations of shape {shape}; X has {X.shape[1]}"
            " features. Pass the shape that a row was flattened from."
        )
    # A copy: a frame's rows may be read-only, which tensors know nothing of.
    return np.array(X).reshape(len(X), *shape)


def in_precision_of(X: Array, model: MLVAE) -> MLVAE:  # noqa: N803
    """The model, or a copy of it in the floating type of the rows, where the device has that type."""
    like = next(model.parameters())
    dtype = torch.float32 if X.dtype == np.float32 or like.device.type == "mps" else torch.float64
    return model if like.dtype == dtype else copy.deepcopy(model).to(dtype)
