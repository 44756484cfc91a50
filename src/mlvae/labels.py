"""Labels of observations: one array from whatever came, and which of them are missing."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Number
from typing import Any

import numpy as np
from torch import Tensor

from mlvae.errors import DataError, row

Array = np.ndarray[Any, Any]


LONGEST = 256
"""Characters of a label that numpy's own text is made of."""


def as_labels(values: Any) -> Array:
    """A column from whatever came: a list, an array, a tensor, a pandas series.

    Args:
        values: (N,) labels of any kind.

    Returns:
        (N,) array of numbers, strings or times; of Python objects only where labels are missing, of mixed types, long
        texts, or whole numbers that no type of numpy's holds.

    Raises:
        DataError: it is no column at all.

    Example:
        >>> as_labels(["ann", "bob"]), as_labels(["ann", None])
        (array(['ann', 'bob'], dtype='<U3'), array(['ann', None], dtype=object))
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    elif isinstance(values, np.ma.MaskedArray):
        gaps, values = np.ma.getmaskarray(values), values.data.astype(object)
        values[gaps] = None
    elif not hasattr(values, "__array__"):
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise DataError(f"Expected one label for each observation, as a list or an array; got {values!r}.")
        # Left to itself, numpy turns the NaN of ["ann", nan] into the label "nan".
        items = [value.item() if isinstance(value, Tensor) and not value.ndim else value for value in values]
        values = np.array(items, dtype=object)
    return tidy(np.asarray(values))


def tidy(labels: Array) -> Array:
    """The same labels as text or numbers where all of them are, not as Python objects."""
    if labels.dtype.kind == "S":
        return np.asarray(np.char.decode(labels, "utf-8", "backslashreplace"))
    if labels.dtype != object or labels.ndim != 1:
        return labels
    types = set(map(type, labels.tolist()))
    if types and all(issubclass(kind, str) for kind in types):
        # Numpy's own text takes as much room for each label as for the longest: one long note would fill the memory.
        return labels.astype(str) if max(map(len, labels)) <= LONGEST else labels
    if types and all(issubclass(kind, Number) for kind in types):
        numbers = np.asarray(labels.tolist())
        # Of whole numbers, some beyond int64, numpy makes floats, which merge neighbours.
        whole = all(issubclass(kind, (int, np.integer)) for kind in types)
        return labels if whole and numbers.dtype.kind == "f" else numbers
    return labels


def whole(labels: Array) -> Array:
    """The same as whole numbers where all of them are that float64 can tell apart: 2.0 and 2 are one name.

    Example:
        >>> whole(np.array([1.0, 2.0])), whole(np.array([0.5])), whole(np.array([1e19]))
        (array([1, 2]), array([0.5]), array([1.e+19]))
    """
    if labels.dtype.kind == "f" and (np.abs(labels) < 2**53).all() and (labels == np.floor(labels)).all():
        return labels.astype(np.int64)
    return labels


def alike(mine: Array, theirs: Array) -> tuple[Array, Array]:
    """Labels to be compared: numbers with numbers, those of two kinds as text, which files and stores keep.

    Example:
        >>> alike(np.array([1.0, 2.0]), np.array(["1", "b"]))
        (array(['1', '2'], dtype='<U21'), array(['1', 'b'], dtype='<U1'))
    """
    mine, theirs = whole(mine), whole(theirs)
    kinds = {mine.dtype.kind, theirs.dtype.kind}
    if len(kinds) == 1 or (kinds <= set("biuf") and kinds != {"i", "u"}):
        return mine, theirs
    return mine.astype(str), theirs.astype(str)  # of int64 and uint64 numpy would make floats, which merge neighbours


def among(labels: Array, others: Array) -> Array:
    """Which labels are one of the others: (N,) bool.

    Of Python objects numpy would compare each with each, and of int64 and uint64 make floats, which merge neighbours.

    Example:
        >>> among(np.array([2**70, 3], object), np.array([3, 4]))
        array([False,  True])
    """
    kinds = {labels.dtype.kind, others.dtype.kind}
    if "O" not in kinds and kinds != {"i", "u"}:
        return np.isin(labels, others)
    known = set(others.tolist())
    return np.fromiter((label in known for label in labels.tolist()), bool, len(labels))


def _object_is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' own, which refuse comparison
        return True
    return not value.strip() if isinstance(value, str) else bool(value != value)


def is_missing(labels: Array) -> Array:
    """Which labels are None, NaN, NaT or blank: (N,) bool.

    Example:
        >>> is_missing(np.array([1.0, np.nan])), is_missing(np.array(["ann", ""]))
        (array([False,  True]), array([False,  True]))
    """
    kind = labels.dtype.kind
    if kind == "O":
        return np.asarray(np.frompyfunc(_object_is_missing, 1, 1)(labels), bool)
    if kind == "U":
        return np.asarray(np.char.strip(labels) == "")
    if kind in "mM":
        return np.asarray(np.isnat(labels))
    return np.asarray(np.isnan(labels)) if kind in "fc" else np.zeros(labels.shape, bool)


def refuse_missing(labels: Array, what: str) -> None:
    """Raises:
    DataError: some labels are missing; says how many, and the first row.
    """
    rows = np.flatnonzero(is_missing(labels))
    if len(rows):
        raise DataError(
            f"Expected a label in every row of {what}; got {len(rows)} without one (None, NaN, NaT, blank, or NA in"
            f" CSV), the first in {row(rows[0])}. Fill them in, or leave these rows out; data are read with"
            " missing='drop' to do so, or with missing='own' to make each a group of its own (--missing drop, --missing"
            " own)."
        )
