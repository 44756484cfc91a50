"""Weights of the objective as they are typed: numbers for all levels, name:number for one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from mlvae.errors import ModelError, nearest


def weight_of(text: str) -> tuple[str, float]:
    """A level's weight as it is typed, name:weight."""
    name, _, number = text.partition(":")
    try:
        return name, float(number)
    except ValueError:
        raise ModelError(f"Expected a weight as name:weight, such as speaker:0.2; got {text!r}.") from None


def further_of(text: str) -> tuple[str, float]:
    """A penalty of one's own as it is typed, package.module:name=weight; its function is known by its name from here.

    Raises:
        ModelError: it is written otherwise.
        DataError: the module or the function is not there.
    """
    from mlvae.commands.common import own
    from mlvae.penalties import PENALTIES

    path, equals, number = text.partition("=")
    name = path.rpartition(":")[2]
    try:
        weight = float(number) if equals else 1.0
    except ValueError:
        weight = math.nan
    function = own(path)
    if function is not None and not callable(function):
        raise ModelError(f"Expected a function for --penalty; {path!r} is a {type(function).__name__}.")
    if not math.isfinite(weight) or function is None:
        raise ModelError(f"Expected a penalty as package.module:name=weight; got {text!r}. For example mine:narrow=2.")
    PENALTIES[name] = function
    return name, weight


def penalty_of(kind: str, asked: Any, levels: Any, default: Any) -> Any:
    """A penalty's weight as it is typed: numbers for all levels, name:number for one; the others keep the default.

    Raises:
        ModelError: a level that is not there, or that this penalty is not asked of.
    """
    if asked is None or isinstance(asked, (int, float)):
        return asked
    named: dict[str, float] = {}
    base = default
    for text in map(str, asked):
        try:
            base = float(text)
        except ValueError:
            name, weight = weight_of(text)
            named[name] = weight
    if not named:
        return base
    known = {level.name: level for level in levels}
    own = kind in ("independence", "adversary")
    for name in named:
        if name not in known:
            raise ModelError(f"Expected a level of this model for --{kind}; got {name!r}. {nearest(name, known)}")
        if (known[name].by is None) is not own:
            what = "an observation's own level" if own else "a level that groups share"
            raise ModelError(f"Expected {what} for --{kind}; {name!r} is another. See docs/levels.md.")
    return {name: named.get(name, base) for name, level in known.items() if (level.by is None) is own}


def refuse_unweighed(levels: Any, named: Mapping[str, float]) -> None:
    """Raises ModelError where --kl names no level."""
    known = [level.name for level in levels]
    for name in named:
        if name not in known:
            raise ModelError(f"Expected a level of this model for --kl; got {name!r}. {nearest(name, known)}")


ASKED_OF = {
    "independence": "a level of an observation's own beside one that groups share",
    "told": "a level of an observation's own beside one that groups share",
    "leakage": "two levels that are crossed, neither nested in the other",
    "identification": "a level that groups share",
    "adversary": "a level of an observation's own beside one that groups share",
}


def refuse_unasked(levels: Any, data: Any, weights: Mapping[str, Any]) -> None:
    """Raises ModelError for a penalty that is weighed, though there is no level that it could be asked of."""
    from mlvae.batch import nests
    from mlvae.grouping import Grouping

    shared = {level.name: Grouping.from_ids(data.codes(level.by)) for level in levels if level.by is not None}
    nested = nests(shared)
    crossed = any({(a, b), (b, a)}.isdisjoint(nested) for a, b in itertools.combinations(shared, 2))
    apart = bool(shared) and len(shared) < len(levels)
    there = {
        "independence": apart,
        "told": apart,
        "leakage": crossed,
        "identification": bool(shared),
        "adversary": apart,
    }
    for name, weight in weights.items():
        if weight and not there[name]:
            raise ModelError(
                f"Expected {ASKED_OF[name]} for --{name}; got levels {', '.join(level.name for level in levels)}. Leave"
                " the option out."
            )
