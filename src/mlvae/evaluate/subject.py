"""What is measured: a model, the data it learned from and the data it never saw, encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from mlvae.batch import nests, speakers, within
from mlvae.data import GroupedData
from mlvae.evidence import Evidence
from mlvae.grouping import Grouping
from mlvae.heads import looked
from mlvae.levels import Level
from mlvae.model import MLVAE
from mlvae.normal import Normal

WAY = 20
"""Groups to tell apart in an episode, where there are as many."""

Metrics = dict[str, float]
"""Numbers by their stable names."""


def roles(model: MLVAE) -> tuple[str, str]:
    """Names of the levels that play content and style: the first that groups share, and the last that none shares.

    Without a shared level the only one there is plays content; where none plays style, "style".
    """
    own = [level.name for level in model.levels if level.by is None]
    shared = [level.name for level in model.group_levels]
    return (shared or own)[0], own[-1] if own and shared else "style"


@dataclass(frozen=True, eq=False)
class Alone:
    """What a model makes of N observations, each understood alone, on the CPU.

    Args:
        codes: (N, D) for each level by name, the posteriors.
        votes: (N, D) likewise, in float64: what the heads say. A posterior does not show what it was read out of.
    """

    codes: dict[str, Normal]
    votes: dict[str, Evidence]

    def __getitem__(self, rows: torch.Tensor) -> Alone:
        return Alone(
            {name: code[rows] for name, code in self.codes.items()},
            {name: votes[rows] for name, votes in self.votes.items()},
        )


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under measurement.

    The first level that groups share plays content, the last that none shares plays style; in a model without a shared
    level (a plain VAE, a control) the only level there is plays content, and nothing plays style.

    Args:
        model: any number of levels.
        train: what probes are fitted on.
        new: what is reported: observations of known groups, or all of the unseen groups.
        labels: the grouping's labels in train and in new.
        seed: of everything random.
        beside: of a control, what it stands beside: the same observations may stand together.
    """

    model: MLVAE
    train: GroupedData
    new: GroupedData
    labels: tuple[np.ndarray, np.ndarray]
    seed: int = 0
    beside: Subject | None = None

    @property
    def content(self) -> Level:
        """The level whose codes should know the group."""
        return (self.model.group_levels or self.model.levels)[0]

    @property
    def style(self) -> Level | None:
        """The level whose codes should not."""
        own = [level for level in self.model.levels if level.by is None]
        return own[-1] if own and self.model.group_levels else None

    @cached_property
    def speaks(self) -> dict[str, Grouping]:
        """For each level with others nested in it, who of the new observations speak for its groups as one."""
        if self.beside is not None:
            found, content = self.beside.speaks, self.beside.content.name
            return {**found, self.content.name: found[content]} if content in found else found
        by = {level.name: level.by for level in self.model.group_levels if level.by is not None}
        return {coarse: Grouping.from_ids(self.new.codes(by[fine])) for coarse, fine in self.speakers.items()}

    @cached_property
    def speakers(self) -> dict[str, str]:
        """For each level with others nested in it, the level whose groups speak for its own; of no control.

        By the training part: among few new observations groups may lie in each other by chance.
        """
        keys = {level.name: level.by for level in self.model.group_levels if level.by is not None}
        old, new = (
            {name: Grouping.from_ids(part.codes(by)) for name, by in keys.items()} for part in (self.train, self.new)
        )
        return speakers(old, nests(old) & within(new))

    def rows(self, level: str) -> torch.Tensor:
        """The new observations that may stand together for a group of a level: all, or one of each that speaks for it.

        Two pictures of one person in a country, one known and one asked, would ask for the person.
        """
        if level not in self.speaks:
            return torch.arange(len(self.new))
        spoken = self.speaks[level].index.numpy()
        order = np.random.default_rng(self.seed).permutation(len(spoken))
        return torch.from_numpy(np.sort(order[np.unique(spoken[order], return_index=True)[1]]))

    @cached_property
    def before(self) -> Alone:
        """The training observations."""
        return _alone(self.model, self.train)

    @cached_property
    def after(self) -> Alone:
        """The new observations."""
        return _alone(self.model, self.new)


def _alone(model: MLVAE, data: GroupedData) -> Alone:
    heads = looked(model, data.x, data.columns)
    codes = model.codes(data.x, covariates=data.columns, heads=heads)
    means = {name: code.mean for name, code in codes.items()}
    return Alone(
        {name: Normal(code.mean.cpu(), code.precision.cpu()) for name, code in codes.items()},
        {level.name: heads.votes(model, level, means).to(torch.float64, "cpu") for level in model.levels},
    )
