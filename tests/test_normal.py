from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from mlvae import Normal

MEAN = torch.tensor([[0.3, -2.0], [1.5, 0.0]], dtype=torch.float64)
PRECISION = torch.tensor([[4.0, 0.1], [1.0, 25.0]], dtype=torch.float64)
NORMAL = Normal(MEAN, PRECISION)


def test_log_prob_is_scipys() -> None:
    value = torch.tensor([0.7, -1.0], dtype=torch.float64)
    expected = stats.norm(MEAN.numpy(), PRECISION.numpy() ** -0.5).logpdf(value.numpy()).sum(-1)
    np.testing.assert_allclose(NORMAL.log_prob(value).numpy(), expected, rtol=1e-12)


def test_kl_is_the_integral() -> None:
    for row in range(2):
        nats = 0.0
        for mean, precision in zip(MEAN[row].tolist(), PRECISION[row].tolist(), strict=True):
            q, p = stats.norm(mean, precision**-0.5), stats.norm()
            low, high = mean - 12 * precision**-0.5, mean + 12 * precision**-0.5
            nats += integrate.quad(lambda z, q=q, p=p: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), low, high, limit=200)[0]
        assert NORMAL.kl()[row].item() == pytest.approx(nats, rel=1e-7)


def test_kl_of_the_prior_is_zero_and_variance_is_the_reciprocal() -> None:
    assert Normal.standard(3, 2).kl().tolist() == [0.0, 0.0, 0.0]
    assert torch.allclose(NORMAL.variance, 1 / PRECISION)
    assert torch.allclose(NORMAL.log_var.exp(), NORMAL.variance)


def test_draws_have_the_moments_and_gradients(generator: torch.Generator) -> None:
    mean, precision = MEAN.clone().requires_grad_(), PRECISION.clone().requires_grad_()
    draws = Normal(mean.expand(20000, 2, 2), precision.expand(20000, 2, 2)).rsample(generator)
    scale = PRECISION**-0.5
    assert ((draws.mean(0) - MEAN).abs() < 5 * scale / 20000**0.5).all()
    assert torch.allclose(draws.var(0), 1 / PRECISION, rtol=0.05)
    draws.sum().backward()
    assert torch.allclose(mean.grad, torch.full((2, 2), 20000.0, dtype=torch.float64))
    assert (precision.grad != 0).all()


def test_the_same_seed_draws_the_same() -> None:
    first, second = (NORMAL.rsample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(NORMAL[0:1].mean, MEAN[:1])


def test_the_last_axis_is_the_latents_whatever_comes_before_it() -> None:
    mean, precision = MEAN[:, None].expand(2, 3, 2), PRECISION[:, None].expand(2, 3, 2)
    wide = Normal(mean, precision)
    assert torch.equal(wide.kl(), NORMAL.kl()[:, None].expand(2, 3))
    assert torch.equal(wide.log_prob(mean + 1), NORMAL.log_prob(MEAN + 1)[:, None].expand(2, 3))
    assert Normal(mean[..., :1], precision[..., :1])._repr_html_().count("±") == 6


def test_a_draw_is_the_mean_and_the_noise_in_units_of_the_deviation() -> None:
    noise = torch.empty_like(MEAN).normal_(generator=torch.Generator().manual_seed(3))
    draw = NORMAL.rsample(torch.Generator().manual_seed(3))
    assert torch.allclose(draw, MEAN + noise / PRECISION.sqrt())


def test_a_notebook_shows_the_first_four_dimensions() -> None:
    page = Normal.standard(2, 7)._repr_html_()
    assert "z3" in page and "z4" not in page and page.count("±") == 8
