"""Data on the training device, and the parts of them that a step is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlvae.batch import GroupBatch, nests, speakers, within
from mlvae.data import GroupedData, GroupSampler, LevelSampler
from mlvae.data.stored import Stored, ahead
from mlvae.errors import DataError
from mlvae.grouping import Grouping
from mlvae.model import MLVAE
from mlvae.ranks import ALONE, Ranks

LARGEST = 31 * 2**20
"""Bytes: from 32 MiB on a piece is always given back, and teaches nothing."""

HASHED = 64 * 2**20
"""Bytes of observations in memory by which data are known again; of rows on disk, which each cost a look, 256."""


class Part(NamedTuple):
    """A process's part of a sampled batch.

    Args:
        rows: (B,) of the data.
        group: (B,) the sub-group each is in, or one of every level.
        x: (B, *shape) observations that were read from disk; None where the data are in memory.
        whole: observations of the whole batch.
        shared: other processes have the rest; else this one does it all.
    """

    rows: Tensor
    group: Tensor | Mapping[str, Tensor]
    x: Tensor | None
    whole: int
    shared: bool


class Resident:
    """A data set on the training device, uint8 as it came; batches are index operations.

    Args:
        model: that learns from it.
        data: with the columns that the model's levels name.
        nested: the pairs of levels, (finer, coarser), that are nested in general; None takes those that are here.
    """

    def __init__(self, model: MLVAE, data: GroupedData, nested: frozenset[tuple[str, str]] | None = None) -> None:
        check(model, data)
        self.x = data.x
        self.device = data.x.device
        self.covariates = model.covariates(data.columns, len(data))
        self.ids: dict[str, Tensor] = {}
        self.totals: dict[str, Tensor] = {}
        for level in model.group_levels:
            assert level.by is not None
            self.ids[level.name] = data.codes(level.by)
            self.totals[level.name] = torch.bincount(self.ids[level.name])[self.ids[level.name]]
        groupings = {name: Grouping.from_ids(ids) for name, ids in self.ids.items()}
        # In a part of the data two levels may have the same groups: countries of which it has one person each.
        self.nested = nests(groupings) if nested is None else within(groupings) & nested
        self.speaks = speakers(groupings, self.nested)
        self.counted = {finer: self.ids[finer] for finer in self.speaks.values()}  # where they were, on the CPU

    def to(self, device: torch.device) -> Resident:
        self.device = device
        if isinstance(self.x, Tensor) and fits(self.x, device):
            self.x = self.x.to(device)
        self.covariates = None if self.covariates is None else self.covariates.to(device)
        self.ids = {name: ids.to(device) for name, ids in self.ids.items()}
        self.totals = {name: totals.to(device) for name, totals in self.totals.items()}
        return self

    def digest(self) -> str:
        """What tells these data from others of their size: a hash of groups, covariates and evenly spaced observations.

        Of data in memory up to 64 MiB those are all.
        """
        most = 256 if isinstance(self.x, Stored) else max(256, HASHED // self.x[0].nbytes)
        some = torch.linspace(0, len(self.x) - 1, min(most, len(self.x)), dtype=torch.float64).long()
        known = [] if self.covariates is None else [self.covariates]
        found = hashlib.blake2b(digest_size=16)
        for values in (*self.ids.values(), *known, self.x[some]):
            found.update(values.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    @property
    def here(self) -> bool:
        """Whether the observations are where steps are made."""
        return isinstance(self.x, Tensor) and self.x.device.type == self.device.type

    def sampler(
        self, groups: int, members: int | tuple[int, int] | str, resample: bool, seed: int
    ) -> GroupSampler | LevelSampler:
        """Sub-groups of the shared levels' groups; without such a level, batches of as many observations."""
        if len(self.ids) > 1:
            if resample:
                raise DataError(
                    "Expected `resample` with one shared level at most; the model has several. Leave it out."
                )
            return LevelSampler(self.ids, groups, members, seed=seed, nested=self.nested)
        if self.ids:
            return GroupSampler(next(iter(self.ids.values())), groups, members, resample=resample, seed=seed)
        mean = sum(members) // 2 if isinstance(members, tuple) else members if isinstance(members, int) else 5
        return GroupSampler(
            torch.zeros(len(self.x), dtype=torch.int64), 1, max(1, groups * mean), resample=resample, seed=seed
        )

    def parts(self, batches: Iterator[tuple[Tensor, Any]], ranks: Ranks = ALONE) -> Iterator[Part]:
        """This process's part of every batch; what lies on disk is read while the steps before are made."""

        def part(rows: Tensor, index: Any) -> Part:
            share = None
            if ranks.size > 1:  # `fit` refuses several shared levels then; without groups, rows are shared one by one
                index = index if self.ids else torch.arange(len(rows))
                share = ranks.share(rows, index)
            mine, where = share or (rows, index)  # a batch of too few groups is done by every process
            x = None if self.here else self.x[mine]
            if x is not None and self.device.type == "cuda":
                x = x.pin_memory()
            return Part(mine, where, x, len(rows), share is not None)

        parts = (part(rows, index) for rows, index in batches)
        return parts if self.here else ahead(parts)

    def batch(self, model: MLVAE, part: Part) -> GroupBatch:
        """Its observations, in the sampler's sub-groups of every shared level."""
        indices = part.group if isinstance(part.group, Mapping) else dict.fromkeys(self.ids, part.group)
        # Counted before they leave the CPU: nothing waits for the device.
        counted = {name: Grouping(value, int(value.max()) + 1) for name, value in indices.items()}
        groupings = {name: grouping.to(self.device) for name, grouping in counted.items()}
        spoken = {
            level: counted[level].crossed(self.counted[finer][part.rows]).to(self.device)
            for level, finer in self.speaks.items()
        }
        here = part.rows.to(self.device, non_blocking=True)
        if part.x is None:
            assert isinstance(self.x, Tensor)
            x = self.x.index_select(0, here)  # a tenth of what x[rows] costs
        else:
            x = part.x.to(self.device, non_blocking=True)
        ids = {name: value.index_select(0, here) for name, value in self.ids.items()}
        totals = {name: value.index_select(0, here) for name, value in self.totals.items()}
        known = None if self.covariates is None else self.covariates.index_select(0, here)
        return GroupBatch(model.prepare(x), groupings, ids, totals, known, self.nested, spoken)


def fits(x: Tensor, device: torch.device) -> bool:
    """Whether observations may lie on a device: on a GPU, in half of what is free, as steps need the rest."""
    return device.type != "cuda" or x.nbytes < torch.cuda.mem_get_info(device)[0] / 2


def check(model: MLVAE, data: GroupedData) -> None:
    """Raises DataError for observations that the model cannot learn from, before any time is spent."""
    if len(data) < 2:
        raise DataError(f"Expected at least two observations; got {len(data)}.")
    for start in range(0, len(data), 4096):
        model.check(model.prepare(data.x[start : start + 4096]))


def keep_freed() -> None:
    """Lets the process keep what a step frees for the next one to take.

    The GNU C library gives freed memory back to the system at once, until it has seen a large piece come and go; then
    twice as much stays. Got back, each page is cleared and mapped anew: a sixth of a step of the convolutional network.
    Nothing is written to the piece, so it takes no memory itself, and other libraries do not care.
    """
    torch.empty(LARGEST, dtype=torch.uint8)
