"""What training is asked for: how the bound is estimated, what is asked beyond it, and how much each weighs.

The defaults are those that separate best (docs/defaults.md); what they weigh is made in `objective` and `penalties`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from mlvae.errors import ModelError, TrainingError, nearest
from mlvae.levels import Level
from mlvae.penalties import BUILT_IN, PENALTIES
from mlvae.weights import Held, HeldWeight, Ramp, Weight, at, growing, parsed

HOLDING = Held()
"""Independence's weight."""

GROWING = Ramp(3.0, 1000.0, doubling=True)
"""The same where a number is asked for. Much at once would make style give up dimensions, which seldom come back."""

LEAKING = Ramp(0.0, 20.0, since=0.3)
"""Leakage's weight. Asked for from the start, codes would collapse."""

NAMING = Ramp(0.1, 10.0, since=0.1)
"""The adversary's weight. It learns what there is to tell before it says much; of 0 it would learn nothing, and beyond
that Adam does not mind how much a loss weighs."""

FEW = 100
"""Groups that an adversary can learn to name: of ten classes it took from style what a lighter independence left, of
2,928 characters with twenty drawings each nothing."""

LIGHTER = Held(least=Ramp(3.0, 300.0, doubling=True))
"""Independence's weight beside an adversary."""

UNASKED = (HOLDING, LIGHTER)
"""What independence weighs where it is left to itself, without an adversary and beside one."""

LOGGED = ("loss", "log_likelihood", "epoch", "valid", "seconds", "images_per_second", "skipped_files")
"""Columns of a run's log, which no penalty of one's own can be called, nor begin as `kl_style` and `held_style` do."""
ASKED_OF_OWN = {"independence": True, "adversary": True, "leakage": False, "identification": False}
"""Whether a penalty is asked of levels of an observation's own, or of those that groups share."""
WORDS = {"evidence": ("all", "held_out"), "draw": ("group", "observation"), "subsampling": ("own", "scaled")}


