from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

import mlvae
from mlvae import MLVAE, Level
from mlvae.errors import DataError, ModelError
from mlvae.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    DiscretisedLogistic,
    Features,
    Laplace,
    Likelihood,
    Mixed,
    NegativeBinomial,
    Normal,
    Poisson,
)  # fmt: skip
from mlvae.likelihoods.base import LOG_MILLION, bounded, observed

SHAPE = (2, 3)
COLUMNS = ["normal", 3, "bernoulli", "poisson", "laplace", 4, "negative_binomial", "normal"]


def _learned(likelihood: Likelihood) -> Likelihood:
    for parameter in likelihood.parameters():
        parameter.data.normal_()
    return likelihood


def _unit(n: int) -> Tensor:
    return (torch.rand(n, *SHAPE) > 0.5).float()


def _real(n: int) -> Tensor:
    return torch.randn(n, *SHAPE)


def _grey(n: int) -> Tensor:
    return torch.rand(n, *SHAPE)


def _bytes(n: int) -> Tensor:
    steps = torch.randint(0, 256, (n, *SHAPE))
    steps[0, 0, :2] = torch.tensor([0, 255])  # the ends hold the tails
    return steps / 255


def _codes(n: int) -> Tensor:
    return torch.randint(0, 4, (n, *SHAPE)).float()


def _counts(n: int) -> Tensor:
    return torch.poisson(torch.full((n, *SHAPE), 3.0))


def _table(n: int) -> Tensor:
    draws = {"normal": torch.randn, "laplace": torch.randn}
    whole = {"bernoulli": 2, "poisson": 9, "negative_binomial": 9}
    columns = [draws[kind](n) if kind in draws else torch.randint(0, whole.get(kind, kind), (n,)) for kind in COLUMNS]  # type: ignore[index, arg-type]
    return torch.stack([column.float() for column in columns], 1)


Array = np.ndarray


def _scipy_bernoulli(likelihood: Likelihood, x: Array, output: Array) -> Array:
    return stats.bernoulli(1 / (1 + np.exp(-output))).logpmf(x.round())


def _location(likelihood: Normal | Laplace, output: Array) -> Array:
    return likelihood.centre.numpy() + likelihood.spread.item() * output if likelihood.centred else output


def _centred(likelihood: Normal | Laplace) -> Normal | Laplace:
    likelihood.centre.copy_(torch.linspace(-1, 1, likelihood.centre.numel()).view_as(likelihood.centre))
    likelihood.spread.fill_(0.3)
    return likelihood


def _scipy_normal(likelihood: Normal, x: Array, output: Array) -> Array:
    return stats.norm(_location(likelihood, output), likelihood.scale.detach().double().numpy()).logpdf(x)


def _scipy_laplace(likelihood: Laplace, x: Array, output: Array) -> Array:
    return stats.laplace(_location(likelihood, output), likelihood.scale.detach().double().numpy()).logpdf(x)


def _scipy_categorical(likelihood: Likelihood, x: Array, output: Array) -> Array:
    p = special.softmax(output, 1)
    return np.log(np.take_along_axis(p, x.astype(int)[:, None], 1)[:, 0])


def _scipy_logistic(likelihood: DiscretisedLogistic, x: Array, output: Array) -> Array:
    location, scale = output[:, 0], np.exp(5 * np.tanh(output[:, 1] / 5) - 2)
    logistic, half = stats.logistic(location, scale), 0.5 / 255
    lower, upper = np.where(x < half, -np.inf, x - half), np.where(x > 1 - half, np.inf, x + half)
    # The difference of the smaller tails: the other cancels.
    left, right = logistic.cdf(upper) - logistic.cdf(lower), logistic.sf(lower) - logistic.sf(upper)
    return np.log(np.where(x < location, left, right))


def _rate(output: Array) -> Array:
    bound = np.log(1e6)
    return np.exp(bound * np.tanh(output / bound))


def _scipy_poisson(likelihood: Likelihood, x: Array, output: Array) -> Array:
    return stats.poisson(_rate(output)).logpmf(x)


def _scipy_negative_binomial(likelihood: NegativeBinomial, x: Array, output: Array) -> Array:
    r = _rate(likelihood.raw_dispersion.detach().double().numpy())
    mean = _rate(output)
    if likelihood.library is not None:
        mean = x.reshape(len(x), -1).sum(1)[:, None, None] * special.softmax(output.reshape(len(x), -1), 1).reshape(
            x.shape
        )
    return stats.nbinom(r, r / (r + mean)).logpmf(x)


