"""One function a question, from a subject to its numbers under their stable names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mlvae.data import GroupedData
from mlvae.errors import DataError
from mlvae.evaluate.calibration import calibration
from mlvae.evaluate.curve import k_curve
from mlvae.evaluate.few_shot import few_shot
from mlvae.evaluate.generation import NEAREST, coverage_density
from mlvae.evaluate.judge import Judge
from mlvae.evaluate.probes import cross_probe, cross_regress, probe, regress
from mlvae.evaluate.subject import WAY, Metrics, Subject
from mlvae.evaluate.swaps import SEVERAL, cross_member_mse, swaps
from mlvae.evaluate.verification import open_set, verify
from mlvae.evidence import Evidence
from mlvae.labels import among, is_missing
from mlvae.levels import Level

GENERATED = 2000
MANY_VALUES = 20
"""A column of numbers with more values than these holds numbers, one with fewer labels, unless its factor says so."""
PROBES: tuple[Literal["linear"], Literal["mlp"]] = ("linear", "mlp")


def probes(subject: Subject) -> Metrics:
    """What codes of single observations tell about the group; only where new groups are all known."""
    labels, seed = subject.labels, subject.seed
    a, b = (part.codes[subject.content.name].mean for part in (subject.before, subject.after))
    metrics = {f"probe.content.k1.{kind}": probe(a, labels[0], b, labels[1], kind, seed).accuracy for kind in PROBES}
    if subject.style:
        a, b = _samples(subject, subject.style.name)
        results = [probe(a, labels[0], b, labels[1], "mlp", seed), cross_probe(b, labels[1], "mlp", seed)]
        metrics["probe.style.sample.mlp"] = max(r.accuracy for r in results if r)
        metrics["probe.style.sample.nats"] = max(r.nats for r in results if r)
        a, b = (part.codes[subject.style.name].mean for part in (subject.before, subject.after))
        metrics["probe.style.mean.mlp"] = probe(a, labels[0], b, labels[1], "mlp", seed).accuracy
    return metrics


def factor(spec: str, train: GroupedData, new: GroupedData) -> tuple[str, bool]:
    """A column, and whether its values are labels: as ``name:label`` or ``name:number`` says, else as they look.

    Raises:
        DataError: no such column, another word after the colon, or nothing to be read: one value in all of a part, or
            labels of the new part that training does not have.
    """
    name, _, kind = spec.partition(":")
    if kind not in ("", "label", "number"):
        raise DataError(f"Expected a factor as {name!r}, '{name}:label' or '{name}:number'; got {spec!r}.")
    values, asked = train.column(name), new.column(name)
    if count := int(is_missing(values).sum() + is_missing(asked).sum()):
        raise DataError(
            f"Expected a value of factor {name!r} in every row; {count:,} have none. Fill them in, or leave the factor"
            " or these rows out."
        )
    if kind == "number" and {values.dtype.kind, asked.dtype.kind} - set("biuf"):
        raise DataError(f"Expected numbers in factor {name!r}; it has words. Read it as labels: {name}:label.")
    looks = values.dtype.kind not in "iuf" or len(np.unique(values)) <= MANY_VALUES
    named = kind == "label" or (not kind and looks)
    if len(np.unique(values)) < 2 or len(np.unique(asked[among(asked, values)] if named else asked)) < 2:
        raise DataError(
            f"Expected factor {name!r} to have at least two values in the training part, and two of them in the new"
            " part; it has one, or others. Leave it out."
        )
    return name, named


def unasked(levels: Sequence[Level], kinds: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Of factors those that the matrix of these shared levels does not ask about, under the same names, by itself.

    Raises:
        DataError: a column is called like a level that is not of just that column: one's numbers would be the other's.
    """
    by = {level.name: level.by for level in levels} if len(levels) > 1 else {}
    for name, _ in kinds:
        if name in by and by[name] != name:
            raise DataError(
                f"Expected factors that are not called like a level; got {name!r}, and level {name!r} is by"
                f" {by[name]!r}. Leave the factor out, or rename its column."
            )
    return [(name, named) for name, named in kinds if not (named and name in by)]


