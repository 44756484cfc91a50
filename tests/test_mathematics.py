"""The numbers and identities of docs/mathematics.md, against the code."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.polynomial import hermite_e

from mlvae.calibration import Calibration
from mlvae.evidence import Evidence, log_normaliser, product, product_with_prior
from mlvae.grouping import Grouping
from mlvae.normal import Normal
from mlvae.penalties import dependence, misidentification


def random_evidence(*shape: int, seed: int = 0) -> Evidence:
    draws = torch.Generator().manual_seed(seed)
    mean, precision = (torch.randn(shape, generator=draws, dtype=torch.float64) for _ in range(2))
    return Evidence.votes(mean, precision.exp())


@pytest.mark.parametrize(("members", "nats"), [(2, 0.10), (10, 0.70), (64, 1.59)])
def test_votes_that_know_nothing(members: int, nats: float) -> None:
    ones = torch.ones(1, 1, dtype=torch.float64)
    said = Evidence(members * ones, 0 * ones, torch.tensor([members]))
    assert product(said).kl().item() == pytest.approx(nats, abs=0.005)
    assert product_with_prior(Evidence(0 * ones, 0 * ones, said.count)).kl().item() == 0


def test_log_z_is_the_integral() -> None:
    vote = random_evidence(1, 1)
    precision, information = vote.precision.item(), vote.information.item()
    c = np.linspace(-12, 12, 200_001)
    integrand = np.exp(-(c**2) / 2 - precision * c**2 / 2 + information * c) / math.sqrt(2 * math.pi)
    assert vote.log_evidence().item() == pytest.approx(math.log(np.trapezoid(integrand, c)), abs=1e-9)


def test_a_bayes_factor_is_a_prediction() -> None:
    a, b = random_evidence(5, 3), random_evidence(5, 3, seed=1)
    factor = (a + b).log_evidence() - a.log_evidence() - b.log_evidence()
    known, mean, variance = product_with_prior(a), b.information / b.precision, 1 / b.precision
    predicted = Normal(known.mean, 1 / (known.variance + variance)).log_prob(mean)
    by_prior = Normal(torch.zeros_like(mean), 1 / (1 + variance)).log_prob(mean)
    torch.testing.assert_close(factor, predicted - by_prior, atol=1e-12, rtol=0)


def test_what_mean_field_style_costs() -> None:
    members, noise = 10, 0.1
    joint = np.diag([1 + members / noise] + [1 + 1 / noise] * members)
    joint[0, 1:] = joint[1:, 0] = 1 / noise
    exact = 1 / np.linalg.inv(joint)[0, 0]
    assert exact == pytest.approx(1 + members / (1 + noise)) == pytest.approx(10.1, abs=0.05)
    assert joint[0, 0] == pytest.approx(101)

    def known(precision: float) -> torch.Tensor:
        """The posteriors' precisions after ten votes, of the sum and of each alone."""
        votes = Evidence.votes(torch.zeros(members, 1).double(), torch.full((members, 1), precision).double())
        return torch.cat([product_with_prior(each).precision for each in (votes.sum(Grouping.one(members)), votes)])

    assert known(1 / (1 + noise))[0].item() == pytest.approx(exact)  # of votes with the style integrated out
    mean_field = known(1 / noise).flatten()
    np.testing.assert_allclose(mean_field, np.diag(joint), rtol=1e-6)
    lost = (mean_field.log().sum().item() - np.linalg.slogdet(joint)[1]) / 2
    assert lost == pytest.approx(1.15, abs=0.005)


def test_nested_votes_are_too_sure_by_the_design_effect() -> None:
    n, a, b, rest, countries, people = 20, 1.3, 0.8, 0.5, 400, 3
    shared = b**2 * np.ones((n, n)) + rest * np.eye(n)
    together = a**2 * np.linalg.inv(shared).sum()  # precision about c of n pictures of a person
    draws = torch.Generator().manual_seed(0)
    c, p, r = (torch.randn(countries, size, pictures, generator=draws, dtype=torch.float64)
               for size, pictures in ((1, 1), (people, 1), (people, n)))  # fmt: skip
    mean = ((a * c + b * p + rest**0.5 * r) / a).reshape(-1, 1)
    votes = Evidence.votes(mean, torch.full_like(mean, a**2 / (b**2 + rest)))
    person = Grouping.from_ids(torch.arange(len(votes)) // n)
    country = Grouping.from_ids(torch.arange(len(votes)) // (n * people))
    effect = 1 + (n - 1) * b**2 / (b**2 + rest)
    assert votes.sum(person).precision[0].item() / together == pytest.approx(effect)
    assert Calibration.fit(votes, country, person).temperature.item() == pytest.approx(effect, rel=0.1)


def test_independence_is_a_sum_over_hermite_polynomials() -> None:
    x = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def he(degree: int, value: float) -> float:
        return float(hermite_e.hermeval(value, [0] * degree + [1]))

    expected = sum(
        np.prod([he(n, x[0, d].item()) * he(n, x[1, d].item()) / math.factorial(n) for d, n in enumerate(degrees)]) / 2
        for degrees in itertools.product(range(6), repeat=2)
        if 1 <= sum(degrees) <= 5
    )
    sure = Normal(x, torch.full_like(x, torch.inf))
    assert dependence(sure, torch.zeros(2)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("few", [512, 0])
def test_sums_over_others_by_subtraction_cancel(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    total = torch.tensor(1e5)
    for _ in range(7):
        total = total + 0.01
    assert (total - 1e5).item() == pytest.approx(0.055, abs=0.0005)
    monkeypatch.setattr("mlvae.grouping.FEW", few)
    values = torch.tensor([1e5] + [0.01] * 7)
    assert Grouping.one(8).sum_others(values)[0].item() == pytest.approx(0.07, rel=1e-6)


def test_identification_drops_what_a_softmax_does_not_see() -> None:
    votes, grouping = random_evidence(9, 2), Grouping(torch.arange(9) % 4, 4)
    nats = []
    for i, own in enumerate(grouping.index):
        others = torch.arange(9) != i
        groups, vote = votes[others].sum(Grouping(grouping.index[others], 4)), votes[torch.tensor([i])]
        both = log_normaliser(groups.precision + vote.precision, groups.information + vote.information)
        factors = both - groups.log_evidence() - vote.log_evidence()
        nats.append(-factors.log_softmax(0)[own])
    # Other groups do not hold the vote, so leaving it out is leaving it out of its own group.
    torch.testing.assert_close(
        misidentification(votes, grouping, torch.arange(4)[grouping.index]), torch.stack(nats).mean()
    )
