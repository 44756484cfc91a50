from __future__ import annotations

import numpy as np
import pytest
import torch

import mlvae
from mlvae.data.sequences import padded
from mlvae.errors import DataError


def test_what_is_behind_the_end_of_a_sequence_changes_nothing() -> None:
    """The nats of a sequence do not depend on how far it is padded with what is not there."""
    random = np.random.default_rng(0)
    sequences = [random.normal(size=(int(random.integers(3, 9)), 2)) for _ in range(40)]
    data = mlvae.read(padded(sequences), groups=np.arange(40) // 4, gaps=True)
    assert data.shape == (8, 2) and data.gaps
    model = mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=16)
    assert model.likelihood.missing
    history = mlvae.fit(model, data, epochs=3, progress=False)
    assert np.isfinite(history.epochs[-1]["loss"])
    x, output = model.prepare(data.x), torch.randn(40, 8, 2)
    ends = [len(sequence) for sequence in sequences]
    nats = model.likelihood.per_feature(x.nan_to_num(7.0), output)
    by_hand = torch.stack([nats[i, :t].sum() for i, t in enumerate(ends)])
    torch.testing.assert_close(model.likelihood.log_prob(x, output), by_hand)


def test_longer_ones_are_cut_and_others_named() -> None:
    assert padded([[1, 2, 3], [4]], length=2).tolist()[0] == [1, 2]
    for wrong in ([], [[1.0], []], [[[1.0]], [[1.0, 2.0]]]):
        with pytest.raises(DataError, match="Expected sequences"):
            padded(wrong)


def test_windows_are_padded_along_the_axis_of_their_steps() -> None:
    x = padded([np.ones((2, 5)), np.ones((2, 3))], axis=-1)
    assert x.shape == (2, 2, 5) and np.isnan(x[1, :, 3:]).all() and not np.isnan(x[1, :, :3]).any()
    assert padded([np.ones((2, 5)), np.ones((2, 3))], length=4, axis=1).shape == (2, 2, 4)
    with pytest.raises(DataError, match="axis 2"):
        padded([np.ones((2, 5))], axis=2)
    with pytest.raises(DataError, match="axis 0"):
        padded([np.ones(3), np.ones((3, 2))])
