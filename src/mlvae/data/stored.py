"""Observations that stay on disk: rows are read when they are asked for."""

from __future__ import annotations

import math
import mmap
import os
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError
from mlvae.untrusted import reading

RESIDENT = 128 * 2**20
"""Bytes of the file that may stay mapped before they are handed back; the page cache keeps them as long as it can."""

FAULT = 2 * 2**20
"""Bytes that the kernel may map around a row that is touched: a large page of its cache."""


Item = TypeVar("Item")


def ahead(items: Iterator[Item], room: int = 2) -> Iterator[Item]:
    """The same items, made in a thread while the caller is at work on those before.

    Args:
        items: what makes them; an error of theirs is raised in the item's place.
        room: how many are made before they are asked for.

    Example:
        >>> list(ahead(iter("abc")))
        ['a', 'b', 'c']
    """
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, items, end) for _ in range(room))
        while (item := coming.popleft().result()) is not end:
            coming.append(thread.submit(next, items, end))
            yield item  # type: ignore[misc]


class Stored:
    """The array of an ``.npy`` file, or some of its rows, as a tensor that is read a few rows at a time.

    It answers to what is asked of observations: ``len``, ``shape``, ``dtype``, and rows by number, slice or mask,
    which come as a tensor: uint8 as it is, every other type float32.

    Args:
        path: of the file.
        rows: (N,) row numbers of the file; None takes all.

    Raises:
        DataError: the file is no whole `.npy` of numbers; or, on reading, it changed since it was opened.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/x.npy", np.arange(12).reshape(4, 3))
        ...     x = Stored(f"{folder}/x.npy")
        ...     x.shape, x[[3, 0]].tolist(), x.subset([2])[:].tolist()
        (torch.Size([4, 3]), [[9.0, 10.0, 11.0], [0.0, 1.0, 2.0]], [[6.0, 7.0, 8.0]])
    """

    device = torch.device("cpu")

    def __init__(self, path: str | os.PathLike[str], rows: Any = None) -> None:
        self.path = Path(path)
        self.rows = None if rows is None else torch.as_tensor(rows, dtype=torch.int64)
        with reading(".npy file", self.path), self.path.open("rb") as file:
            shape, kind = self._header(file)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            offset = file.tell()
        self.end = offset + math.prod(shape) * kind.itemsize
        if len(self._map) < self.end:
            raise DataError(f"Expected {shape} of {kind} in {self.path.name}; it is cut off. Was the copy cut off?")
        self._stamp = stamp(self.path)
        array = np.frombuffer(self._map, kind, math.prod(shape), offset).reshape(shape)
        with warnings.catch_warnings():  # it may not be written to, and is not
            warnings.simplefilter("ignore", UserWarning)
            self._tensor = torch.from_numpy(array)
        self._touched = 0

    def _header(self, file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, kind = read(file)
        if kind.kind not in "biuf" or kind.hasobject or not kind.isnative or kind in (np.uint16, np.uint32, np.uint64):
            raise DataError(
                f"Expected numbers in {self.path.name}; got {kind}. Save it as uint8 or float32 (`x.astype(...)`)."
            )
        if fortran or len(shape) < 2 or min(shape) < 1:
            raise DataError(
                f"Expected observations (N, ...) row by row in {self.path.name}; got {shape}"
                f"{' column by column' if fortran else ''}. Save np.ascontiguousarray(x)."
            )
        return shape, kind

    def __len__(self) -> int:
        return len(self._tensor) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """(N, *shape)."""
        return torch.Size((len(self), *self._tensor.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """Of what reading gives: uint8 or float32."""
        return torch.uint8 if self._tensor.dtype == torch.uint8 else torch.float32

    @property
    def ndim(self) -> int:
        """Dimensions of ``shape``."""
        return self._tensor.ndim

    def numel(self) -> int:
        """How many numbers there are."""
        return self.shape.numel()

    def to(self, _: Any) -> Self:
        """Itself: only rows move to a device, once they are read."""
        return self

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, (int, np.integer)):
            return self[[int(key)]][0]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if self.rows is None and step == 1:
                return self._read(slice(start, stop), max(stop - start, 0))
            key = torch.arange(start, stop, step)
        rows = self._numbers(key)
        rows = rows if self.rows is None else self.rows[rows]
        return self._read(rows, len(rows))

    def subset(self, rows: Any) -> Stored:
        """Some rows, still on disk."""
        rows = self._numbers(rows)
        part = object.__new__(Stored)
        part.__dict__ = {**self.__dict__, "rows": rows if self.rows is None else self.rows[rows]}
        return part

    def _numbers(self, key: Any) -> Tensor:
        key = torch.as_tensor(key)
        return torch.nonzero(key).flatten() if key.dtype == torch.bool else key.long()

    def _read(self, key: Tensor | slice, count: int) -> Tensor:
        if stamp(self.path) != self._stamp:
            raise DataError(
                f"Expected {self.path} to stay as it was when it was opened; it changed. Put it back, or read it again"
                " and start anew; what training saved is intact."
            )
        row = self._tensor[0].nbytes
        cost = row if isinstance(key, slice) else max(row, FAULT)
        step = max(1, RESIDENT // cost)
        first = key.start if isinstance(key, slice) else 0
        parts = []
        for start in range(0, count, step):
            stop = min(start + step, count)
            if self._touched + (stop - start) * cost > RESIDENT:
                self._map.madvise(mmap.MADV_DONTNEED)
                self._touched = 0
            self._touched += (stop - start) * cost
            if isinstance(key, slice):
                part = self._tensor[first + start : first + stop].clone()
            else:
                part = self._tensor[key[start:stop]]
            parts.append(part if part.dtype == torch.uint8 else part.to(torch.float32))
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else self._tensor[:0].to(self.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return Stored, (self.path, self.rows)

    def __deepcopy__(self, _: Any) -> Stored:
        return Stored(self.path, self.rows)

    def __repr__(self) -> str:
        return f"Stored({str(self.path)!r}: {tuple(self.shape)})"


def stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file does."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size
