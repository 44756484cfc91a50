"""What a group's posterior loses by being summed up from votes rather than fitted to the group.

Reference: Cremer, Li, Duvenaud 2018, "Inference Suboptimality in Variational Autoencoders", arXiv:1801.03558.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlvae.errors import DataError, ModelError
from mlvae.evidence import READOUTS
from mlvae.grouping import Grouping, shuffled
from mlvae.heads import Evaluating
from mlvae.levels import Level
from mlvae.model import MLVAE
from mlvae.normal import Normal

LEARNING_RATE = 0.2

Array = Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True)
class Amortisation:
    """The amortisation gap of the first shared level, all evidence, weight 1, no penalty.

    Args:
        gap: nats of the bound gained per group. It is a lower estimate, for the optimiser stops; where there is
            nothing to gain it falls a little below zero (some 0.01 nats a dimension), because its steps are noisy and
            it is read on noise that was not optimised on.
        gap_per_observation: the same gain over observations.
        seconds: the optimisation took, all groups together.
        amortised_seconds: encoding and summing took.
        groups: that took part.
        observations: of these groups that took part.
    """

    gap: float
    gap_per_observation: float
    seconds: float
    amortised_seconds: float
    groups: int
    observations: int


def amortisation_gap(
    model: MLVAE,
    x: Array,
    labels: Any,
    *,
    groups: int = 64,
    members: int = 20,
    steps: int = 100,
    samples: int = 16,
    seed: int = 0,
) -> Amortisation:
    """Optimises each group's posterior on the first shared level, its mean and log precision, all else fixed.

    The bound before and after is read with the same noise, which is fresh: no optimiser has seen it.

    Args:
        model: with a shared level. Further shared levels are understood from each observation alone.
        x: (N, *shape), of groups that training never saw.
        labels: (N,), the groups of the first shared level.
        groups: how many are drawn, all where there are fewer.
        members: of each group that are drawn, all where there are fewer.
        steps: of Adam, one noise sample each, the rate falling to zero; a mean moves by some 10 of its posterior's
            standard deviations at most.
        samples: of noise that both bounds are averaged over.
        seed: of groups, members and noise.

    Raises:
        ModelError: no level is shared.
        DataError: labels and observations differ in number, or a number is below one.

    Example:
        >>> model = MLVAE((4,), [Level("content", 2, by="person"), Level("style", 2)], likelihood="normal")
        >>> amortisation_gap(model, torch.randn(6, 4), list("aabbbc"), steps=5).groups
        3
    """
    shared = _shared(model)
    x, rows, grouping = _drawn(x, labels, groups, members, steps, samples, seed)
    grouping = grouping.to(model.device)
    with Evaluating(model):
        prepared = model.prepare(x[rows])
        model.check(prepared)
        begin = time.perf_counter()
        with torch.no_grad():
            features = model.features(prepared)
            start = READOUTS[shared.readout](model.votes(shared.name, features).sum(grouping))
            start.mean.sum().item()  # an accelerator has only been asked until a number is read
        encoded = time.perf_counter()
        bound = _Bound(model, shared, prepared, features, grouping)
        best = _optimised(bound, start, steps, torch.Generator(model.device).manual_seed(seed))
        best.mean.sum().item()
        fitted = time.perf_counter()
        with torch.no_grad():
            gain = bound.average(best, samples, seed + 1) - bound.average(start, samples, seed + 1)
    return Amortisation(
        gain / grouping.num_groups,
        gain / len(rows),
        fitted - encoded,
        encoded - begin,
        grouping.num_groups,
        len(rows),
    )


@dataclass(frozen=True, eq=False)
class _Bound:
    """The bound of all groups together as a function of their posteriors on one shared level."""

    model: MLVAE
    shared: Level
    x: Tensor
    features: Tensor
    grouping: Grouping

    def __call__(self, posterior: Normal, generator: torch.Generator) -> Tensor:
        """In nats, (), with one sample a group and one an observation."""
        kl = posterior.kl().sum()
        codes: dict[str, Tensor] = {}
        for level in self.model.levels:
            if level.name == self.shared.name:
                codes[level.name] = self.grouping.expand(posterior.rsample(generator))
                continue
            votes = self.model.votes(level.name, self.features, [codes[name] for name in level.given])
            own = READOUTS[level.readout](votes)
            codes[level.name] = own.rsample(generator)
            kl = kl + own.kl().sum()
        return self.model.likelihood.log_prob(self.x, self.model.decode(codes)).sum() - kl

    def average(self, posterior: Normal, samples: int, seed: int) -> float:
        """The mean over noise that depends on the seed alone."""
        generator = torch.Generator(self.x.device).manual_seed(seed)
        return sum(self(posterior, generator).double().item() for _ in range(samples)) / samples


@torch.enable_grad()
def _optimised(bound: _Bound, start: Normal, steps: int, generator: torch.Generator) -> Normal:
    # Means move in units of their posterior's width, so that one rate serves narrow and wide ones.
    shift = torch.zeros_like(start.mean, requires_grad=True)
    log_ratio = torch.zeros_like(start.mean, requires_grad=True)
    optimizer = torch.optim.Adam([shift, log_ratio], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def posterior() -> Normal:
        return Normal(start.mean + shift * torch.rsqrt(start.precision), start.precision * torch.exp(log_ratio))

    for _ in range(steps):
        # Not backward(), which would leave gradients in the model.
        gradients = torch.autograd.grad(-bound(posterior(), generator), [shift, log_ratio])
        shift.grad, log_ratio.grad = gradients
        optimizer.step()
        schedule.step()
    return Normal(posterior().mean.detach(), posterior().precision.detach())


def _shared(model: MLVAE) -> Level:
    if not model.group_levels:
        raise ModelError("Expected a model with a level that groups share; this one has none (a plain VAE).")
    return model.group_levels[0]


def _drawn(
    x: Array, labels: Any, groups: int, members: int, steps: int, samples: int, seed: int
) -> tuple[Tensor, Tensor, Grouping]:
    """Observations, the rows of some members of some groups, and their grouping."""
    x, y = torch.as_tensor(x), np.asarray(labels)
    if y.shape != (len(x),) or len(x) == 0:
        raise DataError(f"Expected one label for each of {len(x)} observations, and some of them; got {y.shape}.")
    for name, value in (("groups", groups), ("members", members), ("steps", steps), ("samples", samples)):
        if value < 1:
            raise DataError(f"Expected `{name}` of at least 1; got {value}.")
    _, index, sizes = np.unique(y, return_inverse=True, return_counts=True)
    random = np.random.default_rng(seed)
    order, place = shuffled(index, random)
    chosen = random.permutation(len(sizes))[:groups]
    rows = order[(place < members) & np.isin(index[order], chosen)]
    return x, torch.from_numpy(rows), Grouping.from_ids(index[rows])
