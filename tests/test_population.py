from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import mlvae
from mlvae import MLVAE, Evidence, GroupBatch, Level, draw
from mlvae.bound import importance_weighted_bound
from mlvae.checkpoint import fingerprint
from mlvae.errors import CheckpointError
from mlvae.evidence import product_with_prior
from mlvae.normal import Normal
from mlvae.population import Mixture, Population, fitted
from mlvae.temperature import populate, temper, uncalibrate
from oracles import WC, WS, linear_gaussian, log_marginal

LEVELS = [Level("content", 2, by="group"), Level("style", 2)]


def mixture(seed: int = 0, parts: int = 3, dim: int = 2) -> Mixture:
    random = np.random.default_rng(seed)
    mean, precision = random.normal(size=(parts, dim)) * 2, random.uniform(0.5, 9, (parts, dim))
    return Mixture(
        torch.from_numpy(random.dirichlet(np.ones(parts))), Normal(*map(torch.from_numpy, (mean, precision)))
    )


def votes(seed: int = 1, groups: int = 5, dim: int = 2) -> Evidence:
    random = np.random.default_rng(seed)
    mean, precision = random.normal(size=(groups, dim)) * 2, random.uniform(0, 20, (groups, dim))
    return Evidence.votes(*map(torch.from_numpy, (mean, precision)))


def on_a_grid(of: Mixture, evidence: Evidence, group: int) -> tuple[Tensor, Tensor, float]:
    """The values z of a fine grid, what they weigh given the evidence, and log Z, by adding up."""
    line = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    factor = (evidence.information[group] * z - 0.5 * evidence.precision[group] * z**2).sum(1)
    log = of.log_prob(z) + factor
    return z, log.softmax(0), (log.logsumexp(0) + 2 * (line[1] - line[0]).log()).item()


def test_evidence_and_posteriors_are_those_of_the_integral() -> None:
    of, evidence = mixture(), votes()
    given = of.given(evidence)
    means = (given.weight.unsqueeze(-1) * given.parts.mean).sum(1)
    for group in range(len(evidence)):
        z, weight, log_z = on_a_grid(of, evidence, group)
        assert of.log_evidence(evidence)[group].item() == pytest.approx(log_z, abs=1e-6)
        torch.testing.assert_close(means[group], weight @ z, atol=1e-6, rtol=0)
        one = Mixture(given.weight[group], given.parts[group])
        assert (one.log_prob(z[::1009]) - of.log_prob(z[::1009])).var() > 0.1, "evidence moves it"
        torch.testing.assert_close(one.log_prob(z).exp() * 0.02**2, weight, atol=1e-9, rtol=0)


def test_of_one_standard_part_it_is_the_prior() -> None:
    one = Mixture(torch.ones(1).double(), Normal.standard(1, 2, like=torch.zeros(1).double()))
    evidence = votes()
    torch.testing.assert_close(one.log_evidence(evidence), evidence.log_evidence())
    torch.testing.assert_close(one.given(evidence).parts.mean[:, 0], product_with_prior(evidence).mean)
    torch.testing.assert_close(one.given(evidence).parts.precision[:, 0], product_with_prior(evidence).precision)


def test_draws_have_its_density(generator: torch.Generator) -> None:
    of = mixture()
    drawn = of.expand(200_000).rsample(generator)
    weights = of.weight.unsqueeze(1)
    mean = (weights * of.parts.mean).sum(0)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.02, rtol=0)
    variance = (weights * (of.parts.variance + (of.parts.mean - mean) ** 2)).sum(0)
    torch.testing.assert_close(drawn.var(0), variance, rtol=0.02, atol=0)
    assert of.log_prob(drawn).mean() > of.log_prob(drawn + 0.5).mean()


def placed(groups: int, members: int, seed: int) -> tuple[Evidence, Tensor]:
    """Groups at three places, of width .3, and noisy votes on them."""
    random = torch.Generator().manual_seed(seed)
    places = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, -2.0]])
    where = torch.randint(3, (groups,), generator=random)
    centre = places[where] + 0.3 * torch.randn(groups, 2, generator=random)
    precision = torch.full((groups, 2), 2.0 * members)
    return Evidence.votes(centre + torch.randn(groups, 2, generator=random) / precision.sqrt(), precision), places


