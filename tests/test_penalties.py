from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mlvae import Evidence, Grouping, Normal
from mlvae.data import GroupSampler
from mlvae.errors import ModelError
from mlvae.penalties import dependence, leakage, misidentification, told
from mlvae.penalties.independence import Pairs
from oracles import slow_dependence, slow_leakage, slow_misidentification


def votes(n: int) -> Evidence:
    return Evidence.votes(torch.randn(n, 2, dtype=torch.float64), torch.randn(n, 2, dtype=torch.float64).exp())


def samples_as_posteriors(samples: torch.Tensor) -> Normal:
    """Posteriors that are sure."""
    return Normal(samples, torch.full_like(samples, torch.inf))


EVEN = [0, 0, 1, 2, 2, 2, 3, 1, 0, 4, 4, 5]  # laid out in blocks, a group each
ONE_LARGE = [6, 0, 0, 1, 0, 2, 0, 3, 0, 0, 4, 5]  # blocks would be more than all pairs


def test_pairs_are_laid_out_in_blocks_where_that_is_less() -> None:
    for ids, shape in ((EVEN, (6, 3, 3)), (ONE_LARGE, (1, 12, 12)), ([0] * 12, (1, 12, 12))):
        rows, pairs = Pairs.of(torch.tensor(ids))
        assert pairs.shape == shape
        first, second = (
            rows.reshape(shape[0], -1, 1).expand(shape)[pairs],
            rows.reshape(shape[0], 1, -1).expand(shape)[pairs],
        )
        found = list(zip(first.tolist(), second.tolist(), strict=True))
        assert len(found) == len(set(found))
        assert set(found) == {(i, j) for i in range(12) for j in range(12) if i != j and ids[i] == ids[j]}


@pytest.mark.parametrize("groups", [EVEN, ONE_LARGE])
@pytest.mark.parametrize("moments", [1, 2, 3, 4, 5, 6])
def test_dependence_is_its_definition_over_pairs(moments: int, groups: list[int]) -> None:
    mean, ids = torch.randn(12, 3, dtype=torch.float64), torch.tensor(groups)
    precision = 0.5 + 3 * torch.rand(12, 3, dtype=torch.float64)  # wider than the prior, and narrower
    expected = slow_dependence(mean.numpy(), precision.numpy(), ids.tolist(), moments)
    assert dependence(Normal(mean, precision), ids, moments).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("groups", [EVEN, ONE_LARGE])
@pytest.mark.parametrize("moments", [1, 4, 5])
def test_dependence_has_its_gradient(moments: int, groups: list[int]) -> None:
    mean, precision = torch.randn(12, 3, dtype=torch.float64), 0.5 + 2 * torch.rand(12, 3, dtype=torch.float64)
    ids = torch.tensor(groups)
    arguments = mean.requires_grad_(), precision.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, p: dependence(Normal(m, p), ids, moments), arguments)


def test_dependence_of_posteriors_is_that_of_their_samples_in_expectation() -> None:
    ids = torch.arange(30) % 3
    whole = Normal(torch.eye(3)[ids, :2] + torch.randn(30, 2) / 2, 1 + torch.rand(30, 2))
    sampled = torch.stack([dependence(samples_as_posteriors(whole.rsample()), ids) for _ in range(3000)])
    error = sampled.std() / 3000**0.5
    assert abs(sampled.mean() - dependence(whole, ids)) < 5 * error
    assert dependence(whole, ids) > 10 * error


def test_dependence_is_zero_in_expectation_for_the_prior() -> None:
    ids = torch.arange(40) % 8
    posteriors = [Normal(torch.randn(40, 4) * 0.8, torch.full((40, 4), 1 / 0.36)) for _ in range(500)]
    independent = torch.stack([dependence(each, ids) for each in posteriors])
    assert abs(independent.mean()) < 5 * independent.std() / 500**0.5


