"""Weights of the objective as they are typed: numbers for all levels, name:number for one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mlvae.errors import ModelError, nearest


def weight_of(text: str) -> tuple[str, float]:
    """A level's weight as it is typed, name:weight."""
    name, _, number = text.partition(":")
    try:
        return name, float(number)
    except ValueError:
        raise ModelError(f"Expected a weight as name:weight, such as speaker:0.2; got {text!r}.") from None


def weights_of(option: str, texts: Iterable[str]) -> dict[str, float]:
    """Levels' weights as they are typed, an option each; ModelError where one is named twice."""
    named: dict[str, float] = {}
    for name, weight in map(weight_of, texts):
        if name in named:
            raise ModelError(f"Expected one --{option} of a level; got {name!r} twice. Leave one out.")
        named[name] = weight
    return named


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
        ModelError: a level that is not there, or that this penalty is not asked of, or two weights of the same.
    """
    if asked is None or isinstance(asked, (int, float)):
        return asked
    numbers, texts = [], []
    for text in map(str, asked):
        try:
            numbers.append(float(text))
        except ValueError:
            texts.append(text)
    if len(numbers) > 1:
        typed = " and ".join(f"{number:g}" for number in numbers)
        raise ModelError(f"Expected one --{kind} of all levels that are not named; got {typed}. Leave one out.")
    named, base = weights_of(kind, texts), numbers[0] if numbers else default
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


def held_to(told: float, weight: Any) -> Any:
    """Independence's weight where its course ends at what --told says; by level where the weight is."""
    from mlvae.weights import Held

    if isinstance(weight, Mapping):
        return {name: held_to(told, each) for name, each in weight.items()}
    return replace(weight if isinstance(weight, Held) else Held(), end=told)


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
