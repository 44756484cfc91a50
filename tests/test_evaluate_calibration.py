from __future__ import annotations

import numpy as np
import pytest
import torch

from mlvae import Evidence
from mlvae.errors import DataError, EvidenceError, ModelError
from mlvae.evaluate.calibration import calibration


def linear_gaussian(groups: int, members: int, dim: int = 4, seed: int = 0) -> tuple[Evidence, np.ndarray]:
    """x_i = c_g + noise, whose votes N(x_i, noise variance) are the exact likelihood factors of c_g ~ N(0, 1)."""
    random = np.random.default_rng(seed)
    centres, labels = random.normal(size=(groups, dim)), np.repeat(np.arange(groups), members)
    precision = random.uniform(2, 6, size=(len(labels), dim))
    x = centres[labels] + random.normal(size=precision.shape) / np.sqrt(precision)
    shuffled = random.permutation(len(labels))
    return Evidence.votes(torch.from_numpy(x[shuffled]), torch.from_numpy(precision[shuffled])), labels[shuffled]


def sharpened(votes: Evidence, by: float) -> Evidence:
    """The same means, claimed with another precision."""
    return Evidence(votes.precision * by, votes.information * by, votes.count)


@pytest.mark.parametrize("readout", ["product_with_prior", "product"])
@pytest.mark.parametrize("members", [20, 60])
def test_exact_posteriors_are_calibrated(readout, members):
    result = calibration(*linear_gaussian(300, members), readout, draws=5)
    assert list(result) == [1, 2, 5, 10]
    for k in (1, 2, 5):
        assert result[k].ratio == pytest.approx(1, abs=0.1)
        assert result[k].coverage90 == pytest.approx(0.9, abs=0.02)
        assert result[k].used == 1.0
        assert result[k].groups == 300


def test_a_few_groups_are_stable():
    """Ten groups, as MNIST has: many draws of each make up for it."""
    for seed in range(3):
        result = calibration(*linear_gaussian(10, 200, dim=16, seed=seed), seed=seed)
        assert result[5].ratio == pytest.approx(1, abs=0.1)


def test_wrong_posteriors_are_seen():
    votes, labels = linear_gaussian(300, 20)
    over, under = (calibration(sharpened(votes, by), labels, draws=5, ks=(1, 2)) for by in (4.0, 0.25))
    for k in (1, 2):
        assert over[k].ratio > 1.5 and over[k].coverage90 < 0.8
        assert under[k].ratio < 0.8 and under[k].coverage90 > 0.92


def test_equals_a_loop_where_every_subset_is_the_same():
    """With k members alike in every group, the draw does not matter and the definition can be written down."""
    random = np.random.default_rng(0)
    mean, precision = random.normal(size=(4, 2)), random.uniform(0.5, 3, size=(4, 2))
    labels = np.repeat(np.arange(4), 6)
    votes = Evidence.votes(torch.from_numpy(mean[labels]), torch.from_numpy(precision[labels]))
    ratios = []
    for m, p in zip(mean.flatten(), precision.flatten(), strict=True):
        part, full = 2 * p * m / (1 + 2 * p), 6 * p * m / (1 + 6 * p)
        gap = 1 / (1 + 2 * p) - 1 / (1 + 6 * p)
        if gap > 0.01:
            ratios.append((part - full) ** 2 / gap)
    (result,) = calibration(votes, labels, ks=(2,)).values()
    assert result.ratio == pytest.approx(np.mean(ratios), rel=1e-12)
    assert result.coverage90 == pytest.approx(np.mean(np.sqrt(ratios) <= 1.6449))


def test_dimensions_that_say_nothing_are_counted_out_and_none_is_none():
    votes, labels = linear_gaussian(20, 10)
    faint = Evidence(votes.precision.clone(), votes.information.clone(), votes.count)
    faint.precision[:, 1:] = 0
    faint.information[:, 1:] = 0
    assert calibration(faint, labels, ks=(1,))[1].used == 0.25
    empty = calibration(sharpened(votes, 0.0), labels, ks=(1,))[1]
    assert (empty.ratio, empty.coverage90, empty.used) == (None, None, 0.0)
    assert calibration(sharpened(faint, 1e6), labels, ks=(1,))[1].ratio is None, "no evidence could be added"


def test_groups_of_fewer_than_twice_k_take_no_part():
    votes, _ = linear_gaussian(1, 12)
    labels = np.repeat(["a", "b", "c"], [7, 4, 1])
    result = calibration(votes, labels, ks=(1, 2, 3, 4))
    assert {k: each.groups for k, each in result.items()} == {1: 2, 2: 2, 3: 1}


def test_same_seed_same_numbers_in_any_order_of_rows_types_and_labels():
    votes, labels = linear_gaussian(8, 10)
    assert calibration(votes, labels, seed=1) == calibration(votes, labels, seed=1)
    assert calibration(votes, labels, seed=1) != calibration(votes, labels, seed=2)
    words = np.array(list("abcdefgh"))[labels]
    assert calibration(votes, words) == calibration(votes, labels)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"groups": [0, 0, 1]}, DataError, "4 observations"),
        ({"votes": Evidence.votes(torch.full((4, 2), torch.inf), torch.ones(4, 2))}, DataError, "finite"),
        (
            {"votes": Evidence.votes(torch.zeros(4, 2), torch.zeros(4, 2)), "readout": "product"},
            EvidenceError,
            "above zero",
        ),
        ({"readout": "produkt"}, ModelError, "'product'"),
        ({"ks": (0,)}, DataError, "at least 1; got 0"),
        ({"draws": 0}, DataError, "`draws`"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"votes": Evidence.votes(torch.zeros(4, 2), torch.ones(4, 2)), "groups": [0, 0, 1, 1]}
    with pytest.raises(error, match=message):
        calibration(**{**arguments, **change})
