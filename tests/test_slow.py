"""Checks that take minutes; `make slow`."""

from __future__ import annotations

import pytest
import torch

import mlvae


@pytest.mark.slow
def test_the_default_learns_digits_that_an_untrained_network_does_not() -> None:
    train, new = mlvae.read("digits").split(column="split")
    torch.manual_seed(0)
    model = mlvae.MLVAE.for_data(train)
    mlvae.fit(model, train, epochs=200, progress=False)
    metrics = mlvae.evaluate(model, train, new)
    content = "probe.content.k1.linear"
    assert metrics[content] > 0.9
    assert metrics[content] > metrics[f"control.untrained.{content}"]
    assert metrics["probe.style.sample.mlp"] < metrics["probe.content.k1.mlp"] - 0.3
