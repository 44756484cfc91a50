"""Levels: blocks of latent dimensions, and who shares them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from torch import nn

from mlvae.errors import DataError, ModelError, nearest
from mlvae.evidence import READOUTS
from mlvae.grouping import Grouping


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

    @classmethod
    def parse(cls, text: str, readout: str = "product_with_prior") -> Self:
        """A level as the command line writes it: name:dimensions:column, without a column each observation's own.

        Raises:
            ModelError: the text has other parts.

        Example:
            >>> Level.parse("person:16:country,person").by, Level.parse("style:8").by
            (('country', 'person'), None)
        """
        name, _, rest = text.partition(":")
        dim, colon, columns = rest.partition(":")
        by = tuple(column.strip() for column in columns.split(",") if column.strip())
        if not name.isidentifier() or not dim.isdecimal() or (colon and not by) or ":" in columns:
            raise ModelError(
                f"Expected a level as name:dimensions:column, or name:dimensions for what is each observation's own;"
                f" got {text!r}. For example speaker:16:speaker, person:16:country,person or style:8."
            )
        return cls(name, int(dim), by[0] if len(by) == 1 else by or None, readout)


TAKEN = {"model", "n", "seed", "covariates", "independence", "leakage", "identification", "adversary", "further"}
"""Arguments beside levels by their names, as of `MLVAE.generate` and `Objective.changed`."""


def checked(levels: Sequence[Level]) -> tuple[Level, ...]:
    """The levels of one model, coarse to fine.

    Raises:
        ModelError: a name is no word, is taken or occurs twice, a level has no dimensions, no such readout, or an empty
            `by`, or `given` names no earlier level, or of a level that groups share one that they do not.
    """
    module = nn.ModuleDict()  # an instance has attributes, as `training`, that the class does not show
    seen: list[str] = []
    shared: dict[str, str | tuple[str, ...] | None] = {}
    for level in levels:
        if not level.name.isidentifier():
            raise ModelError(f"Expected a word as a level's name, such as 'content'; got {level.name!r}. Rename it.")
        if level.name in TAKEN or hasattr(module, level.name):
            whose = "an argument" if level.name in TAKEN else "what PyTorch's modules have"
            raise ModelError(f"Expected another name for a level; {level.name!r} is taken by {whose}. Rename it.")
        if isinstance(level.given, str):
            raise ModelError(f"Expected `given` as a tuple of names; got {level.given!r}. Write ({level.given!r},).")
        if level.name in seen:
            raise ModelError(f"Expected levels of different names; got {level.name!r} twice. Rename one.")
        if level.by is not None and not (level.by and all(level.by)):
            raise ModelError(
                f"Expected `by` of level {level.name!r} to name a column; got {level.by!r}. Write by=None for what is"
                " each observation's own."
            )
        if level.dim < 1:
            raise ModelError(f"Expected level {level.name!r} to have dimensions; got dim={level.dim}. Drop the level.")
        if level.readout not in READOUTS:
            raise ModelError(
                f"Expected a readout by name; got {level.readout!r}. {nearest(level.readout, READOUTS)}"
                " One of your own is put into READOUTS first."
            )
        for name in level.given:
            if name not in seen:
                raise ModelError(
                    f"Expected `given` of level {level.name!r} to name earlier levels; got {name!r}."
                    " Order the levels from coarse to fine."
                )
            if level.by is not None and shared[name] is None:
                raise ModelError(
                    f"Expected a level that groups share to be given others that groups share; {level.name!r} is given"
                    f" {name!r}, which is each observation's own. Leave it out."
                )
        seen.append(level.name)
        shared[level.name] = level.by
    if not seen:
        raise ModelError("Expected at least one level; got none. Pass Level('style', 16) for a plain VAE.")
    return tuple(levels)


def check_groups(levels: Sequence[Level], groups: Mapping[str, Grouping]) -> None:
    """Refuses levels that the data cannot tell apart.

    Args:
        levels: of one model.
        groups: for the levels that name columns, who shares what in the data.

    Raises:
        DataError: a level has but one group, or none of two members; or two levels have the same groups.
    """
    by = {level.name: f"level {level.name!r} (by {level.by!r})" for level in levels}
    for name, grouping in groups.items():
        if grouping.num_groups < 2:
            raise DataError(
                f"Expected {by[name]} to have at least two groups; its column is constant. What all observations share"
                " is the decoder's to learn: drop the level."
            )
        if int(grouping.sizes.max()) < 2:
            raise DataError(
                f"Expected {by[name]} to have groups of two or more; each of its {grouping.num_groups:,} groups has one"
                " observation. Name another column, or none: then the level is each observation's own."
            )
    for (name, a), (other, b) in itertools.combinations(groups.items(), 2):
        if a.num_groups == b.num_groups and a.refines(b):
            raise DataError(
                f"Expected levels of different groups; {by[name]} and {by[other]} have the same, so nothing tells them"
                " apart. Drop one, or name another column."
            )
