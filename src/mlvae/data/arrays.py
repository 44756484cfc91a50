"""What may come in as arrays and what is kept: observations, and columns of labels without gaps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.data.rounding import warn_of_rounding
from mlvae.data.stored import Stored
from mlvae.errors import DataError, nearest, row
from mlvae.labels import is_missing, refuse_missing, tidy, whole

POLICIES = ("error", "drop", "own")


def as_observations(x: Any, gaps: bool = False) -> Tensor:
    """(N, *shape) uint8 as it came, or float32; rows on disk as they are.

    Args:
        x: a tensor, an array, lists, or `Stored` rows.
        gaps: NaN is a value that was not observed.

    Raises:
        DataError: `x` is not real, finite numbers, or has no observations.

    A warning says where float32 rounds away what tells observations apart.

    Example:
        >>> as_observations([[1, 2], [3, 4]]).dtype
        torch.float32
    """
    if isinstance(x, Stored):
        return x  # type: ignore[return-value]  # it answers to what is asked of observations
    if isinstance(x, Tensor):
        tensor = x.detach()
    else:
        array = as_array(x, gaps)
        if array.dtype.kind not in "biuf":
            raise DataError(f"Expected `x` to be numbers; got {array.dtype}. Turn text or objects into numbers first.")
        kind = np.uint8 if array.dtype == np.uint8 else np.float32
        with np.errstate(over="ignore"):  # what does not fit becomes inf, and is named below
            tensor = torch.from_numpy(np.require(array, kind, ["C", "W"]))
    if tensor.is_complex():
        raise DataError("Expected `x` to be real numbers; got complex ones. Split them into real and imaginary parts.")
    if tensor.dtype != torch.uint8:
        tensor = tensor.to(torch.float32)
    if tensor.ndim < 2:
        raise DataError(
            f"Expected `x` of shape (N, ...); got {tuple(tensor.shape)}. For one number each: `x[:, None]`."
        )
    if not tensor.numel():
        raise DataError(f"Expected observations in `x`; got none: its shape is {tuple(tensor.shape)}.")
    if tensor.dtype == torch.float32:
        # A tenth of looking at each number, and NaN where one of them is.
        if not all(math.isfinite(end) for end in tensor.aminmax()):
            finite = ~torch.isinf(tensor) if gaps else torch.isfinite(tensor)
            if not finite.all():
                bad = torch.nonzero(~finite.flatten(1).all(1)).flatten()
                also, ways = (
                    ("", "")
                    if gaps
                    else ("NaN or ", ", or say --gaps (gaps=True) where NaN means that a value was not observed")
                )
                raise DataError(
                    f"Expected finite numbers in `x`; got {also}infinity in {len(bad)} of {len(tensor)} rows, the first"
                    f" in {row(int(bad[0]))}. Fill or drop them{ways}."
                )
        warn_of_rounding(x.detach() if isinstance(x, Tensor) else array, "`x`")
    return tensor


def as_array(x: Any, gaps: bool = False) -> np.ndarray:
    """An array of whatever numpy makes one of; what is masked is NaN.

    Raises:
        DataError: observations of unequal shapes, or masked ones without ``gaps``.
    """
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        if not gaps:
            raise DataError(
                f"Expected `x` without masked values; got {int(np.ma.getmaskarray(x).sum()):,}. Fill them, or say"
                " gaps=True where they were not observed."
            )
        return np.ma.filled(x.astype(np.float32), np.nan)
    try:
        return np.asarray(x)
    except ValueError as error:
        raise DataError(
            f"Expected `x` of one shape (N, ...); {error}. Crop it, or pad it: `mlvae.data.padded(x)` with gaps=True."
        ) from error


def check_shape(what: str, labels: np.ndarray, count: int) -> None:
    """Raises:
    DataError: labels are not one for each observation.
    """
    if labels.shape != (count,):
        raise DataError(f"Expected {what} of shape ({count},); got {labels.shape}. Give one label for each row of `x`.")


def settle(labels: np.ndarray, column: str, missing: str) -> tuple[np.ndarray, np.ndarray]:
    """Applies the policy for missing labels.

    Args:
        labels: (N,) as `as_labels` gives them.
        column: its name, for messages.
        missing: "error", "drop" or "own" (a group of its own for each such row).

    Returns:
        (M,) labels without a gap and the (M,) int64 rows they belong to; M = N but for "drop".

    Raises:
        DataError: the policy is unknown, or it is "error" and labels are missing.

    Example:
        >>> settle(np.array([7.0, np.nan, 7.0]), "person", "own")
        (array([7, 8, 7]), array([0, 1, 2]))
    """
    if missing not in POLICIES:
        raise DataError(
            f"Expected `missing` to be one of {POLICIES}; got {missing!r}. " + nearest(str(missing), POLICIES)
        )
    gone = is_missing(labels)
    if missing == "error":
        refuse_missing(labels, f"column {column!r}")
    rows = np.flatnonzero(~gone)
    known = tidy(labels[rows]) if gone.any() else labels
    known = whole(known)  # many are floats only to make room for NaN
    if not gone.any():
        return known, rows
    if missing == "drop":
        return known, rows
    largest = int(known.max()) if known.dtype.kind in "iu" and len(known) else -1
    if known.dtype.kind in "iu" and largest + int(gone.sum()) < 2**63:
        known, own = known.astype(np.int64), largest + 1 + np.arange(gone.sum())
    else:
        known = known.astype(str)
        own = np.char.add("row ", np.flatnonzero(gone).astype(str))
        while np.isin(own, known).any():
            own = np.char.add(own, "'")
    filled = np.empty(len(labels), np.result_type(known, own))
    filled[rows], filled[gone] = known, own
    return filled, np.arange(len(labels))


def dense(labels: np.ndarray, column: str) -> np.ndarray:
    """(N,) int64 ids 0..G-1, in the sorted order of the labels.

    Raises:
        DataError: labels are missing, or of types that cannot be told apart in one order.

    Example:
        >>> dense(np.array(["bob", "ann", "bob"]), "person")
        array([1, 0, 1])
    """
    refuse_missing(labels, f"column {column!r}")
    try:
        index = np.unique(labels, return_inverse=True)[1]
    except TypeError as error:
        kinds = ", ".join(sorted({kind.__name__ for kind in map(type, labels.tolist())}))
        raise DataError(
            f"Expected labels of one type in column {column!r}; got {kinds}. "
            "Convert them, for example with `map(str, labels)`."
        ) from error
    return index.reshape(-1).astype(np.int64)
