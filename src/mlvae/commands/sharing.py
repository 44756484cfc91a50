"""Which rows a run keeps out of training: to be measured on, and to calibrate levels on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlvae.commands.common import say

if TYPE_CHECKING:
    import numpy as np

    from mlvae.grouping import Grouping

    Rows = np.ndarray[Any, Any]


def share_out(data: Any, share: float, seed: int, levels: Any = ()) -> dict[str, Any]:
    """How `GroupedData.split` takes a share out of data: whole groups where there are many, else observations of each.

    Of levels nested in each other whole countries, else whole people of each country, else observations. Of levels that
    are only crossed observations: none should lose whole groups that the others need.
    """
    design = _Design.of(data, levels)
    *whole, last = design.ways()
    way = next((way for way in whole if design.apart(way, share, seed) is not None), last)
    return way.how(share, seed)


def validation_of(data: Any, share: float, seed: int, levels: Any, asked: bool) -> tuple[Any, Any]:
    """The training part and what is kept to calibrate levels on, None where too little; says what was done.

    A share that was not ``asked`` for is larger where groups nested in others need it, up to a fifth.

    Raises:
        DataError: the share is none.
    """
    from mlvae.data.splits import SHARES, WHOLE
    from mlvae.data.splits import share as checked

    if not share:
        return data, None
    design, shares = _Design.of(data, levels), (checked(share), *(other for other in SHARES if other > share))
    *whole, last = design.ways()
    # Of several chains of nested levels the one whose people speak for most.
    tries = ((way, tried) for way in sorted(whole, key=lambda way: -len(design.covered(way))) for tried in shares)
    enough = [(way, tried) for way, tried in tries if design.enough(way, tried, seed)]
    free = (tried for tried in enough if tried[1] == share or (tried[1] <= WHOLE and not asked))
    way, kept = next(free, (last, share))
    if way is not last:
        say(f"To calibrate levels on, {kept:.0%} of {way.name} groups are kept out of training whole")
    if sure := [name for name in design.speaks if name not in design.covered(way)]:
        names = ", ".join(f"{name} (whose {design.speaks[name]} groups training knows)" for name in sure)
        more = f"; --validation {enough[0][1]:g} would keep {enough[0][0].name} groups whole" if enough else ""
        say(f"! Posteriors will be too sure of new groups: of {names}{more if way is last else ''}")
    if way is not last or design.enough(last, share, seed):
        rest, new = data.split(**way.how(kept, seed))
        return rest, new
    larger = next((tried for tried in shares if design.enough(last, tried, seed)), None)
    advice = "" if larger is None else f". --validation {larger:g} would keep enough {last.by}s"
    say(f"Too few observations to keep {share:.0%} of them out of training: levels stay uncalibrated{advice}")
    return data, None


@dataclass(frozen=True)
class _Way:
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
class _Design:
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
    def of(cls, data: Any, levels: Any) -> _Design:
        from mlvae.batch import nests, speakers
        from mlvae.grouping import Grouping

        keys = {level.name: level.by for level in levels if level.by is not None}
        groupings = {name: Grouping.from_ids(data.codes(by)) for name, by in keys.items()}
        nested = nests(groupings)
        speaks = speakers(groupings, nested)
        if len(keys) == 1:
            (own,) = groupings.values()
        else:  # data without groups say what is missing
            own = Grouping.from_ids(data.groups if data.by is None else data.codes(data.by))
        return cls(keys, {**groupings, "": own}, nested, speaks)

    def ways(self) -> list[_Way]:
        """From whole groups of the coarsest levels on, each within the one above; last what can always be done."""
        from mlvae.data.splits import MANY_GROUPS, spared

        number = {name: grouping.num_groups for name, grouping in self.groupings.items()}
        if len(self.keys) < 2:
            return [_Way(spared(number[""]), next(iter(self.keys.values()), None))]
        above = {name: [coarse for fine, coarse in self.nested if fine == name] for name in self.keys}
        involved = [name for name in self.keys if any(name in pair for pair in self.nested)]
        ways = []
        for name in sorted(involved, key=lambda name: len(above[name])):  # as deep ones in the order of the levels
            closest = max(above[name], key=number.__getitem__, default="")
            if number[name] >= MANY_GROUPS:
                ways.append(_Way("group", self.keys[name], self.keys.get(closest), name, closest))
        return [*ways, _Way("observation")]

    def covered(self, way: _Way) -> set[str]:
        """Levels others are nested in, of which only groups that training does not see would speak."""
        if not way.level:
            return set()
        whole = self.groupings[way.level]
        return {name for name, fine in self.speaks.items() if self.groupings[fine].refines(whole)}

    def apart(self, way: _Way, test: float, seed: int) -> Rows | None:
        """The rows that would be kept out, (N,) bool; None for none or all of them, or where a level that is not
        nested in the groups kept whole would lose one of its own too."""
        import numpy as np

        from mlvae.data.splits import chosen

        coarse = self.groupings[way.coarse].index.numpy() if way.coarse else None
        new = chosen(way.by, self.groupings[way.level].index.numpy(), coarse, test, seed)
        if new.all() or not new.any():
            return None
        for name in self.keys if way.level else ():
            ids = self.groupings[name].index.numpy()
            if not (np.isin(ids[new], ids[~new]).all() or self.groupings[name].refines(self.groupings[way.level])):
                return None
        return new

    def enough(self, way: _Way, test: float, seed: int) -> bool:
        """Whether levels could be calibrated on what would be kept: those that are not covered by observations."""
        import numpy as np

        from mlvae.calibration import FEWEST, FEWEST_WITNESSES

        if (new := self.apart(way, test, seed)) is None:
            return False
        count = {name: len(np.unique(self.groupings[name].index.numpy()[new])) for name in self.keys or ("",)}
        covered = self.covered(way)
        return all(
            count[self.speaks[name]] - groups >= FEWEST_WITNESSES if name in covered else new.sum() - groups >= FEWEST
            for name, groups in count.items()
        )
