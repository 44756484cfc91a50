"""Temperatures: what they are, what they leave alone, and that they mend what members' likeness spoils."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mlvae
from mlvae import Evidence, Grouping
from mlvae.errors import DataError
from mlvae.evaluate.calibration import calibration
from mlvae.temperature import COLDEST, temper, temperature
from oracles import SCALE, WC, WS, linear_gaussian


def votes(spread: float, groups: int = 300, members: int = 10, seed: int = 0) -> tuple[Evidence, Grouping, np.ndarray]:
    """Votes of precision 4 whose means scatter `spread` times more than that, as variance goes, in two dimensions."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(groups), members)
    latent = random.normal(size=(groups, 2))
    mean = latent[labels] + random.normal(size=(len(labels), 2)) * np.sqrt(spread / 4)
    return Evidence.votes(torch.from_numpy(mean), torch.full((len(labels), 2), 4.0)), Grouping.from_ids(labels), labels


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_it_is_the_scatter_beyond_the_promise(spread: float) -> None:
    evidence, grouping, _ = votes(spread)
    assert temperature(evidence, grouping).numpy() == pytest.approx([spread, spread], rel=0.1)


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_tempered_votes_are_calibrated(spread: float) -> None:
    evidence, grouping, labels = votes(spread)
    before = calibration(evidence, labels)
    scale = temperature(evidence, grouping)
    after = calibration(Evidence(evidence.precision / scale, evidence.information / scale, evidence.count), labels)
    for k, each in after.items():
        assert each.ratio is not None and 0.9 < each.ratio < 1.1, k
        assert each.coverage90 is not None and 0.88 < each.coverage90 < 0.92, k
    assert before[5].ratio is not None and abs(before[5].ratio - 1) > 0.15


def test_exact_votes_have_temperature_one() -> None:
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(400), 5)
    content, style = random.normal(size=(400, 2))[labels], random.normal(size=(2000, 2))
    x = content * WC + style * WS + SCALE * random.normal(size=(2000, 2))
    model = linear_gaussian()
    temper(model, torch.from_numpy(x), labels)
    assert model.temperature("content").numpy() == pytest.approx([1, 1], abs=0.08)
    assert model.temperature("style").tolist() == [1, 1]


def test_votes_without_scatter_do_not_become_infinitely_sure() -> None:
    still = Evidence.votes(torch.zeros(100, 1), torch.ones(100, 1))
    assert temperature(still, Grouping.from_ids([0, 1] * 50)).item() == COLDEST


def test_too_few_members_is_an_error() -> None:
    with pytest.raises(DataError, match="at least 30 members beyond the first"):
        temperature(Evidence.votes(torch.zeros(31, 1), torch.ones(31, 1)), Grouping.from_ids([0, 1] * 15 + [2]))


def test_training_ends_with_temperatures_and_they_are_saved(tmp_path: Path) -> None:
    data = mlvae.read("digits")
    train, valid = data.split(by="observation", test=0.2, seed=0)
    model = mlvae.MLVAE.for_data(train, content_dim=4, style_dim=4)
    mlvae.fit(model, train, tmp_path, valid=valid, epochs=2, progress=False)
    fitted = model.temperature("content").clone()
    assert not torch.equal(fitted, torch.ones(4)) and torch.equal(model.temperature("style"), torch.ones(4))
    assert torch.equal(mlvae.load(tmp_path).temperature("content"), fitted)
    temper(model, valid.x, valid.groups)
    assert torch.equal(model.temperature("content"), fitted), "a former temperature is forgotten"

    tempered = model.evidence(valid.x[:6])
    model.temperature("content").fill_(1)
    plain = model.evidence(valid.x[:6])
    assert torch.allclose(tempered.levels["content"].precision * fitted, plain.levels["content"].precision)


def test_validation_too_small_for_temperatures_is_told_before_training(tmp_path: Path) -> None:
    train, valid = mlvae.read("digits").split(by="observation", test=0.01, seed=0)
    model = mlvae.MLVAE.for_data(train)
    with pytest.raises(DataError, match="Keep more out"):
        mlvae.fit(model, train, tmp_path, valid=valid, epochs=1, progress=False)
    assert not list(tmp_path.iterdir())
