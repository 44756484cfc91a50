"""Data in memory, and those of other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.data.arrays import as_array
from mlvae.data.sources import tables
from mlvae.data.sources.files import frame_table, huggingface_table, saved_table
from mlvae.data.sources.raw import Asked, Raw
from mlvae.data.stored import Stored
from mlvae.errors import DataError


def raw(source: Any, asked: Asked, gaps: bool = False) -> Raw:
    """Whatever it is, told by what it can do: nothing is imported to find out. ``gaps``: what is masked is a gap."""
    if isinstance(source, (np.ndarray, Tensor, Stored, list)):
        return Raw(source if isinstance(source, (Tensor, Stored)) else as_array(source, gaps), {}, "arrays")
    if isinstance(source, Mapping):
        parts = ", ".join(map(repr, source))
        raise DataError(f"Expected one data set; got several by name: {parts}. Choose one: read(source[...]).")
    if hasattr(source, "with_format") and hasattr(source, "column_names"):
        return tables.from_table(huggingface_table(source), asked)
    if hasattr(source, "__arrow_c_stream__") or hasattr(source, "to_parquet"):
        return tables.from_table(frame_table(source, "frame"), asked)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return items(source)
    raise DataError(
        f"Expected a path, a built-in set, a data frame, a data set or an array; got {type(source).__name__}."
        " Load it yourself and use GroupedData.from_arrays(x, groups)."
    )


def saved(folder: Path, asked: Asked) -> Raw:
    """A Hugging Face data set that was saved to disk."""
    return tables.from_table(saved_table(folder), asked)


def items(source: Any) -> Raw:
    """A torch data set, each item x or (x, label), gone through once: labels become the column "group".

    Raises:
        DataError: it is empty, or an item has another shape or kind.
    """
    if not len(source):
        raise DataError("Expected observations in the data set; it is empty.")
    first = source[0]
    pairs = isinstance(first, (tuple, list))
    xs: list[Tensor] = []
    labels: list[Any] = []
    for place in range(len(source)):
        item = source[place]
        x = torch.as_tensor(item[0] if pairs else item)
        if xs and x.shape != xs[0].shape:
            raise DataError(
                f"Expected items of one shape; item {place} has {tuple(x.shape)}, the first {tuple(xs[0].shape)}."
                " Pad or crop them in the data set."
            )
        xs.append(x)
        if pairs:
            labels.append(item[1].item() if isinstance(item[1], Tensor) and item[1].ndim == 0 else item[1])
    return Raw(torch.stack(xs), {"group": labels} if pairs else {}, type(source).__name__)
