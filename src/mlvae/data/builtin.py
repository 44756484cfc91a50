"""Data that come with the package: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

import numpy as np

from mlvae.data.grouped import GroupedData


def digits() -> GroupedData:
    """1,797 handwritten digits of 8 x 8 grey values in [0, 1], grouped by digit; from scikit-learn.

    Column "split": 1 in every fifth row (new observations of known groups), 0 elsewhere.

    Example:
        >>> train, new = digits().split(column="split")
        >>> len(train), len(new)
        (1438, 359)
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    split = (np.arange(len(images)) % 5 == 4).astype(np.uint8)
    x = images.reshape(-1, 8, 8).astype(np.float32) / 16
    return GroupedData.from_arrays(x, labels, columns={"split": split}, name="digits")


def avatars() -> GroupedData:
    """Drawn faces of 64 x 64 grey values (uint8), 24 pictures of each identity, grouped by identity.

    Head, hair, nose, glasses and the like belong to the identity. Columns "eyes", "eyebrows", "mouth" (which
    drawing), "rotate_deg", "flip", "tx" and "ty" (a shift in percent) vary from picture to picture. Column
    "split": 1 for the last fifth of the identities (unseen groups), 0 elsewhere. Origin: `docs/avatars.md`.

    Example:
        >>> train, new = avatars().split(column="split")
        >>> train.num_groups, new.num_groups
        (168, 42)
    """
    with resources.files("mlvae.data").joinpath("avatars.npz").open("rb") as file:
        arrays = dict(np.load(file, allow_pickle=False))
    return GroupedData.from_arrays(arrays.pop("x"), columns=arrays, name="avatars")


BUILTIN: dict[str, Callable[[], GroupedData]] = {"digits": digits, "avatars": avatars}
"""By name: what `mlvae.read` knows without a file."""
