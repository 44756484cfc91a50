"""Which rows learn together: batches of sub-groups, planned from nothing but seed and epoch."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError, nearest


class Chunks(NamedTuple):
    """Sub-groups: `length` members of group `owner` from place `first` of its order, and around its end."""

    owner: np.ndarray
    first: np.ndarray
    length: np.ndarray


@dataclass(frozen=True, eq=False)
class GroupSampler:
    """Batches of sub-groups: `groups` of them, each of some `members` of one group.

    An epoch holds every observation exactly once, unless `resample`. The members of a group come in random
    order and are cut into sub-groups of random size; only the last of a group may be smaller. Two sub-groups
    of one group may share a batch. The last batch of an epoch may have fewer sub-groups.

    Args:
        ids: (N,) dense group ids 0..G-1, as `GroupedData.codes` gives them.
        groups: sub-groups in a batch.
        members: observations in a sub-group: a number, an inclusive range (low, high), or "all".
        resample: draw groups with equal probability instead, so that small ones count as much as large ones.
            An epoch has about as many observations as before; those of a batch are distinct, so a group gives no
            more than it has, however often it was drawn.
        seed: not negative. Batch b of epoch e is a pure function of (seed, e, b).

    Raises:
        DataError: ids are not dense, or an argument is out of range.

    Example:
        >>> sampler = GroupSampler([0, 0, 0, 1, 1, 2], groups=2, members=2)
        >>> len(sampler)
        2
        >>> rows, index = next(sampler.epoch(0))
        >>> bool((index.diff() >= 0).all())
        True
    """

    ids: Any = field(repr=False)
    groups: int = 64
    members: int | tuple[int, int] | str = (1, 8)
    resample: bool = False
    seed: int = 0
    _sizes: np.ndarray = field(init=False, repr=False)
    _range: tuple[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ids = checked_ids(self.ids)
        sizes = np.bincount(ids)
        at_least("groups", self.groups, 1)
        at_least("seed", self.seed, 0)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "_sizes", sizes)
        object.__setattr__(self, "_range", size_range(self.members, int(sizes.max())))

    def __len__(self) -> int:
        """Batches in the first epoch; sizes are drawn anew in each, see `batches`."""
        return self.batches(0)

    def batches(self, epoch: int) -> int:
        """How many batches there are in this epoch."""
        return -(-len(self._chunks(self._random(epoch)).length) // self.groups)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, from number `start` on: to resume is to start later.

        Yields:
            (B,) int64 rows of the data, and (B,) int64 the sub-group of the batch each is in: 0, 0, 1, ...

        Raises:
            DataError: `epoch` or `start` is negative.
        """
        at_least("start", start, 0)
        random = self._random(epoch)
        chunks = self._chunks(random)
        order = np.lexsort((random.random(len(self.ids)), self.ids))
        # Draws are in a random order as they are; in turn they take from a group what it has not given yet.
        shuffled = np.arange(len(chunks.length)) if self.resample else random.permutation(len(chunks.length))
        begin = np.cumsum(self._sizes) - self._sizes

        def batch(number: int) -> tuple[Tensor, Tensor]:
            picked = shuffled[number * self.groups : (number + 1) * self.groups]
            owner, first, length = (values[picked] for values in chunks)
            index = np.repeat(np.arange(len(picked)), length)
            step = np.arange(len(index)) - np.repeat(np.cumsum(length) - length, length)
            place = (first[index] + step) % self._sizes[owner[index]]
            rows = order[begin[owner[index]] + place]
            if self.resample:  # who was drawn twice would be another member of its own group
                _, once = np.unique(rows, return_index=True)
                once.sort()
                rows, index = rows[once], np.unique(index[once], return_inverse=True)[1]
            return torch.from_numpy(rows), torch.from_numpy(index)

        return (batch(number) for number in range(start, -(-len(shuffled) // self.groups)))

    def _random(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, at_least("epoch", epoch, 0)])

    def _chunks(self, random: np.random.Generator) -> Chunks:
        return self._drawn(random) if self.resample else self._cut(random)

    def _cut(self, random: np.random.Generator) -> Chunks:
        """Cuts every group along its own stretch of one sequence of random sizes; unused ends fall away."""
        low, high = self._range
        slots = -(-self._sizes // low)
        owner = np.repeat(np.arange(len(slots)), slots)
        size = random.integers(low, high + 1, len(owner))
        first = np.cumsum(size) - size
        first -= first[np.cumsum(slots) - slots][owner]
        length = np.minimum(size, self._sizes[owner] - first)
        used = length > 0
        return Chunks(owner[used], first[used], length[used])

    def _drawn(self, random: np.random.Generator) -> Chunks:
        """Draws groups until the epoch is full.

        A stretch of a random order is a random subset, so every sub-group is one; those of one group and epoch are
        stretches of one order, each where the one before ended.
        """
        low, high = self._range
        total = len(self.ids)
        owner = random.integers(0, len(self._sizes), total)
        length = np.minimum(random.integers(low, high + 1, total), self._sizes[owner])
        turn = np.argsort(owner, kind="stable")
        given = np.cumsum(length[turn]) - length[turn]
        draws = np.bincount(owner, minlength=len(self._sizes))
        given -= np.repeat(given[np.minimum(np.cumsum(draws) - draws, total - 1)], draws)
        first = np.empty(total, np.int64)
        first[turn] = given
        first = (first + random.integers(0, self._sizes)[owner]) % self._sizes[owner]
        before = np.cumsum(length) - length
        used = before < total
        return Chunks(owner[used], first[used], np.minimum(length, total - before)[used])


def checked_ids(ids: Any) -> np.ndarray:
    """Dense group ids (N,) int64 as an array.

    Raises:
        DataError: they are not whole numbers 0..G-1, each of which occurs.
    """
    ids = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= len(ids):
        raise DataError(
            f"Expected `ids` (N,) of whole numbers 0..G-1; got {ids.dtype} of shape {ids.shape}. Use data.codes(by)."
        )
    sizes = np.bincount(ids)
    if not sizes.all():
        raise DataError(f"Expected every id up to {len(sizes) - 1}; got none of {sizes.argmin()}. Use data.codes(by).")
    dense: np.ndarray = ids.astype(np.int64)
    return dense


def size_range(members: int | tuple[int, int] | str, largest: int) -> tuple[int, int]:
    """The fewest and the most members of a sub-group; ``largest`` for both where it is "all"."""
    if isinstance(members, str):
        if members != "all":
            raise DataError(
                f"Expected `members` a number, (low, high) or 'all'; got {members!r}. " + nearest(members, ["all"])
            )
        return largest, largest
    ends = tuple(members) if isinstance(members, (tuple, list)) else (members, members)
    if len(ends) != 2:
        raise DataError(f"Expected `members` a number, (low, high) or 'all'; got {members!r}. Give both ends.")
    low, high = at_least("members", ends[0], 1), at_least("members", ends[1], 1)
    if low > high:
        raise DataError(f"Expected `members` (low, high) with low <= high; got {members!r}. Turn them around.")
    return low, high


def at_least(name: str, value: Any, least: int) -> int:
    """The value as a whole number; raises a DataError below ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise DataError(f"Expected `{name}` to be a whole number, {least} or more; got {value!r}.")
    return number
