from __future__ import annotations

import numpy as np
import pytest
import torch

from mlvae import Grouping
from mlvae.errors import DataError
from mlvae.grouping import FEW

IDS = ["b", "a", "b", "c", "b"]


def test_ids_of_any_sortable_type_become_dense_in_sorted_order() -> None:
    for ids in (IDS, np.array(IDS), torch.tensor([7, -1, 7, 9, 7]), np.array([0.5, 0.1, 0.5, 2.0, 0.5])):
        grouping = Grouping.from_ids(ids)
        assert grouping.index.tolist() == [1, 0, 1, 2, 1]
        assert grouping.num_groups == 3
        assert grouping.sizes.tolist() == [1, 3, 1]
        assert grouping.first.tolist() == [1, 0, 3]


@pytest.mark.parametrize("ids", [[], np.zeros((2, 2)), torch.tensor(3)])
def test_ids_must_be_one_row_of_labels(ids: object) -> None:
    with pytest.raises(DataError, match="one group id an observation"):
        Grouping.from_ids(ids)  # type: ignore[arg-type]


def test_sum_mean_expand_against_a_loop() -> None:
    grouping, values = Grouping.from_ids(IDS), torch.randn(5, 2, 3)
    for group in range(3):
        rows = [i for i in range(5) if grouping.index[i] == group]
        assert torch.allclose(grouping.sum(values)[group], values[rows].sum(0))
        assert torch.allclose(grouping.mean(values)[group], values[rows].mean(0))
    expanded = grouping.expand(torch.tensor([10.0, 20.0, 30.0]))
    assert expanded.tolist() == [20.0, 10.0, 20.0, 30.0, 20.0]


@pytest.mark.parametrize("make", [Grouping.each, lambda n: Grouping.from_ids(range(n))])
def test_singletons_are_the_same_with_and_without_the_shortcut(make) -> None:
    grouping, values = make(4), torch.randn(4, 2)
    assert torch.equal(grouping.sum(values), values)
    assert torch.equal(grouping.mean(values), values)
    assert torch.equal(grouping.expand(values), values)
    assert torch.equal(grouping.sum_others(values), torch.zeros(4, 2))
    assert grouping.sizes.tolist() == [1, 1, 1, 1]
    assert grouping.first.tolist() == [0, 1, 2, 3]


def test_one_group_takes_all() -> None:
    assert Grouping.one(3).sum(torch.tensor([1.0, 2.0, 4.0])).tolist() == [7.0]


def test_values_of_another_length_are_refused() -> None:
    with pytest.raises(DataError, match="5 rows.*got 4"):
        Grouping.from_ids(IDS).sum(torch.zeros(4))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 16, 17])
def test_sum_others_at_every_size_about_a_power_of_two(n: int) -> None:
    values = torch.randn(n, 2, dtype=torch.float64)
    assert torch.allclose(Grouping.one(n).sum_others(values), values.sum(0) - values, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (1, 2, 2)])
def test_sum_others_takes_values_of_any_shape(shape: tuple[int, ...]) -> None:
    grouping, values = Grouping.from_ids(IDS), torch.randn(5, *shape, dtype=torch.float64)
    expected = torch.stack([
        sum((values[j] for j in range(5) if j != i and IDS[j] == IDS[i]), torch.zeros(shape, dtype=torch.float64))
        for i in range(5)
    ])  # fmt: skip
    assert torch.allclose(grouping.sum_others(values), expected, atol=1e-12)


def test_a_grouping_where_it_is_already_is_itself() -> None:
    grouping = Grouping.from_ids(IDS)
    assert grouping.to("cpu") is grouping
    assert grouping.to("meta").sizes.device.type == "meta" and Grouping.each(3).to("meta").singletons


def test_sum_others_is_its_own_adjoint_in_its_gradient() -> None:
    grouping = Grouping.from_ids(IDS)
    values = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(grouping.sum_others, (values,))
    assert torch.autograd.gradcheck(grouping.sum, (values,))


def test_sum_others_does_not_cancel() -> None:
    values = torch.tensor([1e5] + [0.01] * 7)
    others = Grouping.one(8).sum_others(values)
    assert others[0].item() == pytest.approx(0.07, rel=1e-6)
    assert (values.sum() - values)[0].item() != pytest.approx(0.07, rel=1e-2)  # what subtraction would give


def test_sum_others_is_the_same_by_a_matrix_and_by_doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    index = torch.randint(0, 40, (FEW + 1,), generator=torch.Generator().manual_seed(0))
    for rows in (FEW, FEW + 1):  # either side of where it changes
        grouping = Grouping.from_ids(index[:rows])
        values = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
        here, (gradient,) = with_gradient(grouping, values)
        assert ("_scan" in grouping.__dict__) == (rows > FEW)
        with monkeypatch.context() as changed:
            changed.setattr("mlvae.grouping.FEW", 0 if rows == FEW else rows)
            there, (expected,) = with_gradient(grouping, values)
        assert torch.allclose(here, there, atol=1e-12) and torch.allclose(gradient, expected, atol=1e-12)


def with_gradient(grouping: Grouping, values: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    summed = grouping.sum_others(values)
    return summed, torch.autograd.grad(summed.sin().sum(), (values,))


def test_sum_others_is_not_rounded_under_autocast() -> None:
    values = 1 + torch.rand(8, 2)
    with torch.autocast("cpu", torch.bfloat16):
        others = Grouping.one(8).sum_others(values)
    assert others.dtype == torch.float32
    assert torch.allclose(others, values.sum(0) - values, rtol=1e-6)


def test_what_lies_elsewhere_is_counted_by_its_twin() -> None:
    """Nothing can be counted on the meta device; on an accelerator it would wait."""
    people, countries = Grouping.from_ids([3, 3, 1, 0, 1, 3]), Grouping.from_ids([0, 0, 1, 1, 1, 0])
    there, owners = people.to("meta"), countries.to("meta").of(people.to("meta"))
    assert there.twin is people and there.to("meta") is there
    assert there.sizes.shape == (3,) and there.sizes.device.type == "meta"
    assert there.sum_others(torch.zeros(6, 2, device="meta")).shape == (6, 2)
    assert owners.twin.index.tolist() == [1, 1, 0] and owners.index.device.type == "meta"
    assert owners.sum_others(torch.zeros(3, 2, device="meta")).shape == (3, 2)
