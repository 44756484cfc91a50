"""Which observation belongs to which group: the only code that knows segments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError

FEW = 512
"""Observations up to which a matrix of all pairs costs less than many small operations."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """N observations in G groups, none of them empty.

    Summing over the members of a group and expanding a group's value to its members are adjoint:
    ``(grouping.sum(v) * w).sum() == (v * grouping.expand(w)).sum()``.

    Args:
        index: (N,) int64, the group of each observation, dense in 0..G-1.
        num_groups: G.
        singletons: every observation is its own group and ``index`` counts up; sums and expansions are then free.
        twin: the same on the CPU, where this one is elsewhere and came from there.

    Example:
        >>> grouping = Grouping.from_ids(["ann", "bob", "ann"])
        >>> grouping.sum(torch.tensor([[1.0], [2.0], [3.0]])).flatten().tolist()
        [4.0, 2.0]
        >>> grouping.sizes.tolist()
        [2, 1]
    """

    index: Tensor
    num_groups: int
    singletons: bool = False
    twin: Grouping | None = field(default=None, repr=False)

    @classmethod
    def from_ids(cls, ids: Tensor | np.ndarray[Any, Any] | Iterable[Any]) -> Grouping:
        """Groups observations by equal ids, in the ids' sorted order.

        Args:
            ids: (N,) labels of any one sortable type.

        Raises:
            DataError: the ids are not one-dimensional, of types that cannot be sorted, or there are none.
        """
        if not isinstance(ids, Tensor):
            ids = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        if ids.ndim != 1 or len(ids) == 0:
            raise DataError(
                f"Expected one group id an observation, shape (N,) with N >= 1; got {tuple(ids.shape)}."
                " Pass a one-dimensional array of labels."
            )
        if isinstance(ids, Tensor):
            labels, index = torch.unique(ids, return_inverse=True)
        else:
            try:
                labels, inverse = np.unique(ids, return_inverse=True)
            except TypeError as error:
                kinds = ", ".join(sorted({kind.__name__ for kind in map(type, ids.tolist())}))
                raise DataError(
                    f"Expected group ids of one type; got {kinds}. Convert them, for example with `map(str, labels)`."
                ) from error
            index = torch.from_numpy(inverse.astype(np.int64))
        return cls(index, len(labels))

    @classmethod
    def each(cls, n: int, device: torch.device | str | None = None) -> Grouping:
        """Every observation a group of its own."""
        return cls(torch.arange(n, device=device), n, singletons=True)

    @classmethod
    def one(cls, n: int, device: torch.device | str | None = None) -> Grouping:
        """All observations in one group."""
        return cls(torch.zeros(n, dtype=torch.int64, device=device), 1)

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Grouping:
        """The same grouping with its index on ``device``."""
        target, here = torch.device(device), self.index.device
        if target.type == here.type and target.index in (None, here.index):
            return self
        # Counting on an accelerator would wait for all that it has to do: what is counted is asked of the twin.
        twin = self if here.type == "cpu" else None
        index = self.index.to(target, non_blocking=twin is not None)
        return Grouping(index, self.num_groups, self.singletons, twin)

    def _sent(self, counted: Tensor) -> Tensor:
        return counted.to(self.index.device, non_blocking=True)

    @cached_property
    def sizes(self) -> Tensor:
        """(G,) int64, members of each group."""
        if self.singletons:
            return torch.ones_like(self.index)
        if self.twin:
            return self._sent(self.twin.sizes)
        return torch.bincount(self.index, minlength=self.num_groups)

    def counted(self) -> Self:
        """The same, once all is counted that sums over others and comparisons will ask: compiled code cannot count."""
        if not self.singletons:
            for name in ("first", "sizes", "_others" if self._few() else "_scan"):
                getattr(self, name)
        return self

    @cached_property
    def first(self) -> Tensor:
        """(G,) int64, the position of each group's first member."""
        positions = torch.arange(len(self), device=self.index.device)
        last = torch.full((self.num_groups,), len(self), device=self.index.device)
        return last.scatter_reduce(0, self.index, positions, "amin")

    def of(self, finer: Grouping) -> Grouping:
        """The groups in which those of a finer grouping lie, as countries that people are of.

        Example:
            >>> people, countries = Grouping.from_ids(["ann", "bob", "ann"]), Grouping.from_ids(["uk", "uk", "uk"])
            >>> countries.of(people).index
            tensor([0, 0])
        """
        if self.twin and finer.twin:
            return self.twin.of(finer.twin).to(self.index.device)
        return Grouping(self.index[finer.first], self.num_groups)

    def crossed(self, ids: Tensor) -> Grouping:
        """The parts of its groups that have one id each: (N,) int64, not negative.

        Example:
            >>> Grouping.from_ids(["uk", "uk", "us"]).crossed(torch.tensor([7, 7, 7])).index
            tensor([0, 0, 1])
        """
        return Grouping.from_ids(self.index * (ids.max() + 1) + ids)

    def refines(self, other: Grouping) -> bool:
        """Whether each group lies within one group of ``other``, as people do within countries.

        Example:
            >>> people, countries = Grouping.from_ids(["ann", "bob", "ann"]), Grouping.from_ids(["uk", "us", "uk"])
            >>> people.refines(countries), countries.refines(Grouping.from_ids([0, 1, 2]))
            (True, False)
        """
        return bool((other.index[self.first][self.index] == other.index).all())

    def sum(self, values: Tensor) -> Tensor:
        """Sums over the members of each group.

        Args:
            values: (N, ...).

        Returns:
            (G, ...).

        Raises:
            DataError: ``values`` has another number of rows than the grouping.
        """
        if len(values) != len(self):
            raise DataError(
                f"Expected `values` with {len(self)} rows, one an observation; got {len(values)}."
                " Did the loader drop the last batch?"
            )
        if self.singletons:
            return values
        total = torch.zeros(self.num_groups, *values.shape[1:], dtype=values.dtype, device=values.device)
        return total.index_add_(0, self.index, values)

    def mean(self, values: Tensor) -> Tensor:
        """Averages over the members of each group: (N, ...) to (G, ...)."""
        sizes = self.sizes.reshape(-1, *[1] * (values.ndim - 1))
        return self.sum(values) / sizes

    def expand(self, values: Tensor) -> Tensor:
        """Hands each group's value to its members: (G, ...) to (N, ...)."""
        return values if self.singletons else values.index_select(0, self.index)

    def sum_others(self, values: Tensor) -> Tensor:
        """Sums, for each observation, over the other members of its group.

        Nothing is subtracted, so nothing cancels. Few rows are summed by one product with the matrix of who is another
        of whose group. Where there are many, running sums from both ends of each group are built by doubling, in a
        number of steps that is the logarithm of the largest group.

        Args:
            values: (N, ...).

        Returns:
            (N, ...), zero where an observation is alone.

        Example:
            >>> Grouping.one(3).sum_others(torch.tensor([1.0, 2.0, 4.0])).tolist()
            [6.0, 5.0, 3.0]
        """
        if self.singletons:
            return torch.zeros_like(values)
        if self._few():
            with torch.autocast("cpu", enabled=False):
                return (self._others.to(values.dtype) @ values.flatten(1 if values.ndim > 1 else 0)).reshape(
                    values.shape
                )
        summed: Tensor = _SumOthers.apply(values, self._scan)  # type: ignore[no-untyped-call]
        return summed

    def _few(self) -> bool:
        """Whether others are summed by a product; not on an accelerator, which may be set to round what it makes."""
        return len(self) <= FEW and self.index.device.type == "cpu"

    @cached_property
    def _others(self) -> Tensor:
        """(N, N) bool, who is in whose group, but nobody in his own."""
        return (self.index.unsqueeze(1) == self.index).fill_diagonal_(False)

    @cached_property
    def _scan(self) -> Scan:
        """Members ordered by group, and for every doubling who has another so far before him, and after him."""
        order, place, after, steps = self._places
        return order, [(step, (place >= step).unsqueeze(1), (after > step).unsqueeze(1)) for step in steps]

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        if self.twin:
            order, place, after, steps = self.twin._places
            return self._sent(order), self._sent(place), self._sent(after), steps
        order = torch.argsort(self.index, stable=True)
        owner = self.index[order]
        place = torch.arange(len(self), device=order.device) - (torch.cumsum(self.sizes, 0) - self.sizes)[owner]
        doublings = max(int(self.sizes.max()) - 2, 0).bit_length()
        return order, place, self.sizes[owner] - place, [1, *(2**j for j in range(doublings))]


