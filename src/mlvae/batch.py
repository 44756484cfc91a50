"""What one step of learning sees: observations, and for every level which of them share a group."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from mlvae.errors import DataError, ModelError, nearest
from mlvae.evidence import Evidence
from mlvae.grouping import Grouping
from mlvae.labels import as_labels, refuse_missing


@dataclass(frozen=True, eq=False)
class GroupBatch:
    """Observations with their groupings.

    Args:
        x: (N, *shape) floats, as the encoder takes them.
        groupings: for every level that shares a latent, who shares it in this batch. Levels that are not named
            give each observation its own group.
        ids: for the same levels, (N,) int64, the group in the data set. Two sub-groups of a batch may come from one.
        totals: for the same levels, (N,) the size in the data set of each observation's group; needed only by the
            subsampling option of the objective.
        covariates: (N, C) numbers known beside each observation, as `MLVAE.covariates` makes them; None where the
            model takes none.
        nested: pairs of those levels, (finer, coarser), where every group of the finer lies within one of the coarser,
            in the data set.
        spoken: for each level with others nested in it what speaks for its groups here, as `witnesses` gives it; None
            asks `speakers` and the ids.

    Example:
        >>> batch = GroupBatch.of(torch.rand(4, 8, 8), {"content": ["ann", "bob", "ann", "bob"]})
        >>> batch.groupings["content"].num_groups, batch.grouping("style").num_groups
        (2, 4)
    """

    x: Tensor
    groupings: Mapping[str, Grouping] = field(default_factory=dict)
    ids: Mapping[str, Tensor] = field(default_factory=dict)
    totals: Mapping[str, Tensor] = field(default_factory=dict)
    covariates: Tensor | None = None
    nested: frozenset[tuple[str, str]] = frozenset()
    spoken: Mapping[str, Grouping] | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        groups: Mapping[str, Any],
        covariates: Tensor | None = None,
        *,
        ids: Mapping[str, Any] = MappingProxyType({}),
    ) -> GroupBatch:
        """A batch from one array of group labels (N,) for each level that shares a latent.

        Args:
            x: (N, *shape) floats, as the encoder takes them.
            groups: by level. What a sampler returns are sub-groups, of which two may be of one group of the data set.
            covariates: (N, C).
            ids: by level, (N,) labels of the groups in the data set; ``groups`` where not named.

        Raises:
            ModelError: groups are no mapping by level, or ids are of a level that has none.
            DataError: a label is missing, or they are not N.
        """
        if not isinstance(groups, Mapping):
            raise ModelError(f"Expected groups by level, as {{'content': labels}}; got {type(groups).__name__}.")
        for name in ids:
            if name not in groups:
                raise ModelError(f"Expected ids of levels that have groups; got {name!r}. {nearest(name, groups)}")

        def grouped(labels: Any) -> Grouping:
            if not isinstance(labels, Tensor):
                labels = as_labels(labels)
                refuse_missing(labels, "the groups of a batch")
            if labels.shape != (len(x),):
                raise DataError(
                    f"Expected one label an observation, shape ({len(x)},); got {tuple(labels.shape)}. Sample labels"
                    " with their rows."
                )
            return Grouping.from_ids(labels).to(x.device)

        groupings = {name: grouped(labels) for name, labels in groups.items()}
        named = {name: grouped(ids[name]) if name in ids else grouping for name, grouping in groupings.items()}
        known = {name: grouping.index for name, grouping in named.items()}
        # Sub-groups may seem nested by chance: words of which each was said once in the batch lie within speakers.
        pairs = frozenset((fine, coarse) for fine, coarse in nests(named) if groupings[fine].refines(groupings[coarse]))
        return cls(x, groupings, known, covariates=covariates, nested=pairs)

    def __len__(self) -> int:
        return len(self.x)

    def grouping(self, level: str) -> Grouping:
        """The level's grouping; each observation alone where the batch does not name the level."""
        shared = self.groupings.get(level)
        return Grouping.each(len(self.x), self.x.device) if shared is None else shared

    def witnesses(self, level: str) -> Grouping:
        """What speaks for a level's groups independently: groups of the coarsest level nested in it, or observations.

        Ten pictures of one person are one witness of what the person's country is like, in however many sub-groups.
        """
        return self._spoken[level] if level in self._spoken else Grouping.each(len(self.x), self.x.device)

    def others(self, level: str, votes: Evidence) -> Evidence:
        """For each observation, its group's evidence without that of its own witness; its own where it is alone."""
        grouping, witnesses = self.grouping(level), self.witnesses(level)
        if witnesses.singletons:
            return votes.sum_others(grouping)
        return votes.sum(witnesses).sum_others(self.above[level])[witnesses.index]

    @cached_property
    def above(self) -> dict[str, Grouping]:
        """For each level that whole groups speak for, which group of it each of these is in."""
        return {level: self.groupings[level].of(witnesses) for level, witnesses in self._spoken.items()}

    @cached_property
    def _spoken(self) -> Mapping[str, Grouping]:
        if self.spoken is not None:
            return self.spoken
        return {
            level: self.groupings[level].crossed(self.ids.get(finer, self.groupings[finer].index))
            for level, finer in speakers(self.groupings, self.nested).items()
        }

    def counted(self) -> Self:
        """The same, once all is counted that levels and penalties will ask: compiled code cannot count."""
        for grouping in (*self.groupings.values(), *self._spoken.values(), *self.above.values()):
            grouping.counted()
        return self

    def inverse_inclusion(self, level: str) -> Tensor:
        """n/k of each observation's group at a level, (N,); one where each observation is its own.

        Raises:
            ModelError: the batch does not know the size of the level's groups in the data set.
        """
        if level not in self.ids:
            return self.x.new_ones(len(self.x))
        if level not in self.totals:
            raise ModelError(
                f"Expected the batch to carry the size of each group in the data set for subsampling='scaled'; level"
                f" {level!r} has none. Pass `totals`, or use subsampling='own'."
            )
        grouping = self.grouping(level)
        return self.totals[level] / grouping.expand(grouping.sizes)

    def to(self, device: torch.device | str) -> GroupBatch:
        """The same batch on ``device``."""
        return GroupBatch(
            self.x.to(device),
            {name: grouping.to(device) for name, grouping in self.groupings.items()},
            {name: ids.to(device) for name, ids in self.ids.items()},
            {name: totals.to(device) for name, totals in self.totals.items()},
            None if self.covariates is None else self.covariates.to(device),
            self.nested,
            None if self.spoken is None else {name: each.to(device) for name, each in self.spoken.items()},
        )


