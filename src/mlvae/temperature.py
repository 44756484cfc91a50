"""What ends training: votes are calibrated on groups kept out of it, and populations fitted, for every shared level."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch

from mlvae import inference
from mlvae.batch import speakers, within
from mlvae.calibration import FEWEST_WITNESSES, Calibration
from mlvae.errors import DataError, ModelError, nearest
from mlvae.evidence import Evidence
from mlvae.grouping import Grouping
from mlvae.heads import Array
from mlvae.population import fitted
from mlvae.schema import Covariates

if TYPE_CHECKING:
    from mlvae.data import GroupedData
    from mlvae.model import MLVAE

SEEN = 10_000
"""Observations, evenly spaced, that a population is fitted to, and as many that it is chosen by."""


@torch.no_grad()
def temper(
    model: MLVAE,
    x: Array,
    groups: inference.Groups,
    covariates: Covariates = None,
    *,
    nested: Collection[tuple[str, str]] | None = None,
) -> None:
    """Fits the `Calibration` of every shared level, in place.

    A former one is forgotten, and so is a population, which lies where votes of before put it: `populate` anew.

    Where a level is nested in another, the coarser one is fitted on the summed votes of the finer one's groups: people
    scatter around their country more than their pictures around them. It is right for groups of the size seen here, and
    needs people whom training did not see: of those it knows, it knows the country. With fewer than 8 beyond the first
    of each country the level is left as the network says it, with a warning.

    Args:
        model: after training.
        x: (N, *shape), observations that training did not see: of groups that it did not see, where there are enough.
        groups: labels, as `MLVAE.evidence` takes them, but never None: it is groups that tell how votes scatter.
        covariates: likewise.
        nested: pairs of levels, (finer, coarser), that are nested; None takes those that are by these labels, which
            among few observations may be so by chance: all words that are said in one country lie within it.

    Raises:
        DataError: too few members, no groups, or ``nested`` has a pair that is not nested by these labels.
        ModelError: ``nested`` has something else than pairs of levels that groups share.
    """
    if groups is None:
        raise DataError("Expected the group of each observation to calibrate levels with; got None. Pass labels.")
    if nested is not None:
        _refuse_strange([level.name for level in model.group_levels], nested)
    before = copy.deepcopy((model.calibrations, model.populations))
    uncalibrate(model)
    try:
        fitted_to = _fits(inference.votes(model, x, groups, covariates), nested)
    except BaseException:
        model.calibrations, model.populations = before
        raise
    for name, calibration in fitted_to.items():
        model.calibration(name).take(calibration)


def _fits(
    cast: Mapping[str, tuple[Evidence, Grouping]], nested: Collection[tuple[str, str]] | None
) -> dict[str, Calibration]:
    """The calibration of each level by its votes, where it can be told."""
    # An observation without a value has no vote, so there is no place where it scatters to.
    heard = {name: votes.count > 0 for name, (votes, _) in cast.items()}
    cast = {
        name: (votes[heard[name]], Grouping.from_ids(grouping.index[heard[name]]))
        for name, (votes, grouping) in cast.items()
    }
    groupings = {name: grouping for name, (_, grouping) in cast.items()}
    for fine, coarse in nested or ():
        if not groupings[fine].refines(groupings[coarse]):
            raise DataError(
                f"Expected every group of {fine!r} within one of {coarse!r}, as `nested` says, (finer, coarser); some"
                " lie in several by these labels. Turn the pair round, or leave it out."
            )
    speak = speakers(groupings, within(groupings) if nested is None else frozenset(nested))
    found: dict[str, Calibration] = {}
    for name, (votes, grouping) in cast.items():
        finer = cast[speak[name]][1] if name in speak else None
        if finer is not None and finer.num_groups - grouping.num_groups < FEWEST_WITNESSES:
            warnings.warn(
                f"Level {name!r} stays as sure as the network says, which is too sure: {finer.num_groups} groups of"
                f" {speak[name]!r} in {grouping.num_groups} of its own are too few to calibrate it by. Keep more whole"
                " ones out of training.",
                UserWarning,
                stacklevel=4,
            )
            continue
        found[name] = Calibration.fit(votes, grouping, finer)
    return found


def _refuse_strange(known: list[str], nested: Collection[tuple[str, str]]) -> None:
    """Raises ModelError where ``nested`` is no pairs of levels: a level would stay too sure without a word."""
    for pair in nested:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise ModelError(
                f"Expected `nested` as pairs of levels, (finer, coarser); got {nested!r}. For example"
                " {('person', 'country')}."
            )
        for name in pair:
            if name not in known:
                raise ModelError(
                    f"Expected `nested` to name levels that groups share; got {name!r}. {nearest(str(name), known)}"
                )


@torch.no_grad()
def populate(model: MLVAE, train: GroupedData, kept: GroupedData) -> None:
    """Fits the population of every shared level whose readout has the prior, in place; a former one is forgotten.

    Args:
        model: calibrated, if it is to be: populations lie in calibrated coordinates.
        train: what it learned from.
        kept: what it did not learn from, to choose the number of parts by. Where these are other members of the groups
            in ``train``, up to a part a group may be chosen, and a new group is then much like one of those.
    """
    known, new = (_evidence(model, data) for data in (train, kept))
    for level in model.group_levels:
        if level.readout == "product_with_prior":
            population = model.population(level.name)
            population.take(fitted(known[level.name], new[level.name]))
            population.to(next(model.parameters()))


def _evidence(model: MLVAE, data: GroupedData) -> dict[str, Evidence]:
    """On the groups of each shared level, of up to `SEEN` observations."""
    data = data.subset(torch.linspace(0, len(data) - 1, min(SEEN, len(data)), dtype=torch.float64).long())
    groups = {level.name: data.codes(level.by) for level in model.group_levels if level.by}
    cast = inference.votes(model, data.x, groups, data.columns)
    return {name: votes.sum(grouping) for name, (votes, grouping) in cast.items()}


def uncalibrate(model: MLVAE) -> None:
    """Takes votes as the network says them, and groups as the prior has them, in place."""
    for level in model.group_levels:
        model.calibration(level.name).take(Calibration(level.dim))
        model.population(level.name).take(None)


def calibrated(model: MLVAE) -> bool:
    """Whether votes of any level are taken otherwise than the network says them."""
    return any(
        not torch.equal(value, neutral.to(value))
        for level in model.group_levels
        for value, neutral in zip(
            model.calibration(level.name).buffers(), Calibration(level.dim).buffers(), strict=True
        )
    )
