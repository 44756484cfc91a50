"""What a report shows beyond the protocol's metrics."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.data import GroupedData
from mlvae.data.splits import members_of_many
from mlvae.evaluate.curve import pooled
from mlvae.evaluate.subject import Subject
from mlvae.evidence import READOUTS
from mlvae.heads import Evaluating
from mlvae.labels import among
from mlvae.model import MLVAE

MOST = 2000
"""Observations that are mapped and searched for surprises."""

KS = (1, 2, 5, 10, 20)
"""Observations of a group that its posterior is shown for."""

POOLS = 200
"""Groups, at most, that a point of that curve is the mean of."""

TOP = 8
"""Surprising groups and observations that are shown."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found on data that training never saw.

    Args:
        numbers: every number by name, all under "report.".
        history: the rows of the training log.
        rows: (M,) which of the new observations were looked at.
        labels: (M,) their groups.
        factors: (M,) of each further column that is shown.
        further: (M,) groups of the second shared level, and of those after it, by their column.
        maps: by level, (M, 2) principal components of the posterior means.
        scores: (M,) log p(x | own codes) - KL of every level, in nats, each observation understood alone.
        odds: (M,) log Bayes factors in nats, of its group (the other members looked at) against a new one; None where a
            level's readout has no prior.
        speakers: for each level with others nested in it the column, or the level, whose groups speak for its own.
    """

    numbers: dict[str, float]
    history: list[dict[str, float]]
    rows: Tensor
    labels: np.ndarray[Any, Any]
    factors: dict[str, np.ndarray[Any, Any]]
    further: dict[str, np.ndarray[Any, Any]]
    maps: dict[str, np.ndarray[Any, Any]]
    scores: np.ndarray[Any, Any]
    odds: np.ndarray[Any, Any] | None
    speakers: dict[str, str]

    @property
    def misfits(self) -> np.ndarray[Any, Any]:
        """Places among the rows of the observations that least belong to their group, worst first."""
        return np.argsort([] if self.odds is None else self.odds, kind="stable")[:TOP]

    @property
    def strangest(self) -> np.ndarray[Any, Any]:
        """Places among the rows of the most surprising observations, worst first."""
        return np.argsort(self.scores, kind="stable")[:TOP]

    @property
    def strangest_groups(self) -> list[tuple[Any, float, int]]:
        """Label, mean score and members of the most surprising groups, worst first."""
        names, index, sizes = np.unique(self.labels, return_inverse=True, return_counts=True)
        means = np.bincount(index, self.scores) / sizes
        return [(names[g], float(means[g]), int(sizes[g])) for g in np.argsort(means, kind="stable")[:TOP]]


def find(
    model: MLVAE, train: GroupedData, new: GroupedData, *, run: str | Path, factors: Sequence[str] = (), seed: int = 0
) -> Findings:
    """Looks at up to 2,000 new observations.

    Args:
        model: trained.
        train: what it was trained on.
        new: kept out of training.
        run: the folder that training wrote.
        factors: further columns that the maps are coloured by.
        seed: of the choice of observations.
    """
    random = np.random.default_rng(seed)
    by = model.group_levels[0].by if model.group_levels else new.by
    ids = np.zeros(len(new), np.int64) if by is None else new.codes(by).numpy()
    rows = torch.from_numpy(members_of_many(ids, MOST, random))
    part = new.subset(rows)
    labels = part.column(by) if by is not None else np.zeros(len(part))
    subject = Subject(model, train, part, (np.zeros(len(train)), labels), seed)
    numbers = _sizes(train, new, by)
    history = read_history(Path(run) / "log.csv")
    for row in history:
        numbers |= {f"report.training.{int(row['epoch'])}.{name}": value for name, value in row.items()}
    if model.group_levels:
        numbers |= _shrinking(subject, random)
    maps = {}
    for level in model.levels:
        maps[level.name], shares = _map(subject.after.codes[level.name].mean)
        numbers |= {f"report.map.{level.name}.axis{axis + 1}": share for axis, share in enumerate(shares)}
    scores = _scores(model, subject)
    found = Findings(
        numbers, history, rows, labels,
        {name: part.column(name.partition(":")[0]) for name in factors},
        {
            level.by if isinstance(level.by, str) else " and ".join(level.by or ()): part.column(level.by)
            for level in model.group_levels[1:]
            if level.by and level.by not in factors
        },
        maps, scores, _odds(model, part), {coarse: _called(model, fine) for coarse, fine in subject.speakers.items()},
    )  # fmt: skip
    numbers["report.score.median"] = float(np.median(scores))
    numbers["report.score.looked_at"] = float(len(scores))
    numbers |= {f"report.score.observation.{int(rows[i])}": float(scores[i]) for i in found.strangest}
    if found.odds is not None:
        numbers |= {f"report.belonging.{int(rows[i])}.log_odds": float(found.odds[i]) for i in found.misfits}
    numbers |= {f"report.score.group.{name}": mean for name, mean, _ in found.strangest_groups}
    return found


def _called(model: MLVAE, level: str) -> str:
    by = model.level(level).by
    return by if isinstance(by, str) else level


def read_history(log: Path) -> list[dict[str, float]]:
    """The rows of a training log; none where there is no log."""
    if not log.exists():
        return []
    with log.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def _sizes(train: GroupedData, new: GroupedData, by: Any) -> dict[str, float]:
    numbers = {}
    for name, data in (("train", train), ("new", new)):
        numbers[f"report.{name}.observations"] = float(len(data))
        if by is not None:
            sizes = np.bincount(data.codes(by).numpy())
            numbers |= {
                f"report.{name}.groups": float(len(sizes)),
                f"report.{name}.group_size.smallest": float(sizes.min()),
                f"report.{name}.group_size.median": float(np.median(sizes)),
                f"report.{name}.group_size.largest": float(sizes.max()),
            }
    if by is not None:
        known = among(new.column(by), train.column(by))
        numbers["report.new.of_known_groups"] = float(known.mean())
    return numbers


def _shrinking(subject: Subject, random: np.random.Generator) -> dict[str, float]:
    """The mean posterior variance of content after k observations of a group: one pool a group, at most 200.

    For a level that others are nested in, one observation each of k of these: pictures of one person say no more of a
    country.
    """
    votes, rows = subject.after.votes[subject.content.name], subject.rows(subject.content.name).numpy()
    order = rows[random.permutation(len(rows))]
    _, index, sizes = np.unique(subject.labels[1][order], return_inverse=True, return_counts=True)
    members = np.split(order[np.argsort(index, kind="stable")], np.cumsum(sizes)[:-1])[:POOLS]
    numbers = {}
    largest = max(len(rows) for rows in members)
    for k in KS:
        # The same groups at every k, so that the curve shows the evidence and not who is left.
        pools = [rows[:k] for rows in members if len(rows) >= min(KS[-1], largest)]
        if k <= largest:
            posterior = READOUTS[subject.content.readout](pooled(votes, torch.from_numpy(np.stack(pools))))
            numbers[f"report.posterior.{k}.variance"] = posterior.variance.mean().item()
    return numbers


def _map(means: Tensor) -> tuple[np.ndarray[Any, Any], list[float]]:
    """Two principal components, and the share of the variance on each."""
    from sklearn.decomposition import PCA

    axes = min(2, means.shape[1], len(means))
    fitted = PCA(axes, svd_solver="full").fit(means.double().numpy())
    points = fitted.transform(means.double().numpy())
    return np.pad(points, ((0, 0), (0, 2 - axes))), np.nan_to_num(fitted.explained_variance_ratio_).tolist()


def _odds(model: MLVAE, part: GroupedData) -> np.ndarray[Any, Any] | None:
    levels = model.group_levels
    if not levels or any(level.readout != "product_with_prior" for level in levels):
        return None
    labels = {level.name: part.column(level.by) for level in levels if level.by}
    odds: np.ndarray[Any, Any] = model.score(part.x, labels, covariates=part.columns)[levels[0].name].log_odds.numpy()
    return odds


@torch.no_grad()
def _scores(model: MLVAE, subject: Subject) -> np.ndarray[Any, Any]:
    scores = []
    known = model.covariates(subject.new.columns, len(subject.new))
    with Evaluating(model):
        for rows in torch.arange(len(subject.new)).split(512):
            x = model.prepare(subject.new.x[rows])
            codes = {name: code[rows] for name, code in subject.after.codes.items()}
            means = {name: code.mean.to(x) for name, code in codes.items()}
            output = model.decode(means, None if known is None else known[rows.to(known.device)])
            nats = model.likelihood.log_prob(x, output).double().cpu()
            scores.append(nats - sum(code.kl().double() for code in codes.values()))
    return torch.cat(scores).numpy()