def test_dependence_is_the_expansion_of_a_shift() -> None:
    shift = torch.tensor([0.5, -0.3, 0.0])
    value = torch.stack(
        [dependence(samples_as_posteriors(torch.randn(60, 3) + shift), torch.zeros(60)) for _ in range(2000)]
    )
    m = shift.square().sum().item()
    # Half the chi-square divergence, exp(|m|^2) - 1, cut at degree five.
    expected = sum(m**n / math.factorial(n) for n in range(1, 6)) / 2
    assert abs(value.mean() - expected) < 5 * value.std() / 2000**0.5
    assert value.std() / 2000**0.5 < expected / 10


def test_what_means_tell_is_of_the_first_degree() -> None:
    ids = torch.arange(30) % 3
    posteriors = Normal(torch.eye(3)[ids] + 0.3 * torch.randn(30, 3), torch.full((30, 3), 2.0))
    whole, gain = told(posteriors, ids)
    assert whole == dependence(posteriors, ids)
    same = (ids.unsqueeze(1) == ids).fill_diagonal_(False)
    chance, nats = same.sum() / (30 * 29), (posteriors.mean @ posteriors.mean.T)[same].mean() / 2
    torch.testing.assert_close(gain, chance**2 * 2 * nats)
    torch.testing.assert_close(gain, 2 * chance * dependence(posteriors, ids, 1))
    assert told(posteriors, torch.arange(30))[1] == 0


@pytest.mark.parametrize("groups", [2, 10, 50])
def test_what_means_tell_is_about_what_they_name_more_often_than_chance(groups: int) -> None:
    ids = torch.arange(20_000) % groups
    centres = 0.15 * torch.randn(groups, 4)
    samples = centres[ids] + (1 - 0.15**2) ** 0.5 * torch.randn(len(ids), 4)
    named = (torch.cdist(samples, centres).argmin(1) == ids).double().mean() - 1 / groups
    gain = told(samples_as_posteriors(samples), ids)[1].sqrt()
    assert named / 3 < gain < 3 * named


@pytest.mark.parametrize("moment", ["mean", "spread", "skew", "tails"])
def test_dependence_sees_a_group_that_differs_in(moment: str) -> None:
    ids = torch.arange(2000) % 2
    samples = torch.randn(2000, 2)
    odd = ids == 1
    if moment == "mean":
        samples[odd] += 0.7
    elif moment == "spread":
        samples[odd] *= 0.5
    elif moment == "tails":  # the prior's first three moments
        samples[odd] = samples[odd].sign()
    else:  # mean 0 and variance 1, but skewed
        samples[odd] = torch.empty(int(odd.sum()), 2).exponential_() - 1
    assert dependence(samples_as_posteriors(samples), ids) > 0.03


@pytest.mark.parametrize("ids", [list(range(6)), [0]], ids=["no two", "one"])
def test_dependence_has_nothing_to_compare(ids: list[int]) -> None:
    samples = torch.randn(len(ids), 2, requires_grad=True)
    value = dependence(samples_as_posteriors(samples), torch.tensor(ids))
    value.backward()
    assert value.item() == 0.0
    assert samples.grad is not None
    assert samples.grad.abs().max() == 0


def test_dependence_of_no_moments_is_refused() -> None:
    with pytest.raises(ModelError, match="at least 1"):
        dependence(Normal(torch.zeros(2, 1), torch.ones(2, 1)), torch.zeros(2), 0)


