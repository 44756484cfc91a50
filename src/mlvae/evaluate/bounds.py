"""From a subject to its bounds, in nats, and what stands beside them: errors, KLs, active units, amortisation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from mlvae.batch import GroupBatch
from mlvae.bound import importance_weighted_bound
from mlvae.evaluate.amortisation import amortisation_gap
from mlvae.evaluate.errors import errors, usual
from mlvae.evaluate.subject import Metrics, Subject
from mlvae.evidence import READOUTS
from mlvae.grouping import Grouping
from mlvae.heads import Evaluating, looked
from mlvae.likelihoods import Bernoulli
from mlvae.objective import elbo

BATCH = 1000
"""Observations encoded at a time for the bound."""
WHOLE = 100
PART = 20
"""Where the first shared level has a group of more than WHOLE members, its groups are cut into parts of at most PART
for the bound."""
WEIGHTED = 256
"""Observations that the importance-weighted bound is averaged over, with SAMPLES joint samples each."""
SAMPLES = 500
MADE = 2**24
"""Numbers of pictures that the importance-weighted bound has made of codes at once, at most."""
AVERAGED = 10_000
"""Observations of the training part, evenly spaced, whose mean is shown for all in comparison."""
GROUPS = 32
"""Groups whose posterior is fitted for the amortisation gap."""
ACTIVE = 0.01
"""A dimension is active where its posterior means vary by more (Burda et al. 2016)."""


@torch.no_grad()
def bound(subject: Subject) -> Metrics:
    """ELBO, KLs and reconstruction; active units."""
    model, new = subject.model, subject.new
    ids = {level.name: new.codes(level.by) for level in model.group_levels if level.by is not None}
    first = next(iter(ids.values()), torch.arange(len(new)))
    generator = torch.Generator(model.device).manual_seed(subject.seed)
    known = model.covariates(new.columns, len(new))
    log_likelihood, kl = 0.0, {level.name: 0.0 for level in model.levels}
    squared, blind, observed = 0.0, 0.0, 0
    blank = usual(model, subject.train.sample(AVERAGED))
    with Evaluating(model):
        batches = list(_batches(first))
        codes: dict[str, Tensor] = {}
        # A batch can be made of whole groups of one level; of two that are crossed it would be all of the data.
        if len(ids) > 1:
            rows, parts = (torch.cat(each) for each in zip(*batches, strict=True))
            whole = {**ids, next(iter(ids)): torch.empty_like(parts).index_copy(0, rows, parts)}
            codes, kl = _drawn(subject, whole, generator)
        for rows, parts in batches:
            x = model.prepare(new.x[rows])
            model.check(x)
            told = None if known is None else known[rows]
            if codes:
                output = model.decode({name: code[rows] for name, code in codes.items()}, told)
                log_likelihood += model.likelihood.log_prob(x, output).double().sum().item()
            else:
                groupings = dict.fromkeys(ids, Grouping.from_ids(parts).to(model.device))
                terms = elbo(model, GroupBatch(x, groupings, covariates=told), generator=generator)
                log_likelihood += terms.log_likelihood.double().sum().item()
                for name, value in terms.kl.items():
                    kl[name] += value.double().sum().item()
            own = {name: code.mean[rows].to(x) for name, code in subject.after.codes.items()}
            squared += errors(model, model.pictures(own, told), x).sum().item()
            blind += errors(model, blank, x).nan_to_num(0.0).sum().item()
            observed += int((~torch.isnan(x)).sum())
    n = len(new)
    return {
        "elbo": (log_likelihood - sum(kl.values())) / n,
        **{f"kl.{name}": value / n for name, value in kl.items()},
        **{
            f"active_units.{name}": float((code.mean.var(0) > ACTIVE).sum())
            for name, code in subject.after.codes.items()
        },
        "reconstruction.mse": squared / max(observed, 1),
        "reconstruction.mse_of_mean": blind / max(observed, 1),
    }  # fmt: skip


@torch.no_grad()
def weighted_bound(subject: Subject) -> Metrics:
    """The importance-weighted bound of single observations, K = 500; Bernoulli targets are binarised."""
    model = copy.deepcopy(subject.model).eval()
    if isinstance(model.likelihood, Bernoulli):
        model.likelihood.binarise = True
    rows = np.random.default_rng(subject.seed).permutation(len(subject.new))[:WEIGHTED]
    x = model.prepare(subject.new.x[torch.from_numpy(rows)])
    at_once = max(1, min(32, MADE // x[0].numel()))
    chunk = max(1, min(100, MADE // (at_once * x[0].numel())))
    known = model.covariates(subject.new.columns, len(subject.new))
    told = [None] * len(x) if known is None else known[torch.from_numpy(rows).to(known.device)].split(at_once)
    generator = torch.Generator(model.device).manual_seed(subject.seed)
    values = []
    for part, beside in zip(x.split(at_once), told, strict=False):
        alone = {level.name: Grouping.from_ids(torch.arange(len(part))) for level in model.group_levels}
        shared = (SAMPLES, 1) if alone else (1, SAMPLES)
        values.append(
            importance_weighted_bound(
                model,
                GroupBatch(
                    part, {name: grouping.to(model.device) for name, grouping in alone.items()}, covariates=beside
                ),
                content_samples=shared[0], style_samples=shared[1], generator=generator, chunk=chunk,
            )
        )  # fmt: skip
    return {"iwae": torch.cat(values).double().mean().item()}


def amortisation(subject: Subject) -> Metrics:
    """Nats gained by fitting each group's posterior instead of summing votes, and the time it takes."""
    result = amortisation_gap(subject.model, subject.new.x, subject.labels[1], groups=GROUPS, seed=subject.seed)
    return {
        "amortisation.gap": result.gap,
        "amortisation.gap_per_observation": result.gap_per_observation,
        "amortisation.seconds": result.seconds,
        "amortisation.amortised_seconds": result.amortised_seconds,
        "amortisation.groups": float(result.groups),
    }


def _drawn(
    subject: Subject, ids: Mapping[str, Tensor], generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Codes (N, D) of every level, one draw a group, and the level's KL in nats: `MLVAE.encode` of all new rows."""
    model = subject.model
    heads = looked(model, subject.new.x, subject.new.columns)
    codes: dict[str, Tensor] = {}
    kl: dict[str, float] = {}
    for level in model.levels:
        votes = heads.votes(model, level, codes)
        shared = ids.get(level.name)
        grouping = (Grouping.each(len(votes)) if shared is None else Grouping.from_ids(shared)).to(model.device)
        posterior = READOUTS[level.readout](votes.sum(grouping))
        kl[level.name] = posterior.kl().double().sum().item()
        codes[level.name] = grouping.expand(posterior.rsample(generator))
    return codes, kl


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
