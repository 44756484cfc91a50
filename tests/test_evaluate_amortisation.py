from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mlvae import MLVAE, Level
from mlvae.errors import DataError, ModelError
from mlvae.evaluate.amortisation import amortisation_gap
from mlvae.evidence import READOUTS
from mlvae.grouping import Grouping
from oracles import SCALE, WC, WS, linear_gaussian, raw

SIZES = [1, 2, 4, 7] * 5


def data() -> tuple[torch.Tensor, np.ndarray]:
    """Twenty groups of one to seven members, from the model itself."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(len(SIZES)), SIZES)
    content, n = random.normal(size=(len(SIZES), 2)), len(groups)
    style, noise = random.normal(size=(2, n, 2))
    return torch.from_numpy(WC * content[groups] + WS * style + SCALE * noise), groups


def divergence(model: MLVAE, x: torch.Tensor, groups: np.ndarray) -> float:
    """KL(q || p(c | X)) per group: all that the bound loses where style given content is exact."""
    exact, grouping = linear_gaussian(), Grouping.from_ids(groups)
    with torch.no_grad():
        q, p = (READOUTS["product_with_prior"](m.votes("content", m.encoder(x)).sum(grouping)) for m in (model, exact))
    ratio = p.precision / q.precision
    return 0.5 * (ratio - 1 - ratio.log() + p.precision * (q.mean - p.mean) ** 2).sum(1).mean().item()


def spoiled(precision: float, mean: float = 0.0) -> MLVAE:
    """Content votes whose precision is a multiple of the right one, and whose mean is off."""
    model = linear_gaussian()
    with torch.no_grad():
        model.heads["content"].bias[2:] = raw(precision * torch.from_numpy(WC**2 / (WS**2 + SCALE**2)))
        model.heads["content"].bias[:2] += mean
    return model


def test_an_exact_posterior_has_no_gap():
    result = amortisation_gap(linear_gaussian(), *data(), samples=64)
    assert result.gap == pytest.approx(0, abs=0.05)
    assert (result.groups, result.observations) == (20, sum(SIZES))


@pytest.mark.parametrize(("precision", "mean"), [(8, 0), (0.1, 0), (1, 1.5)])
def test_a_wrong_posterior_has_the_gap_that_theory_says(precision, mean):
    model, (x, groups) = spoiled(precision, mean), data()
    expected = divergence(model, x, groups)
    assert expected > 0.4
    result = amortisation_gap(model, x, groups, samples=256)
    assert result.gap == pytest.approx(expected, rel=0.08)
    assert result.gap_per_observation == pytest.approx(result.gap * 20 / sum(SIZES))


def test_content_too_narrow_for_a_style_that_does_not_see_it():
    """Mean-field style makes the best content narrower than the truth; the exact votes are then not the best ones."""
    assert amortisation_gap(linear_gaussian(given=False), *data(), samples=64).gap > 0.1


def test_groups_and_members_are_capped():
    x, groups = data()
    result = amortisation_gap(linear_gaussian(), x, groups, groups=6, members=1, steps=1, samples=1)
    assert (result.groups, result.observations) == (6, 6)
    result = amortisation_gap(linear_gaussian(), x, groups, members=4, steps=1, samples=1)
    assert (result.groups, result.observations) == (20, 5 * (1 + 2 + 4 + 4))


def test_the_seed_is_all_that_chance_decides_and_the_model_is_left_as_it_was():
    model, (x, groups) = spoiled(8).train(), data()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def gap(seed: int) -> float:
        return amortisation_gap(model, x, groups, groups=10, steps=5, samples=2, seed=seed).gap

    with torch.no_grad():  # as a protocol may call it
        first = gap(1)
    torch.manual_seed(99)
    assert gap(1) == first != gap(2)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("readout", sorted(READOUTS))
def test_untrained_networks_have_a_gap_under_every_readout(readout, generator):
    levels = [Level("content", 2, by="g", readout=readout), Level("word", 2, by="w"), Level("style", 2)]
    model = MLVAE((6,), levels, width=16)
    x = torch.rand(40, 6, generator=generator).round()
    result = amortisation_gap(model, x, np.arange(40) % 5, steps=60)
    assert math.isfinite(result.gap) and result.gap > 0
    assert result.seconds > result.amortised_seconds > 0


def test_refusals_say_what_to_do():
    x, groups = data()
    with pytest.raises(ModelError, match="plain VAE"):
        amortisation_gap(MLVAE((2,), [Level("style", 2)], likelihood="normal"), x, groups)
    with pytest.raises(DataError, match="one label for each"):
        amortisation_gap(linear_gaussian(), x, groups[:-1])
    with pytest.raises(DataError, match="`steps` of at least 1"):
        amortisation_gap(linear_gaussian(), x, groups, steps=0)