def test_dependence_descends_to_independence() -> None:
    ids = torch.arange(30) % 3
    mean = (torch.eye(3)[ids] + 0.3 * torch.randn(30, 3)).requires_grad_()
    precision = torch.full((30, 3), 2.0, requires_grad=True)
    start = dependence(Normal(mean, precision), ids)
    start.backward()
    assert mean.grad is not None and precision.grad is not None
    assert dependence(Normal(mean.detach() - 0.1 * mean.grad, precision.detach()), ids) < start
    assert dependence(Normal(mean.detach(), precision.detach() - 0.1 * precision.grad), ids) < start


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [0, 1, 0, 3]], ids=["apart", "two sub-groups of one"])
def test_misidentification_is_a_slow_loop(ids: list[int]) -> None:
    index = [0, 0, 1, 1, 1, 2, 2, 3]
    each, named = votes(8), [ids[g] for g in index]
    value = misidentification(each, Grouping.from_ids(torch.tensor(index)), torch.tensor(named))
    expected = slow_misidentification(each.precision.numpy(), each.information.numpy(), index, named)
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_votes_that_say_nothing_guess_among_the_groups() -> None:
    nothing = Evidence.votes(torch.zeros(6, 2), torch.full((6, 2), 1e-9))
    index = torch.tensor([0, 0, 1, 1, 2, 2])
    assert misidentification(nothing, Grouping.from_ids(index), index).item() == pytest.approx(np.log(3), rel=1e-5)


def test_clear_votes_name_their_group() -> None:
    index = torch.tensor([0, 0, 1, 1])
    clear = Evidence.votes(torch.tensor([[3.0], [3.0], [-3.0], [-3.0]]), torch.full((4, 1), 50.0))
    assert misidentification(clear, Grouping.from_ids(index), index) < 1e-3


def test_alone_in_every_group_there_is_nothing_to_name() -> None:
    precision = torch.ones(3, 2, requires_grad=True)
    value = misidentification(Evidence.votes(torch.randn(3, 2), precision), Grouping.each(3), torch.arange(3))
    value.backward()
    assert value.item() == 0.0
    assert torch.isfinite(precision.grad).all()


def crossed(n: int = 240) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(n) % 6, torch.arange(n) // 6 % 5


def test_leakage_is_its_definition() -> None:
    own, other = torch.tensor([0, 0, 1, 2, 2, 2, 3, 1, 0, 4, 0, 2]), torch.tensor([0, 1, 1, 0, 2, 1, 1, 0, 2, 1, 1, 2])
    means = torch.randn(12, 3, dtype=torch.float64)
    assert leakage(means, own, other).item() == pytest.approx(slow_leakage(means.numpy(), own.tolist(), other.tolist()))
    assert leakage(means, torch.arange(12), other) == 0


@pytest.mark.parametrize("wild", [torch.nan, 1e30])
def test_leakage_of_codes_that_are_no_numbers_is_none(wild: float) -> None:
    """So that the loss is none, which `fit` explains."""
    own, other = torch.arange(40) % 4, torch.arange(40) // 4 % 5
    means = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    means[7] = wild
    value = leakage(means.requires_grad_(), own, other)
    value.backward()
    assert value.isnan() and means.grad.isnan().any()


def test_leakage_has_its_gradient() -> None:
    means = torch.randn(60, 4, dtype=torch.float64, requires_grad=True)
    own, other = torch.arange(60) % 7, torch.arange(60) // 7 % 5
    assert torch.autograd.gradcheck(lambda m: leakage(m, own, other), (means,))


def test_leakage_is_zero_in_expectation_and_knows_no_scale() -> None:
    own, other = crossed()
    codes = [own.unsqueeze(1) + torch.randn(240, 4) for _ in range(200)]
    values = torch.stack([leakage(means, own, other) for means in codes])
    assert abs(values.mean()) < 0.02 and values.std() < 0.1
    for scales in ([1.0, 0.1, 5.0, 0.01], [1.0, 1e-3, 1e-3, 1e-5]):  # nor do dimensions that hardly vary hide
        assert torch.allclose(leakage(codes[0] @ torch.diag(torch.tensor(scales)), own, other), values[0], atol=1e-3)