@dataclass(frozen=True)
class Objective:
    """How the bound is estimated and what is asked beyond it.

    The defaults are those that separate best among many groups; for few see `for_groups`.

    Args:
        evidence: ``held_out``: an observation is decoded from the others' evidence on its group; ``all``: the paper's.
            Held out, the objective is no bound on log p(X_G); its KL is still that of the posterior of all evidence.
        draw: one code sample a ``group``, or one an ``observation``.
        kl_weight: for levels by name, a number or a `Ramp`; levels not named have 1. ``content`` stands for all that
            groups share and are not named, ``style`` for all of an observation's own, where no level is called so.
        independence: weight of the dependence between a per-observation level's samples and the groups: one for all
            such levels, or by the level's name (0 where not named). `Held`: what it takes to keep to a course.
        leakage: weight of what a shared level's codes tell of the groups of levels crossed with it, likewise.
        identification: weight of the model's own failure to name an observation's group from its other members,
            likewise.
        subsampling: ``own``: the members in a batch are a group of their own; ``scaled``: every term counts by its
            inverse inclusion probability, n/k of its group, relative to that of the first level's KL. Biased, and it
            all but switches that KL off for groups of thousands.
        apart: for levels by name, the levels whose groups they should not know. For those not named: a per-observation
            level all others', a shared one those that are crossed with it (neither nested in the other).
        moments: the highest moments of a group's samples that independence looks at: 1 are means, 2 covariances.
        further: weights of penalties of one's own by their names in `mlvae.penalties.PENALTIES`, each as leakage's.
        adversary: weight of what a network that learns beside the model can name groups by in a per-observation level's
            samples, as independence's; see `for_groups`.

    Raises:
        TrainingError: a word that is none of these, a weight below 0, another weight than independence's is to be held,
            or ``apart`` is no tuples by name.
        ModelError: a further penalty is not in `PENALTIES`.
    """

    evidence: Literal["all", "held_out"] = "held_out"
    draw: Literal["group", "observation"] = "observation"
    kl_weight: Mapping[str, float | Ramp] = field(default_factory=lambda: {"content": 0.2})
    independence: HeldWeight = HOLDING
    leakage: Weight = LEAKING
    identification: Weight = 5.0
    subsampling: Literal["own", "scaled"] = "own"
    apart: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    moments: int = 5
    further: Mapping[str, Weight] = field(default_factory=dict)
    adversary: Weight = 0.0

    def __post_init__(self) -> None:
        for name, words in WORDS.items():
            if (said := getattr(self, name)) not in words:
                raise TrainingError(f"Expected {name} {' or '.join(map(repr, words))}; got {said!r}.")
        if self.moments < 1:
            raise TrainingError(f"Expected moments of at least 1, the means; got {self.moments}.")
        for name in self.further:
            if name in (*BUILT_IN, *LOGGED) or name.startswith(("kl_", "held_")):
                raise ModelError(f"Expected another name for a penalty of one's own; {name!r} is taken. Rename it.")
            if name not in PENALTIES:
                raise ModelError(
                    f"Expected a penalty that is in `mlvae.penalties.PENALTIES`; got {name!r}. Put its function there"
                    " first, or name it again on the command line: --penalty package.module:name."
                )
        others = self.apart.values() if isinstance(self.apart, Mapping) else [""]
        if any(isinstance(each, str) or not isinstance(each, Collection) for each in others):
            raise TrainingError(
                f"Expected `apart` as tuples of names by a level's name, as {{'style': ('speaker',)}}; got"
                f" {self.apart!r}. Write one name as a tuple too."
            )
        for name, weight in (("kl_weight", self.kl_weight), *self.penalties.items()):
            for each in weight.values() if isinstance(weight, Mapping) else [weight]:
                if not isinstance(each, (Held, Ramp, float, int)):
                    raise TrainingError(f"Expected weights of {name} as numbers or ramps; got {each!r}.")
                if not isinstance(each, Held):
                    if not min(at(each, 0.0), at(each, 1.0)) >= 0:  # nor NaN
                        raise TrainingError(f"Expected weights of {name} from 0 on; got {each}.")
                elif name != "independence":
                    raise TrainingError(
                        f"Expected a number or a Ramp as weight of {name}; only independence can be held."
                    )

    @property
    def penalties(self) -> dict[str, HeldWeight]:
        """Weights of all penalties by their names."""
        return {**{name: getattr(self, name) for name in BUILT_IN}, **self.further}

    def settings(self) -> dict[str, Any]:
        """As values for a file, which `from_settings` takes; as before what came later, where that is unused."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("further", "adversary")}

    @classmethod
    def plain(cls) -> Objective:
        """The bound itself: all evidence, one weight for every KL, no penalty. The paper's, and a plain VAE's."""
        return cls(evidence="all", draw="group", kl_weight={}, independence=0.0, leakage=0.0, identification=0.0)

    @classmethod
    def for_groups(cls, groups: int) -> Objective:
        """What separates best among so many groups (`several`): up to 100, an adversary beside a lighter independence.

        Example:
            >>> Objective.for_groups(1000) == Objective(), Objective.for_groups(10).adversary.end
            (True, 10.0)
        """
        return cls() if groups > FEW else cls(independence=LIGHTER, adversary=NAMING)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Objective:
        """The objective of `settings`, JSON or not."""
        values = {name: parsed(value) for name, value in settings.items()}
        values["apart"] = {
            name: others if isinstance(others, str) else tuple(others)
            for name, others in settings.get("apart", {}).items()
        }
        return cls(**values)

    def changed(
        self,
        *,
        independence: HeldWeight | None = None,
        leakage: Weight | None = None,
        identification: Weight | None = None,
        adversary: Weight | None = None,
        further: Mapping[str, Weight] | None = None,
        **kl_weight: float | None,
    ) -> Objective:
        """The same with other weights; None leaves one as it is.

        Independence takes an adversary's place, unless both are given; by level, that of levels whose weight changes.
        Where it is left to itself it weighs as much as is right beside an adversary that is asked, or without.

        Numbers grow over training as the defaults do; identification's is one weight.

        Penalties take one weight for all levels, or weights by the level's name, 0 where not named.

        Example:
            >>> Objective().changed(independence=50.0, style=2.0).weight("style", 0.0)
            2.0
        """
        changes: dict[str, Any] = {
            "kl_weight": {**self.kl_weight, **{name: value for name, value in kl_weight.items() if value is not None}}
        }
        if adversary is not None:
            changes["adversary"] = growing(adversary, NAMING)
        elif isinstance(independence, Mapping):
            kept = {name: each == _of(self.independence, name) for name, each in independence.items()}
            by_level = {name: _of(self.adversary, name) if same else 0.0 for name, same in kept.items()}
            changes["adversary"] = by_level if any(by_level.values()) else 0.0
        elif independence is not None:
            changes["adversary"] = 0.0
        if isinstance(independence, Mapping) and adversary is not None:
            independence = {
                name: _beside(adversary, name) if each == _of(self.independence, name) and each in UNASKED else each
                for name, each in independence.items()
            }
        if independence is not None:
            changes["independence"] = growing(independence, GROWING)
        elif adversary is not None and self.independence in UNASKED:
            asked = any(adversary.values()) if isinstance(adversary, Mapping) else adversary
            changes["independence"] = LIGHTER if asked else HOLDING  # by level as soon as levels are known: `over`
        if leakage is not None:
            changes["leakage"] = growing(leakage, LEAKING)
        if identification is not None:
            changes["identification"] = identification
        if further is not None:
            changes["further"] = further
        return replace(self, **changes)

    def over(self, levels: Sequence[Level]) -> Objective:
        """The same for these levels: those that groups share have content's KL weight, where they have none, an
        observation's own style's, where none is called so; and of these, where only some have an adversary,
        independence weighs less beside it.

        Raises:
            ModelError: a weight or ``apart`` is of a level that is not there, the nearest name is suggested; or a
                penalty is weighed of a level that it cannot be asked of.
        """
        known = [level.name for level in levels]
        own = [level.name for level in levels if level.by is None]
        penalties = [weight for weight in self.penalties.values() if isinstance(weight, Mapping)]
        standing = ("content", "style") if own else ("content",)  # for all that groups share, and all others
        for name in itertools.chain((name for name in self.kl_weight if name not in standing), *penalties):
            if name not in known:
                raise ModelError(f"Expected a level of this model to weigh; got {name!r}. {nearest(name, known)}")
        for name in itertools.chain(self.apart, *self.apart.values()):
            if name not in known:
                raise ModelError(f"Expected `apart` to name levels of this model; got {name!r}. {nearest(name, known)}")
        for penalty, of_own in ASKED_OF_OWN.items():
            weight = self.penalties[penalty]
            for level in levels if isinstance(weight, Mapping) else ():
                if (level.by is None) is not of_own and weighs(weight, level.name):
                    whose = "of an observation's own" if of_own else "that groups share"
                    raise ModelError(f"Expected {penalty} of levels {whose}; got it of {level.name!r}. Leave that out.")
        changes: dict[str, Any] = {}
        weights = dict(self.kl_weight)
        if "content" in weights:
            weights = {**{name: weights["content"] for name in known if name not in own}, **weights}
        if "style" in weights and "style" not in known:
            weights = {**dict.fromkeys(own, weights["style"]), **weights}
        if weights != self.kl_weight:
            changes["kl_weight"] = weights
        beside = [weighs(self.adversary, name) for name in own]
        if self.independence == LIGHTER and any(beside) and not all(beside):
            changes["independence"] = {name: _beside(self.adversary, name) for name in own}
        return replace(self, **changes) if changes else self

    def weight(self, level: str, progress: float) -> float:
        """The KL weight of a level after a share ``progress`` of training."""
        return at(self.kl_weight.get(level, 1.0), progress)


def weighs(weight: HeldWeight, level: str) -> bool:
    """Whether a penalty of this weight is asked of a level."""
    return bool(weight.get(level) if isinstance(weight, Mapping) else weight)


def _of(weight: HeldWeight, level: str) -> float | Ramp | Held:
    return weight.get(level, 0.0) if isinstance(weight, Mapping) else weight


def _beside(adversary: HeldWeight, level: str) -> Held:
    """Independence's weight at a level, where it is left to itself."""
    return LIGHTER if weighs(adversary, level) else HOLDING


def several(ids: Iterable[Tensor]) -> int:
    """The largest number of groups of two members and more that any level has.

    Args:
        ids: for each level (N,) the group of each observation.

    Example:
        >>> import torch
        >>> several([torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1])])
        2
    """
    return max((int((level.bincount() > 1).sum()) for level in ids), default=0)