def _scipy_mixed(likelihood: Mixed, x: Array, output: Array) -> Array:
    """Column by column, each with the share of the output that its kind has: kinds in order of appearance."""
    kinds = list(dict.fromkeys(kind if isinstance(kind, str) else (place, kind) for place, kind in enumerate(COLUMNS)))
    total, start = np.zeros(x.shape), 0
    for kind in kinds:
        where = [kind[0]] if isinstance(kind, tuple) else [i for i, name in enumerate(COLUMNS) if name == kind]
        part = likelihood.parts[f"categorical_{kind[0]}" if isinstance(kind, tuple) else kind]
        size = kind[1] if isinstance(kind, tuple) else len(where)
        share = output[:, start : start + size]
        share = share[:, :, None] if isinstance(kind, tuple) else share
        start += size
        density = {"normal": _scipy_normal, "laplace": _scipy_laplace, "bernoulli": _scipy_bernoulli,
                   "poisson": _scipy_poisson, "negative_binomial": _scipy_negative_binomial}  # fmt: skip
        total[:, where] = density.get(kind, _scipy_categorical)(part, x[:, where], share)  # type: ignore[call-overload]
    assert start == output.shape[1]
    return total


Case = tuple[Callable[[], Likelihood], Callable[[int], Tensor], Callable[..., Array]]
CASES: dict[str, Case] = {
    "bernoulli": (Bernoulli, _unit, _scipy_bernoulli),
    "bernoulli-binarise": (lambda: Bernoulli(binarise=True), _grey, _scipy_bernoulli),
    "normal-fixed": (lambda: Normal(0.4), _real, _scipy_normal),
    "normal-shared": (lambda: _learned(Normal("shared")), _real, _scipy_normal),
    "normal-per-feature": (lambda: _learned(Normal("per_feature", SHAPE)), _real, _scipy_normal),
    "normal-centred": (lambda: _centred(Normal(0.4, SHAPE, centred=True)), _real, _scipy_normal),
    "normal-relative": (
        lambda: _learned(_centred(Normal("per_feature", SHAPE, centred=True, relative=True))), _real, _scipy_normal,
    ),
    "laplace-centred": (lambda: _learned(_centred(Laplace("shared", SHAPE, centred=True))), _real, _scipy_laplace),
    "laplace-shared": (lambda: _learned(Laplace("shared")), _real, _scipy_laplace),
    "laplace-per-feature": (lambda: _learned(Laplace("per_feature", SHAPE)), _real, _scipy_laplace),
    "categorical": (lambda: Categorical(4), _codes, _scipy_categorical),
    "discretised-logistic": (DiscretisedLogistic, _bytes, _scipy_logistic),
    "poisson": (Poisson, _counts, _scipy_poisson),
    "negative-binomial": (lambda: _learned(NegativeBinomial(SHAPE)), _counts, _scipy_negative_binomial),
    "negative-binomial-library": (
        lambda: _learned(NegativeBinomial(SHAPE, library=20.0)), _counts, _scipy_negative_binomial,
    ),
    "mixed": (lambda: _learned(Mixed(COLUMNS)), _table, _scipy_mixed),
}  # fmt: skip
GAPPED = [name for name in CASES if name != "negative-binomial-library"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Likelihood, Callable[[int], Tensor], Callable[..., Array]]:
    torch.manual_seed(0)
    make, draw, density = CASES[request.param]
    return make(), draw, density


def _output(likelihood: Likelihood, x: Tensor, **options: object) -> Tensor:
    return torch.randn(len(x), *likelihood.output_shape(tuple(x.shape[1:])), **options)  # type: ignore[call-overload, no-any-return]


def test_every_likelihood_has_a_case() -> None:
    assert {type(make()) for make, *_ in CASES.values()} == set(LIKELIHOODS.values())


