from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import torch

from mlvae.data import GroupedData, read
from mlvae.data.builtin import BUILTIN
from mlvae.errors import DataError

DATA = {name: make() for name, make in BUILTIN.items()}


@pytest.fixture(params=BUILTIN)
def data(request: pytest.FixtureRequest) -> GroupedData:
    return DATA[request.param]


def test_every_built_in_set_is_read_by_name(data: GroupedData) -> None:
    again = read(data.name)
    assert repr(again) == repr(data) and torch.equal(again.x, data.x)


def test_every_built_in_set_is_grouped_and_splits(data: GroupedData) -> None:
    assert data.by == "group" and len(data) > 1000
    train, new = data.split(column="split")
    assert 0.15 < len(new) / len(data) < 0.25 and len(train) + len(new) == len(data)


def test_digits_are_unit_greys_of_known_groups() -> None:
    digits = DATA["digits"]
    assert digits.shape == (8, 8) and digits.x.dtype == torch.float32 and digits.num_groups == 10
    assert float(digits.x.min()) == 0 and float(digits.x.max()) == 1
    assert set(digits.split(column="split")[1].groups) == set(range(10))


def test_avatars_are_whole_identities_of_which_some_are_unseen() -> None:
    avatars = DATA["avatars"]
    assert avatars.shape == (64, 64) and avatars.x.dtype == torch.uint8
    assert (np.bincount(avatars.groups) == 24).all()
    train, new = avatars.split(column="split")
    assert train.groups.max() < new.groups.min() and new.num_groups == avatars.num_groups // 5
    assert {"eyes", "eyebrows", "mouth", "rotate_deg", "flip", "tx", "ty"} < set(avatars.columns)


def test_avatars_show_more_than_noise_and_no_picture_twice() -> None:
    avatars = DATA["avatars"]
    assert len(torch.unique(avatars.x)) == 32
    assert len({picture.tobytes() for picture in avatars.x.numpy()}) > 0.99 * len(avatars)


def test_avatars_are_small_enough_to_ship() -> None:
    with resources.files("mlvae.data").joinpath("avatars.npz").open("rb") as file:
        assert len(file.read()) <= 2_900_000


def test_built_in_sets_group_by_their_other_columns() -> None:
    assert read("avatars", by="mouth").num_groups == 27
    with pytest.raises(DataError, match="Did you mean 'mouth'"):
        read("avatars", by="moth")
