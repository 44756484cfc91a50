"""Observations and the columns that say who shares what."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.data import deform, splits
from mlvae.data.arrays import as_observations, check_shape, dense, settle
from mlvae.data.rounding import warn_of_rounding
from mlvae.data.stored import Stored
from mlvae.errors import DataError, nearest
from mlvae.labels import as_labels, refuse_missing
from mlvae.notebook import table
from mlvae.schema import Schema, as_feature

LOOKED_AT = 256
"""Rows on disk that are looked at for what is no number."""

SAMPLED = 64 * 2**20
"""Bytes of a sample of rows on disk."""


@dataclass(frozen=True, eq=False, repr=False)
class GroupedData:
    """Observations with named columns, one of which says which group each belongs to.

    Args:
        x: (N, *shape) observations: a tensor, an array, or `Stored` rows of a file. uint8 stays; every other type
            becomes float32.
        columns: for every name (N,) labels.
        by: the grouping column. None: no grouping yet.
        name: what to call the data in messages and reports.
        schema: what the numbers of an observation are, and which columns are known covariates.
        gaps: NaN in `x` is a value that was not observed.
        skipped: files that could not be read and were passed over.
        dropped: how many rows without a group were left out.

    Raises:
        DataError: `x` is not numeric or not finite, lengths disagree, or `by` is no column or has
            missing labels.

    Example:
        >>> data = GroupedData.from_arrays(torch.zeros(4, 8, 8), ["ann", "bob", "ann", "bob"], by="person")
        >>> data
        GroupedData('arrays': 4 x (8, 8) float32, 2 groups by 'person' of 2)
        >>> data.codes("person")
        tensor([0, 1, 0, 1])
    """

    x: Tensor
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    by: str | None = None
    name: str = "data"
    schema: Schema = field(default_factory=Schema)
    gaps: bool = False
    skipped: tuple[str, ...] = ()
    dropped: int = 0

    def __post_init__(self) -> None:
        x = as_observations(self.x, self.gaps)
        if isinstance(x, Stored) and not self.gaps:
            # Of some, as all would take long; training looks at each.
            as_observations(x[torch.linspace(0, len(x) - 1, min(len(x), LOOKED_AT), dtype=torch.float64).long()])
        columns = {str(name): as_labels(values) for name, values in self.columns.items()}
        for name, labels in columns.items():
            check_shape(f"column {name!r}", labels, len(x))
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "columns", columns)
        if self.by is not None:
            refuse_missing(self.column(self.by), f"column {self.by!r}")

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        groups: Any = None,
        *,
        columns: Mapping[str, Any] | None = None,
        by: str = "group",
        name: str = "arrays",
        missing: str = "error",
        gaps: bool = False,
        schema: Schema | None = None,
    ) -> GroupedData:
        """Data from arrays, tensors or lists in memory.

        Args:
            x: (N, *shape) observations.
            groups: (N,) the group of each. None: the column `by`, or none where there is no "group".
            columns: further columns, each (N,).
            by: what to call the grouping column.
            name: what to call the data.
            missing: what to do with rows without a group: "error", "drop" or "own" (each its own group).
            gaps: NaN in `x` is a value that was not observed.
            schema: what the numbers of an observation are, where they come from a table.

        Raises:
            DataError: as for the class; or there are fewer than two observations.

        Example:
            >>> GroupedData.from_arrays(np.zeros((3, 2)), [7, 7, None], missing="drop").groups
            array([7, 7])
        """
        table = dict(columns or {})
        x = as_observations(x, gaps)
        if groups is not None:
            if by in table:
                raise DataError(
                    f"Expected one source of groups; got `groups` and a column {by!r}. Rename one with `by`."
                )
            table[by] = as_labels(groups)
            check_shape("`groups`", table[by], len(x))
        data = cls(x, table, None, name, schema or Schema(), gaps)
        if len(data) < 2:
            raise DataError("Expected at least two observations; got 1. One alone shares nothing with anything.")
        return data if by == "group" and by not in table else data.grouped_by(by, missing=missing)

    def grouped_by(self, by: str, *, missing: str = "error") -> GroupedData:
        """The same observations grouped by another column; `missing` as in `from_arrays`.

        Raises:
            DataError: no such column, or labels are missing under "error", or fewer than two rows are left.

        Example:
            >>> data = GroupedData.from_arrays(np.zeros((4, 2)), columns={"word": ["a", "a", "b", "b"]})
            >>> data.grouped_by("word").num_groups
            2
        """
        labels, rows = settle(self.column(by), by, missing)
        if len(rows) < 2:
            raise DataError(f"Expected at least two rows with a label in {by!r}; got {len(rows)} of {len(self)}.")
        dropped = len(self) - len(rows)
        data = replace(self, by=None).subset(rows) if dropped else self
        data = replace(data, columns={**data.columns, by: labels}, by=by, dropped=self.dropped + dropped)
        text = None
        if data.num_groups == len(data):
            text = f"Every group of {by!r} has one observation: content cannot be told from style."
        elif data.num_groups == 1:
            text = f"All {len(data):,} observations are one group of {by!r}: there is nothing to tell groups apart by."
        if text is not None:
            warnings.warn(f"{text} Group by another column.", UserWarning, stacklevel=2)
        return data

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one observation."""
        return tuple(self.x.shape[1:])

    @property
    def groups(self) -> np.ndarray:
        """(N,) the label of each observation's group.

        Raises:
            DataError: the data have no grouping column.
        """
        return self.column(self.grouping_column)

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        return int(self.codes(self.grouping_column).max()) + 1

    @property
    def grouping_column(self) -> str:
        """`by`, of data that must have it.

        Raises:
            DataError: the data have no grouping column.
        """
        if self.by is None:
            raise DataError(f"Expected data with groups; {self.name!r} has none. Use data.grouped_by(column).")
        return self.by

    def column(self, name: str | tuple[str, ...]) -> np.ndarray:
        """(N,) the labels of one column; of several in combination, their labels as text, joined by commas (a label's
        own commas have a backslash before them, so that no two combinations share a name).

        Raises:
            DataError: no such column; names the nearest.
        """
        if not isinstance(name, str):
            rows = zip(*(self.column(part).tolist() for part in name), strict=True)
            return np.array([",".join(map(_escaped, row)) for row in rows])
        if name not in self.columns:
            known = nearest(name, self.columns) if self.columns else "There are no columns."
            raise DataError(f"Expected a column of {self.name!r}; got {name!r}. {known}")
        return self.columns[name]

    def codes(self, by: str | tuple[str, ...]) -> Tensor:
        """Dense group ids of a column, or of a combination of columns.

        Args:
            by: a column; or several, whose rows share a group where they agree in all.

        Returns:
            (N,) int64 ids 0..G-1 in the sorted order of the labels; every id occurs.

        Raises:
            DataError: no such column, or labels are missing.

        Example:
            >>> data = GroupedData.from_arrays(np.zeros((3, 1)), columns={"a": [5, 5, 9], "b": [1, 2, 1]})
            >>> data.codes("a"), data.codes(("a", "b"))
            (tensor([0, 0, 1]), tensor([0, 1, 2]))
        """
        names = (by,) if isinstance(by, str) else by
        ids = np.zeros(len(self), np.int64)
        for name in names:
            finer = dense(self.column(name), name)
            # Made dense at every step, so that the product of many columns cannot overflow.
            ids = dense(ids * (finer.max() + 1) + finer, name)
        return torch.from_numpy(ids)

    def subset(self, rows: Any) -> GroupedData:
        """The data of some rows only, in the order given.

        Args:
            rows: row numbers, a slice, or a (N,) bool mask.

        Raises:
            DataError: a row does not exist, or none is left.

        Example:
            >>> data = GroupedData.from_arrays(torch.arange(4)[:, None], [0, 0, 1, 1])
            >>> data.subset([3, 0]).groups
            array([1, 0])
        """
        if not isinstance(rows, slice):
            rows = np.atleast_1d(rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows))
            rows = rows if rows.size else rows.astype(np.int64)
        try:
            kept = np.arange(len(self))[rows]
        except IndexError as error:
            raise DataError(f"Expected rows of {len(self)} observations; {error}.") from error
        if not len(kept):
            raise DataError(f"Expected at least one of the {len(self)} rows of {self.name!r}; got none.")
        columns = {name: labels[kept] for name, labels in self.columns.items()}
        index = torch.from_numpy(kept)
        x = self.x.subset(index) if isinstance(self.x, Stored) else self.x[index]
        return replace(self, x=x, columns=columns)

    def sample(self, most: int) -> Tensor:
        """Up to `most` observations in memory, evenly spaced: (M, *shape). Of rows on disk no more than 64 MB."""
        if isinstance(self.x, Stored):
            most = min(most, max(2, SAMPLED * len(self) // (4 * self.x.numel())))
        if len(self) <= most:
            return self.x[:]
        return self.x[torch.linspace(0, len(self) - 1, most, dtype=torch.float64).long()]

    def chunks(self, size: int = 8192) -> Iterator[Tensor]:
        """All observations, some at a time: (up to `size`, *shape)."""
        return (self.x[start : start + size] for start in range(0, len(self), size))

    def with_covariates(self, *names: str) -> GroupedData:
        """The same data, with columns that encoder and decoder are told, so that they need not be learned.

        Args:
            names: columns of numbers or of categories.

        Raises:
            DataError: no such column, or times.

        Example:
            >>> data = GroupedData.from_arrays(np.zeros((4, 2)), [0, 0, 1, 1], columns={"site": ["A", "B", "A", "B"]})
            >>> data.with_covariates("site").schema.covariates[0].categories
            ('A', 'B')
        """
        covariates = tuple(as_feature(name, self.column(name)) for name in names)
        for feature in covariates:
            if feature.kind == "number":
                warn_of_rounding(self.column(feature.name), f"column {feature.name!r}")
        return replace(self, schema=replace(self.schema, covariates=covariates))

    # Each is one function of splits.py or deform.py, where it can be read.
    split = splits.split
    folds = splits.folds
    quarter_turns = deform.quarter_turns
    deformed = deform.deformed

    def __repr__(self) -> str:
        text = f"{self.name!r}: {len(self)} x {self.shape} {str(self.x.dtype).removeprefix('torch.')}"
        if self.by is not None:
            sizes = torch.bincount(self.codes(self.by))
            low, high = int(sizes.min()), int(sizes.max())
            of = f"{low}" if low == high else f"{low}-{high}"
            text += f", {len(sizes)} group{'s' * (len(sizes) > 1)} by {self.by!r} of {of}"
        others = [name for name in self.columns if name != self.by]
        return f"GroupedData({text}{', columns: ' + ', '.join(others) if others else ''})"

    def _repr_html_(self) -> str:
        """In a notebook: every column, with how many values it has and what some of them are."""
        rows = []
        for name, labels in self.columns.items():
            values = np.unique(labels.astype(str))
            some = ", ".join(values[:5]) + (", …" if len(values) > 5 else "")
            rows.append([f"{name} (grouping)" if name == self.by else name, labels.dtype, len(values), some])
        return table(repr(self), ["column", "type", "values", "such as"], rows, len(rows))


def _escaped(label: Any) -> str:
    return str(label).replace("\\", "\\\\").replace(",", "\\,")
