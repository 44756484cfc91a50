"""Sequences of unequal length as observations of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlvae.errors import DataError


def padded(sequences: Sequence[Any], length: int | None = None, axis: int = 0) -> np.ndarray[Any, Any]:
    """Sequences with NaN after their ends, for `GroupedData.from_arrays(..., gaps=True)`.

    A likelihood that knows gaps gives what is not there no nats, and the encoder sees it as missing: the mask needs
    no place of its own.

    Args:
        sequences: N of them, each (T_i, ...) with T_i steps, alike but for their length.
        length: T; None takes the longest. Longer ones are cut.
        axis: of a sequence, along which its steps are; -1 for windows (channels, steps), as the network `series` takes
            them.

    Returns:
        (N, T, ...) float32, T on that axis.

    Raises:
        DataError: there is none, one is empty, or they differ in more than their length.

    Example:
        >>> padded([[1.0, 2.0, 3.0], [4.0]])
        array([[ 1.,  2.,  3.],
               [ 4., nan, nan]], dtype=float32)
        >>> padded([np.zeros((6, 20)), np.zeros((6, 12))], axis=-1).shape
        (2, 6, 20)
    """
    arrays = [np.asarray(sequence, np.float32) for sequence in sequences]
    if not arrays:
        raise DataError("Expected sequences; got none.")
    if not -arrays[0].ndim <= axis < arrays[0].ndim or {array.ndim for array in arrays} != {arrays[0].ndim}:
        shapes = " and ".join(str(shape) for shape in sorted({array.shape for array in arrays})[:2])
        raise DataError(f"Expected sequences with steps on axis {axis}; got {shapes}. Name the axis of their steps.")
    arrays = [np.moveaxis(array, axis, 0) for array in arrays]
    rest = arrays[0].shape[1:]
    for place, array in enumerate(arrays):
        if array.ndim == 0 or not array.size or array.shape[1:] != rest:
            raise DataError(
                f"Expected sequences of shape (T, {', '.join(map(str, rest))}), T at least 1; number {place} has the"
                f" shape {array.shape}. Bring its channels to those of the first, or drop it."
            )
    steps = length or max(map(len, arrays))
    x = np.full((len(arrays), steps, *rest), np.nan, np.float32)
    for row, array in zip(x, arrays, strict=True):
        row[: len(array)] = array[:steps]
    return np.moveaxis(x, 1, axis + 1 if axis >= 0 else axis)
