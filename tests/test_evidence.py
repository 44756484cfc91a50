from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from mlvae import Evidence, Grouping
from mlvae.errors import EvidenceError, MLVAEError
from mlvae.evidence import READOUTS, average, product, product_with_prior


def votes(n: int = 4, dim: int = 3, seed: int = 0) -> Evidence:
    random = np.random.default_rng(seed)
    mean, precision = random.normal(size=(n, dim)), np.exp(random.normal(size=(n, dim)))
    return Evidence.votes(torch.from_numpy(mean), torch.from_numpy(precision))


@pytest.mark.parametrize("name", READOUTS)
def test_every_readout_is_finite_positive_and_blind_to_order(name: str) -> None:
    readout, some = READOUTS[name], votes()
    posterior = readout(some.sum(Grouping.one(4)))
    turned = readout(some[torch.tensor([2, 0, 3, 1])].sum(Grouping.one(4)))
    assert posterior.mean.shape == posterior.precision.shape == (1, 3)
    assert (posterior.precision > 0).all()
    assert torch.allclose(posterior.mean, turned.mean)
    assert torch.allclose(posterior.precision, turned.precision)


def test_product_with_prior_is_bayes_rule() -> None:
    some = votes(dim=1)
    posterior = product_with_prior(some.sum(Grouping.one(4)))
    mean, scale = (some.information / some.precision).numpy()[:, 0], some.precision.numpy()[:, 0] ** -0.5

    def joint(z: float) -> float:
        return float(stats.norm.pdf(z) * stats.norm.pdf(mean, z, scale).prod())

    z0, z1, z2 = (integrate.quad(lambda z, p=p: z**p * joint(z), -10, 10)[0] for p in range(3))
    assert posterior.mean.item() == pytest.approx(z1 / z0, rel=1e-7)
    assert posterior.variance.item() == pytest.approx(z2 / z0 - (z1 / z0) ** 2, rel=1e-7)


def test_log_evidence_is_the_integral_of_the_votes_under_the_prior() -> None:
    some = votes(dim=1).sum(Grouping.one(4))
    lam, eta = some.precision.item(), some.information.item()
    z = integrate.quad(lambda z: np.exp(eta * z - 0.5 * lam * z * z) * stats.norm.pdf(z), -12, 12)[0]
    assert some.log_evidence().item() == pytest.approx(np.log(z), rel=1e-7)


def test_zero_precision_votes_cost_nothing_with_a_prior_and_k_votes_of_the_prior_cost_the_product() -> None:
    nothing = Evidence.votes(torch.zeros(10, 1), torch.zeros(10, 1)).sum(Grouping.one(10))
    assert product_with_prior(nothing).kl().item() == 0.0
    for k, nats in ((2, 0.10), (10, 0.70), (64, 1.59)):
        flat = Evidence.votes(torch.zeros(k, 1), torch.ones(k, 1)).sum(Grouping.one(k))
        assert product(flat).kl().item() == pytest.approx(nats, abs=0.005)


def test_average_never_sharpens() -> None:
    one = votes(1)
    twice = one + one
    assert torch.allclose(average(twice).precision, product(one).precision)
    assert torch.allclose(product(twice).precision, 2 * product(one).precision)


@pytest.mark.parametrize("readout", [product, average])
def test_readouts_without_a_prior_refuse_empty_evidence(readout) -> None:
    with pytest.raises(EvidenceError, match="group 0 has 0 votes"):
        readout(Evidence.empty(2, 3))


def test_empty_evidence_is_exactly_the_prior() -> None:
    prior = product_with_prior(Evidence.empty(2, 3))
    assert torch.equal(prior.mean, torch.zeros(2, 3, dtype=torch.float64))
    assert torch.equal(prior.precision, torch.ones(2, 3, dtype=torch.float64))


def test_others_leave_out_the_own_vote_but_for_those_alone() -> None:
    some, grouping = votes(), Grouping.from_ids([0, 0, 1, 0])
    others = some.sum_others(grouping)
    assert torch.allclose(others.precision[0], some.precision[[1, 3]].sum(0))
    assert torch.allclose(others.information[3], some.information[[0, 1]].sum(0))
    assert torch.equal(others.precision[2], some.precision[2])
    assert others.count.tolist() == [2, 2, 1, 2]


def test_removing_more_than_was_added_is_an_error_that_names_the_group() -> None:
    total = votes(2) + votes(2)
    with pytest.raises(EvidenceError, match="at most the 1 votes of group 0; got 2") as error:
        votes(2) - total
    assert isinstance(error.value, MLVAEError)


def test_the_group_that_is_named_is_the_first_with_too_few() -> None:
    one = votes(3)
    taken = Evidence(one.precision, one.information, torch.tensor([1, 2, 3]))
    with pytest.raises(EvidenceError, match="the 1 votes of group 1; got 2"):
        one - taken  # of group 0 just nothing would be left
    some = Evidence(torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.0, 0.0]]), torch.zeros(3, 2), torch.tensor([1, 4, 0]))
    with pytest.raises(EvidenceError, match="group 1 has 4 votes"):
        product(some)


def test_rows_are_chosen_from_one_or_the_other() -> None:
    one, other = votes(3, seed=1), votes(3, seed=2)
    other = Evidence(other.precision, other.information, torch.tensor([5, 6, 7]))
    mixed = Evidence.chosen(torch.tensor([True, False, True]), one, other)
    assert torch.equal(mixed.precision, torch.stack([one.precision[0], other.precision[1], one.precision[2]]))
    assert torch.equal(mixed.information, torch.stack([one.information[0], other.information[1], one.information[2]]))
    assert mixed.count.tolist() == [1, 6, 1]


def test_other_shapes_do_not_add() -> None:
    with pytest.raises(EvidenceError, match=r"\(4, 3\).*\(4, 2\)"):
        votes() + votes(dim=2)


def test_layout() -> None:
    some = votes()
    assert (len(some), some.dim, len(some[:2])) == (4, 3, 2)
    assert some.to(torch.float32).precision.dtype == torch.float32


def test_rounding_leaves_no_negative_precision() -> None:
    zero, small, large = (
        Evidence.votes(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[p]], dtype=torch.float64))
        for p in (0.0, 0.1, 0.7)
    )
    assert (0.1 + 0.7) - 0.7 - 0.1 < 0
    left = (zero + small + large) - large - small
    assert left.count.item() == 1
    assert left.precision.item() == 0.0


def test_removing_votes_that_were_never_added_is_an_error() -> None:
    def vote(mean: float, precision: float) -> Evidence:
        return Evidence.votes(torch.tensor([[mean]]), torch.tensor([[precision]]))

    with pytest.raises(EvidenceError, match="of the 2 votes of group 0 those 1 can be no part"):
        vote(0, 0.1) + vote(0, 0.1) - vote(5, 100)  # more precision than there is
    for other in (vote(1, 2), vote(2, 1)):
        with pytest.raises(EvidenceError, match="Remove only evidence that was added before"):
            vote(1, 1) - other  # no vote would be left, and yet something


def test_many_votes_in_float32_are_taken_back() -> None:
    many = votes(50_000)
    many = Evidence(many.precision.float(), many.information.float(), many.count)
    total = many.sum(Grouping.one(50_000))
    for start in range(0, 50_000, 10_000):
        total = total - many[torch.arange(start, start + 10_000).flip(0)].sum(Grouping.one(10_000))
    assert total.count.item() == 0
