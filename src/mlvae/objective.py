"""What learning maximises: the evidence lower bound of grouped data, and the penalties that keep levels apart.

    ELBO = Σ_i E log p(x_i | z) - Σ_l Σ_g KL(q(z_l,g | X_g) || N(0, I)),   divided by the number of groups

The KL of a level is counted once per group, whatever the number of its members. A penalty is worth its nats per
observation on top of the bound; a reported bound has none.

Reference: Bouchacourt, Tomioka, Nowozin 2018, eq. 5; Hewitt et al. 2018, arXiv:1807.08919 (held-out evidence).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mlvae.batch import GroupBatch
from mlvae.errors import ModelError
from mlvae.grouping import Grouping
from mlvae.model import MLVAE, Latent
from mlvae.penalties import dependence, misidentification


@dataclass(frozen=True)
class Ramp:
    """A weight that moves in a straight line from ``start`` to ``end`` between two shares of training.

    Example:
        >>> Ramp(8.0, 2.0, until=0.5).at(0.25), Ramp(8.0, 2.0, until=0.5).at(0.9)
        (5.0, 2.0)
    """

    start: float
    end: float
    since: float = 0.0
    until: float = 1.0

    def at(self, progress: float) -> float:
        """The weight after a share ``progress`` (0 to 1) of training."""
        if progress >= self.until:
            return self.end
        share = max(progress - self.since, 0.0) / (self.until - self.since)
        return self.start + (self.end - self.start) * share


GROWING = Ramp(0.0, 1000.0, since=0.2)
"""Independence's weight. Asked for from the start, it would keep the style of data with few groups from taking off."""


@dataclass(frozen=True)
class Objective:
    """How the bound is estimated and what is asked beyond it. The defaults are those that separate best.

    Args:
        evidence: ``held_out``: an observation is decoded from the others' evidence on its group; ``all``: the paper's.
            Held out, the objective is no bound on log p(X_G); its KL is still that of the posterior of all evidence.
        draw: one code sample a ``group``, or one an ``observation``.
        kl_weight: for levels by name, a number or a `Ramp`; levels not named have 1.
        independence: weight of the dependence between every per-observation level's samples and the groups.
        identification: weight of the model's own failure to name an observation's group from its other members.
        subsampling: ``own``: the members in a batch are a group of their own; ``scaled``: likelihood and
            finer KLs count n/k times, the group's own KL once. Biased, and it all but
            switches that KL off for groups of thousands.
    """

    evidence: Literal["all", "held_out"] = "held_out"
    draw: Literal["group", "observation"] = "observation"
    kl_weight: Mapping[str, float | Ramp] = field(default_factory=lambda: {"content": 0.2})
    independence: float | Ramp = GROWING
    identification: float | Ramp = 5.0
    subsampling: Literal["own", "scaled"] = "own"

    @classmethod
    def plain(cls) -> Objective:
        """The bound itself: all evidence, one weight for every KL, no penalty. The paper's, and a plain VAE's."""
        return cls(evidence="all", draw="group", kl_weight={}, independence=0.0, identification=0.0)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Objective:
        """The objective that `dataclasses.asdict` made settings of, JSON or not."""

        def weight(value: Any) -> float | Ramp:
            return Ramp(**value) if isinstance(value, Mapping) else value

        values: dict[str, Any] = {
            name: weight(value) if name != "kl_weight" else value for name, value in settings.items()
        }
        values["kl_weight"] = {level: weight(value) for level, value in settings["kl_weight"].items()}
        return cls(**values)

    def changed(
        self, *, independence: float | None = None, identification: float | None = None, **kl_weight: float | None
    ) -> Objective:
        """The same with other weights; None leaves one as it is. Independence still grows over training.

        Example:
            >>> Objective().changed(independence=50.0, style=2.0).weight("style", 0.0)
            2.0
        """
        changes: dict[str, Any] = {
            "kl_weight": {**self.kl_weight, **{name: value for name, value in kl_weight.items() if value is not None}}
        }
        if independence is not None:
            changes["independence"] = replace(GROWING, end=independence)
        if identification is not None:
            changes["identification"] = identification
        return replace(self, **changes)

    def weight(self, level: str, progress: float) -> float:
        """The KL weight of a level after a share ``progress`` of training."""
        return _at(self.kl_weight.get(level, 1.0), progress)


@dataclass(frozen=True, eq=False)
class Terms:
    """The bound before it is reduced, in nats.

    Args:
        log_likelihood: (N,), log p(x_i | z), one sample of z.
        kl: for each level, (G_l,), once per group.
        groups: the number of groups of the first-named level: the divisor.
    """

    log_likelihood: Tensor
    kl: Mapping[str, Tensor]
    groups: int

    @property
    def elbo(self) -> Tensor:
        """The bound per group of the first-named level, ()."""
        return (self.log_likelihood.sum() - sum(kl.sum() for kl in self.kl.values())) / self.groups

    @property
    def elbo_per_observation(self) -> Tensor:
        """The bound per observation, ()."""
        return self.elbo * self.groups / len(self.log_likelihood)


