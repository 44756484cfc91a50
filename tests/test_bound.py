from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mlvae import MLVAE, GroupBatch, Level, elbo
from mlvae.bound import importance_weighted_bound
from mlvae.errors import ModelError
from mlvae.likelihoods import Normal as NormalLikelihood
from oracles import SCALE, group_log_marginal, linear_gaussian, log_marginal, raw

IDS = np.array([2, 0, 1, 1, 0, 1, 1])


def observations() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(len(IDS), 2)) * 1.5


def exact() -> np.ndarray:
    return np.array([group_log_marginal(observations()[g == IDS]) for g in range(3)])


def two_level_batch() -> GroupBatch:
    return GroupBatch.of(torch.from_numpy(observations()), {"content": IDS})


@pytest.mark.parametrize(("k", "m"), [(1, 1), (5, 3)])
def test_exact_posteriors_give_the_exact_marginal_likelihood_of_each_group(k: int, m: int) -> None:
    bound = importance_weighted_bound(linear_gaussian(), two_level_batch(), content_samples=k, style_samples=m)
    np.testing.assert_allclose(bound.numpy(), exact(), rtol=1e-9)


def test_converges_with_wrong_posteriors_from_below(generator: torch.Generator) -> None:
    model, batch = linear_gaussian(given=False, spoil=0.3), two_level_batch()
    few = torch.stack(
        [
            importance_weighted_bound(model, batch, content_samples=1, style_samples=1, generator=generator)
            for _ in range(400)
        ]
    )
    many = importance_weighted_bound(
        model, batch, content_samples=4000, style_samples=60, generator=generator, chunk=500
    )
    assert (few.mean(0).numpy() < exact() - 0.1).all()
    np.testing.assert_allclose(many.numpy(), exact(), atol=0.05)


def test_is_above_the_elbo(generator: torch.Generator) -> None:
    model, batch = linear_gaussian(given=False, spoil=0.3), two_level_batch()
    elbos = torch.stack([elbo(model, batch, generator=generator).elbo for _ in range(200)])
    bound = importance_weighted_bound(model, batch, content_samples=200, generator=generator)
    assert bound.mean() > elbos.mean()


def test_crossed_levels_give_one_value_a_connected_component(generator: torch.Generator) -> None:
    speaker, word = [2, 2, 1, 0, 0, 1], [0, 1, 1, 2, 2, 0]
    weights = {"speaker": np.array([0.9]), "word": np.array([-0.7]), "style": np.array([0.5])}
    levels = [Level("speaker", 1, by="s"), Level("word", 1, by="w", given=("speaker",)), Level("style", 1)]
    model = MLVAE((1,), levels, likelihood=NormalLikelihood(SCALE), encoder=nn.Linear(1, 1), decoder=nn.Linear(3, 1))
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.encoder.weight.fill_(1.0)
        model.decoder.weight.copy_(torch.tensor([[weights[level.name].item() for level in levels]]))
        for level in levels:
            model.heads[level.name].weight[0, 0] = weights[level.name].item()
            model.heads[level.name].bias[1] = raw(torch.tensor(0.4, dtype=torch.float64))
        model.heads["word"].weight[0, 1] = 0.5
    x = np.random.default_rng(2).normal(size=(6, 1))
    batch = GroupBatch.of(torch.from_numpy(x), {"speaker": speaker, "word": word})
    bound = importance_weighted_bound(
        model, batch, content_samples=6000, style_samples=50, generator=generator, chunk=1000
    )
    rows = [[3, 4], [0, 1, 2, 5]]  # by the lowest speaker: 0 alone with word 2; 1 and 2 meet in words 0 and 1
    expected = [log_marginal(x[r], {"speaker": np.array(speaker)[r], "word": np.array(word)[r]}, weights) for r in rows]
    np.testing.assert_allclose(bound.numpy(), expected, atol=0.05)


def test_chunks_change_memory_not_the_estimate() -> None:
    model, batch = linear_gaussian(given=False), two_level_batch()
    at_once, by_three = (
        importance_weighted_bound(model, batch, content_samples=800, style_samples=40, chunk=chunk)
        for chunk in (800, 3)
    )
    assert torch.allclose(at_once, by_three, atol=0.1)


def test_without_a_shared_level_every_observation_has_its_bound() -> None:
    model = MLVAE((4,), [Level("style", 2)], likelihood="normal")
    x = torch.randn(5, 4)
    bound = importance_weighted_bound(model, GroupBatch(x), style_samples=3000)
    alone = importance_weighted_bound(model, GroupBatch(x[2:3]), style_samples=3000)
    assert bound.shape == (5,)
    assert torch.allclose(bound[2:3], alone, atol=0.1)


def test_says_what_it_cannot_do() -> None:
    levels = [Level("land", 2, by="l"), Level("content", 2, by="g", given=("land",))]
    model = MLVAE((4,), levels, likelihood="normal")
    batch = GroupBatch.of(torch.randn(3, 4), {"content": [0, 0, 1]})  # without lands
    with pytest.raises(ModelError, match="'content'.*'land'"):
        importance_weighted_bound(model, batch)
    with pytest.raises(ModelError, match="`chunk`"):
        importance_weighted_bound(linear_gaussian(), two_level_batch(), chunk=0)


@pytest.mark.parametrize("cut", [None, 6])
def test_a_long_chain_of_groups_is_one_component(cut: int | None) -> None:
    levels = [Level("speaker", 1, by="s"), Level("word", 1, by="w"), Level("style", 1)]
    model = MLVAE((4,), levels, likelihood="normal", width=8)
    link = np.arange(13)
    speaker, word = (link + 1) // 2, link // 2
    if cut is not None:
        speaker[cut:] += 100
        word[cut:] += 100
    batch = GroupBatch.of(torch.randn(13, 4), {"speaker": speaker, "word": word})
    bound = importance_weighted_bound(model, batch, content_samples=2, style_samples=2)
    assert bound.shape == (1 if cut is None else 2,)
