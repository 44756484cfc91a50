"""Evidence is a commutative monoid with removal."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlvae import Evidence, Grouping
from mlvae.evidence import product_with_prior

SETTINGS = settings(max_examples=60, deadline=None)


@st.composite
def evidence(draw: st.DrawFn, groups: int = 3, dim: int = 2) -> Evidence:
    """Float64 votes whose precisions span what heads can put out, some groups with more than one."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    span = draw(st.sampled_from([0.0, 1.0, 4.0]))
    precision = 10 ** (span * (2 * torch.rand(groups, dim, generator=generator, dtype=torch.float64) - 1))
    mean = 3 * torch.randn(groups, dim, generator=generator, dtype=torch.float64)
    count = torch.randint(1, 5, (groups,), generator=generator)
    return Evidence(precision, precision * mean, count)


def magnitude(*terms: Evidence) -> tuple[torch.Tensor, torch.Tensor]:
    return sum(t.precision.abs() for t in terms), sum(t.information.abs() for t in terms)


def same(a: Evidence, b: Evidence, *terms: Evidence) -> bool:
    """Equal to 1e-12 of the magnitude of the terms that were added and removed."""
    precision, information = magnitude(*terms)
    return bool(
        ((a.precision - b.precision).abs() <= 1e-12 * precision).all()
        and ((a.information - b.information).abs() <= 1e-12 * information).all()
        and torch.equal(a.count, b.count)
    )


@SETTINGS
@given(evidence(), evidence(), evidence())
def test_addition_is_a_commutative_monoid(a: Evidence, b: Evidence, c: Evidence) -> None:
    assert same(a + b, b + a, a, b)
    assert same((a + b) + c, a + (b + c), a, b, c)
    zero = Evidence.empty(3, 2)
    assert torch.equal((a + zero).precision, a.precision)
    assert torch.equal((zero + a).information, a.information)
    assert torch.equal((a + zero).count, a.count)


@SETTINGS
@given(evidence(), evidence())
def test_removal_takes_back_exactly(a: Evidence, b: Evidence) -> None:
    assert same((a + b) - b, a, a, b)
    assert same((a + b) - a, b, a, b)


@SETTINGS
@given(evidence(), evidence())
def test_a_count_of_zero_is_exactly_empty(a: Evidence, b: Evidence) -> None:
    nothing = ((a + b) - a) - b
    assert nothing.count.tolist() == [0, 0, 0]
    assert not nothing.precision.any()
    assert not nothing.information.any()
    prior = product_with_prior(nothing)
    assert torch.equal(prior.precision, torch.ones_like(prior.precision))
    assert torch.equal(prior.mean, torch.zeros_like(prior.mean))


@SETTINGS
@given(evidence(groups=12), st.lists(st.integers(0, 3), min_size=12, max_size=12), st.randoms())
def test_order_does_not_matter(votes: Evidence, ids: list[int], random) -> None:
    index = torch.tensor(ids)
    order = list(range(12))
    random.shuffle(order)
    straight = votes.sum(Grouping.from_ids(index))
    turned = votes[torch.tensor(order)].sum(Grouping.from_ids(index[order]))
    absolute = Evidence(votes.precision, votes.information.abs(), votes.count).sum(Grouping.from_ids(index))
    assert same(straight, turned, absolute)


@SETTINGS
@given(evidence(groups=10), st.integers(1, 9))
def test_split_and_merged_is_the_same(votes: Evidence, cut: int) -> None:
    whole = votes.sum(Grouping.one(10))
    parts = votes[:cut].sum(Grouping.one(cut)) + votes[cut:].sum(Grouping.one(10 - cut))
    absolute = Evidence(votes.precision, votes.information.abs(), votes.count).sum(Grouping.one(10))
    assert same(whole, parts, absolute)


@SETTINGS
@given(evidence(), evidence())
def test_a_posterior_is_never_wider_than_its_prior_and_evidence_only_sharpens(a: Evidence, b: Evidence) -> None:
    one, both = product_with_prior(a), product_with_prior(a + b)
    assert (one.variance <= 1).all()
    assert (both.precision >= one.precision).all()


@SETTINGS
@given(evidence(), evidence())
def test_the_bayes_factor_is_symmetric_and_nothing_says_nothing(a: Evidence, b: Evidence) -> None:
    zero = Evidence.empty(3, 2)
    forth = (a + b).log_evidence() - a.log_evidence() - b.log_evidence()
    back = (b + a).log_evidence() - b.log_evidence() - a.log_evidence()
    assert torch.allclose(forth, back, rtol=1e-9, atol=1e-6)
    assert torch.equal(zero.log_evidence(), torch.zeros(3, dtype=torch.float64))
    assert torch.equal((a + zero).log_evidence() - a.log_evidence(), torch.zeros(3, dtype=torch.float64))