@dataclass(frozen=True, eq=False)
class Loss:
    """What a step descends, and the parts of it that a log shows.

    Args:
        total: (), minus the objective per group.
        terms: the bound's terms as this objective estimates them, unweighted.
        penalties: by name, (), nats per observation before their weight.
    """

    total: Tensor
    terms: Terms
    penalties: Mapping[str, Tensor]

    def log(self) -> dict[str, Tensor]:
        """Nats per observation: reconstruction, each level's KL, penalties; still tensors, so nothing synchronises."""
        n = len(self.terms.log_likelihood)
        return {
            "log_likelihood": self.terms.log_likelihood.detach().mean(),
            **{f"kl_{name}": kl.detach().sum() / n for name, kl in self.terms.kl.items()},
            **{name: value.detach() for name, value in self.penalties.items()},
        }


def elbo(model: MLVAE, batch: GroupBatch, *, generator: torch.Generator | None = None) -> Terms:
    """The bound as every report means it: all evidence, weight 1, no penalty, one sample a group.

    Args:
        model: any number of levels.
        batch: observations as `MLVAE.prepare` gives them, and their groupings.
        generator: of the noise.

    Returns:
        Unreduced terms in nats; ``terms.elbo`` is the bound per group.

    Example:
        >>> from mlvae import Level
        >>> model = MLVAE((8, 8), [Level("content", 4, by="person"), Level("style", 3)])
        >>> terms = elbo(model, GroupBatch.of(torch.rand(6, 8, 8), {"content": [0, 0, 1, 1, 1, 2]}))
        >>> terms.log_likelihood.shape, terms.kl["content"].shape, terms.kl["style"].shape
        (torch.Size([6]), torch.Size([3]), torch.Size([6]))
    """
    return _terms(model, batch, model.encode(batch, generator=generator))


def loss(
    model: MLVAE,
    batch: GroupBatch,
    objective: Objective,
    *,
    progress: float = 1.0,
    generator: torch.Generator | None = None,
) -> Loss:
    """Minus the objective per group: weighted bound and penalties.

    Args:
        model: any number of levels.
        batch: a sampled batch, on the model's device.
        objective: what is asked.
        progress: the share of training done, for weights that move.
        generator: of the noise.
    """
    latents = model.encode(batch, draw=objective.draw, evidence=objective.evidence, generator=generator)
    terms = _terms(model, batch, latents)
    penalties = _penalties(model, batch, latents, objective)

    weights = _observation_weights(model, batch) if objective.subsampling == "scaled" else None
    value = (terms.log_likelihood if weights is None else weights * terms.log_likelihood).sum()
    for place, level in enumerate(model.levels):
        kl = terms.kl[level.name]
        if weights is not None and place > 0:
            kl = kl * batch.grouping(level.name).mean(weights)
        value = value - objective.weight(level.name, progress) * kl.sum()
    asked = {"independence": objective.independence, "identification": objective.identification}
    penalty = sum(_at(asked[name], progress) * value for name, value in penalties.items())
    return Loss((len(batch) * penalty - value) / terms.groups, terms, penalties)


def _at(weight: float | Ramp, progress: float) -> float:
    return weight.at(progress) if isinstance(weight, Ramp) else weight


def _terms(model: MLVAE, batch: GroupBatch, latents: Mapping[str, Latent]) -> Terms:
    output = model.decode({name: latent.sample for name, latent in latents.items()}, batch.covariates)
    return Terms(
        model.likelihood.log_prob(batch.x, output),
        {name: latent.posterior.kl() for name, latent in latents.items()},
        batch.grouping(model.levels[0].name).num_groups,
    )


def _penalties(
    model: MLVAE, batch: GroupBatch, latents: Mapping[str, Latent], objective: Objective
) -> dict[str, Tensor]:
    """Summed over the levels that share a latent; for independence, over every per-observation level beside each."""
    shared = [level.name for level in model.levels if level.name in batch.ids]
    own = [level.name for level in model.levels if level.name not in batch.ids]
    penalties: dict[str, Tensor] = {}
    if objective.independence and shared and own:
        penalties["independence"] = torch.stack(
            [dependence(latents[level].sample, batch.ids[group]) for level in own for group in shared]
        ).sum()
    if objective.identification and shared:
        penalties["identification"] = torch.stack(
            [misidentification(latents[name].votes, batch.grouping(name), batch.ids[name]) for name in shared]
        ).sum()
    return penalties


def _observation_weights(model: MLVAE, batch: GroupBatch) -> Tensor:
    """n/k of each observation's group at the first-named level, (N,)."""
    name = model.levels[0].name
    if name not in batch.totals:
        raise ModelError(
            f"Expected the batch to carry the size of each group in the data set for subsampling='scaled'; level"
            f" {name!r} has none. Pass `totals`, or use subsampling='own'."
        )
    grouping: Grouping = batch.grouping(name)
    return batch.totals[name] / grouping.expand(grouping.sizes)
