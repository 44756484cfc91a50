"""Slow and obvious versions of what the library computes at once, and a model whose answers are known exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.polynomial import hermite_e
from scipy import special
from scipy.stats import multivariate_normal
from torch import Tensor, nn

from mlvae import MLVAE, GroupBatch, Level
from mlvae.likelihoods import Normal as NormalLikelihood
from mlvae.model import LOG_PRECISION_BOUND
from mlvae.penalties.leaking import RIDGE

SCALE = 0.6
WC = np.array([1.5, -0.8])
WS = np.array([0.7, 1.2])


def members(batch: GroupBatch, level: str) -> list[list[int]]:
    """The rows of each group of a level, as lists."""
    index = batch.grouping(level).index.tolist()
    return [[i for i, g in enumerate(index) if g == group] for group in range(max(index) + 1)]


def witness(model: MLVAE, batch: GroupBatch, level: str, i: int) -> list[int]:
    """The rows that speak for a level's group as one with row i: those there of one id in the coarsest nested level."""
    own = members(batch, level)
    nested = [
        (len(groups), name)
        for name in batch.groupings
        if len(groups := members(batch, name)) > len(own) and all(any(set(g) <= set(o) for o in own) for g in groups)
    ]
    if not nested:
        return [i]
    ids = batch.ids[min(nested)[1]].tolist()
    return [j for j in next(group for group in own if i in group) if ids[j] == ids[i]]


def readout(precisions: Sequence[Tensor], informations: Sequence[Tensor], how: str) -> tuple[Tensor, Tensor]:
    """Mean and precision of one group's posterior from its votes, one after another."""
    total_precision, total_information = torch.zeros_like(precisions[0]), torch.zeros_like(precisions[0])
    for precision, information in zip(precisions, informations, strict=True):
        total_precision, total_information = total_precision + precision, total_information + information
    if how == "product_with_prior":
        return total_information / (1 + total_precision), 1 + total_precision
    if how == "product":
        return total_information / total_precision, total_precision
    return total_information / total_precision, total_precision / len(precisions)