Scan = tuple[Tensor, list[tuple[int, Tensor, Tensor]]]


class _SumOthers(torch.autograd.Function):
    """The sum over the others of a group. Who is another is mutual, so the gradient is the same sum."""

    @staticmethod
    def forward(context: Any, values: Tensor, scan: Scan) -> Tensor:
        context.scan = scan
        return _sum_others(values, scan)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _sum_others(gradient, context.scan), None


def _sum_others(values: Tensor, scan: Scan) -> Tensor:
    order, steps = scan
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    before = after = values.flatten(1).index_select(0, order) if values.ndim > 1 else values[order].unsqueeze(1)
    for number, (step, has_before, has_after) in enumerate(steps):
        earlier, later = (
            torch.where(has_before, before.roll(step, 0), zero),
            torch.where(has_after, after.roll(-step, 0), zero),
        )
        # The first step leaves the member itself out, the others double how far the sums reach.
        before, after = (before + earlier, after + later) if number else (earlier, later)
    return torch.empty_like(before).index_copy(0, order, before + after).reshape(values.shape)


def shuffled(ids: np.ndarray[Any, Any], random: np.random.Generator) -> tuple[np.ndarray[Any, Any], ...]:
    """Rows ordered by group, at random within each; and for each in that order its place among those of its group.

    Args:
        ids: (N,) numbers of groups, dense or not.
        random: of the order.

    Example:
        >>> order, place = shuffled(np.array([1, 0, 1]), np.random.default_rng(0))
        >>> order[0], place
        (np.int64(1), array([0, 0, 1]))
    """
    order = np.lexsort((random.random(len(ids)), ids))
    _, sizes = np.unique(ids, return_counts=True)
    return order, np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def places(ids: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """The place of each row among those of its group, (N,), in a random order.

    Example:
        >>> sorted(places(np.array([1, 0, 1]), np.random.default_rng(0))[[0, 2]])
        [np.int64(0), np.int64(1)]
    """
    order, place = shuffled(ids, random)
    found = np.empty(len(ids), np.int64)
    found[order] = place
    return found
