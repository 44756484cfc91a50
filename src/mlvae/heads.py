"""What encoder and heads say of many observations, asked some at a time: where all inference begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mlvae.evidence import Evidence
from mlvae.schema import Covariates

if TYPE_CHECKING:
    from mlvae.levels import Level
    from mlvae.model import MLVAE

CHUNK = 1024
"""Observations encoded or decoded at a time."""

Array = Tensor | np.ndarray[Any, Any]


def rows_of(x: Array) -> Tensor:
    """Tensors and rows on disk as they are; anything else as a tensor."""
    return torch.as_tensor(x) if isinstance(x, np.ndarray) or not hasattr(x, "numel") else x


@torch.no_grad()
def chunks_of(model: MLVAE, x: Tensor, covariates: Covariates) -> Iterator[Tensor]:
    """The encoder's output, some rows at a time, each checked."""
    known = model.covariates(covariates, len(x))
    with Evaluating(model):
        for start in range(0, max(len(x), 1), CHUNK):
            chunk = model.prepare(x[start : start + CHUNK])
            model.check(chunk, start)
            yield model.features(chunk, None if known is None else known[start : start + CHUNK])


@dataclass(frozen=True, eq=False)
class Heads:
    """What a model's encoder and heads say of N rows, from which codes and votes are a short way.

    Args:
        said: (N, 2 D) for each level by name whose head sees no other.
        features: (N, F), which are large and kept only where some level's head sees another.
    """

    said: Mapping[str, Tensor]
    features: Tensor | None = None

    def votes(self, model: MLVAE, level: Level, means: Mapping[str, Tensor]) -> Evidence:
        """N votes on a level, given the means (N, D) of those that its head sees."""
        if self.features is None or not level.given:
            return model.believed(level.name, self.said[level.name])
        return model.votes(level.name, self.features, [means[name] for name in level.given])

    def __getitem__(self, rows: slice) -> Heads:
        some = {name: said[rows] for name, said in self.said.items()}
        return Heads(some, None if self.features is None else self.features[rows])


@torch.no_grad()
def looked(model: MLVAE, x: Array, covariates: Covariates = None, levels: Sequence[str] | None = None) -> Heads:
    """Asks encoder and heads about rows, some at a time: what `codes` and `evidence` of the same rows both begin with.

    Args:
        model: any number of levels.
        x: (N, *shape).
        covariates: what is known of each observation, where the model was trained with covariates.
        levels: names; None takes all.

    Raises:
        DataError: ``x`` of another shape, or not finite.
    """
    wanted = [level for level in model.levels if levels is None or level.name in levels]
    alone = [level.name for level in wanted if not level.given]
    said: dict[str, list[Tensor]] = {name: [] for name in alone}
    features: list[Tensor] = []
    for chunk in chunks_of(model, rows_of(x), covariates):
        for name, parts in said.items():
            parts.append(model.said(name, chunk))
        if len(alone) < len(wanted):
            features.append(chunk)
    joined = {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in said.items()}
    return Heads(joined, torch.cat(features) if features else None)


class Evaluating:
    """The model in evaluation mode for a while."""

    def __init__(self, model: MLVAE) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.was = self.model.training
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.was)