def head(model: MLVAE, level: Level, features: Tensor, given: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """One observation's vote: mean and precision. Where none shares the level, the head says its posterior's mean."""
    raw = model.heads[level.name](torch.cat([features, *given]))
    mean, bounded = raw[: level.dim], 9.210340371976184 * torch.tanh(raw[level.dim :] / 9.210340371976184)
    precision = torch.exp(bounded)
    own = level.by is None and level.readout == "product_with_prior"
    return mean * (1 + 1 / precision) if own else mean, precision


def slow_latents(
    model: MLVAE, batch: GroupBatch, evidence: str = "all", noise: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Codes (N, D) and KLs (G,), by a loop over groups and their members.

    Args:
        noise: for each level, (G, D) where a group shares its sample, else (N, D); None takes the posterior means.
    """
    features = [model.encoder(x[None])[0] for x in batch.x]
    codes: dict[str, Tensor] = {}
    kls: dict[str, Tensor] = {}
    for level in model.levels:
        code: list[Tensor] = [torch.empty(0)] * len(batch)
        kl = []
        for group, rows in enumerate(members(batch, level.name)):
            precisions, informations = [], []
            for i in rows:
                mean, precision = head(model, level, features[i], [codes[name][i] for name in level.given])
                precisions.append(precision)
                informations.append(precision * mean)
            whole = readout(precisions, informations, level.readout)
            kl.append(sum(0.5 * (m**2 + 1 / p - 1 + torch.log(p)) for m, p in zip(*whole, strict=True)))
            for i in rows:
                mean, precision = whole
                if evidence == "held_out" and len(rows) > 1:
                    own = witness(model, batch, level.name, i)
                    rest = [j for j in range(len(rows)) if rows[j] not in own]
                    rest = rest or list(range(len(rows)))
                    mean, precision = readout(
                        [precisions[j] for j in rest], [informations[j] for j in rest], level.readout
                    )
                code[i] = mean
                if noise is not None:
                    row = i if len(noise[level.name]) == len(batch) else group
                    code[i] = mean + noise[level.name][row] / torch.sqrt(precision)
        codes[level.name], kls[level.name] = torch.stack(code), torch.stack(kl)
    return codes, kls


def slow_log_likelihood(model: MLVAE, x: Tensor, codes: Mapping[str, Tensor]) -> list[Tensor]:
    """log p(x_i | z) under the Bernoulli likelihood, one observation at a time."""
    nats = []
    for i in range(len(x)):
        output = model.decoder(torch.cat([codes[level.name][i] for level in model.levels])[None])[0]
        p = torch.sigmoid(output)
        nats.append((x[i] * torch.log(p) + (1 - x[i]) * torch.log(1 - p)).sum())
    return nats


def log_z(precision: np.ndarray, information: np.ndarray) -> float:
    """log of ∫ N(z; 0, 1) exp(ηz - ½Λz²) dz, summed over dimensions."""
    total = 0.0
    for lam, eta in zip(precision, information, strict=True):
        total += 0.5 * (eta * eta / (1 + lam) - math.log(1 + lam))
    return total


def slow_misidentification(precision: np.ndarray, information: np.ndarray, index: Sequence[int], ids: Sequence[int]):
    """The identification term, one observation and one group at a time."""
    nats = []
    groups = sorted(set(index))
    for i in range(len(index)):
        if list(index).count(index[i]) == 1:
            continue
        scores, right = [], []
        for g in groups:
            rows = [j for j in range(len(index)) if index[j] == g and j != i]
            before = log_z(precision[rows].sum(0), information[rows].sum(0))
            rows = [*rows, i]
            scores.append(log_z(precision[rows].sum(0), information[rows].sum(0)) - before)
            if ids[i] == ids[list(index).index(g)]:
                right.append(scores[-1])
        nats.append(np.logaddexp.reduce(scores) - np.logaddexp.reduce(right))
    return float(np.mean(nats))


def slow_leakage(means: np.ndarray, own: Sequence[int], other: Sequence[int]) -> float:
    """Normal information about the other grouping in codes less their own group's mean, less what chance gives."""
    rows = [i for i in range(len(own)) if list(own).count(own[i]) > 1]
    mean = lambda values, ids, i: np.mean([values[j] for j in rows if ids[j] == ids[i]], 0)  # noqa: E731
    rest = {i: means[i] - mean(means, own, i) for i in rows}
    columns = [[own[i] == g for i in rows] for g in {own[i] for i in rows}]
    columns += [[other[i] == g for i in rows] for g in {other[i] for i in rows}]
    both = np.array(columns, float).T
    fitted = both @ np.linalg.lstsq(both, means[rows], rcond=None)[0]
    left = {i: means[i] - fitted[place] for place, i in enumerate(rows)}
    freedom = len(rows) - len({own[i] for i in rows})
    spare = len(rows) - np.linalg.matrix_rank(both)
    dim = means.shape[1]
    ridge = RIDGE * np.diag(sum(r**2 for r in rest.values()) / freedom)
    before, after = (
        np.linalg.slogdet(sum(np.outer(r, r) for r in part.values()) / freedom + ridge)[1] for part in (rest, left)
    )
    chance = sum(special.digamma((freedom - d) / 2) - special.digamma((spare - d) / 2) for d in range(dim))
    return float(before - after - chance) / 2


def slow_dependence(mean: np.ndarray, precision: np.ndarray, ids: Sequence[int], moments: int) -> float:
    """Half the squared Hermite moments to that degree, by quadrature over posteriors, pair by pair, over all pairs."""
    node, weight = hermite_e.hermegauss(20)
    draws = mean[..., None] + node / np.sqrt(precision)[..., None]  # (N, D, nodes)
    expected = [
        hermite_e.hermeval(draws, np.eye(moments + 1)[degree]) @ weight / weight.sum() for degree in range(moments + 1)
    ]
    pairs = [(i, j) for i in range(len(ids)) for j in range(len(ids)) if i != j and ids[i] == ids[j]]
    total = 0.0
    for alpha in itertools.product(range(moments + 1), repeat=mean.shape[1]):
        if 1 <= sum(alpha) <= moments:
            values = np.prod([expected[degree][:, d] for d, degree in enumerate(alpha)], 0)
            size = math.prod(math.factorial(degree) for degree in alpha)
            total += sum(values[i] * values[j] for i, j in pairs) / (2 * size)
    return total / len(ids) / (len(ids) - 1)


def linear_gaussian(given: bool = True, spoil: float = 0.0) -> MLVAE:
    """x_d = WC_d c_d + WS_d s_d + noise, with heads whose posteriors are exact where style is given content.

    Args:
        given: the style head sees the content's sample; without it the style head takes content as zero.
        spoil: added to the heads' biases, so that the posteriors are wrong.
    """
    levels = [Level("content", 2, by="g"), Level("style", 2, given=("content",) if given else ())]
    model = MLVAE(
        (2,), levels, likelihood=NormalLikelihood(SCALE), encoder=nn.Linear(2, 2), decoder=nn.Linear(4, 2)
    ).double()
    wc, ws = torch.from_numpy(WC), torch.from_numpy(WS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.encoder.weight.copy_(torch.eye(2))
        model.decoder.weight.copy_(torch.cat([torch.diag(wc), torch.diag(ws)], 1))
        # p(x | c) with style integrated out has variance ws² + scale²; p(x | c, s) has scale².
        model.heads["content"].weight[:2] = torch.diag(1 / wc)
        model.heads["content"].bias[2:] = raw(wc**2 / (ws**2 + SCALE**2))
        style, kept = model.heads["style"], ws**2 / (ws**2 + SCALE**2)  # of its vote's mean in its posterior's
        style.weight[:2, :2] = torch.diag(kept / ws)
        if given:
            style.weight[:2, 2:] = torch.diag(-kept * wc / ws)
        style.bias[2:] = raw(ws**2 / SCALE**2)
        for each in model.heads.values():
            each.bias += spoil
    return model


def raw(precision: Tensor) -> Tensor:
    """What a head must put out for a vote of this precision."""
    return LOG_PRECISION_BOUND * torch.atanh(torch.log(precision) / LOG_PRECISION_BOUND)


def log_marginal(x: np.ndarray, shared: Mapping[str, Sequence[int]], weights: Mapping[str, np.ndarray]) -> float:
    """log p(X) of all rows at once: x_id = Σ_l weights_l,d z_l,g(i),d + noise, every z standard normal.

    Args:
        x: (N, D).
        shared: for each shared level, the group of each row.
        weights: for every level (D,); those not in ``shared`` are each row's own.
    """
    total = 0.0
    for d in range(x.shape[1]):
        covariance = SCALE**2 * np.eye(len(x))
        for name, weight in weights.items():
            ids = np.asarray(shared.get(name, range(len(x))))
            covariance += weight[d] ** 2 * (ids[:, None] == ids[None])
        total += multivariate_normal(np.zeros(len(x)), covariance).logpdf(x[:, d])
    return float(total)


def group_log_marginal(x: np.ndarray) -> float:
    """log p of one whole group under `linear_gaussian`."""
    return log_marginal(x, {"content": [0] * len(x)}, {"content": WC, "style": WS})


WEIGHTS = {"country": np.array([1.1, -0.6]), "person": np.array([0.9, 1.3]), "style": np.array([0.7, -0.5])}
"""Of the three-level model, nested or crossed: x_d = Σ_l WEIGHTS[l]_d z_l,g(i),d + noise."""


def three_levels(spoil: float = 0.0) -> MLVAE:
    """Heads whose vote is the exact factor of an observation on each level, all other levels integrated out.

    Such a vote is right for one observation alone. Sums of them are mean field: they count what members share of the
    other levels once a member.
    """
    levels = [Level("country", 2, by="country"), Level("person", 2, by="person"), Level("style", 2)]
    model = MLVAE(
        (2,), levels, likelihood=NormalLikelihood(SCALE), encoder=nn.Linear(2, 2), decoder=nn.Linear(6, 2)
    ).double()
    weights = {name: torch.from_numpy(weight) for name, weight in WEIGHTS.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.encoder.weight.copy_(torch.eye(2))
        model.decoder.weight.copy_(torch.cat([torch.diag(weights[level.name]) for level in levels], 1))
        for level in levels:
            w = weights[level.name]
            rest = SCALE**2 + sum(v**2 for name, v in weights.items() if name != level.name)
            head = model.heads[level.name]
            kept = w**2 / (w**2 + rest) if level.by is None else 1  # an own level's head says its posterior's mean
            head.weight[:2] = torch.diag(kept / w)
            head.bias[2:] = raw(w**2 / rest) + spoil
    return model


def joint_posterior(
    x: np.ndarray, shared: Mapping[str, Sequence[int]], weights: Mapping[str, np.ndarray], level: str
) -> tuple[np.ndarray, np.ndarray]:
    """Exact posterior mean and variance (G, D) of every group of a level, from all rows at once.

    Args:
        x: (N, D).
        shared: for each shared level, the group of each row, dense.
        weights: for every level (D,); those not in ``shared`` are each row's own.
        level: a shared one.
    """
    ids = np.asarray(shared[level])
    groups = ids.max() + 1
    means, variances = np.empty((groups, x.shape[1])), np.empty((groups, x.shape[1]))
    for d in range(x.shape[1]):
        covariance = SCALE**2 * np.eye(len(x))
        for name, weight in weights.items():
            rows = np.asarray(shared.get(name, range(len(x))))
            covariance += weight[d] ** 2 * (rows[:, None] == rows[None])
        cross = weights[level][d] * (np.arange(groups)[:, None] == ids[None])
        gain = np.linalg.solve(covariance, cross.T).T
        means[:, d] = gain @ x[:, d]
        variances[:, d] = 1 - (gain * cross).sum(1)
    return means, variances
