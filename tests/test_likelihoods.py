from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mlvae.errors import DataError, ModelError
from mlvae.likelihoods import LIKELIHOODS, Bernoulli, Likelihood, Normal

SHAPE = (2, 3)


def _normal(scale: float | str) -> Normal:
    likelihood = Normal(scale, shape=SHAPE)
    for parameter in likelihood.parameters():
        parameter.data.normal_()
    return likelihood


def _unit(n: int) -> Tensor:
    return (torch.rand(n, *SHAPE) > 0.5).float()


def _real(n: int) -> Tensor:
    return torch.randn(n, *SHAPE)


def _grey(n: int) -> Tensor:
    return torch.rand(n, *SHAPE)


def _scipy_bernoulli(likelihood: Likelihood, x: np.ndarray, output: np.ndarray) -> np.ndarray:
    return stats.bernoulli(1 / (1 + np.exp(-output))).logpmf(x.round())


def _scipy_normal(likelihood: Likelihood, x: np.ndarray, output: np.ndarray) -> np.ndarray:
    assert isinstance(likelihood, Normal)
    return stats.norm(output, likelihood.scale.detach().double().numpy()).logpdf(x)


Case = tuple[Callable[[], Likelihood], Callable[[int], Tensor], Callable[..., np.ndarray]]
CASES: dict[str, Case] = {
    "bernoulli": (Bernoulli, _unit, _scipy_bernoulli),
    "bernoulli-binarise": (lambda: Bernoulli(binarise=True), _grey, _scipy_bernoulli),
    "normal-fixed": (lambda: _normal(0.4), _real, _scipy_normal),
    "normal-shared": (lambda: _normal("shared"), _real, _scipy_normal),
    "normal-per-feature": (lambda: _normal("per_feature"), _real, _scipy_normal),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Likelihood, Callable[[int], Tensor], Callable[..., np.ndarray]]:
    torch.manual_seed(0)
    make, draw, density = CASES[request.param]
    return make(), draw, density


def test_every_likelihood_has_a_case() -> None:
    assert {type(make()) for make, *_ in CASES.values()} == set(LIKELIHOODS.values())


def test_log_prob_is_scipys_density(case) -> None:
    likelihood, draw, density = case
    x, output = draw(5).double(), torch.randn(5, *SHAPE, dtype=torch.float64)
    expected = density(likelihood, x.numpy(), output.numpy()).sum((1, 2))
    np.testing.assert_allclose(likelihood.log_prob(x, output).detach().numpy(), expected, rtol=1e-6)


def test_samples_have_the_mean(case, generator: torch.Generator) -> None:
    likelihood, _, _ = case
    output = torch.randn(1, *SHAPE)
    draws = likelihood.sample(output.expand(20000, *SHAPE), generator).detach()
    error = (draws.mean(0) - likelihood.mean(output)[0]).abs()
    assert (error < 5 * draws.std(0) / 20000**0.5).all()


def test_extreme_outputs_stay_finite_with_finite_gradients(case) -> None:
    likelihood, draw, _ = case
    for value in (-1e4, 1e4):
        output = torch.full((2, *SHAPE), value, requires_grad=True)
        nats = likelihood.log_prob(draw(2), output)
        nats.sum().backward()
        assert torch.isfinite(nats).all()
        assert torch.isfinite(output.grad).all()


def test_settings_make_it_again(case) -> None:
    likelihood, draw, _ = case
    again = type(likelihood)(**likelihood.settings())
    again.load_state_dict(likelihood.state_dict())
    x, output = draw(3), torch.randn(3, *SHAPE)
    assert torch.equal(again.log_prob(x, output), likelihood.log_prob(x, output))


def test_its_own_domain_passes_the_check(case) -> None:
    likelihood, draw, _ = case
    likelihood.check(draw(4))


def test_bernoulli_refuses_values_outside_the_unit_interval() -> None:
    with pytest.raises(DataError, match=r"\[0, 1\].*-3 to 1"):
        Bernoulli().check(torch.tensor([[-3.0, 1.0]]))


def test_a_learned_scale_stays_above_the_floor() -> None:
    likelihood = Normal("shared")
    likelihood.raw_scale.data.fill_(-1e4)
    assert likelihood.scale.item() == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("scale", "match"), [("shard", "Did you mean 'shared'"), ("per_feature", "`shape`"), (0.0, "positive")]
)
def test_scales_that_make_no_sense(scale: float | str, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        Normal(scale)  # type: ignore[arg-type]


@pytest.mark.parametrize(("scale", "shape"), [("shared", ()), ("per_feature", (3,))])
def test_a_learned_scale_starts_where_it_is_told(scale: str, shape: tuple[int, ...]) -> None:
    likelihood = Normal(scale, shape or None, start=0.2)
    assert likelihood.scale.shape == shape
    assert torch.allclose(likelihood.scale, torch.tensor(0.2))
    with pytest.raises(ModelError, match="`start`"):
        Normal(scale, shape or None, start=0.0)
