"""What learning maximises: the evidence lower bound of grouped data, and the penalties that keep levels apart.

    ELBO = Σ_i E log p(x_i | z) - Σ_l Σ_g KL(q(z_l,g | X_g) || N(0, I)),   divided by the number of groups

The KL of a level is counted once per group, whatever the number of its members. A penalty is worth its nats per
observation on top of the bound; a reported bound has none.

Reference: Bouchacourt, Tomioka, Nowozin 2018, eq. 5; Hewitt et al. 2018, arXiv:1807.08919 (held-out evidence).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from mlvae.asked import Objective, weighs
from mlvae.batch import GroupBatch
from mlvae.errors import ModelError
from mlvae.model import MLVAE, Latent
from mlvae.penalties import Adversaries, Plan, ask
from mlvae.ranks import ALONE, Ranks
from mlvae.weights import Held, HeldWeight, at


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
        told: for each level that independence is asked of, (), the square of what its means tell (`penalties.told`).
    """

    total: Tensor
    terms: Terms
    penalties: Mapping[str, Tensor]
    told: Mapping[str, Tensor]

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


def measured(
    model: MLVAE,
    batch: GroupBatch,
    objective: Objective,
    plan: Plan,
    ranks: Ranks,
    generator: torch.Generator | None,
) -> tuple[Terms, dict[tuple[str, str], Tensor], dict[str, Tensor]]:
    """All of `loss` that takes time, and nothing that depends on progress or counts groups: what can be compiled.

    Args:
        model: any number of levels.
        batch: this process's observations; `GroupBatch.counted` where this is compiled.
        objective: what is asked; weights take no part.
        plan: of penalties, for the observations of all processes.
        ranks: the processes.
        generator: of the noise.

    Returns:
        The bound's terms, and what `ask` says.
    """
    latents = model.encode(batch, draw=objective.draw, evidence=objective.evidence, generator=generator)
    terms = _terms(model, batch, latents)
    with torch.autocast(batch.x.device.type, enabled=False):  # their matrix products too stay in float32
        together = ranks.together(model.levels, plan.batch, latents)
        penalties, by_means = ask(model.levels, plan, together, objective.moments)
    return terms, penalties, by_means


Measure = Callable[..., tuple[Terms, dict[tuple[str, str], Tensor], dict[str, Tensor]]]


def loss(
    model: MLVAE,
    batch: GroupBatch,
    objective: Objective,
    *,
    progress: float = 1.0,
    generator: torch.Generator | None = None,
    ranks: Ranks = ALONE,
    held: Mapping[str, Tensor] = MappingProxyType({}),
    adversaries: Adversaries | None = None,
    measure: Measure = measured,
) -> Loss:
    """Minus the objective per group: weighted bound and penalties.

    Args:
        model: any number of levels.
        batch: a sampled batch, on the model's device.
        objective: what is asked.
        progress: the share of training done, for weights that move.
        generator: of the noise.
        ranks: the processes whose shares of one batch are descended together: the mean of their totals is the total of
            the whole.
        held: what held weights of independence have come to, by level; those not named weigh their least.
        adversaries: that learn with the model, where the objective asks them.
        measure: `measured`, or the same compiled.

    Raises:
        ModelError: the objective or the batch names a level that is not there, adversaries are asked and not there, or
            the likelihood says anything but nats of each observation.
    """
    objective = objective.over(model.levels)
    whole = ranks.whole(batch)
    of = {kind: [level.name for level in model.levels if weighs(weight, level.name)]
          for kind, weight in objective.penalties.items()}  # fmt: skip
    with torch.autocast(batch.x.device.type, enabled=False):
        plan = Plan.made(model.levels, whole, of, objective.apart, next(model.parameters()).dtype, adversaries)
    terms, penalties, by_means = measure(model, batch, objective, plan, ranks, generator)

    weights = batch.inverse_inclusion(model.levels[0].name) if objective.subsampling == "scaled" else None
    value = (terms.log_likelihood if weights is None else weights * terms.log_likelihood).sum()
    for level in model.levels:
        kl = terms.kl[level.name]
        if weights is not None:
            kl = kl * batch.grouping(level.name).mean(weights / batch.inverse_inclusion(level.name))
        value = value - objective.weight(level.name, progress) * kl.sum()
    asked = objective.penalties
    penalty = sum(_asked(asked[name], level, progress, held) * nats for (name, level), nats in penalties.items())
    summed = {name: torch.stack([nats for (kind, _), nats in penalties.items() if kind == name]).sum()
              for name in dict(penalties.keys())}  # fmt: skip
    groups = whole.grouping(model.levels[0].name).num_groups
    return Loss((len(whole) * penalty - ranks.size * value) / groups, terms, summed, by_means)


def _asked(weight: HeldWeight, level: str, progress: float, held: Mapping[str, Tensor]) -> float | Tensor:
    asked = weight.get(level, 0.0) if isinstance(weight, Mapping) else weight
    return held.get(level, asked.least.at(progress)) if isinstance(asked, Held) else at(asked, progress)


def _terms(model: MLVAE, batch: GroupBatch, latents: Mapping[str, Latent]) -> Terms:
    output = model.decode({name: latent.sample for name, latent in latents.items()}, batch.covariates)
    log_likelihood = model.likelihood.log_prob(batch.x, output)
    if log_likelihood.shape != batch.x.shape[:1]:
        raise ModelError(
            f"Expected `log_prob` of {type(model.likelihood).__name__} to say nats of each observation, shape"
            f" ({len(batch)},); got {tuple(log_likelihood.shape)}. Sum over features: `.flatten(1).sum(1)`."
        )
    return Terms(
        log_likelihood,
        {name: latent.posterior.kl() for name, latent in latents.items()},
        batch.grouping(model.levels[0].name).num_groups,
    )
