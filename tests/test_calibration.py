"""Calibration of votes: what it is, what it leaves alone, and that it mends what likeness and surprise spoil."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mlvae
from mlvae import MLVAE, Evidence, Grouping, Level
from mlvae.calibration import COLDEST, Calibration
from mlvae.errors import DataError, ModelError
from mlvae.evaluate.calibration import calibration
from mlvae.temperature import temper, uncalibrate
from oracles import SCALE, WC, WS, linear_gaussian


def votes(
    spread: float, groups: int = 300, members: int = 24, seed: int = 0, width: float = 1.0, power: float = 1.0
) -> tuple[Evidence, Grouping]:
    """Votes on groups N(1 - width, width²) in two dimensions, said to have precisions of 1 to 16.

    Their means scatter ``spread`` times what precision ** power would have them.
    """
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(groups), members)
    latent = 1 - width + width * random.normal(size=(groups, 2))
    precision = 2 ** random.uniform(0, 4, size=(len(labels), 2))
    mean = latent[labels] + random.normal(size=precision.shape) * np.sqrt(spread / precision**power)
    return Evidence.votes(torch.from_numpy(mean), torch.from_numpy(precision)), Grouping.from_ids(labels)


def believed(fitted: Calibration, said: Evidence) -> Evidence:
    return fitted.votes(said.information / said.precision, said.precision.log())


@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_temperature_is_the_scatter_beyond_the_promise(spread: float) -> None:
    fitted = Calibration.fit(*votes(spread))
    assert fitted.power.tolist() == [1, 1]
    assert fitted.temperature.numpy() == pytest.approx([spread, spread], rel=0.1)
    assert fitted.centre.numpy() == pytest.approx([0, 0], abs=0.15)
    assert fitted.spread.numpy() == pytest.approx([1, 1], rel=0.15)


@pytest.mark.parametrize(
    ("spread", "width", "power"), [(0.5, 1.0, 1.0), (3.0, 0.3, 1.0), (1.0, 1.0, 0.4), (2.0, 2.0, 0.0)]
)
def test_calibrated_votes_are_calibrated_on_other_groups(spread: float, width: float, power: float) -> None:
    fitted = Calibration.fit(*votes(spread, width=width, power=power))
    assert fitted.power.numpy() == pytest.approx([power, power], abs=0.1)
    assert fitted.spread.numpy() == pytest.approx([width, width], rel=0.2)
    said, grouping = votes(spread, seed=1, width=width, power=power)
    before = calibration(said, grouping.index)
    after = calibration(believed(fitted, said), grouping.index)
    for k, each in after.items():
        assert each.ratio is not None and 0.85 < each.ratio < 1.15, k
        assert each.coverage90 is not None and 0.87 < each.coverage90 < 0.93, k
    assert any(each.ratio is None or abs(each.ratio - 1) > 0.15 for each in before.values())


def test_exact_votes_are_left_alone() -> None:
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(400), 5)
    content, style = random.normal(size=(400, 2))[labels], random.normal(size=(2000, 2))
    x = content * WC + style * WS + SCALE * random.normal(size=(2000, 2))
    model = linear_gaussian()
    temper(model, torch.from_numpy(x), labels)
    fitted = model.calibration("content")
    assert fitted.temperature.numpy() == pytest.approx([1, 1], abs=0.08)
    assert fitted.power.tolist() == [1, 1]
    assert fitted.centre.numpy() == pytest.approx([0, 0], abs=0.15)
    assert fitted.spread.numpy() == pytest.approx([1, 1], abs=0.1)


def test_centre_and_spread_change_coordinates_and_not_what_is_decoded() -> None:
    torch.manual_seed(0)
    levels = [mlvae.Level("content", 3, by="group"), mlvae.Level("style", 2, given=("content",))]
    model = mlvae.MLVAE((6,), levels, likelihood="normal").eval()
    x = torch.randn(5, 6)
    plain = model.reconstruct(x)
    with torch.no_grad():
        # With a spread of 10 the prior is as good as flat in the network's coordinates, in one as in the other.
        model.calibration("content").temperature.fill_(1e-4)
        sharp = model.reconstruct(x)
        model.calibration("content").centre.copy_(torch.tensor([0.3, -2.0, 1.0]))
        model.calibration("content").spread.copy_(torch.tensor([10.0, 20.0, 30.0]))
        moved = model.reconstruct(x)
    assert torch.allclose(moved, sharp, atol=1e-3) and not torch.allclose(plain, sharp, atol=1e-2)
    assert torch.allclose(model.evidence(x).posterior("content").mean.abs().max(), torch.zeros(()).double(), atol=0.5)


def test_votes_without_scatter_do_not_become_infinitely_sure() -> None:
    still = Evidence.votes(torch.zeros(100, 1), torch.ones(100, 1))
    fitted = Calibration.fit(still, Grouping.from_ids(np.arange(100) % 2))
    assert fitted.temperature.item() == COLDEST and fitted.spread.item() == 1
    fitted = Calibration.fit(still, Grouping.from_ids(np.arange(100) % 20))
    assert believed(fitted, still).precision.max() < 0.1, "a dimension in which all groups are alike tells none apart"


def test_a_dimension_that_holds_little_promises_no_less_than_it_keeps() -> None:
    """As on MNIST, where a least temperature of .1 made half the dimensions under-confident."""
    draws = torch.Generator().manual_seed(0)
    groups = Grouping.from_ids(np.arange(2000) % 20)
    mean = groups.expand(0.5 * torch.randn(20, 1, generator=draws)) + 0.2 * torch.randn(2000, 1, generator=draws)
    fitted = Calibration.fit(Evidence.votes(mean, torch.ones(2000, 1)), groups)  # said: variance 1; is: .04
    assert 0.037 < fitted.temperature.item() < 0.043


def test_too_few_members_is_an_error() -> None:
    with pytest.raises(DataError, match="at least 30 members beyond the first"):
        Calibration.fit(Evidence.votes(torch.zeros(31, 1), torch.ones(31, 1)), Grouping.from_ids([0, 1] * 15 + [2]))


def test_only_shared_levels_have_one() -> None:
    model = mlvae.MLVAE((4,), [mlvae.Level("content", 2, by="group"), mlvae.Level("style", 2)])
    with pytest.raises(ModelError, match="a level that groups share; got 'style'"):
        model.calibration("style")


def test_training_ends_with_a_calibration_and_it_is_saved(tmp_path: Path) -> None:
    data = mlvae.read("digits")
    train, valid = data.split(by="observation", test=0.2, seed=0)
    model = mlvae.MLVAE.for_data(train, content_dim=4, style_dim=4)
    mlvae.fit(model, train, tmp_path, valid=valid, epochs=1, progress=False)
    fitted = {name: value.clone() for name, value in model.calibration("content").named_buffers()}
    for name in ("temperature", "centre", "spread"):
        assert not torch.equal(fitted[name], Calibration(4).get_buffer(name))
    again = mlvae.load(tmp_path).calibration("content")
    assert all(torch.equal(again.get_buffer(name), value) for name, value in fitted.items())
    temper(model, valid.x, valid.groups)
    for name, value in fitted.items():
        assert torch.equal(model.calibration("content").get_buffer(name), value), "a former calibration is forgotten"

    uncalibrate(model)
    assert not torch.equal(model.calibration("content").temperature, fitted["temperature"])


def test_weights_of_before_have_at_most_a_temperature() -> None:
    model = mlvae.MLVAE((4,), [mlvae.Level("content", 2, by="group"), mlvae.Level("style", 2)])
    old = {name: value for name, value in model.state_dict().items() if not name.startswith("calibrations")}
    model.load_state_dict({**old, "temperature_content": torch.tensor([2.0, 3.0]), "temperature_style": torch.ones(2)})
    assert model.calibration("content").temperature.tolist() == [2, 3]
    assert model.calibration("content").spread.tolist() == [1, 1]
    model.load_state_dict(old)
    assert model.calibration("content").temperature.tolist() == [1, 1]


def test_validation_too_small_to_calibrate_is_told_before_training(tmp_path: Path) -> None:
    train, valid = mlvae.read("digits").split(by="observation", test=0.01, seed=0)
    model = mlvae.MLVAE.for_data(train)
    with pytest.raises(DataError, match="Keep more out"):
        mlvae.fit(model, train, tmp_path, valid=valid, epochs=1, progress=False)
    assert not list(tmp_path.iterdir())


def test_without_groups_there_is_nothing_to_calibrate_with() -> None:
    model = MLVAE((4,), [Level("content", 2, by="person"), Level("style", 2)], likelihood="normal", width=4)
    with pytest.raises(DataError, match="group of each observation"):
        temper(model, torch.rand(20, 4), None)


def test_an_observation_without_a_value_takes_no_part_and_a_refusal_forgets_nothing() -> None:
    """Its vote's mean is 0 / 0: once every temperature was NaN, and a run ended before it was kept."""
    torch.manual_seed(0)
    x, person = torch.randn(200, 6), np.arange(200) % 10
    data = mlvae.GroupedData.from_arrays(
        torch.where(torch.rand(200, 6) < 0.05, torch.nan, x).numpy(), person, gaps=True
    )
    model = mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, network="mlp", width=8)
    whole = data.x.clone()
    mlvae.temper(model, whole, {"content": person})
    heard = {name: value.clone() for name, value in model.calibration("content").named_buffers()}
    silent = torch.cat([whole, torch.full((3, 6), torch.nan)])
    with pytest.warns(UserWarning, match="no value at all"):
        mlvae.temper(model, silent, {"content": np.append(person, [0, 1, 11])})
    for name, value in model.calibration("content").named_buffers():
        torch.testing.assert_close(value, heard[name])
    with pytest.raises(DataError, match="at least 30 members"):
        mlvae.temper(model, whole[:20], {"content": person[:20]})
    for name, value in model.calibration("content").named_buffers():
        torch.testing.assert_close(value, heard[name])