def test_places_and_widths_are_found_beneath_the_noise_of_votes() -> None:
    evidence, places = placed(3000, 8, seed=0)
    found = fitted(evidence, placed(500, 8, seed=1)[0])
    assert found is not None and len(found.weight) == 4
    assert found.weight[-1] == pytest.approx(1 / 3001)
    order = torch.cdist(places.double(), found.parts.mean[:-1]).argmin(1)
    torch.testing.assert_close(found.parts.mean[order], places.double(), atol=0.08, rtol=0)
    deviation = found.parts.variance[order].sqrt()
    torch.testing.assert_close(deviation, torch.full_like(deviation, 0.3), atol=0.05, rtol=0)
    again = fitted(evidence, placed(500, 8, seed=1)[0])
    assert again is not None and torch.equal(again.parts.mean, found.parts.mean)


def test_where_groups_are_as_the_prior_has_them_there_is_none(generator: torch.Generator) -> None:
    votes = Evidence.votes(torch.randn(600, 3, generator=generator), torch.full((600, 3), 50.0))
    assert fitted(votes[:400], votes[400:]) is None


@pytest.mark.filterwarnings("error")
def test_one_group_that_was_kept_out_is_too_few_to_choose_by() -> None:
    evidence = placed(300, 8, seed=0)[0]
    assert fitted(evidence, evidence[:1]) is None and fitted(evidence[:1], evidence) is not None


def test_a_group_like_none_that_was_seen_costs_at_most_the_logarithm_of_their_number() -> None:
    found = fitted(placed(30, 50, seed=0)[0], placed(30, 50, seed=1)[0])
    assert found is not None
    far = Evidence.votes(torch.tensor([[3.0, -3.0]]).double(), torch.full((1, 2), 100.0).double())
    assert found.log_evidence(far) > far.log_evidence() - np.log(31) - 1e-9


@pytest.mark.parametrize(("k", "m"), [(1, 1), (6, 2)])
def test_under_it_exact_posteriors_give_the_exact_marginal_likelihood(k: int, m: int) -> None:
    x, ids = np.random.default_rng(1).normal(size=(7, 2)) * 1.5, np.array([2, 0, 1, 1, 0, 1, 1])
    model, of = linear_gaussian(), mixture(parts=1)
    model.population("content").take(of)
    bound = importance_weighted_bound(
        model, GroupBatch.of(torch.from_numpy(x), {"content": ids}), content_samples=k, style_samples=m
    )
    mean, deviation = of.parts.mean[0].numpy(), of.parts.variance[0].sqrt().numpy()
    exact = [
        log_marginal(
            x[ids == g] - WC * mean, {"content": [0] * (ids == g).sum()}, {"content": WC * deviation, "style": WS}
        )
        for g in range(3)
    ]
    np.testing.assert_allclose(bound.numpy(), exact, rtol=1e-9)


def test_the_bound_of_several_parts_is_of_their_mixture(generator: torch.Generator) -> None:
    x, ids = np.random.default_rng(1).normal(size=(5, 2)) * 1.5, np.array([0, 1, 0, 0, 1])
    of = mixture()

    def bound(population: Mixture) -> Tensor:
        model = linear_gaussian()
        model.population("content").take(population)
        batch = GroupBatch.of(torch.from_numpy(x), {"content": ids})
        return importance_weighted_bound(model, batch, content_samples=3, style_samples=2, generator=generator)

    each = torch.stack([bound(Mixture(torch.ones(1).double(), of.parts[k : k + 1])) for k in range(3)])
    torch.testing.assert_close(bound(of), (of.weight.log().unsqueeze(1) + each).logsumexp(0), rtol=1e-9, atol=0)


def test_generated_groups_are_of_it_and_a_code_that_is_given_stays() -> None:
    torch.manual_seed(0)
    model = MLVAE((4,), LEVELS)
    before = model.generate(3, seed=1)
    far = Mixture(torch.ones(1), Normal(torch.full((1, 2), 7.0), torch.full((1, 2), 1e8)))
    model.population("content").take(far)
    style = torch.zeros(2)
    there = model.generate(3, content=torch.full((2,), 7.0), style=style)
    torch.testing.assert_close(model.generate(3, seed=1, style=style), there, atol=1e-3, rtol=0)
    assert not torch.allclose(model.generate(3, seed=1), before)
    model.population("content").take(None)
    assert torch.equal(model.generate(3, seed=1), before)


