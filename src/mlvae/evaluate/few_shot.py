"""Naming groups that training never saw, from a few observations of each.

In an episode, some groups show a few observations each, the support, and one more each, the query, is to be named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError
from mlvae.evaluate.curve import exact
from mlvae.evidence import Evidence, log_normaliser
from mlvae.labels import as_labels, refuse_missing

BOOTSTRAPS = 2000
BLOCK = 2**22
"""Numbers that a block of episodes may hold at a time."""
SORTED = 2**24
"""Random numbers, at most, that are sorted at once to draw groups by."""


@dataclass(frozen=True)
class FewShot:
    """Share of queries named rightly.

    Args:
        accuracy: over all episodes; chance is ``1 / way``.
        low: lower end of the 95 % interval, by a bootstrap over groups: what other groups would have given.
        high: its upper end.
        way: groups in an episode.
        shots: support observations of each.
    """

    accuracy: float
    low: float
    high: float
    way: int
    shots: int


@dataclass(frozen=True, eq=False)
class Episodes:
    """Rows that take part: groups (E, way) by dense index, support (E, way, shots), query (E, way)."""

    groups: Tensor
    support: Tensor
    query: Tensor


def draw(groups: Any, *, way: int = 20, shots: int = 1, episodes: int = 1000, seed: int = 0) -> Episodes:
    """Draws episodes; within one, no group and no observation occurs twice.

    Args:
        groups: (N,) labels; groups of ``shots`` members or fewer take no part.
        way: groups in an episode; all where there are fewer.
        shots: support observations of each.
        episodes: E.
        seed: the same seed gives the same episodes.

    Raises:
        DataError: fewer than two groups have ``shots + 1`` members, a number is below its least, or labels are missing.
    """
    labels = as_labels(groups)
    if labels.ndim != 1:
        raise DataError(f"Expected one group label an observation, (N,); got {labels.shape}.")
    refuse_missing(labels, "the groups")
    for name, value, least in (("way", way, 2), ("shots", shots, 1), ("episodes", episodes, 1)):
        if value < least:
            raise DataError(f"Expected `{name}` of at least {least}; got {value}.")
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order, begin = np.argsort(index, kind="stable"), np.cumsum(sizes) - sizes
    able = np.flatnonzero(sizes > shots)
    if len(able) < 2:
        raise DataError(
            f"Expected at least two groups of {shots + 1} members or more for {shots}-shot episodes; got {len(able)}."
            " Ask for fewer shots."
        )
    random = np.random.default_rng(seed)
    at_once = max(1, SORTED // len(able))
    chosen = np.concatenate(
        [
            able[np.argsort(random.random((min(at_once, episodes - start), len(able))), axis=1)[:, :way]]
            for start in range(0, episodes, at_once)
        ]
    )
    places = np.empty((*chosen.shape, 0), np.int64)
    for taken in range(shots + 1):
        # A number among those left, moved past the ones taken, smallest first: distinct and uniform.
        place = (random.random(chosen.shape) * (sizes[chosen] - taken)).astype(np.int64)
        for earlier in np.moveaxis(np.sort(places, axis=-1), -1, 0):
            place += place >= earlier
        places = np.concatenate([places, place[..., None]], axis=-1)
    rows = torch.from_numpy(order[begin[chosen][..., None] + places])
    return Episodes(torch.from_numpy(chosen), rows[..., :-1], rows[..., -1])


def few_shot(
    votes: Evidence, groups: Any, *, way: int = 20, shots: int = 1, episodes: int = 1000, seed: int = 0
) -> FewShot:
    """Names each query's group by the exact Bayes factor, log Z(E_g + t) - log Z(E_g) - log Z(t).

    Where the level's readout is not "product_with_prior" it is a score, and no Bayes factor of that model.

    Args:
        votes: of one level, N rows, one an observation.
        groups: (N,) labels.
        way, shots, episodes, seed: as for `draw`.

    Raises:
        DataError: as `draw`; votes and labels differ in number, or votes are not finite.

    Example:
        >>> mean = torch.tensor([[-3.0], [-3.1], [3.0], [3.1]])
        >>> few_shot(Evidence.votes(mean, torch.full((4, 1), 10.0)), ["a", "a", "b", "b"]).accuracy
        1.0
    """
    votes, labels = exact(votes, groups)
    drawn = draw(labels, way=way, shots=shots, episodes=episodes, seed=seed)
    precision, information = votes.precision, votes.information

    def scores(support: Tensor, query: Tensor) -> Tensor:
        p, i = precision[support].sum(2)[:, None], information[support].sum(2)[:, None]
        together = log_normaliser(p + precision[query][:, :, None], i + information[query][:, :, None])
        return together - log_normaliser(p, i)  # log Z of the query is the same for every group

    return _named(drawn, scores, drawn.query.shape[1] ** 2 * votes.dim)


def pixel_few_shot(
    x: Any, groups: Any, *, way: int = 20, shots: int = 1, episodes: int = 1000, seed: int = 0
) -> FewShot:
    """The floor: the nearest mean of raw observations, in the same episodes as `few_shot`.

    Args:
        x: (N, *shape).
        groups: (N,) labels.
        way, shots, episodes, seed: as for `draw`.

    Raises:
        DataError: as for `few_shot`.
    """
    if len(x) != len(groups := as_labels(groups)):
        raise DataError(f"Expected one group label for each of {len(x)} observations; got {len(groups)}.")
    drawn = draw(groups, way=way, shots=shots, episodes=episodes, seed=seed)
    flat = torch.as_tensor(x).cpu().flatten(1)

    def scores(support: Tensor, query: Tensor) -> Tensor:
        return -torch.cdist(flat[query].double(), flat[support].double().mean(2))

    return _named(drawn, scores, drawn.support[0].numel() * flat.shape[1])


def _named(drawn: Episodes, scores: Callable[[Tensor, Tensor], Tensor], cost: int) -> FewShot:
    """The share of queries whose own group scores highest; scores are (B, query, group)."""
    block = max(1, BLOCK // cost)
    starts = range(0, len(drawn.query), block)
    blocks = [(drawn.support[i : i + block], drawn.query[i : i + block]) for i in starts]
    best = torch.cat([scores(support, query).argmax(2) for support, query in blocks])
    way, shots = drawn.support.shape[1:]
    right = (best == torch.arange(way)).double().flatten().numpy()
    _, group = np.unique(drawn.groups.flatten().numpy(), return_inverse=True)
    hits, asked = np.bincount(group, right), np.bincount(group)
    random = np.random.default_rng(0)
    again = random.multinomial(len(hits), np.full(len(hits), 1 / len(hits)), BOOTSTRAPS)
    low, high = np.quantile((again @ hits) / (again @ asked), [0.025, 0.975])
    return FewShot(float(right.mean()), float(low), float(high), way, shots)
