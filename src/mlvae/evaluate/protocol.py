"""The protocol: every number that a report shows, each with what keeps it honest beside it.

`docs/protocol.md` says what each number means and what it cannot show.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mlvae.atomic import write
from mlvae.data import GroupedData
from mlvae.errors import DataError
from mlvae.evaluate import bounds, levels, measures
from mlvae.evaluate.controls import TRAINED, Controls, digest_of, refuse_replaced, untrained
from mlvae.evaluate.few_shot import pixel_few_shot
from mlvae.evaluate.judge import Judge
from mlvae.evaluate.subject import WAY, Metrics, Subject
from mlvae.labels import among
from mlvae.model import MLVAE

VERSION = 5
"""Raised when a number changes its meaning: what is cached under an older one is measured again."""


def evaluate(
    model: MLVAE,
    train: GroupedData,
    new: GroupedData,
    *,
    factors: Sequence[str] = (),
    controls: bool | Controls | str | Path = True,
    quick: bool = False,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Metrics:
    """What the model knows about data it was not trained on.

    The first level that groups share plays content, the last that none shares plays style. Codes are of single
    observations (k = 1): nothing is ever pooled by the labels of ``new``, but for the support in few-shot episodes, the
    k-curve at k > 1, the calibration and swaps with the content of five, which ask just that.
    In a model without a shared level the only level plays content, and nothing plays style.

    Args:
        model: a trained model.
        train: what it was trained on; probes and the judge are fitted on it.
        new: what is reported.
        factors: further columns to be read from the codes, "eyes"; with "eyes:label" or "shift:number" where the column
            itself does not show which it is. The column that one of several shared levels is called by is asked about
            without being named.
        controls: True measures an untrained copy beside the model; a folder, or `Controls`, also an iid VAE and the
            same model on shuffled labels, trained once and kept there; False nothing, and no k-curve above k = 1.
        quick: leave out what takes minutes: swaps, generation, cross-member error, the importance-weighted bound, the
            amortisation gap, trained controls.
        seed: of style samples, probes, episodes, judge and the bounds' noise.
        say: told of what is measured next.

    Returns:
        A number by name, as `docs/protocol.md` lists them: ``probe.*`` and ``k_curve.*``, ``swap.content_of_*`` where
        every group of ``new`` is in ``train``, ``unseen.*`` and ``amortisation.*`` where some are not;
        with several shared levels ``probe.<level>.<factor>.*``, ``k_curve.<level>.*``, ``unseen.<factor>.<level>.*``;
        ``verification.*``, ``open_set.*``, ``calibration.*``, ``generation.*``, ``elbo``, ``iwae``, ``kl.*``,
        ``reconstruction.*`` always, where the data allow; ``control.<name>.*``, the same of the controls.

        ``elbo`` is nats per observation, all evidence, weight 1, no penalty. For it, groups of the first shared level
        are whole where none has more than 100 members; else each is cut into parts of at most 20, which count as
        groups. Groups of further shared levels are whole.

    Raises:
        DataError: ``train`` or ``new`` are no grouped data, shapes disagree, a column that the levels or ``factors``
            name is missing, or a factor is called like one of several shared levels that is of other columns.
    """
    for name, data in (("train", train), ("new", new)):
        if not isinstance(data, GroupedData):
            raise DataError(
                f"Expected grouped data as `{name}`; got {type(data).__name__}. Keep some out before training:"
                " train, new = data.split(by='group', test=0.2)."
            )
    if train.shape != new.shape:
        raise DataError(f"Expected `new` of shape {train.shape}, as `train`; got {new.shape}.")
    by = model.group_levels[0].by if model.group_levels else train.by
    kinds = measures.unasked(model.group_levels, [measures.factor(name, train, new) for name in factors])
    # Without a grouping at all there is nothing to ask but the bound.
    labels = (train.column(by), new.column(by)) if by is not None else None
    if isinstance(controls, (str, Path, Controls)) and not quick:
        refuse_replaced(model)
    known = among(labels[1], labels[0]) if labels is not None else np.ones(len(new), bool)
    seen = bool(known.all())
    tell = say or (lambda text: None)
    judge = None
    # Swaps, raw nearest neighbours and the judge compare whole observations in memory, by themselves.
    comparable = not model.schema.covariates and not _gaps(model, train) and not _gaps(model, new)
    if not quick and comparable and labels is not None and len(np.unique(labels[0])) > 1:
        tell("Teaching a judge to name real observations")
        judge = Judge.fit(train.x, labels[0], seed, prepare=model.prepare)

    subject = Subject(model, train, new, labels or (np.zeros(len(train)), np.zeros(len(new))), seed)

    def control(which: MLVAE) -> Subject:
        return replace(subject, model=which, beside=subject)

    def groups(of: Subject) -> Metrics:
        """The questions that need labels only."""
        if labels is None:
            return {}
        several: Metrics = {}
        if len(of.model.group_levels) > 1:
            several = levels.matrix(of) | levels.curves(of) | levels.shots(of, pixels=of is subject and comparable)
        if seen and len(np.unique(labels[0])) < 2:
            return several  # of one group there is nothing to ask
        if seen:
            return several | measures.probes(of) | measures.curve(of) | measures.verification(of)
        # A group that training saw is not unseen, even where others of `new` are.
        part = _part(of, ~known)
        return several | measures.unseen(part) | measures.verification(part)

    def pictures(of: Subject) -> Metrics:
        """The questions that need a trained decoder."""
        found = bounds.bound(of)
        if quick:
            return found
        found |= bounds.weighted_bound(of)
        if labels is not None and comparable:
            found |= measures.cross_member(of)
        if judge is not None:
            found |= measures.generated(of, judge)
            if seen and len(np.unique(of.labels[1])) > 1:
                found |= measures.swapped(of, judge)
        return found

    metrics: Metrics = {}
    if labels is not None and seen:
        metrics["probe.chance"] = float(np.unique(labels[1], return_counts=True)[1].max() / len(new))
    elif labels is not None:
        part = _part(subject, ~known)
        rows = part.rows(subject.content.name)
        asked = part.labels[1][rows.numpy()]
        if (way := measures.few_shot_way(asked, 1)) >= 2:
            metrics["unseen.way"] = float(way)
            if comparable:
                pixels = pixel_few_shot(model.prepare(part.new.x[rows]), asked, way=WAY, seed=seed)
                metrics["unseen.pixels.shots.1.accuracy"] = pixels.accuracy
    tell("Asking what its codes tell of groups")
    metrics |= groups(subject)
    if kinds:
        tell(f"Reading {', '.join(name for name, _ in kinds)} from its codes")
        metrics |= measures.factors(subject, kinds)
    tell("Measuring the bound" + " and what it makes of codes" * (not quick))
    metrics |= pictures(subject)
    if model.group_levels and labels is not None:
        metrics |= measures.calibrated(subject)
        if not seen and not quick and comparable:
            metrics |= bounds.amortisation(_part(subject, ~known))
    if controls:
        tell("The same of an untrained network")
        fresh = control(untrained(model, seed))
        metrics |= _under("untrained", groups(fresh) | measures.factors(fresh, kinds))
    else:
        # Pooled by the test label, even an untrained network names groups: never without its number.
        metrics = {key: v for key, v in metrics.items() if not key.startswith("k_curve.") or ".1." in key}
    if isinstance(controls, (str, Path, Controls)) and not quick:
        chosen = controls if isinstance(controls, Controls) else Controls(controls)
        keys = [level.by for level in model.group_levels if level.by is not None] or ([] if by is None else [by])
        keys += [feature.name for feature in model.schema.covariates]
        about = [VERSION, seed, list(factors), digest_of(train, keys), digest_of(new, keys)]
        for name in TRAINED:
            other, place = chosen.get(name, model, train, seed)
            kept = place / f"metrics-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]}.json"
            if not kept.exists():
                tell(f"The same of the control {name!r}")
                found = groups(control(other)) | pictures(control(other))
                write(kept, json.dumps(found, indent=2).encode())
            metrics |= _under(name, json.loads(kept.read_text()))
        if "swap.cross_member_mse" in metrics:
            plain = metrics["control.vae.reconstruction.mse"]
            metrics["swap.cross_member_mse_ratio"] = metrics["swap.cross_member_mse"] / plain
    return metrics


def _under(control: str, metrics: Metrics) -> Metrics:
    return {f"control.{control}.{key}": value for key, value in metrics.items()}


def _part(subject: Subject, rows: np.ndarray) -> Subject:
    """The same subject with fewer new observations, encoded already."""
    if rows.all():
        return subject
    labels = subject.labels[0], subject.labels[1][rows]
    beside = None if subject.beside is None else _part(subject.beside, rows)
    part = replace(subject, new=subject.new.subset(rows), labels=labels, beside=beside)
    part.__dict__["after"] = subject.after[torch.from_numpy(np.flatnonzero(rows))]
    return part


def _gaps(model: MLVAE, data: GroupedData) -> bool:
    """Whether the model sees gaps, words that training did not see among them, or observations stay on disk."""
    if not isinstance(data.x, torch.Tensor):
        return True
    strange = any(feature.kind == "category" for feature in model.schema.features)
    return (data.gaps or strange) and any(bool(torch.isnan(model.prepare(part)).any()) for part in data.chunks())