def nests(groupings: Mapping[str, Grouping]) -> frozenset[tuple[str, str]]:
    """Pairs of levels, (finer, coarser), where every group of the finer lies within one of the coarser.

    Example:
        >>> nests({"country": Grouping.from_ids([0, 0, 1]), "person": Grouping.from_ids([5, 6, 7])})
        frozenset({('person', 'country')})
    """
    return frozenset(
        (fine, coarse)
        for (fine, a), (coarse, b) in itertools.permutations(groupings.items(), 2)
        if a.num_groups > b.num_groups and a.refines(b)
    )


def within(groupings: Mapping[str, Grouping]) -> frozenset[tuple[str, str]]:
    """As `nests`; of two levels with the same groups here, the later one is nested in the earlier.

    Example:
        >>> within({"country": Grouping.from_ids([0, 0, 1]), "person": Grouping.from_ids([5, 5, 7])})
        frozenset({('person', 'country')})
    """
    order = list(groupings)
    same = {
        (fine, coarse)
        for coarse, fine in itertools.combinations(order, 2)
        if groupings[fine].num_groups == groupings[coarse].num_groups and groupings[fine].refines(groupings[coarse])
    }
    return nests(groupings) | same


def speakers(groupings: Mapping[str, Grouping], nested: frozenset[tuple[str, str]]) -> dict[str, str]:
    """For each level with others nested in it the coarsest of these, whose groups speak for it.

    Example:
        >>> speakers({"country": Grouping.from_ids([0, 0, 1]), "person": Grouping.from_ids([5, 6, 7])},
        ...          frozenset({("person", "country")}))
        {'country': 'person'}
    """
    order = list(groupings)  # of two with as many groups, the finer comes later
    finer = {coarse: [fine for fine, other in nested if other == coarse] for coarse in groupings}
    return {
        coarse: min(fines, key=lambda name: (groupings[name].num_groups, -order.index(name)))
        for coarse, fines in finer.items()
        if fines
    }
