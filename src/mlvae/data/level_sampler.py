"""Which rows learn together when several levels share: sub-grids of a crossed design, branches of a nested one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.batch import nests, speakers, within
from mlvae.data.sampler import at_least, checked_ids, size_range
from mlvae.errors import DataError, nearest
from mlvae.grouping import Grouping, places


@dataclass(frozen=True, eq=False)
class LevelSampler:
    """Batches in which every level has several groups, and its groups several members, as far as the data allow.

    An epoch holds every observation exactly once. It is halved again and again until the parts are batches, each time
    on the way that leaves in the batches the scarcest of three things least scarce: groups of a level, members of a
    group (up to as many as a sub-group has), groups nested in a group. Halves are either groups of one level kept
    whole, which makes sub-grids and branches, or a stratified half of every group's observations. Cells may be missing,
    and groups of any sizes.

    In a batch every level's groups are then cut into sub-groups of random size, by each level for itself; a level in
    which another is nested has whole sub-groups of that one for members, of different groups where there are enough.

    Args:
        ids: for every level that shares, (N,) dense group ids 0..G-1, as `GroupedData.codes` gives them.
        groups: a batch has about as many observations as so many sub-groups have.
        members: of a sub-group: a number, an inclusive range (low, high), or "all" that the batch has. A group's last
            sub-group takes what would be too few for another.
        seed: not negative. Batch b of epoch e is a pure function of (seed, e, b).
        nested: pairs of levels, (finer, coarser), that are nested; None takes those that are by these ids, which among
            few observations may be so by chance.

    Raises:
        DataError: no levels, ids of other lengths or not dense, or an argument is out of range.

    Example:
        >>> speaker, word = np.repeat([0, 1, 2, 3], 8), np.tile([0, 1, 2, 3], 8)
        >>> sampler = LevelSampler({"speaker": speaker, "word": word}, groups=4, members=4)
        >>> rows, index = next(sampler.epoch(0))
        >>> len(rows), sorted(index), int(np.bincount(index["word"]).min())
        (16, ['speaker', 'word'], 4)
    """

    ids: Mapping[str, Any] = field(repr=False)
    groups: int = 64
    members: int | tuple[int, int] | str = (2, 8)
    seed: int = 0
    nested: frozenset[tuple[str, str]] | None = None
    _codes: dict[str, np.ndarray] = field(init=False, repr=False)
    _child: dict[str, str | None] = field(init=False, repr=False)
    _size: int = field(init=False, repr=False)
    _range: tuple[int, int] = field(init=False, repr=False)
    _kept: dict[int, list[np.ndarray]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        at_least("groups", self.groups, 1)
        at_least("seed", self.seed, 0)
        if not isinstance(self.ids, Mapping) or not self.ids:
            what = "none" if isinstance(self.ids, Mapping) else type(self.ids).__name__
            raise DataError(f"Expected ids by level, as {{'speaker': ids, 'word': ids}}; got {what}.")
        if unknown := [level for pair in self.nested or () for level in pair if level not in self.ids]:
            raise DataError(
                f"Expected pairs of levels as `nested`; got {unknown[0]!r}. {nearest(unknown[0], self.ids)}"
            )
        codes = {name: checked_ids(ids) for name, ids in self.ids.items()}
        if len({len(values) for values in codes.values()}) != 1:
            got = {name: len(values) for name, values in codes.items()}
            raise DataError(f"Expected ids of one length for every level; got {got}. Take them from the same rows.")
        groupings = {name: Grouping(torch.from_numpy(values), int(values.max()) + 1) for name, values in codes.items()}
        nested = nests(groupings) if self.nested is None else within(groupings) & self.nested
        number = {name: grouping.num_groups for name, grouping in groupings.items()}
        child = dict.fromkeys(codes) | speakers(groupings, nested)
        fewest = max(number.values())
        low, high = size_range(self.members, -(-len(next(iter(codes.values()))) // fewest))
        # Finest first, of two with as many groups the later: a coarse level's sub-groups are made of the nested one's.
        place = {name: order for order, name in enumerate(codes)}
        finest = sorted(codes, key=lambda name: (number[name], place[name]), reverse=True)
        ordered = {name: codes[name] for name in finest}
        for name, value in (
            ("nested", nested), ("_codes", ordered), ("_child", child), ("_range", (low, high)),
            ("_size", max(1, self.groups * (low + high) // 2)),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Batches in the first epoch."""
        return self.batches(0)

    def batches(self, epoch: int) -> int:
        """How many batches there are in this epoch."""
        return len(self._plan(epoch))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The batches of one epoch, from number `start` on: to resume is to start later.

        Yields:
            (B,) int64 rows of the data, and for each level (B,) int64 the sub-group of the batch each is in.

        Raises:
            DataError: `epoch` or `start` is negative.
        """
        at_least("start", start, 0)
        plan = self._plan(epoch)

        def batch(number: int) -> tuple[Tensor, dict[str, Tensor]]:
            rows = plan[number]
            index = self._cut(rows, np.random.default_rng([self.seed, epoch, number]))
            return torch.from_numpy(rows), {name: torch.from_numpy(index[name]) for name in self.ids}

        return (batch(number) for number in range(start, len(plan)))

    def _plan(self, epoch: int) -> list[np.ndarray]:
        """The rows of every batch; that of the last epoch asked for is kept."""
        if at_least("epoch", epoch, 0) not in self._kept:
            random = np.random.default_rng([self.seed, epoch])
            parts, waiting = [], [(np.arange(len(next(iter(self._codes.values())))), self._codes)]
            while waiting:
                rows, codes = waiting.pop()
                batches = round(len(rows) / self._size)
                if batches < 2:
                    parts.append(rows)
                    continue
                codes = {name: _dense(values) for name, values in codes.items()}
                first = self._first_half(codes, batches, random)
                for half in (first, ~first):
                    waiting.append((rows[half], {name: values[half] for name, values in codes.items()}))
            self._kept.clear()
            self._kept[epoch] = [random.permutation(rows) for rows in self._without_crumbs(parts, random)]
        return self._kept[epoch]

    def _first_half(self, codes: Mapping[str, np.ndarray], batches: int, random: np.random.Generator) -> np.ndarray:
        """Which of n rows of these groups go to the first half of so many batches, (n,) bool: at least one, not all."""
        sizes = {name: np.bincount(values) for name, values in codes.items()}
        # As many alike would be as likely to share a group (Simpson's): a giant and a hundred single ones are few.
        n = len(next(iter(codes.values())))
        number = {name: n**2 / float(np.square(size, dtype=float).sum()) for name, size in sizes.items()}
        split, share = self._split(n, batches, number), batches // 2 / batches
        if split is None:
            return self._scattered(codes, sizes, share, random)
        order = random.permutation(len(sizes[split]))
        cut = int(np.abs(np.cumsum(sizes[split][order])[:-1] - share * n).argmin()) + 1
        chosen = np.zeros(len(order), bool)
        chosen[order[:cut]] = True
        first: np.ndarray = chosen[codes[split]]
        return first

    def _split(self, observations: int, batches: int, number: Mapping[str, float]) -> str | None:
        """The level whose groups are to be halved, None for each group's members, on the best way to the batches.

        A way is how often each is halved. The best leaves most of what is scarcest in a batch. A halving that looks
        best by itself may leave too few members later.
        """
        halvings = round(math.log2(batches))
        levels = [name for name in self._codes if number[name] > 1 + 1e-9]
        ways = _ways(halvings, len(levels) + 1)
        kept = float(batches) ** (-ways[:, :-1] / halvings)
        size = np.full(len(ways), observations / batches)
        own = {
            name: np.array([level == name or (name, level) in (self.nested or ()) for level in levels], bool)
            for name in self._codes
        }
        groups: dict[str, np.ndarray] = {}
        found: dict[str, np.ndarray] = {}
        for name in self._codes:  # finest first
            # A group is there while one of its members is: rows, or groups nested in it that are there themselves.
            child = self._child[name]
            halved = ~own[name] if child is None else own[child] & ~own[name]
            there = np.where(halved, kept, 1).prod(1) * (1 if child is None else found[child])
            found[name] = 1 - (1 - there) ** ((number[child] if child else observations) / number[name])
            groups[name] = np.clip(number[name] * np.where(own[name], kept, 1).prod(1) * found[name], 1, size)
        enough = sum(self._range) / 2
        company = [
            np.minimum((groups[child] if child else size) / groups[name], enough) for name, child in self._child.items()
        ]
        scarcest = np.sort(np.stack([*groups.values(), *company], 1).round(6), 1)
        best = ways[np.lexsort(-scarcest.T[::-1])[0]]
        halved = [name for name, times in zip(levels, best, strict=False) if times]
        return max(halved, key=number.__getitem__, default=None)

    def _scattered(
        self,
        codes: Mapping[str, np.ndarray],
        sizes: Mapping[str, np.ndarray],
        share: float,
        random: np.random.Generator,
    ) -> np.ndarray:
        """A part of each group of the finest level, alike over the others' groups; small groups stay whole."""
        finest = max((name for name, child in self._child.items() if child is None), key=lambda name: len(sizes[name]))
        owner, n = codes[finest], len(codes[finest])
        # Other groups in an order of its own for each group: in one order for all, a full grid would lose half of them.
        turns = [_shuffled(owner * len(sizes[name]) + other, random) for name, other in codes.items() if name != finest]
        order = np.lexsort((random.random(n), *turns, owner))
        first = np.empty(n, bool)
        first[order] = np.diff(np.floor(np.arange(n + 1) * share + random.random())) > 0
        whole = random.random(len(sizes[finest])) < share
        first = np.where(sizes[finest][owner] < 2 * self._range[0], whole[owner], first)
        return first if 0 < first.sum() < n else np.arange(n) < max(1, n // 2)

    def _without_crumbs(self, parts: list[np.ndarray], random: np.random.Generator) -> list[np.ndarray]:
        """The parts in random order; those of less than half a batch are put together."""
        batches: list[np.ndarray] = []
        crumbs: list[np.ndarray] = []
        for place in random.permutation(len(parts)):
            if 2 * len(parts[place]) >= self._size:
                batches.append(parts[place])
                continue
            crumbs.append(parts[place])
            if 2 * sum(map(len, crumbs)) >= self._size:
                batches.append(np.concatenate(crumbs))
                crumbs = []
        if crumbs:
            last = [batches.pop()] if batches else []
            batches.append(np.concatenate(last + crumbs))
        return batches

    def _cut(self, rows: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
        """For every level the sub-group that each row is in."""
        index: dict[str, np.ndarray] = {}
        for name, codes in self._codes.items():
            child = self._child[name]
            if child is None:
                index[name] = self._runs(codes[rows], random.random(len(rows)), random)
                continue
            _, first = np.unique(index[child], return_index=True)
            turn = random.random(len(first)) + places(self._codes[child][rows[first]], random)
            index[name] = self._runs(codes[rows[first]], turn, random)[index[child]]
        return index

    def _runs(self, owner: np.ndarray, turn: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Cuts each owner's units, in the order of their turn, into runs of random length; (U,) the run of each."""
        _, owner, sizes = np.unique(owner, return_inverse=True, return_counts=True)
        if self.members == "all":
            return owner.astype(np.int64)
        low, high = self._range
        slots = -(-sizes // low)
        of = np.repeat(np.arange(len(sizes)), slots)
        length = random.integers(low, high + 1, len(of))
        first = np.cumsum(length) - length
        first -= first[np.cumsum(slots) - slots][of]
        used = (first == 0) | (sizes[of] - first >= low)
        starts = np.zeros(len(owner), np.int64)
        starts[(np.cumsum(sizes) - sizes)[of[used]] + first[used]] = 1
        run = np.empty(len(owner), np.int64)
        run[np.lexsort((turn, owner))] = np.cumsum(starts) - 1
        return run


@cache
def _ways(halvings: int, parts: int) -> np.ndarray:
    """All ways to share halvings among parts, (W, parts); first those that give the last part most."""
    bars = np.array(list(combinations(range(halvings + parts - 1), parts - 1)), np.int64).reshape(
        math.comb(halvings + parts - 1, parts - 1), parts - 1
    )
    return np.diff(bars, prepend=-1, append=halvings + parts - 1) - 1


def _dense(codes: np.ndarray) -> np.ndarray:
    """The same groups, numbered without gaps: what looks at all numbers of a part need not look at those of others."""
    there = np.bincount(codes) > 0
    return codes if there.all() else (np.cumsum(there) - 1)[codes]


def _shuffled(cell: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A number for each row, the same in a cell, in random order; (n,)."""
    _, cell = np.unique(cell, return_inverse=True)
    turn: np.ndarray = random.permutation(int(cell.max()) + 1)[cell]
    return turn
