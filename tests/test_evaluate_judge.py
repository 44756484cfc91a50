from __future__ import annotations

import numpy as np
import pytest
import torch

from mlvae.errors import DataError
from mlvae.evaluate.judge import Judge, shifted

NAMES = np.array(["across", "down", "dot"])


def pictures(n: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Grey noise with a bar across, a bar down or a dot, anywhere: (n, 16, 16) uint8."""
    random = np.random.default_rng(seed)
    x, kinds = random.integers(0, 120, (n, 16, 16)), random.integers(0, 3, n)
    for image, kind, (i, j) in zip(x, kinds, random.integers(2, 13, (n, 2)), strict=True):
        image[
            (i, slice(None)) if kind == 0 else (slice(None), j) if kind == 1 else (slice(i, i + 3), slice(j, j + 3))
        ] = 200
    return torch.from_numpy(x.astype(np.uint8)), NAMES[kinds]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.fit(*pictures(600, 0), seed=0, steps=60)


def test_names_pictures_that_it_has_not_seen(judge):
    x, labels = pictures(300, 1)
    assert judge.names.tolist() == sorted(NAMES)
    assert judge.accuracy(x, labels) > 0.95
    assert judge.accuracy(x, labels) == (judge.name(x) == labels).mean()


def test_labels_that_mean_nothing_are_named_by_chance():
    x, labels = pictures(600, 0)
    chance = Judge.fit(x, np.random.default_rng(0).permutation(labels), seed=0, steps=30)
    assert chance.accuracy(*pictures(600, 1)) < 0.5


def test_probabilities_are_of_the_names_and_come_from_the_features(judge):
    x, labels = pictures(300, 1)
    p, features = judge.probabilities(x), judge.features(x)
    assert p.shape == (300, 3) and not p.requires_grad
    torch.testing.assert_close(p.sum(1), torch.ones(300))
    assert features.ndim == 2 and len(features) == 300
    torch.testing.assert_close(torch.softmax(judge.head(features), 1), p)
    right = p[torch.arange(300), torch.from_numpy(np.searchsorted(judge.names, labels))]
    assert right.mean() > 0.8


def test_whole_numbers_and_floats_look_the_same(judge):
    x, _ = pictures(20, 1)
    torch.testing.assert_close(judge.probabilities(x), judge.probabilities(x.double() / 255))


def test_the_seed_is_all_that_chance_decides():
    x, labels = pictures(100, 0)
    state = torch.get_rng_state()
    first = Judge.fit(x, labels, seed=3, steps=5).probabilities(x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(Judge.fit(x, labels, seed=3, steps=5).probabilities(x), first)
    assert not torch.equal(Judge.fit(x, labels, seed=4, steps=5).probabilities(x), first)


def test_vectors_and_colour_images_are_judged_too(generator):
    for shape in [(3,), (3, 16, 16)]:
        x = torch.rand(300, *shape, generator=generator)
        labels = np.arange(300) % 2
        x[labels == 1, 0] += 2
        assert Judge.fit(x[:200], labels[:200], steps=40).accuracy(x[200:], labels[200:]) > 0.95


@pytest.mark.parametrize("shape", [(9, 11), (3, 9, 11)])
def test_a_shift_moves_whole_images_by_two_pixels_at_most(shape):
    x = torch.zeros(400, *shape)
    x[..., 4, 5] = 1 + torch.arange(400.0).reshape(-1, *[1] * (len(shape) - 2))
    moved = shifted(x)
    assert moved.shape == x.shape
    torch.testing.assert_close(moved.flatten(1).sum(1), x.flatten(1).sum(1))
    where = moved.reshape(400, -1, 9, 11)[:, 0].flatten(1).argmax(1)
    places = {(int(i) // 11 - 4, int(i) % 11 - 5) for i in where}
    assert places == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}


def test_refusals_say_what_to_do(judge):
    x, labels = pictures(4, 0)
    with pytest.raises(DataError, match="one label for each of 4"):
        Judge.fit(x, labels[:3])
    with pytest.raises(DataError, match="at least two labels"):
        Judge.fit(x, ["a"] * 4)
    with pytest.raises(DataError, match="'ring'.*every group"):
        judge.accuracy(x, ["ring"] * 4)
    with pytest.raises(DataError, match=r"shape \(16, 16\)"):
        judge.name(x[:, :8])


def test_what_is_read_is_brought_to_the_scale_of_what_is_made():
    random = np.random.default_rng(0)
    labels = np.repeat(["low", "high"], 150)
    made = torch.from_numpy(random.normal(size=(300, 3)) + np.where(labels == "low", -2, 2)[:, None]).float()
    read = 1000 * made + 50_000
    judge = Judge.fit(read, labels, steps=60, prepare=lambda x: (x - 50_000) / 1000)
    assert judge.accuracy(read, labels) > 0.95
    assert (judge.name(made) == labels).mean() > 0.95
    plain = Judge.fit(made, labels, steps=60)
    torch.testing.assert_close(judge.features(made), plain.features(made), rtol=1e-2, atol=1e-2)
