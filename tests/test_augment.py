from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mlvae
from mlvae.augment import Augmentation
from mlvae.errors import DataError


def test_a_shift_moves_whole_pixels_and_repeats_the_border() -> None:
    x = torch.arange(36.0).reshape(1, 6, 6).repeat(200, 1, 1)
    moved = Augmentation(shift=1)(x)
    rows = torch.arange(6)
    options = [x[0][(rows + a).clamp(0, 5)][:, (rows + b).clamp(0, 5)] for a in (-1, 0, 1) for b in (-1, 0, 1)]
    found = {next(i for i, o in enumerate(options) if torch.allclose(o, picture, atol=1e-3)) for picture in moved}
    assert found == set(range(9))


def test_a_turn_turns_each_by_its_own_angle_about_the_middle() -> None:
    x = torch.zeros(64, 1, 21, 31)
    x[:, :, 10, 15], x[:, :, 10, 25] = 1, 1  # the middle, and a point ten pixels to its right
    turned = Augmentation(rotate=30)(x)
    assert turned[:, 0, 10, 15].min() > 0.9
    point = turned[:, 0].clone()
    point[:, 8:13, 13:18] = 0
    places = point.flatten(1).argmax(1)
    down, right = places // 31 - 10, places % 31 - 15
    distance = (down**2 + right**2).float().sqrt()
    assert (distance - 10).abs().max() < 1.0
    angles = torch.rad2deg(torch.atan2(down.float(), right.float()))
    assert angles.abs().max() < 34 and angles.std() > 10


def test_zoom_sizes_and_flip_mirrors_about_the_middle() -> None:
    x = torch.zeros(200, 1, 21, 31)
    x[:, :, 6, 25] = 1  # four pixels above the middle, ten to its right
    sized = Augmentation(zoom=0.2)(x)[:, 0].flatten(1).argmax(1)
    up, right = 10 - sized // 31, sized % 31 - 15
    assert up.min() >= 3 and up.max() <= 5 and (right.min(), right.max()) == (8, 12)
    mirrored = Augmentation(flip=0.25)(x)
    found = [
        next(i for i, o in enumerate((x[0], x[0].flip(-1))) if torch.allclose(each, o, atol=1e-3)) for each in mirrored
    ]
    assert 0.15 < sum(found) / len(found) < 0.35
    turned = Augmentation(rotate=10, flip=1)(x)[:, 0].flatten(1).argmax(1)
    assert (turned % 31).max() < 8 and (turned // 31).min() < 6 < (turned // 31).max()


def test_noise_is_of_each_observation_another_from_none_to_the_most() -> None:
    x = torch.zeros(2000, 400)
    x[0, :2] = torch.tensor([-9.0, 9.0])  # the range that results stay within
    deviation = (Augmentation(noise=0.2)(x) - x)[1:].std(1)
    assert deviation.min() < 0.001 and 0.19 < deviation.max() < 0.22
    assert deviation.mean().item() == pytest.approx(0.1, abs=0.005)


def test_noise_stays_in_the_range_and_passes_gaps() -> None:
    x = torch.rand(400, 5)
    noisy = Augmentation(noise=0.1)(x)
    assert noisy.min() >= x.min() and noisy.max() <= x.max() and 0.05 < (noisy - x).std() < 0.1
    x[0, 0] = torch.nan
    assert torch.isnan(Augmentation(noise=0.1)(x)).sum() == 1


def test_a_series_moves_in_time_as_one() -> None:
    x = torch.stack([torch.arange(10.0), torch.arange(10.0) + 100]).repeat(100, 1, 1)  # two channels of ten steps
    moved = Augmentation(time=2)(x)
    assert torch.equal(moved[:, 1] - moved[:, 0], torch.full((100, 10), 100.0))
    assert set((moved[:, 0, 5] - 5).tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}
    assert Augmentation(time=2)(torch.rand(5, 10)).shape == (5, 10)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("shfit:2", "Did you mean 'shift'"),
        ("shift", "a number"),
        ("shift:-1", "at least 0"),
        ("noise:0", "above 0"),
        ("flip:2", "between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        Augmentation.parsed(text)
    assert Augmentation.parsed("shift:2, rotate:10") == Augmentation(shift=2, rotate=10)


def test_vectors_are_not_turned() -> None:
    with pytest.raises(DataError, match="images"):
        Augmentation(rotate=5)(torch.rand(2, 9))


def test_training_with_it_resumes_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlvae import runs

    data = mlvae.read("digits").subset(slice(200))
    change = Augmentation(shift=1, rotate=10)

    def model() -> mlvae.MLVAE:
        torch.manual_seed(0)
        return mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8)

    options = {"epochs": 2, "progress": False, "groups": 10}
    whole, plain = model(), model()
    mlvae.fit(whole, data, augment=change, **options)
    mlvae.fit(plain, data, **options)
    halves = model()
    saves = runs.Run.save

    def stop(*arguments: object, **keywords: object) -> None:
        saves(*arguments, **keywords)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs.Run, "save", stop)
        mlvae.fit(halves, data, tmp_path / "run", augment=change, **options)
    again = model()
    with pytest.raises(mlvae.MLVAEError, match="augment"):
        mlvae.fit(again, data, tmp_path / "run", resume=True, **options)
    mlvae.fit(again, data, tmp_path / "run", augment=change, resume=True, **options)
    for (name, a), b in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(whole.heads["style"].weight, plain.heads["style"].weight)


@pytest.mark.parametrize(("change", "most"), [({"flip": 0.5}, 0.052), ({"shift": 2}, 0.06), ({"rotate": 10}, 0.07)])
def test_gaps_move_with_their_pictures_and_do_not_spread(change: dict[str, float], most: float) -> None:
    torch.manual_seed(0)
    x = torch.rand(200, 28, 28)
    whole = x.clone()
    x[torch.rand(x.shape) < 0.05] = torch.nan
    moved = Augmentation(**change)(x)  # type: ignore[arg-type]
    assert 0.02 < moved.isnan().double().mean() < most
    assert moved.nan_to_num(0.5).aminmax() >= (0, 0) and moved.nan_to_num(0.5).max() <= x.nan_to_num(0).max() + 1e-5
    torch.manual_seed(1)
    once = Augmentation(**change)(whole, gaps=False)  # type: ignore[arg-type]
    torch.manual_seed(1)
    assert torch.allclose(once, Augmentation(**change)(whole), atol=1e-5)  # type: ignore[arg-type]
