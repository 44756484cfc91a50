"""Levels: blocks of latent dimensions, and who shares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlvae.errors import ModelError, nearest
from mlvae.evidence import READOUTS


@dataclass(frozen=True)
class Level:
    """A block of latent dimensions that observations of one group share.

    Args:
        name: what the level is called: "content", "style", "speaker", ...
        dim: D, latent dimensions.
        by: the column, or the columns in combination, whose equal values share the latent; None gives each
            observation its own.
        readout: how evidence becomes a posterior: "product_with_prior", "product" (the paper's) or "average".
        given: names of earlier levels whose sample this level's head sees: q(z | x, those).
    """

    name: str
    dim: int
    by: str | tuple[str, ...] | None = None
    readout: str = "product_with_prior"
    given: tuple[str, ...] = ()


def checked(levels: Sequence[Level]) -> tuple[Level, ...]:
    """The levels of one model, coarse to fine.

    Raises:
        ModelError: a name occurs twice, a level has no dimensions, no such readout, or `given` names no earlier level.
    """
    seen: list[str] = []
    for level in levels:
        if level.name in seen:
            raise ModelError(f"Expected levels of different names; got {level.name!r} twice. Rename one.")
        if level.dim < 1:
            raise ModelError(f"Expected level {level.name!r} to have dimensions; got dim={level.dim}. Drop the level.")
        if level.readout not in READOUTS:
            raise ModelError(f"Expected a readout by name; got {level.readout!r}. {nearest(level.readout, READOUTS)}")
        for name in level.given:
            if name not in seen:
                raise ModelError(
                    f"Expected `given` of level {level.name!r} to name earlier levels; got {name!r}."
                    " Order the levels from coarse to fine."
                )
        seen.append(level.name)
    if not seen:
        raise ModelError("Expected at least one level; got none. Pass Level('style', 16) for a plain VAE.")
    return tuple(levels)
