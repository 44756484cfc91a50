"""What one step of learning sees: observations, and for every level which of them share a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.grouping import Grouping


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

    @classmethod
    def of(cls, x: Tensor, groups: Mapping[str, Any], covariates: Tensor | None = None) -> GroupBatch:
        """A batch from one array of group labels (N,) for each level that shares a latent."""
        groupings = {
            name: Grouping.from_ids(ids if isinstance(ids, Tensor) else np.asarray(ids)).to(x.device)
            for name, ids in groups.items()
        }
        ids = {name: grouping.index for name, grouping in groupings.items()}
        return cls(x, groupings, ids, covariates=covariates)

    def __len__(self) -> int:
        return len(self.x)

    def grouping(self, level: str) -> Grouping:
        """The level's grouping; each observation alone where the batch does not name the level."""
        shared = self.groupings.get(level)
        return Grouping.each(len(self.x), self.x.device) if shared is None else shared

    def to(self, device: torch.device | str) -> GroupBatch:
        """The same batch on ``device``."""
        return GroupBatch(
            self.x.to(device),
            {name: grouping.to(device) for name, grouping in self.groupings.items()},
            {name: ids.to(device) for name, ids in self.ids.items()},
            {name: totals.to(device) for name, totals in self.totals.items()},
            None if self.covariates is None else self.covariates.to(device),
        )
