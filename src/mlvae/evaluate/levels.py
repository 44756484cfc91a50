"""Several shared levels: what each level's codes tell of each factor, a matrix that should be diagonal."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from mlvae.batch import nests
from mlvae.evaluate.curve import k_curve
from mlvae.evaluate.few_shot import few_shot, pixel_few_shot
from mlvae.evaluate.measures import few_shot_way
from mlvae.evaluate.probes import cross_probe, probe
from mlvae.evaluate.subject import WAY, Metrics, Subject
from mlvae.evidence import Evidence
from mlvae.grouping import Grouping
from mlvae.labels import among


def matrix(subject: Subject) -> Metrics:
    """What every level's codes of single observations tell of every shared level's groups, as training knows them.

    Keys are ``probe.<level>.<factor>.<code>.<probe>``, a factor being the level whose groups are named; codes are
    posterior means, ``k1``, and for a per-observation level ``mean`` and ``sample``. Groups that training never saw are
    left out; where none is left, so is the factor. ``probe.<factor>.chance`` is the share of the most frequent group,
    ``probe.<level>.<factor>.of_groups`` 1 where the level's groups lie within the factor's in the training part: then
    it may tell them.
    """
    groupings = {level.name: Grouping.from_ids(subject.train.codes(level.by))
                 for level in subject.model.group_levels if level.by is not None}  # fmt: skip
    nested = nests(groupings)
    metrics: Metrics = {
        f"probe.{level}.{factor}.of_groups": float((level, factor) in nested)
        for level, factor in itertools.permutations(groupings, 2)
    }
    for factor in subject.model.group_levels:
        assert factor.by is not None
        fitted, asked = subject.train.column(factor.by), subject.new.column(factor.by)
        known = among(asked, fitted)
        if not known.any():
            continue
        rows, asked = torch.from_numpy(np.flatnonzero(known)), asked[known]
        metrics[f"probe.{factor.name}.chance"] = float(np.unique(asked, return_counts=True)[1].max() / len(asked))
        for level in subject.model.levels:
            a, b = subject.before.codes[level.name], subject.after.codes[level.name][rows]
            key = f"probe.{level.name}.{factor.name}"
            mean = "k1" if level.by is not None else "mean"
            for kind in ("linear", "mlp"):
                metrics[f"{key}.{mean}.{kind}"] = probe(a.mean, fitted, b.mean, asked, kind, subject.seed).accuracy
            if level.by is None:
                generator = torch.Generator().manual_seed(subject.seed)
                x, y = a.rsample(generator), b.rsample(generator)
                results = [probe(x, fitted, y, asked, "mlp", subject.seed), cross_probe(y, asked, "mlp", subject.seed)]
                metrics[f"{key}.sample.mlp"] = max(result.accuracy for result in results if result)
                metrics[f"{key}.sample.nats"] = max(result.nats for result in results if result)
    return metrics


def curves(subject: Subject) -> Metrics:
    """For every shared level ``k_curve.<level>.<k>.*``, the k-curve of new observations of known groups."""
    metrics: Metrics = {}
    for level in subject.model.group_levels:
        assert level.by is not None
        fitted, asked = subject.train.column(level.by), subject.new.column(level.by)
        rows = subject.rows(level.name).numpy()
        rows = rows[among(asked[rows], fitted)]
        if not len(rows):
            continue
        before, after = subject.before.votes[level.name], subject.after.votes[level.name][torch.from_numpy(rows)]
        for point in k_curve(before, fitted, after, asked[rows], level.readout, seed=subject.seed):
            metrics[f"k_curve.{level.name}.{point.k}.accuracy"] = point.accuracy
            metrics[f"k_curve.{level.name}.{point.k}.variance"] = point.variance
    return metrics


def shots(subject: Subject, pixels: bool = True) -> Metrics:
    """For every shared level with groups that training never saw, naming those groups by Bayes factor from it and from
    every other level: ``unseen.<factor>.<level>.shots.<k>.accuracy``, and from raw pixels at one shot."""
    metrics: Metrics = {}
    for factor in subject.model.group_levels:
        assert factor.by is not None
        asked = subject.new.column(factor.by)
        rows = subject.rows(factor.name).numpy()
        rows = rows[~among(asked[rows], subject.train.column(factor.by))]
        if (way := few_shot_way(asked[rows], 1)) < 2:
            continue
        metrics[f"unseen.{factor.name}.way"] = float(way)
        for k in (1, 5):
            if few_shot_way(asked[rows], k) != way:  # of another chance
                continue
            for level in subject.model.levels:
                if level.by is None:
                    sample = subject.after.codes[level.name].rsample(torch.Generator().manual_seed(subject.seed))
                    votes = Evidence.votes(sample, torch.ones_like(sample))
                else:
                    votes = subject.after.votes[level.name]
                found = few_shot(votes[torch.from_numpy(rows)], asked[rows], way=WAY, shots=k, seed=subject.seed)
                for name in ("accuracy", "low", "high"):
                    metrics[f"unseen.{factor.name}.{level.name}.shots.{k}.{name}"] = getattr(found, name)
            if pixels and k == 1:
                x = subject.model.prepare(subject.new.x[torch.from_numpy(rows)])
                raw = pixel_few_shot(x, asked[rows], way=WAY, seed=subject.seed)
                metrics[f"unseen.{factor.name}.pixels.shots.1.accuracy"] = raw.accuracy
    return metrics
