"""What encoder and heads say of many observations, asked some at a time: where all inference begins."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError
from mlvae.evidence import Evidence
from mlvae.schema import Covariates

if TYPE_CHECKING:
    from mlvae.levels import Level
    from mlvae.model import MLVAE

CHUNK = 1024
"""Observations encoded or decoded at a time."""

Array = Tensor | np.ndarray[Any, Any]


def rows_of(x: Array) -> Tensor:
    """Tensors and rows on disk as they are; anything else as a tensor; raises DataError where it is no array."""
    if not isinstance(x, np.ndarray) and hasattr(x, "numel"):
        return x
    try:
        return torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"Expected observations as an array (N, ...) of numbers; got {type(x).__name__} ({error}). Of a table or a"
            " folder, pass what `mlvae.read(..., like=model)` gives: `data.x`."
        ) from error


def mark(model: MLVAE) -> str:
    """What tells a model's evidence from another's in memory: a hash of what votes come from, heads and calibrations.

    Files carry more, `checkpoint.fingerprint`, which is of all weights; this is quick enough to be asked for each time.
    """
    digest = hashlib.sha256()
    for level in model.group_levels:
        for module in (model.heads[level.name], model.calibrations[level.name]):
            for name, value in module.state_dict().items():
                digest.update(f"{level.name} {name} {tuple(value.shape)}".encode())
                digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def chunks_of(model: MLVAE, x: Tensor, covariates: Covariates) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The encoder's output, some rows at a time, each checked; and which have no value, where the model knows gaps."""
    known = model.covariates(covariates, len(x))
    with Evaluating(model):
        for start in range(0, max(len(x), 1), CHUNK):
            chunk = model.prepare(x[start : start + CHUNK])
            model.check(chunk, start)
            # As the model sees them: a word that training did not see is no value.
            silent = torch.isnan(chunk).flatten(1).all(1) if model.likelihood.missing else None
            yield model.features(chunk, None if known is None else known[start : start + CHUNK]), silent


@dataclass(frozen=True, eq=False)
class Heads:
    """What a model's encoder and heads say of N rows, from which codes and votes are a short way.

    Args:
        said: (N, 2 D) for each level by name whose head sees no other.
        features: (N, F), which are large and kept only where some level's head sees another.
        silent: (N,) bool, rows of which no value is observed: their votes are empty where the readout has a
            prior; None where there are none.
    """

    said: Mapping[str, Tensor]
    features: Tensor | None = None
    silent: Tensor | None = None

    def votes(self, model: MLVAE, level: Level, means: Mapping[str, Tensor]) -> Evidence:
        """N votes on a level, given the means (N, D) of those that its head sees."""
        if self.features is None or not level.given:
            votes = model.believed(level.name, self.said[level.name])
        else:
            votes = model.votes(level.name, self.features, [means[name] for name in level.given])
        # Without a prior nothing else is known of an observation that is alone.
        if self.silent is None or level.readout != "product_with_prior":
            return votes
        heard = ~self.silent
        wide = heard.unsqueeze(1)
        return Evidence(votes.precision * wide, votes.information * wide, votes.count * heard)

    def __getitem__(self, rows: slice) -> Heads:
        some = {name: said[rows] for name, said in self.said.items()}
        features, silent = (None if each is None else each[rows] for each in (self.features, self.silent))
        return Heads(some, features, silent)


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

    Warns:
        UserWarning: of some rows no value is observed: they say nothing of their group.
    """
    wanted = [level for level in model.levels if levels is None or level.name in levels]
    alone = [level.name for level in wanted if not level.given]
    said: dict[str, list[Tensor]] = {name: [] for name in alone}
    features: list[Tensor] = []
    silent: list[Tensor] = []
    for chunk, without in chunks_of(model, rows_of(x), covariates):
        for name, parts in said.items():
            parts.append(model.said(name, chunk))
        if len(alone) < len(wanted):
            features.append(chunk)
        if without is not None:
            silent.append(without)
    joined = {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in said.items()}
    return Heads(joined, torch.cat(features) if features else None, _silent(torch.cat(silent)) if silent else None)


def _silent(rows: Tensor) -> Tensor | None:
    """The rows (N,) of which no value is observed, with a warning; None where there are none."""
    if not (count := int(rows.sum())):
        return None
    warnings.warn(
        f"{count:,} of {len(rows):,} observations have no value at all: they are no evidence on their group, as if"
        " they were not there.",
        stacklevel=2,
    )
    return rows


class Evaluating:
    """The model in evaluation mode for a while."""

    def __init__(self, model: MLVAE) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.was = {part: part.training for part in self.model.modules()}  # some may be frozen
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        for part, training in self.was.items():
            part.training = training