def factors(subject: Subject, kinds: Sequence[tuple[str, bool]]) -> Metrics:
    """What codes tell about further columns, each with whether it holds labels: accuracy and nats, else R²."""
    metrics: Metrics = {}
    for name, named in kinds:
        values = subject.train.column(name), subject.new.column(name)
        known = among(values[1], values[0])
        rows, asked = torch.from_numpy(np.flatnonzero(known)), values[1][known]
        if subject.content.by is not None:
            pairs = len(set(zip(subject.train.codes(subject.content.by).tolist(), values[0].tolist(), strict=True)))
            # Of a property of the groups it is no trouble that content tells it.
            metrics[f"probe.{name}.of_groups"] = float(pairs == len(np.unique(subject.train.codes(subject.content.by))))
        if named:
            metrics[f"probe.{name}.chance"] = float(np.unique(asked, return_counts=True)[1].max() / len(asked))
        parts = {
            ("content", "k1"): tuple(part.codes[subject.content.name].mean for part in (subject.before, subject.after))
        }
        if style := subject.style:
            parts["style", "sample"] = _samples(subject, style.name)
            parts["style", "mean"] = subject.before.codes[style.name].mean, subject.after.codes[style.name].mean
        for (level, code), (a, b) in parts.items():
            key = f"probe.{level}.{name}.{code}"
            for kind in PROBES:
                crossed = code == "sample"  # a penalty can overfit the training styles
                if named:
                    results = [probe(a, values[0], b[rows], asked, kind, subject.seed)]
                    if crossed and (other := cross_probe(b[rows], asked, kind, subject.seed)):
                        results.append(other)
                    metrics[f"{key}.{kind}"] = max(result.accuracy for result in results)
                    nats = max(result.nats for result in results)
                    metrics[f"{key}.nats"] = max(nats, metrics.get(f"{key}.nats", nats))
                else:
                    found = [regress(a, values[0], b, values[1], kind, subject.seed)]
                    if crossed and (half := cross_regress(b, values[1], kind, subject.seed)) is not None:
                        found.append(half)
                    metrics[f"{key}.{kind}.r2"] = max(found)
    return metrics


def curve(subject: Subject) -> Metrics:
    """Accuracy and posterior variance of k pooled observations of known groups."""
    level, rows = subject.content, subject.rows(subject.content.name)
    before, after = subject.before.votes[level.name], subject.after.votes[level.name][rows]
    labels = subject.labels[1][rows.numpy()]
    points = k_curve(before, subject.labels[0], after, labels, level.readout, seed=subject.seed)
    return {
        f"k_curve.{point.k}.{name}": value
        for point in points
        for name, value in (("accuracy", point.accuracy), ("variance", point.variance))
    }


def unseen(subject: Subject) -> Metrics:
    """Naming groups that training never saw, from content and from style."""
    rows = subject.rows(subject.content.name)
    groups = subject.labels[1][rows.numpy()]
    way = few_shot_way(groups, 1)
    if way < 2:
        return {}
    votes = subject.after.votes[subject.content.name][rows]
    metrics: Metrics = {}
    for shots in (1, 5):
        if few_shot_way(groups, shots) == way:
            result = few_shot(votes, groups, way=WAY, shots=shots, seed=subject.seed)
            for name in ("accuracy", "low", "high"):
                metrics[f"unseen.shots.{shots}.{name}"] = getattr(result, name)
    if subject.style and few_shot_way(groups, 5) == way:
        sample = _sample_of_new(subject, subject.style.name)[rows]
        style = Evidence.votes(sample, torch.ones_like(sample))
        result = few_shot(style, groups, way=WAY, shots=5, seed=subject.seed)
        metrics["unseen.style.shots.5.accuracy"] = result.accuracy
    return metrics


def verification(subject: Subject) -> Metrics:
    """Same group or not, known group or not, and whether the odds mean what they say."""
    rows = subject.rows(subject.content.name)
    labels, votes = subject.labels[1][rows.numpy()], subject.after.votes[subject.content.name][rows]
    if subject.content.readout != "product_with_prior" or few_shot_way(labels, 1) < 2:
        return {}
    pairs = verify(votes, labels, seed=subject.seed)
    gallery = open_set(votes, labels, seed=subject.seed)
    return {
        "verification.auc": pairs.auc,
        "verification.low": pairs.low,
        "verification.high": pairs.high,
        "verification.eer": pairs.eer,
        "verification.reliability": pairs.reliability.error,
        "open_set.auc": gallery.auc,
        "open_set.accuracy": gallery.accuracy,
        "open_set.known": float(gallery.known),
    }


