"""What a trained model shows: pictures of codes, which can be swapped, interpolated and drawn anew.

Each function's first argument is the model, and each is also a method of `MLVAE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError, ModelError
from mlvae.heads import CHUNK, Array, Evaluating
from mlvae.inference import Groups, codes
from mlvae.schema import Covariates

if TYPE_CHECKING:
    from mlvae.model import MLVAE


@torch.no_grad()
def pictures(model: MLVAE, codes: Mapping[str, Tensor], covariates: Covariates = None) -> Tensor:
    """What the model expects to see for codes (N, D) of every level: the likelihood's mean, (N, *shape).

    On the scale that the model sees, as all that is made here: `MLVAE.restore` brings a table back to its own units.

    Raises:
        ModelError: a level's code is missing, or is a posterior.
    """
    for level in model.levels:
        if not isinstance(code := codes.get(level.name), Tensor):
            raise ModelError(
                f"Expected a code (N, {level.dim}) of every level; got {type(code).__name__} for {level.name!r}. Of a"
                " posterior pass the mean."
            )
        if code.ndim != 2 or code.shape != (len(next(iter(codes.values()))), level.dim):
            raise ModelError(
                f"Expected a code (N, {level.dim}) of {level.name!r}, as many as of the other levels; got"
                f" {tuple(code.shape)}."
            )
    like = next(model.parameters())
    with Evaluating(model):
        n = len(next(iter(codes.values())))
        known = model.covariates(covariates, n)
        parts = []
        for start in range(0, max(n, 1), CHUNK):
            rows = slice(start, start + CHUNK)
            output = model.decode(
                {name: code[rows].to(like) for name, code in codes.items()}, None if known is None else known[rows]
            )
            parts.append(model.likelihood.mean(output))
    return torch.cat(parts)


def reconstruct(
    model: MLVAE,
    x: Array,
    groups: Groups = None,
    covariates: Covariates = None,
    instead: Mapping[str, Any] | None = None,
) -> Tensor:
    """Each observation through its own codes, or through its group's where ``groups`` are given: (N, *shape).

    Args:
        model: any number of levels.
        x: (N, *shape).
        groups: as for `codes`.
        covariates: what is known of each observation, by name, where the model was trained with covariates.
        instead: covariates to decode with in place of those: what the observation would be in another site, ``{"site":
            "B"}``.
    """
    means = {name: code.mean for name, code in codes(model, x, groups, covariates).items()}
    if instead is not None:
        unknown = [name for name in instead if name not in {feature.name for feature in model.schema.covariates}]
        if unknown or isinstance(covariates, Tensor):
            raise ModelError(
                f"Expected `instead` to name covariates of this model, and `covariates` by name; got {unknown}."
            )
        covariates = {**(covariates or {}), **instead}
    return pictures(model, means, covariates)


def swap(
    model: MLVAE,
    a: Array,
    b: Array,
    levels: Sequence[str] | None = None,
    covariates: tuple[Covariates, Covariates] = (None, None),
) -> Tensor:
    """The observations of ``b`` with the content of ``a``: row i shows what a_i is, in the manner of b_i.

    Args:
        model: any number of levels.
        a: (N, *shape), which give the codes of ``levels``.
        b: (N, *shape), which give the others; a finer level that is given a coarser one sees its own.
        levels: names; None takes every shared level.
        covariates: of ``a`` and of ``b``, where the model was trained with some; what is made has those of ``b``.

    Returns:
        (N, *shape).
    """
    taken = _chosen(model, levels)
    if len(a) != len(b):
        raise DataError(f"Expected as many observations in `a` as in `b`; got {len(a)} and {len(b)}. Pair them.")
    giver, keeper = codes(model, a, None, covariates[0]), codes(model, b, None, covariates[1])
    return pictures(model, {name: (giver if name in taken else keeper)[name].mean for name in keeper}, covariates[1])


def interpolate(
    model: MLVAE,
    a: Array,
    b: Array,
    steps: int = 8,
    levels: Sequence[str] | None = None,
    covariates: tuple[Covariates, Covariates] = (None, None),
) -> Tensor:
    """From ``a`` to ``b`` in equal steps of the posterior means.

    Args:
        model: any number of levels.
        a: (N, *shape), the start.
        b: (N, *shape), the end.
        steps: pictures in each row, both ends included.
        levels: which codes move; the others stay ``a``'s. None moves all.
        covariates: of ``a`` and of ``b``, where the model was trained with some; the path keeps those of ``a``.

    Returns:
        (N, steps, *shape).
    """
    if steps < 2:
        raise ModelError(f"Expected at least 2 steps, the two ends; got {steps}.")
    if len(a) != len(b):
        raise DataError(f"Expected as many observations in `a` as in `b`; got {len(a)} and {len(b)}. Pair them.")
    moving = [level.name for level in model.levels] if levels is None else _chosen(model, levels)
    start, end = codes(model, a, None, covariates[0]), codes(model, b, None, covariates[1])
    share = torch.linspace(0, 1, steps, device=model.device).reshape(1, -1, 1)
    path = {}
    for name in start:
        first, last = start[name].mean[:, None], (end if name in moving else start)[name].mean[:, None]
        path[name] = (first + share.to(first) * (last - first)).flatten(0, 1)
    known = model.covariates(covariates[0], len(a))
    repeated = None if known is None else known.repeat_interleave(steps, 0)
    rows: Tensor = pictures(model, path, repeated).unflatten(0, (-1, steps))
    return rows


def generate(
    model: MLVAE, n: int = 1, *, seed: int | None = None, covariates: Covariates = None, **fixed: Array
) -> Tensor:
    """New observations: codes of groups from the level's population, others from the prior, but for those given.

    Args:
        model: any number of levels.
        n: how many.
        seed: of the codes; None draws from torch's own generator.
        covariates: one value for all, or n, of each by name, where the model was trained with covariates.
        fixed: for levels by name, a code (D,), (1, D) or (n, D): ``content=person.mean``.

    Returns:
        (n, *shape), the likelihood's mean.

    Raises:
        ModelError: ``n`` is below 1, no such level, or something else than a code for it.
    """
    if not isinstance(n, (int, np.integer)) or n < 1:
        raise ModelError(f"Expected a whole number, at least one observation to generate; got {n!r}.")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for name in fixed:
        model.level(name)
    drawn: dict[str, Tensor] = {}
    like = next(model.parameters())
    for level in model.levels:
        if level.name in fixed:
            given = fixed[level.name]
            if not isinstance(given, (Tensor, np.ndarray, Sequence)):
                raise ModelError(
                    f"Expected a code of {level.name!r}; got {type(given).__name__}. Of a posterior pass the mean,"
                    f" {level.name}=posterior.mean, or a draw."
                )
            code = torch.as_tensor(given).to(like)
            if code.shape not in ((level.dim,), (1, level.dim), (n, level.dim)):
                raise ModelError(
                    f"Expected the code of {level.name!r} as ({level.dim},), (1, {level.dim}) or ({n}, {level.dim});"
                    f" got {tuple(code.shape)}."
                )
            drawn[level.name] = code.expand(n, level.dim)
        elif level.by is not None:
            drawn[level.name] = model.population(level.name).draw(n, generator).to(like)
        else:
            drawn[level.name] = torch.randn(n, level.dim, generator=generator).to(like)
    return pictures(model, drawn, covariates)


def _chosen(model: MLVAE, levels: Sequence[str] | None) -> list[str]:
    if levels is None:
        return [level.name for level in model.group_levels]
    return [model.level(name).name for name in ([levels] if isinstance(levels, str) else levels)]
