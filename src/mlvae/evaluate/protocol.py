"""The protocol: every number that a report shows, each with what keeps it honest beside it."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mlvae.batch import GroupBatch
from mlvae.data import GroupedData
from mlvae.errors import DataError
from mlvae.evaluate.few_shot import few_shot, pixel_few_shot
from mlvae.evaluate.probes import cross_probe, probe
from mlvae.evidence import Evidence
from mlvae.grouping import Grouping
from mlvae.model import MLVAE
from mlvae.normal import Normal
from mlvae.objective import elbo

WAY = 20
BATCH = 1000
"""Observations encoded at a time for the bound."""
WHOLE = 100
PART = 20
"""Data with a group of more than WHOLE members have every group cut into parts of at most PART for the bound."""


def evaluate(
    model: MLVAE, train: GroupedData, new: GroupedData, *, seed: int = 0, controls: bool = True
) -> dict[str, float]:
    """What the model knows about data it was not trained on.

    The first level that groups share plays content, the last that none shares plays style. Codes are of single
    observations (k = 1): nothing is ever pooled by the labels of ``new``, but for the support in few-shot episodes.
    A model without a shared level has its style probed by ``train.by``, and no content or few-shot numbers.

    Args:
        model: a trained model.
        train: what it was trained on; probes are fitted on its codes.
        new: what is reported.
        seed: of style samples, probes, episodes and the bound's noise.
        controls: also report an untrained copy of the model.

    Returns:
        Where every group of ``new`` is in ``train`` (accuracies of the grouping's labels):
        ``probe.content.k1.linear`` and ``.mlp``; ``probe.style.sample.mlp`` and ``.nats``, one draw from the style
        posterior, the larger of a probe fitted on ``train`` and one cross-fitted in two halves of ``new`` (a penalty
        can overfit the training styles); ``probe.style.mean.mlp``; ``probe.chance``.

        Where some are not: ``unseen.way``; ``unseen.shots.1.accuracy`` and ``unseen.shots.5.accuracy`` by Bayes factor
        with ``.low`` and ``.high`` beside (``unseen.shots.1.low``, ...); ``unseen.style.shots.5.accuracy``, from style
        samples as votes of precision 1; ``unseen.pixels.shots.1.accuracy``. Groups too small for an episode take no
        part; five shots are left out where they would lower the way, all of it where there are no two groups of two.

        Always: ``elbo``, nats per observation, all evidence, weight 1, no penalty; ``kl.<level>`` per observation;
        ``reconstruction.mse`` per feature, from each observation's own posterior means. For the bound, groups are whole
        where none has more than 100 members; else each is cut into parts of at most 20, which count as groups. A
        further shared level's groups are whole only within a batch of about 1,000 observations.

        ``control.untrained.<key>`` for every probe and few-shot number of the model.

    Raises:
        DataError: shapes disagree, or a column that the levels name is missing.
    """
    if train.shape != new.shape:
        raise DataError(f"Expected `new` of shape {train.shape}, as `train`; got {new.shape}.")
    by = model.group_levels[0].by if model.group_levels else train.by
    metrics: dict[str, float] = {}
    if by is not None:
        labels = _labels(train, by), _labels(new, by)
        known, part = np.isin(labels[1], labels[0]), new
        if seen := bool(known.all()):
            metrics["probe.chance"] = float(np.unique(labels[1], return_counts=True)[1].max() / len(new))
        else:
            # A group that training saw is not unseen, even where others of `new` are.
            part, labels = new.subset(~known), (labels[0], labels[1][~known])
        if not seen and model.group_levels and (way := _way(labels[1], 1)) >= 2:
            metrics["unseen.way"] = float(way)
            metrics["unseen.pixels.shots.1.accuracy"] = pixel_few_shot(part.x, labels[1], way=WAY, seed=seed).accuracy
        numbers = _probes if seen else _few_shots
        metrics |= numbers(model, train, part, labels, seed)
        if controls:
            control = numbers(_untrained(model, seed), train, part, labels, seed)
            metrics |= {f"control.untrained.{key}": value for key, value in control.items()}
    return metrics | _bound(model, new, seed)


def _probes(
    model: MLVAE, train: GroupedData, new: GroupedData, labels: tuple[np.ndarray, np.ndarray], seed: int
) -> dict[str, float]:
    content, style = _roles(model)
    before, after = _codes(model, train), _codes(model, new)
    metrics: dict[str, float] = {}
    if content:
        a, b = before[content].mean, after[content].mean
        metrics["probe.content.k1.linear"] = probe(a, labels[0], b, labels[1], "linear", seed).accuracy
        metrics["probe.content.k1.mlp"] = probe(a, labels[0], b, labels[1], "mlp", seed).accuracy
    if style:
        generator = torch.Generator().manual_seed(seed)
        a, b = before[style].rsample(generator), after[style].rsample(generator)
        results = [probe(a, labels[0], b, labels[1], "mlp", seed), cross_probe(b, labels[1], "mlp", seed)]
        metrics["probe.style.sample.mlp"] = max(r.accuracy for r in results if r)
        metrics["probe.style.sample.nats"] = max(r.nats for r in results if r)
        a, b = before[style].mean, after[style].mean
        metrics["probe.style.mean.mlp"] = probe(a, labels[0], b, labels[1], "mlp", seed).accuracy
    return metrics


def _few_shots(
    model: MLVAE, train: GroupedData, new: GroupedData, labels: tuple[np.ndarray, np.ndarray], seed: int
) -> dict[str, float]:
    content, style = _roles(model)
    groups, way = labels[1], _way(labels[1], 1)
    if not content or way < 2:
        return {}
    each = {level.name: np.arange(len(new)) for level in model.group_levels}
    votes = model.evidence(new.x, each).levels[content]
    metrics: dict[str, float] = {}
    for shots in (1, 5):
        if _way(groups, shots) < way:
            continue
        result = few_shot(votes, groups, way=WAY, shots=shots, seed=seed)
        metrics[f"unseen.shots.{shots}.accuracy"] = result.accuracy
        metrics[f"unseen.shots.{shots}.low"] = result.low
        metrics[f"unseen.shots.{shots}.high"] = result.high
    if style and _way(groups, 5) == way:
        sample = _codes(model, new)[style].rsample(torch.Generator().manual_seed(seed))
        votes = Evidence.votes(sample, torch.ones_like(sample))
        metrics["unseen.style.shots.5.accuracy"] = few_shot(votes, groups, way=WAY, shots=5, seed=seed).accuracy
    return metrics


@torch.no_grad()
def _bound(model: MLVAE, new: GroupedData, seed: int) -> dict[str, float]:
    """ELBO, KLs and reconstruction, a batch of whole groups at a time."""
    ids = {level.name: new.codes(level.by) for level in model.group_levels if level.by is not None}
    first = next(iter(ids.values()), torch.arange(len(new)))
    generator = torch.Generator(model.device).manual_seed(seed)
    log_likelihood, squared, kl = 0.0, 0.0, {level.name: 0.0 for level in model.levels}
    was = model.training
    model.eval()
    try:
        for rows, parts in _batches(first):
            x = model.prepare(new.x[rows])
            model.check(x)
            groupings = {
                name: Grouping.from_ids(parts if place == 0 else values[rows]).to(model.device)
                for place, (name, values) in enumerate(ids.items())
            }
            terms = elbo(model, GroupBatch(x, groupings), generator=generator)
            log_likelihood += terms.log_likelihood.double().sum().item()
            for name, value in terms.kl.items():
                kl[name] += value.double().sum().item()
            squared += (model.reconstruct(new.x[rows]) - x).double().square().sum().item()
    finally:
        model.train(was)
    n = len(new)
    return {
        "elbo": (log_likelihood - sum(kl.values())) / n,
        **{f"kl.{name}": value / n for name, value in kl.items()},
        "reconstruction.mse": squared / new.x.numel(),
    }


def _batches(ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of about BATCH observations, and the part of a group that each is in; no part is divided."""
    order = torch.argsort(ids, stable=True)
    sizes = torch.bincount(ids)
    largest = int(sizes.max())
    place = torch.arange(len(ids)) - (torch.cumsum(sizes, 0) - sizes)[ids[order]]
    part = ids[order] * (largest // PART + 1) + (place // PART if largest > WHOLE else 0)
    _, length = torch.unique_consecutive(part, return_counts=True)
    batch = torch.repeat_interleave((torch.cumsum(length, 0) - length) // BATCH, length)
    counts = torch.unique_consecutive(batch, return_counts=True)[1].tolist()
    split = torch.stack([order, part]).split(counts, 1)
    return ((rows, parts) for rows, parts in split)


def _untrained(model: MLVAE, seed: int) -> MLVAE:
    """The same architecture with fresh weights."""
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return fresh


def _codes(model: MLVAE, data: GroupedData) -> dict[str, Normal]:
    """Every observation understood alone, on the CPU."""
    return {name: Normal(code.mean.cpu(), code.precision.cpu()) for name, code in model.codes(data.x).items()}


def _roles(model: MLVAE) -> tuple[str | None, str | None]:
    shared = [level.name for level in model.levels if level.by is not None]
    own = [level.name for level in model.levels if level.by is None]
    return shared[0] if shared else None, own[-1] if own else None


def _labels(data: GroupedData, by: str | tuple[str, ...]) -> np.ndarray:
    """(N,) labels of a column, or of columns in combination, comparable between data sets."""
    if isinstance(by, str):
        return data.column(by)
    columns = [data.column(name) for name in by]
    return np.array([repr(row) for row in zip(*(column.tolist() for column in columns), strict=True)])


def _way(labels: np.ndarray, shots: int) -> int:
    """Groups in an episode of that many shots."""
    return min(WAY, int((np.unique(labels, return_counts=True)[1] > shots).sum()))
