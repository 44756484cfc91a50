"""Which rows a run keeps out of training: to be measured on, and to calibrate levels on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlvae.commands.common import say

if TYPE_CHECKING:
    import numpy as np

    from mlvae.grouping import Grouping


def share_out(data: Any, share: float, seed: int, levels: Any = ()) -> dict[str, Any]:
    """How `GroupedData.split` takes a share out of data: whole groups where there are many, else observations of each.

    Of levels nested in each other whole countries, else whole people of each country, else observations. Of levels that
    are only crossed observations: none should lose whole groups that the others need.
    """
    *whole, last = (way.how(share, seed) for way in _ways(data, levels))
    return next((how for how in whole if _apart(data, how, levels) is not None), last)


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
    checked(share)
    design = _Design.of(data, levels)
    larger = [other for other in SHARES if other > share]
    *whole, last = _ways(data, levels)
    # Of several chains of nested levels the one whose people speak for most.
    whole.sort(key=lambda way: -len(design.covered(way)))
    enough = [
        (way, tried)
        for way in whole
        for tried in (share, *larger)
        if (new := _apart(data, way.how(tried, seed), levels)) is not None and design.enough(new, way)
    ]
    chosen = next((each for each in enough if each[1] == share or (each[1] <= WHOLE and not asked)), None)
    sure = sorted(set(design.speaks) - (design.covered(chosen[0]) if chosen else set()))
    if chosen:
        way, tried = chosen
        say(f"To calibrate levels on, {tried:.0%} of {way.name} groups are kept out of training whole")
    if sure:
        more = (
            f"; --validation {enough[0][1]:g} would keep {enough[0][0].name} groups whole"
            if enough and not chosen
            else ""
        )
        names = ", ".join(f"{name} (whose {design.speaks[name]} groups training knows)" for name in sure)
        say(f"! Posteriors will be too sure of new groups: of {names}{more}")
    if chosen:
        rest, kept = data.split(**chosen[0].how(chosen[1], seed))
        return rest, kept
    advice = ""
    for tried in (share, *larger):
        new = _new(data, last.how(tried, seed))
        if new.any() and design.enough(new, last):
            if tried == share:
                rest, kept = data.split(**last.how(tried, seed))
                return rest, kept
            advice = f". --validation {tried:g} would keep enough {last.by}s"
            break
    say(f"Too few observations to keep {share:.0%} of them out of training: levels stay uncalibrated{advice}")
    return data, None


@dataclass(frozen=True)
class _Way:
    """Arguments of `GroupedData.split`, and the level whose groups stay whole."""

    by: str
    of: str | tuple[str, ...] | None = None
    within: str | tuple[str, ...] | None = None
    level: str = ""

    @property
    def name(self) -> str:
        return self.of if isinstance(self.of, str) else ",".join(self.of or ())

    def how(self, test: float, seed: int) -> dict[str, Any]:
        named = {name: value for name in ("of", "within") if (value := getattr(self, name)) is not None}
        return {"by": self.by, **named, "test": test, "seed": seed}


@dataclass(frozen=True)
class _Design:
    """How levels that share lie in each other: their groupings, and which groups speak for which level's."""

    groupings: dict[str, Grouping]
    speaks: dict[str, str]

    @classmethod
    def of(cls, data: Any, levels: Any) -> _Design:
        from mlvae.batch import nests, speakers
        from mlvae.grouping import Grouping

        keys = {level.name: level.by for level in levels if level.by is not None}
        groupings = {name: Grouping.from_ids(data.codes(by)) for name, by in keys.items()}
        groupings = groupings or {"": Grouping.from_ids(data.groups)}
        return cls(groupings, speakers(groupings, nests(groupings)))

    def covered(self, way: _Way) -> set[str]:
        """Levels others are nested in, of which only groups that training does not see would speak."""
        if way.level not in self.groupings:
            return set()
        whole = self.groupings[way.level]
        return {name for name, fine in self.speaks.items() if self.groupings[fine].refines(whole)}

    def enough(self, new: np.ndarray[Any, Any], way: _Way) -> bool:
        """Whether levels could be calibrated on these rows, (N,) bool: those that are not covered by observations."""
        import numpy as np

        from mlvae.calibration import FEWEST, FEWEST_WITNESSES

        count = {name: len(np.unique(grouping.index.numpy()[new])) for name, grouping in self.groupings.items()}
        covered = self.covered(way)
        return all(
            count[self.speaks[name]] - groups >= FEWEST_WITNESSES if name in covered else new.sum() - groups >= FEWEST
            for name, groups in count.items()
        )


def _ways(data: Any, levels: Any) -> list[_Way]:
    """From whole groups of the coarsest levels on, each within the one above; last what can always be done."""
    from mlvae.batch import nests
    from mlvae.data.splits import MANY_GROUPS, spared

    design = _Design.of(data, levels)
    keys = {level.name: level.by for level in levels if level.by is not None}
    number = {name: grouping.num_groups for name, grouping in design.groupings.items()}
    if len(keys) < 2:
        (key,) = keys.values() or [data.by]
        (groups,) = number.values()
        return [_Way(spared(groups), None if key == data.by else key)]
    nested = nests(design.groupings)
    above = {name: [coarse for fine, coarse in nested if fine == name] for name in keys}
    involved = [name for name in keys if any(name in pair for pair in nested) and number[name] >= MANY_GROUPS]
    ways = []
    for name in sorted(involved, key=lambda name: len(above[name])):  # the order of the levels, among those as deep
        closest = max(above[name], key=number.__getitem__, default=None)
        ways.append(_Way("group", keys[name], keys[closest] if closest else None, name))
    return [*ways, _Way("observation")]


def _apart(data: Any, how: dict[str, Any], levels: Any) -> np.ndarray[Any, Any] | None:
    """The rows that would be kept out, (N,) bool; None for none or all of them, or where a level that is not nested in
    the groups kept would lose one of its own too."""
    import numpy as np

    from mlvae.grouping import Grouping

    new = _new(data, how)
    if new.all() or not new.any():
        return None
    unit = Grouping.from_ids(data.codes(how["of"]))
    for by in (level.by for level in levels if level.by is not None):
        grouping = Grouping.from_ids(data.codes(by))
        lost = not np.isin(grouping.index.numpy()[new], grouping.index.numpy()[~new]).all()
        if lost and not grouping.refines(unit):
            return None
    return new


def _new(data: Any, how: dict[str, Any]) -> np.ndarray[Any, Any]:
    """What `GroupedData.split` would take out, (N,) bool: without taking it."""
    from mlvae.data.splits import chosen

    ids = data.codes(how.get("of", data.by)).numpy()
    coarse = data.codes(how["within"]).numpy() if "within" in how else None
    return chosen(how["by"], ids, coarse, how["test"], how["seed"])