@pytest.mark.parametrize(("own", "other"), [(30, 60), (120, 20), (12, 300)])
def test_leakage_is_zero_in_expectation_where_most_pairs_of_groups_are_missing(own: int, other: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mine, theirs = (torch.randint(0, number, (350,), generator=generator) for number in (own, other))
    noise = torch.randn(100, 350, 4, generator=generator)
    values = torch.stack([leakage(3 * torch.randn(own, 4, generator=generator)[mine] + each, mine, theirs)
                          for each in noise])  # fmt: skip
    assert abs(values.mean()) < 3 * values.std() / 10 + 0.005


def test_leakage_of_groupings_that_nearly_lie_in_each_other_is_a_number() -> None:
    person = torch.arange(240) // 6
    country = person // 5
    country[3] = 8
    for own, other in ((person, country), (country, person)):
        values = torch.stack([leakage(torch.randn(240, 2), own, other) for _ in range(50)])
        assert values.isfinite().all() and abs(values.mean()) < 0.05


def test_leakage_of_what_leaves_nothing_free_is_none() -> None:
    own, other = torch.arange(20) // 2, torch.arange(20) % 9
    assert leakage(torch.randn(20, 4), own, other) == 0


def test_leakage_is_the_information_of_a_shift_however_small() -> None:
    own, other = crossed(24000)
    noise = torch.randn(24000, 3)
    noise[:, 0] += 2.0 * (other == 0)
    expected = 0.5 * math.log(1 + 4 * 0.2 * 0.8)  # by the variance between, over that within
    for scale in (1.0, 0.02):
        means = noise * torch.tensor([scale, 1.0, 1.0])
        assert leakage(means, own, other).item() == pytest.approx(expected, abs=0.03)


def test_descending_leakage_takes_the_other_grouping_out_and_leaves_the_own() -> None:
    own, other = crossed()
    x = torch.nn.functional.one_hot(own, 6) + 0.0
    x = torch.cat([x, torch.nn.functional.one_hot(other, 5), torch.randn(240, 4)], 1)
    layer = torch.nn.Linear(15, 3)
    optimizer = torch.optim.Adam(layer.parameters(), 0.03)
    before = leakage(layer(x), own, other).item()
    for _ in range(150):
        optimizer.zero_grad()
        leakage(layer(x), own, other).backward()
        optimizer.step()
    after = leakage(layer(x), own, other).item()
    assert before > 0.2 and after < 0.05
    assert layer(x).std() > 0.1


def test_the_gradient_of_misidentification_is_that_of_differences() -> None:
    torch.manual_seed(0)
    index = torch.tensor([0, 0, 1, 1, 1, 2, 3])
    grouping, ids = Grouping.from_ids(index), torch.tensor([0, 0, 1, 1, 1, 0, 2])

    def value(precision: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return misidentification(Evidence.votes(mean, precision), grouping, ids)

    precision, mean = torch.rand(7, 3, dtype=torch.float64) + 0.1, torch.randn(7, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(value, (precision.requires_grad_(), mean.requires_grad_()))


def test_gradients_by_hand_have_none_themselves() -> None:
    """What they were made of is constant to autograd: a second derivative would be wrong, so there is none."""
    mean, precision = (torch.rand(12, 3).add(0.5).requires_grad_() for _ in range(2))
    ids, other, evidence = torch.arange(12) % 3, torch.arange(12) // 3 % 2, Evidence.votes(mean, precision)
    for value in (
        dependence(Normal(mean, precision), ids),
        leakage(mean, ids, other),
        misidentification(evidence, Grouping.from_ids(ids), ids),
    ):
        (gradient,) = torch.autograd.grad(value**2, mean, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()


def test_samples_that_tell_nothing_are_not_punished_for_being_drawn_again() -> None:
    ids = np.repeat(np.arange(20), [3000] + [30] * 19)
    sampler = GroupSampler(ids, groups=70, members=(2, 8), resample=True)
    mean, labels = 0.7 * torch.randn(len(ids), 16, generator=torch.Generator().manual_seed(0)), torch.from_numpy(ids)
    means = [
        told(Normal(mean[rows], torch.full((len(rows), 16), 2.0)), labels[rows])[1] for rows, _ in sampler.epoch(0)
    ]
    assert abs(torch.stack(means).mean()) < 2e-4  # once (.033)², ten times the end of its course squared
