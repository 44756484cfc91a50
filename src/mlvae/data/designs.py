"""Which rows levels need kept out of training: to be measured on, and to be calibrated on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from mlvae.batch import nests, speakers
from mlvae.calibration import FEWEST, FEWEST_WITNESSES
from mlvae.data.splits import MANY_GROUPS, SHARES, WHOLE, chosen, spared
from mlvae.data.splits import share as checked
from mlvae.grouping import Grouping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlvae.data.grouped import GroupedData
    from mlvae.levels import Level

Rows = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Way:
    """Arguments of `GroupedData.split`, and the levels that they are of."""

    by: str
    of: str | tuple[str, ...] | None = None
    within: str | tuple[str, ...] | None = None
    level: str = ""
    coarse: str = ""

    @property
    def name(self) -> str:
        return self.of if isinstance(self.of, str) else ",".join(self.of or ())

    def how(self, test: float, seed: int) -> dict[str, Any]:
        named = {name: value for name in ("of", "within") if (value := getattr(self, name)) is not None}
        return {"by": self.by, **named, "test": test, "seed": seed}


@dataclass(frozen=True)
class Calibrating:
    """What is kept out to calibrate levels on, and what is then wrong.

    Args:
        how: arguments of `GroupedData.split`; None where there is too little.
        whole: whose groups are kept out whole; empty where observations are.
        share: of these.
        sure: which levels will be too sure, in words, if any.
        few: that there is too little, in words.
        better: a share that would mend it.
    """

    how: dict[str, Any] | None
    whole: str
    share: float
    sure: str
    few: str
    better: float | None


@dataclass(frozen=True)
class Design:
    """How levels that share lie in each other.

    Args:
        keys: their columns.
        groupings: their groups; under "" those of the data.
        nested: pairs, (finer, coarser).
        speaks: for a level others are nested in, the one whose groups speak for its groups.
    """

    keys: dict[str, str | tuple[str, ...]]
    groupings: dict[str, Grouping]
    nested: frozenset[tuple[str, str]]
    speaks: dict[str, str]

    @classmethod
    def of(cls, data: GroupedData, levels: Sequence[Level], rows: Rows | None = None) -> Self:
        """That of data, or of some of their rows, (N,) bool."""
        part = slice(None) if rows is None else torch.from_numpy(rows)
        keys = {level.name: level.by for level in levels if level.by is not None}
        groupings = {name: Grouping.from_ids(data.codes(by)[part]) for name, by in keys.items()}
        nested = nests(groupings)
        speaks = speakers(groupings, nested)
        if len(keys) == 1:
            (own,) = groupings.values()
        else:  # data without groups say what is missing
            own = Grouping.from_ids(data.groups if data.by is None else data.codes(data.by)[part])
        return cls(keys, {**groupings, "": own}, nested, speaks)

    def ways(self) -> list[Way]:
        """From whole groups of the coarsest levels on, each within the one above; last what can always be done."""
        number = {name: grouping.num_groups for name, grouping in self.groupings.items()}
        if len(self.keys) < 2:
            return [Way(spared(number[""]), next(iter(self.keys.values()), None))]
        above = {name: [coarse for fine, coarse in self.nested if fine == name] for name in self.keys}
        nested = {name for pair in self.nested for name in pair}
        # Nested levels from the coarsest on, as deep ones in their order; of levels that are only crossed that of most
        # groups, which leaves the others the most.
        order = sorted(nested, key=lambda name: (len(above[name]), list(self.keys).index(name)))
        ways = []
        for name in order or [max(self.keys, key=number.__getitem__)]:
            closest = max(above[name], key=number.__getitem__, default="")
            if number[name] >= MANY_GROUPS:
                ways.append(Way("group", self.keys[name], self.keys.get(closest), name, closest))
        return [*ways, Way("observation")]

    def out(self, share: float, seed: int) -> Way:
        """How a share is taken out to measure on: whole groups where there are many, else observations of each.

        Of levels nested in each other whole countries, else whole people of each country, else observations; of levels
        that are only crossed whole groups of the one that has most. None may take another's groups whole.
        """
        *whole, last = self.ways()
        return next((way for way in whole if self.apart(way, share, seed) is not None), last)

    def calibrating(self, share: float, seed: int, asked: bool) -> Calibrating:
        """What is taken out of a training part to calibrate levels on.

        A share that was not ``asked`` for is larger where groups nested in others need it, up to a fifth.

        Raises:
            DataError: the share is none.
        """
        shares = (checked(share), *(other for other in SHARES if other > share))
        *whole, last = self.ways()
        # Of several chains of nested levels the one whose people speak for most.
        tries = ((way, tried) for way in sorted(whole, key=lambda way: -len(self.covered(way))) for tried in shares)
        enough = [(way, tried) for way, tried in tries if self.enough(way, tried, seed)]
        free = (tried for tried in enough if tried[1] == share or (tried[1] <= WHOLE and not asked))
        way, kept = next(free, (last, share))
        sure = few = ""
        better = None
        if names := [name for name in self.speaks if name not in self.covered(way)]:
            sure = ", ".join(f"{name} (whose {self.speaks[name]} groups training knows)" for name in names)
            sure = f"Posteriors will be too sure of new groups: of {sure}"
            if way is last and enough:
                better = enough[0][1]
                sure += f"; --validation {better:g} would keep {enough[0][0].name} groups whole"
        if way is last and not self.enough(last, share, seed):
            few = f"Too few observations to keep {share:.0%} of them out of training: levels stay uncalibrated"
            if larger := next((tried for tried in shares if self.enough(last, tried, seed)), None):
                few += f". --validation {larger:g} would keep enough {last.by}s"
                better = better or larger
        return Calibrating(
            None if few else way.how(kept, seed), "" if way is last else way.name, kept, sure, few, better
        )

    def covered(self, way: Way) -> set[str]:
        """Levels others are nested in, of which only groups that training does not see would speak."""
        if not way.level:
            return set()
        whole = self.groupings[way.level]
        return {name for name, fine in self.speaks.items() if self.groupings[fine].refines(whole)}

    def apart(self, way: Way, test: float, seed: int) -> Rows | None:
        """The rows that would be kept out, (N,) bool; None for none or all of them, or where a level that is not
        nested in the groups kept whole would lose one of its own too."""
        coarse = self.groupings[way.coarse].index.numpy() if way.coarse else None
        new = chosen(way.by, self.groupings[way.level].index.numpy(), coarse, test, seed)
        if new.all() or not new.any():
            return None
        for name in self.keys if way.level else ():
            ids = self.groupings[name].index.numpy()
            if not (np.isin(ids[new], ids[~new]).all() or self.groupings[name].refines(self.groupings[way.level])):
                return None
        return new

    def enough(self, way: Way, test: float, seed: int) -> bool:
        """Whether levels could be calibrated on what would be kept: those that are not covered by observations."""
        if (new := self.apart(way, test, seed)) is None:
            return False
        count = {name: len(np.unique(self.groupings[name].index.numpy()[new])) for name in self.keys or ("",)}
        covered = self.covered(way)
        return all(
            count[self.speaks[name]] - groups >= FEWEST_WITNESSES if name in covered else new.sum() - groups >= FEWEST
            for name, groups in count.items()
        )