def test_new_groups_that_are_shown_are_of_it() -> None:
    torch.manual_seed(0)
    model = MLVAE((4, 4), LEVELS).eval()
    pictures = mlvae.GroupedData.from_arrays(torch.rand(12, 4, 4), np.arange(12) % 4)
    here = Mixture(torch.ones(1), Normal(torch.full((1, 2), 3.0), torch.full((1, 2), 1e10)))
    model.population("content").take(here)
    shown = draw.generate(model, pictures, count=2)
    for row in (3, 4, 5):
        torch.testing.assert_close(
            shown[row], model.generate(2, seed=row, content=torch.full((2,), 3.0)), atol=1e-3, rtol=0
        )


def test_it_is_saved_and_models_without_one_are_what_they_were(tmp_path: Path) -> None:
    model = MLVAE((4,), LEVELS)
    assert not any("population" in name for name in model.state_dict())
    without = fingerprint(model)
    found = mixture(parts=4)
    model.population("content").take(found)
    model.float()
    assert fingerprint(model) == without, "its votes add to those of before"
    again = mlvae.load(model_file := mlvae.save(model, tmp_path))
    kept = again.population("content").mixture
    assert kept is not None
    torch.testing.assert_close(kept.weight, found.weight.float())
    torch.testing.assert_close(kept.parts.mean, found.parts.mean.float())
    assert torch.equal(again.generate(5, seed=0), model.eval().generate(5, seed=0))

    uncalibrate(model)
    model.load_state_dict(again.state_dict())
    assert torch.equal(model.generate(5, seed=0), again.generate(5, seed=0))
    again.load_state_dict(MLVAE((4,), LEVELS).state_dict())
    assert again.population("content").mixture is None

    wider = MLVAE((4,), LEVELS).double()
    wider.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    doubled = wider.population("content").mixture
    assert doubled is not None and doubled.weight.dtype == torch.float64
    wider.load_state_dict(wider.decoder.state_dict(prefix="decoder."), strict=False)
    assert wider.population("content").mixture is not None, "nothing was said of the level"

    model.populations["content"].weight = torch.ones(2) / 2
    mlvae.save(model, model_file)
    with pytest.raises(CheckpointError, match=r"populations\.content"):
        mlvae.load(model_file)


def test_training_ends_with_one_that_new_groups_are_drawn_from(tmp_path: Path) -> None:
    data = mlvae.read("digits")
    train, valid = data.split(by="observation", test=0.2, seed=0)
    model = MLVAE.for_data(train, content_dim=4, style_dim=4)
    mlvae.fit(model, train, tmp_path, valid=valid, epochs=4, progress=False)
    kept = model.population("content").mixture
    assert kept is not None and len(kept.weight) == 11, "ten digits are ten places, and one of none"
    again = mlvae.load(tmp_path)
    assert torch.equal(again.generate(3, seed=0), model.generate(3, seed=0))
    drawn = model.population("content").draw(500, torch.Generator().manual_seed(0))
    evidence = model.evidence(train.x, train.groups).posterior("content").mean
    assert torch.cdist(drawn.double(), evidence).amin(1).median() < 1

    temper(model, valid.x, valid.groups)
    assert model.population("content").mixture is None, "it lay in other coordinates"
    populate(model, train, valid)
    fresh = model.population("content").mixture
    assert fresh is not None
    torch.testing.assert_close(fresh.parts.mean, kept.parts.mean)


def test_a_readout_without_the_prior_has_none() -> None:
    data = mlvae.read("digits")
    train, valid = data.split(by="observation", test=0.2, seed=0)
    model = MLVAE.for_data(train, content_dim=4, readout="product")
    populate(model, train, valid)
    assert model.population("content").mixture is None


def test_it_stays_on_the_models_type(generator: torch.Generator) -> None:
    population = Population(2)
    population.take(mixture())
    assert population.float().draw(3, generator).dtype == torch.float32


def test_an_observation_that_is_a_group_of_its_own_need_not_be_said_to_be(generator: torch.Generator) -> None:
    x, model = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 2)) * 1.5), linear_gaussian()

    def bound(groups: dict[str, Tensor]) -> Tensor:
        return importance_weighted_bound(model, GroupBatch.of(x, groups), style_samples=2, generator=generator)

    without = bound({})
    model.population("content").take(Mixture(torch.ones(1).double(), mixture().parts[:1]))
    torch.testing.assert_close(bound({}), bound({"content": torch.arange(5)}), rtol=1e-9, atol=0)
    assert (bound({}) - without).abs().min() > 0.1
