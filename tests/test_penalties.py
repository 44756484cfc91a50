from __future__ import annotations

import numpy as np
import pytest
import torch

from mlvae import Evidence, Grouping
from mlvae.penalties import dependence, misidentification
from oracles import slow_dependence, slow_misidentification


def votes(n: int) -> Evidence:
    return Evidence.votes(torch.randn(n, 2, dtype=torch.float64), torch.randn(n, 2, dtype=torch.float64).exp())


def test_dependence_is_its_definition_over_pairs() -> None:
    samples, ids = torch.randn(12, 3, dtype=torch.float64), torch.tensor([0, 0, 1, 2, 2, 2, 3, 1, 0, 4, 4, 5])
    assert dependence(samples, ids).item() == pytest.approx(slow_dependence(samples.numpy(), ids.tolist()), rel=1e-9)


def test_dependence_is_zero_in_expectation_for_independent_samples_and_large_for_dependent_ones() -> None:
    ids = torch.arange(40) % 8
    independent = torch.stack([dependence(torch.randn(40, 4), ids) for _ in range(300)])
    assert abs(independent.mean()) < 5 * independent.std() / 300**0.5
    centres = 3 * torch.randn(8, 4)
    assert 0.5 < dependence(centres[ids] + 0.1 * torch.randn(40, 4), ids) <= 1


@pytest.mark.parametrize("ids", [[0] * 6, list(range(6)), [0, 0, 1]])
def test_dependence_has_nothing_to_compare(ids: list[int]) -> None:
    samples = torch.randn(len(ids), 2, requires_grad=True)
    value = dependence(samples, torch.tensor(ids))
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(samples.grad).all()


def test_dependence_descends_to_independence() -> None:
    ids = torch.arange(30) % 3
    samples = (torch.eye(3)[ids] * 2 + 0.3 * torch.randn(30, 3)).requires_grad_()
    start = dependence(samples, ids)
    start.backward()
    stepped = samples.detach() - 20 * samples.grad
    assert dependence(stepped, ids) < start


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


@pytest.mark.parametrize("ids", [torch.zeros(10, dtype=torch.int64), torch.arange(10)], ids=["one group", "no two"])
def test_dependence_has_a_finite_gradient_where_the_groups_say_nothing(ids: torch.Tensor) -> None:
    samples = torch.randn(10, 16, requires_grad=True)
    (1e4 * dependence(samples, ids)).backward()
    assert samples.grad is not None
    assert samples.grad.abs().max() == 0
