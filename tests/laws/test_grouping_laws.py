"""What holds for every grouping, whatever the sizes of its groups."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlvae import Grouping

SETTINGS = settings(max_examples=60, deadline=None)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Grouping, Tensor]:
    """A ragged grouping of 1 to 40 rows and float64 values (N, 2)."""
    ids = draw(st.lists(st.integers(0, 6), min_size=1, max_size=40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return Grouping.from_ids(torch.tensor(ids)), torch.randn(len(ids), 2, generator=generator, dtype=torch.float64)


@SETTINGS
@given(grouped(), st.integers(0, 1000))
def test_sum_and_expand_are_adjoint(case: tuple[Grouping, Tensor], seed: int) -> None:
    grouping, values = case
    generator = torch.Generator().manual_seed(seed)
    other = torch.randn(grouping.num_groups, 2, generator=generator, dtype=torch.float64)
    left, right = (grouping.sum(values) * other).sum(), (values * grouping.expand(other)).sum()
    assert torch.allclose(left, right, atol=1e-10)


@SETTINGS
@given(grouped())
def test_no_group_is_empty_and_sizes_add_up(case: tuple[Grouping, Tensor]) -> None:
    grouping, values = case
    assert (grouping.sizes > 0).all()
    assert grouping.sizes.sum() == len(values)
    assert torch.equal(grouping.index[grouping.first], torch.arange(grouping.num_groups))


@SETTINGS
@given(grouped())
def test_the_others_and_oneself_are_all(case: tuple[Grouping, Tensor]) -> None:
    grouping, values = case
    whole = grouping.expand(grouping.sum(values))
    assert torch.allclose(grouping.sum_others(values) + values, whole, atol=1e-10)


@SETTINGS
@given(grouped(), st.randoms())
def test_the_order_of_the_rows_does_not_matter(case: tuple[Grouping, Tensor], random) -> None:
    grouping, values = case
    order = list(range(len(values)))
    random.shuffle(order)
    turned = Grouping(grouping.index[order], grouping.num_groups)
    assert torch.allclose(turned.sum(values[order]), grouping.sum(values), atol=1e-10)
    assert torch.allclose(turned.sum_others(values[order]), grouping.sum_others(values)[order], atol=1e-10)


@SETTINGS
@given(st.lists(st.floats(-3, 5), min_size=2, max_size=40))
def test_others_keep_their_digits_beside_large_values(exponents: list[float]) -> None:
    """In float32, every sum of positive terms is right to a few roundings, however large the term left out."""
    values = torch.tensor([10.0**e for e in exponents])
    exact = values.double().sum() - values.double()
    assert torch.allclose(Grouping.one(len(values)).sum_others(values).double(), exact, rtol=1e-5)
