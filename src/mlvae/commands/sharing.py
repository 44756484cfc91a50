"""Which rows a run keeps out of training: to be measured on, and to calibrate levels on."""

from __future__ import annotations

from typing import Any

from mlvae.commands.common import say


def share_out(data: Any, share: float, seed: int, levels: Any = ()) -> dict[str, Any]:
    """How `GroupedData.split` takes a share out of data: whole groups where there are many, else observations of each.

    Of levels nested in each other whole countries, else whole people of each country, else observations. Of levels that
    are only crossed observations: none should lose whole groups that the others need.
    """
    *whole, last = ({**way, "test": share, "seed": seed} for way in _ways(data, levels))
    return next((how for how in whole if _apart(data, how, levels)), last)


def validation_of(data: Any, share: float, seed: int, levels: Any, asked: bool) -> tuple[Any, Any]:
    """The training part and what is kept to calibrate levels on, None where too little; says what was done.

    A share that was not ``asked`` for is larger where groups nested in others need it, up to a fifth.
    """
    from mlvae.data.splits import SHARES, WHOLE

    if not share:
        return data, None
    larger = [other for other in SHARES if other > share]
    *whole, last = _ways(data, levels)
    for way in whole:
        for tried in (share, *(other for other in larger if other <= WHOLE and not asked)):
            found = _apart(data, {**way, "test": tried, "seed": seed}, levels)
            if found and _enough(found[1], levels, whole=True):
                say(f"To calibrate levels on, {tried:.0%} of {_named(way['of'])} groups are kept out of training whole")
                return found
    if whole:
        say(
            f"! Too few {_named(whole[-1]['of'])} groups to keep {share:.0%} of them out whole: posteriors of levels"
            " that these are nested in will be too sure of new ones"
        )
    for tried in (share, *larger):
        rest, kept = data.split(**last, test=tried, seed=seed)
        if _enough(kept, levels, whole=False):
            if tried == share:
                return rest, kept
            advice = f". --validation {tried:g} would keep enough {last['by']}s"
            break
    else:
        advice = ""
    say(f"Too few observations to keep {share:.0%} of them out of training: levels stay uncalibrated{advice}")
    return data, None


def _ways(data: Any, levels: Any) -> list[dict[str, Any]]:
    """Arguments of `GroupedData.split`, the last one for where none before it can be."""
    from mlvae.batch import nests
    from mlvae.data.splits import MANY_GROUPS, spared
    from mlvae.grouping import Grouping

    keys = {level.name: level.by for level in levels if level.by is not None}
    if len(keys) < 2:
        return [{"by": spared(data.num_groups)}]
    groupings = {name: Grouping.from_ids(data.codes(by)) for name, by in keys.items()}
    nested = nests(groupings)
    ways: list[dict[str, Any]] = []
    coarser: str | None = None
    for name in sorted({name for pair in nested for name in pair}, key=lambda name: groupings[name].num_groups):
        if coarser is None or (name, coarser) in nested:
            if groupings[name].num_groups >= MANY_GROUPS:
                ways.append({"by": "group", "of": keys[name], **({"within": keys[coarser]} if coarser else {})})
            coarser = name
    return [*ways, {"by": "observation"}]


def _apart(data: Any, how: dict[str, Any], levels: Any) -> tuple[Any, Any] | None:
    """The two parts; None where either has nothing, or a level that is not nested in the groups kept loses one too."""
    import numpy as np

    from mlvae.errors import DataError
    from mlvae.grouping import Grouping

    try:
        rest, kept = data.split(**how)
    except DataError:
        return None
    unit = Grouping.from_ids(data.codes(how["of"]))
    for by in (level.by for level in levels if level.by is not None):
        lost = not np.isin(kept.column(by), rest.column(by)).all()
        if lost and not Grouping.from_ids(data.codes(by)).refines(unit):
            return None
    return rest, kept


def _enough(kept: Any, levels: Any, whole: bool) -> bool:
    """Whether every level could be calibrated on them: where groups are kept whole, those nested in others speak."""
    from mlvae.calibration import FEWEST, FEWEST_WITNESSES
    from mlvae.grouping import Grouping
    from mlvae.temperature import witnesses

    keys = {level.name: level.by for level in levels if level.by is not None} or {"": kept.by}
    groupings = {name: Grouping.from_ids(kept.codes(by)) for name, by in keys.items()}
    speak = witnesses(groupings) if whole else {}
    return all(
        groupings[speak[name]].num_groups - grouping.num_groups >= FEWEST_WITNESSES
        if name in speak
        else len(kept) - grouping.num_groups >= FEWEST
        for name, grouping in groupings.items()
    )


def _named(by: str | tuple[str, ...]) -> str:
    return by if isinstance(by, str) else ",".join(by)
