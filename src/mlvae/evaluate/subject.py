"""What is measured: a model, the data it learned from and the data it never saw, encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from mlvae.data import GroupedData
from mlvae.evidence import Evidence
from mlvae.levels import Level
from mlvae.model import MLVAE
from mlvae.normal import Normal

WAY = 20
"""Groups to tell apart in an episode, where there are as many."""

Metrics = dict[str, float]
"""Numbers by their stable names."""


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
    """

    model: MLVAE
    train: GroupedData
    new: GroupedData
    labels: tuple[np.ndarray, np.ndarray]
    seed: int = 0

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
    def before(self) -> dict[str, Normal]:
        """Every training observation understood alone, (N, D) for each level, on the CPU."""
        return _codes(self.model, self.train)

    @cached_property
    def after(self) -> dict[str, Normal]:
        """Every new observation understood alone."""
        return _codes(self.model, self.new)

    def votes(self, level: Level, codes: dict[str, Normal]) -> Evidence:
        """What each observation says about a level: its posterior of itself alone, less the prior if that has one."""
        code = codes[level.name]
        prior = 1.0 if level.readout == "product_with_prior" else 0.0
        precision = code.precision.double()
        ones = torch.ones(len(precision), dtype=torch.int64)
        return Evidence((precision - prior).clamp_min(0), precision * code.mean.double(), ones)


def _codes(model: MLVAE, data: GroupedData) -> dict[str, Normal]:
    codes = model.codes(data.x, covariates=data.columns)
    return {name: Normal(code.mean.cpu(), code.precision.cpu()) for name, code in codes.items()}
