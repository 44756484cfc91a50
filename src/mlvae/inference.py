"""What a trained model knows of observations: evidence about their groups, seen or not, and codes.

Each function's first argument is the model, and each is also a method of `MLVAE`. Two strategies (the paper's):
without groups every observation is understood alone; with groups it is understood by its group's summed evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mlvae.batch import nests, speakers
from mlvae.errors import DataError, EvidenceError, ModelError, row
from mlvae.evidence import READOUTS, Evidence
from mlvae.group_evidence import GroupEvidence
from mlvae.grouping import Grouping
from mlvae.heads import Array, Heads, looked, mark, rows_of
from mlvae.identification import Belonging, belonging
from mlvae.labels import as_labels, refuse_missing
from mlvae.normal import Normal
from mlvae.schema import Covariates

if TYPE_CHECKING:
    from mlvae.model import MLVAE

Groups = Array | Sequence[Any] | Mapping[str, Any] | None


@torch.no_grad()
def evidence(
    model: MLVAE, x: Array, groups: Groups = None, covariates: Covariates = None, *, heads: Heads | None = None
) -> GroupEvidence:
    """The evidence that observations hold about their groups, seen in training or not.

    Args:
        model: a model with at least one shared level.
        x: (N, *shape), as raw data or tensors.
        groups: None takes all rows as one group; (N,) labels, or such labels for each shared level by name, return the
            evidence of each group, in the labels' sorted order.
        covariates: what is known of each observation, by name, where the model was trained with covariates.
        heads: from `looked` at the same rows; None looks at them.

    Returns:
        Evidence on every shared level. It adds: ``evidence(a) + evidence(b)`` is the evidence of both. The
        one exception is a shared level whose head sees another: its votes depend on that one's mean in these rows.

    Raises:
        ModelError: the model has no shared level.
        DataError: ``x`` or ``groups`` of another shape, or some labels are missing.
    """
    x = rows_of(x)
    cast = votes(model, x, groups, covariates, heads)
    labels = _labels(model, x, groups)
    return GroupEvidence(
        {name: level_votes.sum(grouping) for name, (level_votes, grouping) in cast.items()},
        {level.name: level.readout for level in model.group_levels},
        {name: None if ids is None else ids[cast[name][1].first.numpy()] for name, ids in labels.items()},
        mark(model),
    )


@torch.no_grad()
def votes(
    model: MLVAE, x: Array, groups: Groups = None, covariates: Covariates = None, heads: Heads | None = None
) -> dict[str, tuple[Evidence, Grouping]]:
    """Each observation's vote on every shared level, in float64 on the CPU, and the groups that they are votes on.

    Args:
        model: a model with at least one shared level.
        x: (N, *shape).
        groups: as for `evidence`.
        covariates: likewise.
        heads: likewise.

    Raises:
        ModelError: the model has no shared level.
        DataError: ``x`` or ``groups`` of another shape, some labels are missing, or a vote is no number.
    """
    if not model.group_levels:
        raise ModelError("Expected a model with a level that groups share; this one has none (a plain VAE).")
    x = rows_of(x)
    labels = _labels(model, x, groups)
    heads = heads or looked(model, x, covariates, [level.name for level in model.group_levels])
    cast: dict[str, tuple[Evidence, Grouping]] = {}
    means: dict[str, Tensor] = {}
    for level in model.group_levels:
        ids = labels[level.name]
        grouping = Grouping.one(len(x)) if ids is None else Grouping.from_ids(ids)
        kept = heads.votes(model, level, means).to(torch.float64, "cpu")
        finite = (torch.isfinite(kept.precision) & torch.isfinite(kept.information)).all(1)
        if not finite.all():
            first = row(int(finite.long().argmin()))
            raise DataError(
                f"Expected observations that the model can make sense of; its votes of {first} are no numbers. Are"
                " values or covariates there far larger than any in training?"
            )
        if heads.features is not None:
            mean = READOUTS[level.readout](kept.sum(grouping)).mean
            means[level.name] = grouping.expand(mean).to(heads.features)
        cast[level.name] = kept, grouping
    return cast


def score(
    model: MLVAE, x: Array, groups: Groups, known: GroupEvidence | None = None, covariates: Covariates = None
) -> dict[str, Belonging]:
    """Does each observation belong to the group it is said to be of? For every shared level, its log-odds and p-value.

    Args:
        model: whose shared levels have the readout "product_with_prior".
        x: (N, *shape).
        groups: as for `evidence`: the groups that observations are said to be of.
        known: evidence that ``x`` is no part of, to score against; an observation of a group that it does not know has
            odds of zero. None scores each observation against the other members of its group in ``x``; of a level that
            others are nested in there, against those of other people in its country.
        covariates: as for `evidence`.

    Raises:
        EvidenceError: a level's readout has no prior.
    """
    x = rows_of(x)
    labels = _labels(model, x, groups)
    scores: dict[str, Belonging] = {}
    given = votes(model, x, groups, covariates)
    groupings = {name: grouping for name, (_, grouping) in given.items()}
    spoken = speakers(groupings, nests(groupings))
    for name, (cast, grouping) in given.items():
        if known is None:
            if model.level(name).readout != "product_with_prior":
                raise EvidenceError(f"Expected the readout 'product_with_prior' to score; level {name!r} has another.")
            # Others of one's own person in a country would say whether one is that person.
            witness = groupings[spoken[name]] if name in spoken else Grouping.each(len(cast))
            units, inside = cast.sum(witness), grouping.of(witness)
            nothing = Evidence.empty(len(units), cast.dim)
            against = Evidence.chosen(inside.expand(inside.sizes == 1), nothing, units.sum_others(inside))
            against = against[witness.index]
        else:
            known.check_comparable(name)
            known.check_model(mark(model))
            against = known.of(name, labels[name], len(cast))
        scores[name] = belonging(cast, against)
    return scores


@torch.no_grad()
def codes(
    model: MLVAE, x: Array, groups: Groups = None, covariates: Covariates = None, *, heads: Heads | None = None
) -> dict[str, Normal]:
    """The posterior of every level's code for each observation.

    Args:
        model: any number of levels.
        x: (N, *shape).
        groups: None understands each observation alone (strategy 1); labels, as for `evidence`, by its group's summed
            evidence (strategy 2).
        covariates: what is known of each observation, by name, where the model was trained with covariates.
        heads: from `looked` at the same rows; None looks at them.

    Returns:
        For each level by name, a Normal of N rows. A level given coarser ones is given their posterior means.
    """
    x = rows_of(x)
    labels = {} if groups is None else _labels(model, x, groups)
    groupings = {name: Grouping.from_ids(value) for name, value in labels.items() if value is not None}
    heads = heads or looked(model, x, covariates)
    posteriors: dict[str, Normal] = {}
    for level in model.levels:
        grouping = groupings.get(level.name)
        votes = heads.votes(model, level, {name: code.mean for name, code in posteriors.items()})
        if grouping is None:
            posteriors[level.name] = READOUTS[level.readout](votes)
        else:  # sums of many votes, as `evidence` has them: on the CPU, as not every device has float64
            summed = READOUTS[level.readout](votes.to(torch.float64, "cpu").sum(grouping))[grouping.index]
            posteriors[level.name] = Normal(summed.mean.to(votes.precision), summed.precision.to(votes.precision))
    return posteriors


def _labels(model: MLVAE, x: Tensor, groups: Groups) -> dict[str, np.ndarray[Any, Any] | None]:
    """Labels (N,) for each shared level; None where all rows are one group."""
    names = [level.name for level in model.group_levels]
    if groups is None:
        return dict.fromkeys(names)
    if not isinstance(groups, Mapping):
        if len(names) > 1:
            raise DataError(f"Expected labels for each of the levels {names}, as a dictionary by name.")
        groups = {names[0]: groups} if names else {}
    labels: dict[str, np.ndarray[Any, Any] | None] = {}
    for name, value in groups.items():
        if model.level(name).by is None:
            raise DataError(f"Expected labels of levels that groups share, {names}; got some for {name!r}. Drop them.")
        array = as_labels(value)
        if array.shape != (len(x),):
            raise DataError(f"Expected one label an observation, shape ({len(x)},), for {name!r}; got {array.shape}.")
        refuse_missing(array, f"the groups of {name!r}")
        labels[name] = array
    if missing := [name for name in names if name not in labels]:
        raise DataError(f"Expected labels for each of the levels {names}; {missing} are missing.")
    return labels
