"""The importance-weighted bound on the log marginal likelihood of a whole group.

    log p(X_g) >= log 1/K Σ_k [ Π_l p(c_lk) / q(c_lk | X) · Π_i w_ik ]
    w_ik        = 1/M Σ_m p(x_i | c_k, s_ikm) p(s_ikm) / q(s_ikm | x_i, c_k)

where p(c_l) is the level's population and q(c_l | X) the posterior under it; N(0, I) is it where none was fitted.

Given what a group shares its members are independent, so each has its own M samples of what is its own. Joint
samples of all latents would need a number that grows exponentially with the size of the group.

Reference: Burda, Grosse, Salakhutdinov 2016, "Importance Weighted Autoencoders", arXiv:1509.00519, eq. 8.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mlvae.batch import GroupBatch
from mlvae.errors import ModelError
from mlvae.evidence import READOUTS, Evidence
from mlvae.grouping import Grouping
from mlvae.levels import Level
from mlvae.model import MLVAE
from mlvae.normal import Normal


@torch.no_grad()
def importance_weighted_bound(
    model: MLVAE,
    batch: GroupBatch,
    *,
    content_samples: int = 64,
    style_samples: int = 16,
    generator: torch.Generator | None = None,
    chunk: int = 8,
) -> Tensor:
    """A lower bound, in expectation, on log p(X) of every connected component of the shared levels.

    Observations are connected where they share a group of some level: with one shared level a component is a group;
    with crossed levels it is all that hangs together; without a shared level it is one observation.

    Args:
        model: any number of levels.
        batch: observations as `MLVAE.prepare` gives them. The levels that its groupings name are shared, of the rest
            each observation has its own.
        content_samples: K, of the shared levels together, from their posteriors given all evidence.
        style_samples: M, of the other levels together, for each observation and each of the K.
        generator: of the noise.
        chunk: how many of the K are decoded at once: ``chunk`` times N times M observations in memory.

    Returns:
        (C,) nats, by the lowest group of the first shared level in each component.

    Raises:
        ModelError: the batch groups by what is no level, a shared level's head sees an observation's own level, or a
            number of samples is below one.

    Example:
        >>> from mlvae import Level
        >>> model = MLVAE((4,), [Level("content", 2, by="person"), Level("style", 2)], likelihood="normal")
        >>> batch = GroupBatch.of(torch.randn(5, 4), {"content": ["ann", "bob", "ann", "bob", "cy"]})
        >>> importance_weighted_bound(model, batch, content_samples=4, style_samples=2).shape
        torch.Size([3])
    """
    for name, number in {"content_samples": content_samples, "style_samples": style_samples, "chunk": chunk}.items():
        if number < 1:
            raise ModelError(f"Expected `{name}` of at least 1; got {number}.")
    for name in batch.groupings:
        model.level(name)
    for level in model.levels:
        own = [name for name in level.given if name not in batch.groupings]
        if level.name in batch.groupings and own:
            raise ModelError(
                f"Expected the shared level {level.name!r} to be given shared levels only; got {own}, which are each"
                " observation's own, so that the group's bound does not factorise. Drop them from `given`."
            )
    features = model.features(batch.x, batch.covariates)
    components = _components(model, batch)
    # Without a shared level there is nothing to draw K times.
    total = content_samples if batch.groupings else 1
    log_weights = [
        _log_weights(model, batch, features, components, min(chunk, total - start), style_samples, generator)
        for start in range(0, total, chunk)
    ]
    return torch.cat(log_weights).logsumexp(0) - math.log(total)


def _log_weights(
    model: MLVAE,
    batch: GroupBatch,
    features: Tensor,
    components: Grouping,
    k: int,
    m: int,
    generator: torch.Generator | None,
) -> Tensor:
    """The logarithm of the bracket for k samples of the shared levels, (k, C)."""
    n = len(batch)
    codes: dict[str, Tensor] = {}  # (k N, D) of the shared levels, then (k N m, D) of all
    log_weight = features.new_zeros(k, components.num_groups)
    features = features.repeat(k, 1)
    for level in model.levels:
        if level.name not in batch.groupings:
            continue
        grouping = batch.groupings[level.name]
        votes = model.votes(level.name, features, [codes[name] for name in level.given])
        sample, ratio = _drawn(model, level, votes.sum(_repeated(grouping, k)), generator)
        codes[level.name] = _repeated(grouping, k).expand(sample)
        component = components.of(grouping)
        log_weight = log_weight + component.sum(ratio.reshape(k, -1).T).T

    features = features.repeat_interleave(m, 0)
    codes = {name: code.repeat_interleave(m, 0) for name, code in codes.items()}
    own = features.new_zeros(len(features))
    for level in model.levels:
        if level.name in batch.groupings:
            continue
        votes = model.votes(level.name, features, [codes[name] for name in level.given])
        codes[level.name], ratio = _drawn(model, level, votes, generator)
        own = own + ratio
    x = batch.x.repeat_interleave(m, 0).repeat(k, *[1] * (batch.x.ndim - 1))
    known = None if batch.covariates is None else batch.covariates.repeat_interleave(m, 0).repeat(k, 1)
    own = own + model.likelihood.log_prob(x, model.decode(codes, known))
    members = own.reshape(k, n, m).logsumexp(2) - math.log(m)
    return log_weight + components.sum(members.T).T


def _drawn(model: MLVAE, level: Level, evidence: Evidence, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """A sample of each row's posterior (R, D), and log p - log q of it (R,), p being the population or N(0, I)."""
    population = None if level.by is None else model.population(level.name).mixture
    posterior = READOUTS[level.readout](evidence) if population is None else population.given(evidence)
    sample = posterior.rsample(generator)
    prior = population or Normal.standard(*sample.shape, like=sample)
    return sample, prior.log_prob(sample) - posterior.log_prob(sample)


def _repeated(grouping: Grouping, times: int) -> Grouping:
    """Copies of a grouping one after another, each with groups of its own."""
    offset = torch.arange(times, device=grouping.index.device).unsqueeze(1) * grouping.num_groups
    return Grouping((grouping.index + offset).flatten(), times * grouping.num_groups, grouping.singletons)


def _components(model: MLVAE, batch: GroupBatch) -> Grouping:
    """Observations that share a group of any level, directly or not: the lowest label spreads until none moves."""
    shared = [batch.groupings[level.name] for level in model.levels if level.name in batch.groupings]
    if not shared:
        return Grouping.each(len(batch), batch.x.device)
    labels, before = shared[0].index, shared[0].index.new_empty(0)
    while not torch.equal(labels, before):
        before = labels
        for grouping in shared:
            lowest = labels.new_full((grouping.num_groups,), len(batch))
            labels = grouping.expand(lowest.scatter_reduce(0, grouping.index, labels, "amin"))
    return Grouping.from_ids(labels)
