"""Three levels, nested and crossed: the exact linear-Gaussian answers, and what inference does with levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlvae import MLVAE, GroupBatch, Grouping, Level, elbo
from mlvae.bound import importance_weighted_bound
from mlvae.errors import DataError
from mlvae.temperature import temper
from oracles import SCALE, WEIGHTS, joint_posterior, log_marginal, three_levels

DESIGNS = {
    "nested": {"country": [0, 0, 0, 0, 1, 1, 1, 0, 0], "person": [0, 0, 1, 1, 2, 2, 2, 3, 3]},
    "crossed": {"country": [0, 0, 0, 1, 1, 1, 2, 2], "person": [0, 1, 2, 0, 1, 2, 0, 1]},
    "missing cells, uneven": {"country": [0, 0, 0, 0, 0, 1, 2, 2], "person": [0, 0, 0, 1, 2, 2, 1, 3]},
}


def sampled(shared: dict[str, list[int]], seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Observations of the model itself, and the codes that made them."""
    random = np.random.default_rng(seed)
    n = len(shared["country"])
    codes = {name: random.normal(size=(max(ids) + 1, 2)) for name, ids in shared.items()}
    x = sum(WEIGHTS[name] * codes[name][np.asarray(ids)] for name, ids in shared.items())
    return x + WEIGHTS["style"] * random.normal(size=(n, 2)) + SCALE * random.normal(size=(n, 2)), codes


@pytest.mark.parametrize("design", DESIGNS)
def test_the_weighted_bound_converges_to_the_marginal_likelihood_from_below(
    design: str, generator: torch.Generator
) -> None:
    shared = DESIGNS[design]
    x, _ = sampled(shared)
    exact = log_marginal(x, shared, WEIGHTS)
    batch = GroupBatch.of(torch.from_numpy(x), shared)
    bound = importance_weighted_bound(
        three_levels(), batch, content_samples=8000, style_samples=10, generator=generator, chunk=2000
    ).sum()
    below = torch.stack([elbo(three_levels(), batch, generator=generator).elbo * batch.grouping("country").num_groups
                         for _ in range(300)])  # fmt: skip
    assert below.mean() + 5 * below.std() / 300**0.5 < exact
    assert below.mean() < bound
    assert abs(bound - exact) < 0.25


@pytest.mark.parametrize("level", ["country", "person"])
def test_one_observation_has_the_exact_posterior_on_every_level(level: str) -> None:
    x = np.array([[1.3, -0.4]])
    mean, variance = joint_posterior(x, {"country": [0], "person": [0]}, WEIGHTS, level)
    posterior = three_levels().evidence(x).posterior(level)
    np.testing.assert_allclose(posterior.mean.numpy(), mean, rtol=1e-9)
    np.testing.assert_allclose(posterior.variance.numpy(), variance, rtol=1e-9)


def calibration(shared: dict[str, list[int]], level: str, tempered: bool) -> tuple[float, float]:
    """Squared error over promised variance, and over the exact posterior's, over many draws of the same design."""
    model = three_levels()
    promised, exact = [], []
    for seed in range(200):
        x, codes = sampled(shared, seed)
        grouping = Grouping.from_ids(shared[level])
        if tempered and seed == 0:
            others = [sampled(shared, 10_000 + s)[0] for s in range(20)]
            apart = {name: np.concatenate([np.asarray(ids) + 1000 * s for s in range(20)])
                     for name, ids in shared.items()}  # fmt: skip
            temper(model, np.concatenate(others), apart)
        votes = model.votes(level, torch.from_numpy(x))
        summed = votes.sum(grouping)
        mean, precision = summed.information / (1 + summed.precision), 1 + summed.precision
        promised.append(((mean.detach().numpy() - codes[level]) ** 2 * precision.detach().numpy()).mean())
        mean, variance = joint_posterior(x, shared, WEIGHTS, level)
        exact.append(((mean - codes[level]) ** 2 / variance).mean())
    return float(np.mean(promised)), float(np.mean(exact))


