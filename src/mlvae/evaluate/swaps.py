"""What a picture shows that has its content from one observation and its style from another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.decoding import pictures
from mlvae.errors import DataError
from mlvae.evaluate.errors import errors
from mlvae.evaluate.judge import Judge
from mlvae.model import MLVAE

CHUNK = 1000
"""Pictures made at a time."""

SEVERAL = 5
"""Members whose evidence is pooled, beside the content of one."""

Array = Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True)
class Swaps:
    """What a judge sees in swapped pictures, as shares of the pairs.

    Args:
        content_of_donor: pictures that show the group of the observation that gave content; ideally all.
        content_of_style_giver: pictures that show the group of the one that gave style; ideally none.
        content_of_several: as `content_of_donor`, with the content of `SEVERAL` members of the donor's group: what is
            left of one observation's doubt goes. None where the givers' groups are smaller, or no level is shared.
        reconstructed: observations through their own codes that show their group: what the decoder's blur leaves.
        judge_accuracy: of the same judge on the real observations: no swap can honestly do better.
        pairs: how many.
    """

    content_of_donor: float
    content_of_style_giver: float
    content_of_several: float | None
    reconstructed: float
    judge_accuracy: float
    pairs: int


def swaps(model: MLVAE, judge: Judge, x: Array, labels: Any, *, pairs: int = 2000, seed: int = 0) -> Swaps:
    """Swaps content between observations of different groups and asks a judge what it sees.

    Args:
        model: any number of levels; every shared one is taken from the donor. Without a shared level the style giver
            is merely reconstructed, and the shares say so.
        judge: fitted on real observations of the training part.
        x: (N, *shape) of the test part.
        labels: (N,), all known to the judge.
        pairs: drawn uniformly from all ordered pairs of different groups.
        seed: of the pairs.

    Raises:
        DataError: labels and observations differ in number, there is one group only, or the judge does not know one.
    """
    x, y = torch.as_tensor(x), np.asarray(labels)
    real = judge.accuracy(x, y)
    order, _, start, size = _by_group(y)
    if int(size.max()) == len(y):
        raise DataError("Expected observations of at least two groups to swap between; got one.")
    random = np.random.default_rng(seed)
    # A donor with few partners makes few ordered pairs: without the weight the pairs would not be uniform.
    others = len(y) - size
    a = random.choice(len(y), pairs, p=others / others.sum())
    b = (start[a] + size[a] + (random.random(pairs) * others[a]).astype(np.int64)) % len(y)
    donors, givers = order[a], order[b]

    def shown(make: Callable[[slice], Tensor], n: int) -> np.ndarray[Any, Any]:
        return np.concatenate([judge.name(make(part)) for part in _parts(n)] or [y[:0]])

    seen = shown(lambda part: model.swap(x[donors[part]], x[givers[part]]), pairs)
    several = None
    if model.group_levels and pairs and size[a].min() >= SEVERAL:
        mixed = random.permutation(len(y))
        shuffled = mixed[np.argsort(y[mixed], kind="stable")]
        first = (random.random(pairs) * size[a]).astype(np.int64)[:, None]
        members = shuffled[start[a][:, None] + (first + np.arange(SEVERAL)) % size[a][:, None]]
        pooled = shown(lambda part: _pooled(model, x, members[part], givers[part]), pairs)
        several = float((pooled == y[donors]).mean())
    own = shown(lambda part: model.reconstruct(x[part]), len(y))
    return Swaps(
        float((seen == y[donors]).mean()), float((seen == y[givers]).mean()), several, float((own == y).mean()), real,
        pairs,
    )  # fmt: skip


def _pooled(model: MLVAE, x: Tensor, members: np.ndarray, givers: np.ndarray) -> Tensor:
    """As `MLVAE.swap`, with the first shared level from all members (P, k) of a row, the others from its first."""
    pairs, k = members.shape
    alone = np.arange(pairs * k)
    groups = {level.name: alone for level in model.group_levels} | {model.group_levels[0].name: alone // k}
    donor, giver = model.codes(x[members.ravel()], groups), model.codes(x[givers])
    return pictures(
        model,
        {
            level.name: giver[level.name].mean if level.by is None else donor[level.name].mean[::k]
            for level in model.levels
        },
    )


def cross_member_mse(model: MLVAE, x: Array, labels: Any, *, seed: int = 0) -> float:
    """Reconstructs each observation from another member's content (k = 1) and its own style.

    The ratio to the same number of a plain VAE is what tells: a style collapsed to the prior fails here, and so
    does content that its group does not share.

    Args:
        model: any number of levels; the first shared one is taken from the other member, as `labels` are of it.
            Without a shared level each observation is reconstructed from its own codes.
        x: (N, *shape).
        labels: (N,), of the level that the models are compared on; observations alone in their group are left out.
        seed: of who the other member is.

    Returns:
        The mean squared error per feature, of the likelihood's mean, on the scale that the model sees; of
        categories the share that is another.

    Raises:
        DataError: labels and observations differ in number, or no group has two members.
    """
    x, y = torch.as_tensor(x), np.asarray(labels)
    if y.shape != (len(x),):
        raise DataError(f"Expected one label for each of {len(x)} observations; got {y.shape}.")
    order, place, start, size = _by_group(y)
    able = np.flatnonzero(size > 1)
    if len(able) == 0:
        raise DataError("Expected a group of at least two members; got none. Pass the labels that observations share.")
    step = 1 + (np.random.default_rng(seed).random(len(able)) * (size[able] - 1)).astype(np.int64)
    target, other = order[able], order[start[able] + (place[able] + step) % size[able]]
    first = [level.name for level in model.group_levels[:1]]
    total = 0.0
    for part in _parts(len(able)):
        itself = x[target[part]]
        picture = model.swap(x[other[part]], itself, first)
        total += errors(model, picture, model.prepare(itself)).sum().item()
    return total / (len(able) * x[0].numel())


def _by_group(labels: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    """Rows ordered by group; for each in that order its place in its group, and the group's first position and size."""
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(index, kind="stable")
    start, size = np.repeat(np.cumsum(sizes) - sizes, sizes), np.repeat(sizes, sizes)
    return order, np.arange(len(labels)) - start, start, size


def _parts(n: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, n, CHUNK)]