def calibrated(subject: Subject) -> Metrics:
    """Whether posteriors of groups are as narrow as they say, for k of a group's members; for a level that others are
    nested in, for k of the largest of those, whole. Of content, and with several shared levels of each."""
    shared = subject.model.group_levels
    metrics = _calibrated(subject, shared[0], subject.labels[1], "calibration")
    for name in ("ratio", "coverage90"):
        if (key := f"calibration.k1.{name}") in metrics:
            metrics[f"calibration.{name}"] = metrics[key]
    for level in shared if len(shared) > 1 else ():
        assert level.by is not None
        metrics |= _calibrated(subject, level, subject.new.column(level.by), f"calibration.{level.name}")
    return metrics


def _calibrated(subject: Subject, level: Level, labels: np.ndarray, key: str) -> Metrics:
    votes = subject.after.votes[level.name]
    if level.name in subject.speaks:
        units = subject.speaks[level.name]
        votes, labels = votes.sum(units), labels[units.first.numpy()]
    metrics: Metrics = {}
    for k, result in calibration(votes, labels, level.readout, seed=subject.seed).items():
        metrics[f"{key}.k{k}.used"] = result.used
        if result.ratio is not None and result.coverage90 is not None:
            metrics[f"{key}.k{k}.ratio"] = result.ratio
            metrics[f"{key}.k{k}.coverage90"] = result.coverage90
    return metrics


def swapped(subject: Subject, judge: Judge) -> Metrics:
    """Whose group a picture shows that has its content from one observation and its style from another."""
    result = swaps(subject.model, judge, subject.new.x, subject.labels[1], seed=subject.seed)
    metrics = {
        "swap.content_of_donor": result.content_of_donor,
        "swap.content_of_style_giver": result.content_of_style_giver,
        "swap.reconstructed": result.reconstructed,
        "swap.judge": result.judge_accuracy,
    }
    if result.content_of_several is not None:
        metrics[f"swap.k{SEVERAL}.content_of_donor"] = result.content_of_several
    return metrics


def cross_member(subject: Subject) -> Metrics:
    """Squared error per feature of an observation from another member's content and its own style."""
    if np.unique(subject.labels[1], return_counts=True)[1].max() < 2:
        return {}
    return {
        "swap.cross_member_mse": cross_member_mse(subject.model, subject.new.x, subject.labels[1], seed=subject.seed)
    }


def generated(subject: Subject, judge: Judge) -> Metrics:
    """Coverage and density of generated samples among the new observations, in the judge's features."""
    if len(subject.new) <= NEAREST:
        return {}
    rows = np.random.default_rng(subject.seed).permutation(len(subject.new))[:GENERATED]
    real = judge.features(judge.prepare(subject.new.x[torch.from_numpy(rows)]))
    made = judge.features(subject.model.generate(len(rows), seed=subject.seed).cpu())
    return {f"generation.{name}": value for name, value in asdict(coverage_density(real, made)).items()}


def few_shot_way(labels: np.ndarray, shots: int) -> int:
    """Groups in an episode of that many shots."""
    return min(WAY, int((np.unique(labels, return_counts=True)[1] > shots).sum()))


def _samples(subject: Subject, level: str) -> tuple[Tensor, Tensor]:
    """One draw from each observation's posterior, in train and in new."""
    generator = torch.Generator().manual_seed(subject.seed)
    return subject.before.codes[level].rsample(generator), subject.after.codes[level].rsample(generator)


def _sample_of_new(subject: Subject, level: str) -> Tensor:
    """The same draws in new alone: those in train, which come first, are made of noise that needs no code."""
    generator, code = torch.Generator().manual_seed(subject.seed), subject.after.codes[level]
    code.mean.new_empty(len(subject.train), code.mean.shape[1]).normal_(generator=generator)
    return code.rsample(generator)
