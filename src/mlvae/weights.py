"""Weights of the objective's terms: a number, a course of time, or what it takes to hold style to a course."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mlvae.errors import TrainingError

MOST = 1e5
"""A held weight is never more."""


@dataclass(frozen=True)
class Ramp:
    """A weight that moves from ``start`` to ``end`` between two shares of training.

    Args:
        start: before.
        end: after.
        since: a share of training, 0 to 1.
        until: a later one.
        doubling: it takes as long from 1 to 2 as from 100 to 200, in place of a straight line; both ends above 0.

    Raises:
        TrainingError: an end that is not above 0 where it doubles, no number, or a time that comes too early.

    Example:
        >>> Ramp(8.0, 2.0, until=0.5).at(0.25), Ramp(8.0, 2.0, until=0.5).at(0.9)
        (5.0, 2.0)
        >>> Ramp(8.0, 2.0, doubling=True).at(0.5)
        4.0
    """

    start: float
    end: float
    since: float = 0.0
    until: float = 1.0
    doubling: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.since <= self.until and math.isfinite(self.start + self.end)):
            raise TrainingError(
                f"Expected a ramp between finite weights, from `since` of 0 or more to no earlier `until`; got {self}."
            )
        if self.doubling and min(self.start, self.end) <= 0:
            raise TrainingError(
                f"Expected a weight above 0 at both ends of a doubling ramp; got {self.start:g} and {self.end:g}."
                " Use a straight one, or 0 for no weight at all."
            )

    def at(self, progress: float) -> float:
        """The weight after a share ``progress`` (0 to 1) of training."""
        if progress >= self.until:
            return self.end
        if progress <= self.since:
            return self.start
        share = (progress - self.since) / (self.until - self.since)
        if self.doubling:
            return self.start * math.pow(self.end / self.start, share)
        return self.start + (self.end - self.start) * share

    def ending(self, end: float) -> Ramp | float:
        """The same course to another end: the weight as a whole is scaled."""
        return replace(self, start=self.start * end / self.end, end=end) if end else 0.0


@dataclass(frozen=True)
class Held:
    """A weight that grows wherever style tells more of the group than a course allows.

    How heavy independence must be depends on the data: some clothes differ by what else is style, and took ten times
    the weight early in training that digits did. So what may be told is said, and the weight found while training.

    Args:
        start: how much more often than chance the means of style's posteriors may name the group at first
            (`penalties.told`), as a share of observations.
        end: the same at the end of training; in between it takes as long from .08 to .04 as from .04 to .02.
        least: the weight to begin with, and what it never falls below: means are not all that can tell.
        pace: by at most so many powers of e the weight changes over all of training.

    Raises:
        TrainingError: a number that is not above 0.

    Reference: Rezende and Viola 2018, "Taming VAEs", arXiv:1810.00597 (constraints in place of weights).

    Example:
        >>> Held(0.4, 0.1).course(0.5)
        0.2
    """

    start: float = 0.11
    end: float = 0.012
    least: Ramp = Ramp(3.0, 1000.0, doubling=True)
    pace: float = 12.0

    def __post_init__(self) -> None:
        if not all(number > 0 for number in (self.start, self.end, self.least.start, self.least.end, self.pace)):
            raise TrainingError(
                f"Expected numbers above 0 for a held weight; got {self}. For no penalty, let independence be 0."
            )

    def course(self, progress: float) -> float:
        """What may be told after a share ``progress`` (0 to 1) of training."""
        return self.start * math.pow(self.end / self.start, progress)


Weight = float | Ramp | Mapping[str, float | Ramp]
HeldWeight = float | Ramp | Held | Mapping[str, float | Ramp | Held]


class Holder:
    """What held weights have come to in one training.

    Args:
        weight: of a penalty.
        levels: the levels that it is asked of, by name.

    Example:
        >>> holder = Holder(Held(), ["style"])
        >>> holder.step({"style": torch.tensor(0.5)}, progress=0.0, share=0.01)       # much too much is told
        >>> holder.weights["style"].round(decimals=2)
        tensor(3.3800)
    """

    def __init__(self, weight: HeldWeight, levels: Sequence[str]) -> None:
        asked = {name: weight.get(name) if isinstance(weight, Mapping) else weight for name in levels}
        self.held = {name: each for name, each in asked.items() if isinstance(each, Held)}
        self.weights: dict[str, Tensor] = {name: torch.tensor(each.least.at(0)) for name, each in self.held.items()}

    def to(self, device: torch.device) -> Holder:
        """The same holder, its weights there."""
        self.weights = {name: weight.to(device) for name, weight in self.weights.items()}
        return self

    def step(self, told: Mapping[str, Tensor], progress: float, share: float) -> None:
        """Moves weights by what one batch showed; nothing waits for the device.

        Args:
            told: for each level by name, (), the square of what means told; levels that are not held are passed over.
            progress: the share of training done.
            share: that this step is of all of training.
        """
        for name, held in self.held.items():
            if name in told:
                excess = (told[name].detach().float() / held.course(progress) ** 2 - 1).clamp(-1, 1)
                weight = self.weights[name] * torch.exp(held.pace * share * excess)
                self.weights[name] = weight.clamp(held.least.at(progress), MOST)

    def state(self) -> dict[str, float]:
        """The weights as numbers, for a checkpoint."""
        return {name: float(weight) for name, weight in self.weights.items()}

    def load(self, state: Mapping[str, float]) -> None:
        """Goes on from what `state` said; weights that it does not name stay as they are."""
        self.weights = {name: torch.full_like(weight, state.get(name, float(weight)))
                        for name, weight in self.weights.items()}  # fmt: skip


def at(weight: float | Ramp, progress: float) -> float:
    """A number, or a ramp's after a share of training."""
    return weight.at(progress) if isinstance(weight, Ramp) else weight


def growing(weight: HeldWeight, like: Ramp) -> Any:
    """Numbers as ramps that end at them."""
    if isinstance(weight, Mapping):
        return {name: growing(each, like) for name, each in weight.items()}
    return weight if isinstance(weight, (Ramp, Held)) else like.ending(weight)


def parsed(value: Any) -> Any:
    """The weight that `dataclasses.asdict` made settings of, JSON or not."""
    if not isinstance(value, Mapping):
        return value
    for kind in (Ramp, Held):
        if {"start", "end"} <= value.keys() <= kind.__dataclass_fields__.keys():
            return kind(**{name: parsed(part) for name, part in value.items()})
    return {name: parsed(part) for name, part in value.items()}
