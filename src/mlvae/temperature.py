"""Calibrating a trained model: every shared level's votes, on groups kept out of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlvae import inference
from mlvae.batch import nests
from mlvae.calibration import Calibration
from mlvae.errors import DataError
from mlvae.heads import Array
from mlvae.schema import Covariates

if TYPE_CHECKING:
    from mlvae.model import MLVAE


@torch.no_grad()
def temper(model: MLVAE, x: Array, groups: inference.Groups, covariates: Covariates = None) -> None:
    """Fits the `Calibration` of every shared level, in place; a former one is forgotten.

    Where a level is nested in another, the coarser one is fitted on the summed votes of the finer one's groups: people
    scatter around their country more than their pictures around them. It is right for groups of the size seen here.

    Args:
        model: after training.
        x: (N, *shape), observations that training did not see: of groups that it did not see, where there are enough.
        groups: labels, as `MLVAE.evidence` takes them, but never None: it is groups that tell how votes scatter.
        covariates: likewise.

    Raises:
        DataError: too few members, or no groups.
    """
    if groups is None:
        raise DataError("Expected the group of each observation to calibrate levels with; got None. Pass labels.")
    uncalibrate(model)
    cast = inference.votes(model, x, groups, covariates)
    nested = nests({name: grouping for name, (_, grouping) in cast.items()})
    for name, (votes, grouping) in cast.items():
        finer = [cast[fine][1] for fine, coarse in nested if coarse == name]
        witnesses = min(finer, key=lambda each: each.num_groups) if finer else None
        model.calibration(name).take(Calibration.fit(votes, grouping, witnesses))


def uncalibrate(model: MLVAE) -> None:
    """Takes votes as the network says them, in place."""
    for level in model.group_levels:
        model.calibration(level.name).take(Calibration(level.dim))


def calibrated(model: MLVAE) -> bool:
    """Whether votes of any level are taken otherwise than the network says them."""
    return any(
        not torch.equal(value, neutral.to(value))
        for level in model.group_levels
        for value, neutral in zip(
            model.calibration(level.name).buffers(), Calibration(level.dim).buffers(), strict=True
        )
    )