def test_log_prob_is_scipys_density(case) -> None:
    likelihood, draw, density = case
    x = draw(5).double()
    output = _output(likelihood, x, dtype=torch.float64)
    expected = density(likelihood, x.numpy(), output.numpy()).reshape(5, -1).sum(1)
    np.testing.assert_allclose(likelihood.log_prob(x, output).detach().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", GAPPED)
def test_a_gap_costs_nothing_and_is_seen_as_one(name: str) -> None:
    make, draw, density = CASES[name]
    likelihood = _with_gaps(make())
    x = draw(5).double()
    output = _output(likelihood, x, dtype=torch.float64).requires_grad_()
    gone = torch.rand(x.shape) < 0.4
    holed = x.masked_fill(gone, torch.nan)
    likelihood.check(holed)
    nats = likelihood.log_prob(holed, output)
    expected = np.where(gone, 0.0, density(likelihood, x.numpy(), output.detach().numpy()))
    np.testing.assert_allclose(nats.detach().numpy(), expected.reshape(5, -1).sum(1), rtol=1e-6)
    nats.sum().backward()
    assert torch.isfinite(output.grad).all()
    seen = likelihood.embed(holed)
    assert seen.shape[1:] == likelihood.input_shape(tuple(x.shape[1:])) and torch.isfinite(seen).all()
    filled = likelihood.embed(torch.where(gone, torch.zeros_like(x), x))
    assert not torch.equal(seen, filled)  # a gap is not a zero
    again = type(likelihood)(**likelihood.settings())
    assert again.missing


class LogNormal(Features):
    """One of somebody else's: 0 is not in its domain, and what the encoder sees of it is infinite."""

    def check(self, x: Tensor) -> None:
        if (observed(x) <= 0).any():
            raise DataError("Expected positive values.")

    def view(self, x: Tensor) -> Tensor:
        return torch.log(x).unsqueeze(1)

    def per_feature(self, x: Tensor, output: Tensor) -> Tensor:
        return -0.5 * (torch.log(x) - output) ** 2 - torch.log(x) - 0.5 * math.log(2 * math.pi)

    def mean(self, output: Tensor) -> Tensor:
        return torch.exp(output + 0.5)

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.exp(output + torch.empty_like(output).normal_(generator=generator))


@pytest.mark.parametrize("gone", [[0], [0, 1], [0, 1, 2]])  # features without a value here
def test_gaps_come_for_free_where_zero_is_not_in_the_domain(gone: list[int]) -> None:
    x = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    x[0], x[1, 1], x[:, gone] = torch.nan, torch.nan, torch.nan
    likelihood, output, seen = LogNormal.for_data(x), torch.randn(6, 3, requires_grad=True), ~x.isnan()
    expected = torch.where(seen, torch.from_numpy(stats.norm.logpdf(x.log(), output.detach())) - x.log(), 0.0).sum(1)
    nats = likelihood.log_prob(x, output)
    nats.sum().backward()
    assert torch.allclose(nats.double(), expected.double(), atol=1e-5) and output.grad.isfinite().all()
    assert likelihood.embed(x).isfinite().all() and (likelihood.embed(x)[:, 0][~seen] == 0).all()
    assert likelihood.embed(x[:0]).shape == (0, 2, 3)


def _with_gaps(likelihood: Likelihood) -> Likelihood:
    torch.manual_seed(1)
    return _learned(type(likelihood)(**{**likelihood.settings(), "missing": True}))


def test_gaps_are_not_expected_unless_asked_for(case) -> None:
    likelihood, *_ = case
    assert likelihood.missing is False and not likelihood.settings().get("missing")


def test_a_library_size_has_no_gaps() -> None:
    with pytest.raises(ModelError, match="library=None"):
        NegativeBinomial(SHAPE, library=5.0, missing=True)


def test_what_the_encoder_sees_has_the_shape_that_was_said(case) -> None:
    likelihood, draw, _ = case
    x = draw(5)
    assert likelihood.embed(x).shape == (5, *likelihood.input_shape(tuple(x.shape[1:])))


def test_samples_have_the_mean(case, generator: torch.Generator) -> None:
    likelihood, draw, _ = case
    output = 3 * _output(likelihood, draw(1)) if "ategor" in str(likelihood) else _output(likelihood, draw(1))
    draws = likelihood.sample(output.expand(20000, *output.shape[1:]), generator).detach()
    assert draws.shape[1:] == draw(1).shape[1:]
    likelihood.check(draws)
    mean = likelihood.mean(output)[0]
    step = 1 / 255 if isinstance(likelihood, DiscretisedLogistic) else 0.0  # its mean is that before rounding
    error = (draws.mean(0) - mean).abs() <= 5 * draws.std(0) / 20000**0.5 + step / 2
    if isinstance(likelihood, Categorical):
        error = draws.mode(0).values == mean
    if isinstance(likelihood, Mixed):
        codes = torch.tensor([isinstance(kind, int) for kind in COLUMNS])
        error = torch.where(codes, draws.mode(0).values == mean, error)
    assert error.all()


@pytest.mark.parametrize("kind", [Normal, Laplace])
@pytest.mark.parametrize("gaps", [False, True])
def test_made_for_data_it_shows_and_asks_for_differences_from_their_mean(kind: type[Normal], gaps: bool) -> None:
    x = 5 + 0.2 * torch.randn(400, *SHAPE) + torch.arange(6.0).view(SHAPE)
    if gaps:
        x = x.masked_fill(torch.rand(x.shape) < 0.3, torch.nan)
    made = kind.for_data(x)
    mean = x.nanmean(0)
    torch.testing.assert_close(made.mean(torch.zeros(1, *SHAPE))[0], mean)
    seen = made.embed(x)[:, 0] if gaps else made.embed(x)
    assert abs(seen.mean()) < 1e-5 and abs(seen[seen != 0].std() - 1) < 0.01
    torch.testing.assert_close(made.mean(seen)[~torch.isnan(x)], x[~torch.isnan(x)])
    never = x.clone()
    never[:, 0, 0] = torch.nan
    assert torch.isfinite(kind.for_data(never).centre).all()


@pytest.mark.parametrize("kind", [Normal, Laplace])
@pytest.mark.parametrize("unit", [1e-6, 255.0, 65535.0])
def test_data_in_another_unit_are_learned_alike(kind: type[Normal], unit: float) -> None:
    x = 0.5 + 0.3 * torch.randn(200, *SHAPE)
    one, other = kind.for_data(x), kind.for_data(x * unit)
    again = kind(**other.settings())
    again.load_state_dict(other.state_dict())
    assert again.scale.item() == pytest.approx(unit * one.scale.item(), rel=1e-4)
    output = torch.randn(200, *SHAPE)
    nats = one.log_prob(x, output) - again.log_prob(x * unit, output)
    torch.testing.assert_close(nats, torch.full((200,), x[0].numel() * math.log(unit)), rtol=1e-4, atol=1e-3)
    gradients = []
    for likelihood, values in ((one, x), (again, x * unit)):
        likelihood.log_prob(values, output).mean().backward()
        gradients.append(likelihood.raw_scale.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_data_that_never_differ_have_a_scale() -> None:
    for value in (0.0, 0.1, 1e5):
        made = Normal.for_data(torch.full((9, *SHAPE), value))
        assert made.scale > 0 and torch.isfinite(made.log_prob(torch.full((1, *SHAPE), value), torch.zeros(1, *SHAPE)))


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "categorical"])
def test_bytes_of_whole_numbers_are_not_scaled(name: str) -> None:
    x = torch.randint(0, 9, (60, *SHAPE), dtype=torch.uint8)
    data = mlvae.GroupedData.from_arrays(x, np.arange(60) % 6)
    torch.manual_seed(0)
    model = MLVAE.for_data(data, likelihood=name, width=8)
    assert torch.equal(model.prepare(x), x.float())
    assert (
        model.likelihood.settings()
        == MLVAE.for_data(
            mlvae.GroupedData.from_arrays(x.float(), np.arange(60) % 6), likelihood=name, width=8
        ).likelihood.settings()
    )
    mlvae.fit(model, data, epochs=1, seed=0, progress=False)
    assert model.codes(x)["style"].mean.isfinite().all()