def test_a_coarse_level_is_over_confident_and_a_temperature_mends_a_part() -> None:
    person = np.repeat(np.arange(12), 20)  # 20 observations of a person, 4 people in each of 3 countries
    shared = {"country": (person // 4).tolist(), "person": person.tolist()}
    plain, exact = calibration(shared, "country", tempered=False)
    mended, _ = calibration(shared, "country", tempered=True)
    assert exact == pytest.approx(1, abs=0.15)
    assert plain > 5
    assert mended == pytest.approx(1, abs=0.3)  # for people of the size that it was fitted on
    # ... and not for others: with one observation a person it is too careful.
    few, _ = calibration({"country": [0, 0, 0, 0, 1, 1, 1, 1], "person": [0, 1, 2, 3, 4, 5, 6, 7]}, "country", False)
    assert few < plain / 4


@pytest.fixture
def model() -> MLVAE:
    torch.manual_seed(1)
    levels = [Level("speaker", 3, by="speaker"), Level("word", 2, by="word"), Level("style", 2)]
    return MLVAE((6,), levels, width=16).double()


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("taken", [[], ["speaker"], ["word"], ["style"], ["speaker", "word"], ["word", "style"]])
def test_any_subset_of_levels_is_swapped(model: MLVAE, taken: list[str]) -> None:
    a, b = pictures(3), pictures(3, seed=1)
    codes = {
        name: (model.codes(a) if name in taken else model.codes(b))[name].mean for name in ("speaker", "word", "style")
    }
    assert torch.allclose(model.swap(a, b, levels=taken), model.pictures(codes))


def test_one_level_is_walked_along_and_others_stay(model: MLVAE) -> None:
    a, b = pictures(3), pictures(3, seed=1)
    path = model.interpolate(a, b, steps=5, levels=["word"])
    assert torch.allclose(path[:, 0], model.reconstruct(a))
    assert torch.allclose(path[:, -1], model.swap(b, a, levels=["word"]))


def test_generation_with_any_levels_fixed(model: MLVAE) -> None:
    word = torch.tensor([0.5, -1.0])
    free = model.generate(4, seed=2)
    fixed = model.generate(4, seed=2, word=word)
    both = model.generate(4, seed=2, word=word, speaker=torch.zeros(3))
    assert not torch.allclose(free, fixed) and not torch.allclose(fixed, both)
    style = torch.zeros(2)
    same = model.generate(2, seed=2, word=word, speaker=torch.zeros(3), style=style)
    assert torch.allclose(same[0], same[1])


def test_an_unseen_group_of_one_level_beside_known_ones_of_another(model: MLVAE) -> None:
    x = pictures(8)
    seen = model.evidence(x[:5], {"speaker": ["ann", "ann", "bo", "bo", "bo"], "word": [0, 1, 0, 1, 1]})
    new = model.evidence(x[5:], {"speaker": ["cy"] * 3, "word": [0, 1, 2]})
    both = seen + new
    assert both.groups["speaker"].tolist() == ["ann", "bo", "cy"] and both.count("word").tolist() == [3, 4, 1]
    whole = model.evidence(x, {"speaker": ["ann", "ann", "bo", "bo", "bo", "cy", "cy", "cy"],
                               "word": [0, 1, 0, 1, 1, 0, 1, 2]})  # fmt: skip
    for name in ("speaker", "word"):
        assert torch.allclose(both.posterior(name).mean, whole.posterior(name).mean, atol=1e-9)
    assert new.identify(seen, "speaker", new=0.5).shape == (1, 3) and new.identify(seen, "word").shape == (3, 3)
    assert torch.allclose((both - new).posterior("speaker").mean[:2], seen.posterior("speaker").mean)
    with pytest.raises(DataError, match=r"\['word'\] are missing"):
        model.evidence(x, {"speaker": [0] * 8})
