from __future__ import annotations

import numpy as np
import pytest
import torch

from mlvae.errors import DataError
from mlvae.evaluate import generation
from mlvae.evaluate.generation import coverage_density


def sample(n: int, dim: int = 3) -> torch.Tensor:
    return torch.randn(n, dim)


def slow(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, float]:
    """By the definition, one ball and one sample at a time."""
    covered, inside = 0, 0
    for i, x in enumerate(real):
        others = sorted(np.linalg.norm(x - y) for j, y in enumerate(real) if j != i)
        hits = sum(np.linalg.norm(x - z) <= others[k - 1] for z in generated)
        covered, inside = covered + (hits > 0), inside + hits
    return covered / len(real), inside / (k * len(generated))


def test_is_the_definition_whatever_the_blocks(monkeypatch):
    real, generated = sample(40), 1.3 * sample(25) + 0.2
    for block in (generation.BLOCK, 90):
        monkeypatch.setattr(generation, "BLOCK", block)
        result = coverage_density(real, generated, k=3)
        assert (result.coverage, result.density) == pytest.approx(slow(real.numpy(), generated.numpy(), 3))


@pytest.mark.parametrize("k", [1, 5])
def test_the_same_distribution(k):
    """A ball is missed where the k nearest of real and generated together are all real, about 2^-k."""
    result = coverage_density(sample(2000), sample(2000), k)
    assert result.coverage == pytest.approx(1 - 2.0**-k, abs=0.03)
    assert result.density == pytest.approx(1, abs=0.06)


def test_a_dropped_mode_halves_the_coverage_and_not_the_density():
    side = torch.where(torch.arange(2000) % 2 == 0, 20.0, -20.0)[:, None]
    result = coverage_density(sample(2000) + side, sample(1000) + 20)
    assert result.coverage == pytest.approx(0.97 / 2, abs=0.02)
    assert result.density == pytest.approx(1, abs=0.1)


def test_samples_that_show_nothing_real_score_nothing():
    far = coverage_density(sample(300), sample(300) + 50)
    assert (far.coverage, far.density) == (0, 0)
    half = coverage_density(sample(1000), torch.cat([sample(1000), sample(1000) + 50]))
    assert half.density == pytest.approx(0.5, abs=0.05)
    assert half.coverage > 0.9


def test_one_good_sample_again_and_again_is_dense_and_covers_little():
    result = coverage_density(sample(1000), torch.zeros(1000, 3))
    assert result.density > 0.5
    assert result.coverage < 0.05


def test_where_the_features_lie_does_not_matter():
    real, generated = sample(300).double(), sample(300).double()
    assert coverage_density(real + 1e6, generated + 1e6) == coverage_density(real, generated)


def test_refusals_say_what_to_do():
    with pytest.raises(DataError, match="5 dimensions"):
        coverage_density(sample(10, 5), sample(10, 4))
    with pytest.raises(DataError, match="more than k"):
        coverage_density(sample(5), sample(10), k=5)
    with pytest.raises(DataError, match="finite generated"):
        coverage_density(sample(10), sample(10) * torch.nan)
    with pytest.raises(DataError, match="Flatten"):
        coverage_density(torch.zeros(10, 2, 2), torch.zeros(10, 2, 2))