def test_bytes_outside_the_domain_are_told_before_training() -> None:
    data = mlvae.GroupedData.from_arrays(torch.tensor([[7], [1]], dtype=torch.uint8), [0, 1])
    model = MLVAE((1,), [Level("content", 1, by="group"), Level("style", 1)], likelihood=Categorical(4), width=4)
    with pytest.raises(DataError, match="0 to 3; got 7"):
        mlvae.fit(model, data, epochs=1, progress=False)


@pytest.mark.parametrize("gaps", [False, True])
def test_values_in_another_unit_than_in_training_are_told(gaps: bool) -> None:
    x = torch.rand(50, 4, 4)
    if gaps:
        x[3, 1, 1] = torch.nan
    likelihood = Normal.for_data(x, 0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        likelihood.check(x)
        likelihood.check(x[:0])
    with pytest.warns(UserWarning, match="uint8 pictures are divided by 255"):
        likelihood.check(255 * x)


def test_centred_needs_a_shape_and_relative_a_centre() -> None:
    with pytest.raises(ModelError, match="centred"):
        Normal(0.4, centred=True)
    with pytest.raises(ModelError, match="centred=True with relative"):
        Normal("shared", relative=True)


def test_categories_are_drawn_as_often_as_they_are_likely(generator: torch.Generator) -> None:
    logits = torch.tensor([[[0.0], [1.0], [-1.0]]])
    drawn = Categorical(3).sample(logits.expand(20000, 3, 1), generator).long().flatten()
    torch.testing.assert_close(torch.bincount(drawn) / 20000, logits.flatten().softmax(0), atol=0.02, rtol=0)


def test_extreme_outputs_stay_finite_with_finite_gradients(case) -> None:
    likelihood, draw, _ = case
    for value in (-1e4, 1e4):
        x = draw(2)
        output = torch.full_like(_output(likelihood, x), value).requires_grad_()
        nats = likelihood.log_prob(x, output)
        nats.sum().backward()
        assert torch.isfinite(nats).all()
        assert torch.isfinite(output.grad).all()


def test_settings_make_it_again(case) -> None:
    likelihood, draw, _ = case
    again = type(likelihood)(**json.loads(json.dumps(likelihood.settings())))
    again.load_state_dict(likelihood.state_dict())
    x = draw(3)
    output = _output(likelihood, x)
    assert torch.equal(again.log_prob(x, output), likelihood.log_prob(x, output))


def test_it_is_made_for_data_that_it_then_accepts(case) -> None:
    likelihood, draw, _ = case
    x = draw(50)
    made = type(likelihood).for_data(x)
    made.check(x)
    assert torch.isfinite(made.log_prob(x, _output(made, x))).all()


def test_its_own_domain_passes_the_check(case) -> None:
    likelihood, draw, _ = case
    likelihood.check(draw(4))


@pytest.mark.parametrize(
    ("likelihood", "value", "match"),
    [
        (Categorical(3), 3.0, "coded 0 to 2; got 3"),
        (Categorical(3), 0.5, "got 0.5"),
        (DiscretisedLogistic(), 0.5, "steps of 1/255"),
        (DiscretisedLogistic(), 2.0, "uint8"),
        (Poisson(), -1.0, "whole numbers from 0"),
        (NegativeBinomial((1,)), 1.5, "raw counts"),
        (Mixed(["poisson"]), 1.5, "raw counts"),
    ],
)
def test_values_outside_the_domain_are_named(likelihood: Likelihood, value: float, match: str) -> None:
    with pytest.raises(DataError, match=match):
        likelihood.check(torch.tensor([[value]]))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Categorical(1), "at least 2 categories"),
        (lambda: DiscretisedLogistic(1), "at least 2 levels"),
        (lambda: NegativeBinomial((2,), library=0.0), "above 0"),
        (lambda: Mixed([]), "at least one column"),
        (lambda: Mixed(["norml"]), "Did you mean 'normal'"),
        (lambda: Mixed(["normal"]).output_shape((2,)), "1 columns"),
    ],
)
def test_arguments_that_make_no_sense(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        make()


def test_bernoulli_refuses_values_outside_the_unit_interval() -> None:
    with pytest.raises(DataError, match=r"\[0, 1\].*-3 to 1"):
        Bernoulli().check(torch.tensor([[-3.0, 1.0]]))


def test_a_learned_scale_stays_above_the_floor() -> None:
    likelihood = Normal("shared")
    likelihood.raw_scale.data.fill_(-1e4)
    assert likelihood.scale.item() == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("scale", "match"), [("shard", "Did you mean 'shared'"), ("per_feature", "`shape`"), (0.0, "positive scale")]
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


@pytest.mark.parametrize("name", ["normal", "laplace"])
def test_a_learned_scale_begins_with_the_spread_about_the_mean_observation(name: str) -> None:
    """However far apart the means of features are: it once began hundreds of times too wide, and stayed there."""
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    near, far = (MLVAE.for_data(mlvae.GroupedData.from_arrays(x + shift, torch.arange(500) // 5), likelihood=name)
                 .likelihood for shift in (0.0, 1000 * torch.arange(4)))  # fmt: skip
    assert near.scale.item() == pytest.approx(far.scale.item(), rel=1e-3) == pytest.approx(1.0, rel=0.05)


def test_counts_that_are_nearly_poisson_keep_their_nats_in_float32() -> None:
    x, output = torch.tensor([[3.0, 7e4]]), torch.log(torch.tensor([[5.0, 7e4]]))
    likelihood = NegativeBinomial((2,))
    with torch.no_grad():
        likelihood.raw_dispersion.fill_(11.0)
    r = torch.exp(bounded(likelihood.raw_dispersion.detach().double(), LOG_MILLION)).numpy()
    mean = likelihood.mean(output.double()).detach().numpy()
    exact = stats.nbinom.logpmf(x.numpy(), r, r / (r + mean)).sum()
    assert likelihood.log_prob(x, output).item() == pytest.approx(exact, abs=2e-2)
    poisson = Poisson().log_prob(x, output).item()
    assert poisson == pytest.approx(stats.poisson.logpmf(x.numpy(), mean).sum(), abs=2e-2)
