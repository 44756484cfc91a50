from __future__ import annotations

import numpy as np
import pytest
import torch

from mlvae import Evidence
from mlvae.errors import DataError, EvidenceError, ModelError
from mlvae.evaluate import probe
from mlvae.evaluate.curve import k_curve, pooled
from mlvae.evidence import product_with_prior


def noisy_groups(sizes: list[int], noise: float, seed: int) -> tuple[Evidence, np.ndarray]:
    """Exact votes on group centres that are the same for every seed."""
    centres = np.random.default_rng(0).normal(size=(len(sizes), 3))
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = torch.from_numpy(centres[labels] + noise * np.random.default_rng(seed).normal(size=(len(labels), 3)))
    return Evidence.votes(x, torch.full_like(x, noise**-2)), labels


@pytest.fixture
def parts():
    return *noisy_groups([60] * 6, 1.0, 1), *noisy_groups([41, 40, 40, 40, 7, 3], 1.0, 2)


def test_one_observation_is_the_probe(parts):
    (point,) = k_curve(*parts, ks=(1,))
    train, labels, test, named = parts
    expected = probe(product_with_prior(train).mean, labels, product_with_prior(test).mean, named)
    assert point.accuracy == pytest.approx(expected.accuracy, abs=1e-12)
    assert 0.4 < point.accuracy < 0.9, "a probe that is always or never right would prove nothing"
    assert point.pools == 171


def test_more_observations_name_better_and_narrow_the_posterior(parts):
    points = k_curve(*parts)
    assert [p.k for p in points] == [1, 2, 5, 10, 20]
    assert [p.pools for p in points] == [171, 20 + 20 * 3 + 3 + 1, 8 * 4 + 1, 16, 8]
    assert [p.groups for p in points] == [6, 6, 5, 4, 4]
    assert points[3].accuracy > points[0].accuracy + 0.2
    assert [p.variance for p in points] == pytest.approx([1 / (1 + k) for k in (1, 2, 5, 10, 20)])


def test_pools_are_of_one_group_and_disjoint(parts, monkeypatch):
    train, labels, test, named = parts
    drawn = []

    def spy(votes, rows):
        drawn.append(rows.numpy())
        return pooled(votes, rows)

    monkeypatch.setitem(k_curve.__globals__, "pooled", spy)
    k_curve(train, labels, test, named, ks=(2, 5))
    for rows, k, of in zip(drawn, (2, 2, 5, 5), (labels, named) * 2, strict=True):
        assert rows.shape[1] == k and len(np.unique(rows)) == rows.size
        assert (of[rows] == of[rows[:, :1]]).all()
    assert not (np.diff(drawn[0]) > 0).all(), "members are taken in random order"


def test_pooling_names_what_single_observations_hardly_tell_apart():
    """Why the untrained control must stand beside: a sixth at k = 1 becomes three quarters at k = 100."""
    parts = *noisy_groups([400] * 10, 3.0, 1), *noisy_groups([400] * 10, 3.0, 2)
    one, hundred = k_curve(*parts, readout="product", ks=(1, 100))
    assert one.accuracy < 0.3 and hundred.accuracy > one.accuracy + 0.4


def test_average_never_narrows(parts):
    variances = [p.variance for p in k_curve(*parts, readout="average")]
    assert variances == pytest.approx([1.0] * 5)


def test_k_that_no_group_reaches_is_left_out(parts):
    assert [p.k for p in k_curve(*parts, ks=(20, 42))] == [20]


def test_labels_of_any_type_same_seed_same_points_and_the_global_generator_is_left_alone(parts):
    train, labels, test, named = parts
    words = np.array(list("fedcba"))
    before = torch.random.get_rng_state()
    points = k_curve(train, labels, test, named, seed=3)
    assert points == k_curve(train, labels, test, named, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [p.pools for p in k_curve(train, words[labels], test, words[named])] == [p.pools for p in points]
    assert any(a != b for a, b in zip(points, k_curve(train, labels, test, named, seed=4), strict=True))


def test_pooled_is_the_sum(generator):
    votes = Evidence.votes(torch.randn(9, 2, generator=generator), torch.rand(9, 2, generator=generator))
    rows = torch.tensor([[0, 8, 3], [4, 4, 1]])
    total = pooled(votes, rows)
    torch.testing.assert_close(total.precision, votes.precision[rows].sum(1))
    torch.testing.assert_close(total.information, votes.information[rows].sum(1))
    assert total.count.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train_labels": [0, 1, 1]}, DataError, "4 observations"),
        ({"test_labels": [0, 1, 0, 5]}, DataError, "got 5"),
        ({"train_labels": [0, 0, 0, 0]}, DataError, "two training labels"),
        ({"test_votes": Evidence.votes(torch.full((4, 2), torch.nan), torch.ones(4, 2))}, DataError, "finite"),
        ({"test_votes": Evidence.votes(torch.zeros(4, 3), torch.ones(4, 3))}, DataError, "2 dimensions"),
        (
            {"test_votes": Evidence.votes(torch.zeros(4, 2), torch.zeros(4, 2)), "readout": "product"},
            EvidenceError,
            "above zero",
        ),
        ({"readout": "averege"}, ModelError, "'average'"),
        ({"ks": (1, 0)}, DataError, "at least 1; got 0"),
    ],
)
def test_bad_input(change, error, message):
    votes = Evidence.votes(torch.randn(4, 2), torch.ones(4, 2))
    arguments = {"train_votes": votes, "train_labels": [0, 0, 1, 1], "test_votes": votes, "test_labels": [0, 0, 1, 1]}
    with pytest.raises(error, match=message):
        k_curve(**{**arguments, **change})
