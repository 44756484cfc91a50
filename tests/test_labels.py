"""Labels: which are among others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlvae.labels import among, as_labels


class Counted:
    """A label that counts how often it is compared."""

    times = 0

    def __init__(self, name: int) -> None:
        self.name = name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        Counted.times += 1
        return isinstance(other, Counted) and self.name == other.name


def test_objects_are_not_compared_each_with_each() -> None:
    here, there = (np.array([Counted(name) for name in names], object) for names in (range(500), range(250, 1000)))
    assert among(here, there).tolist() == [False] * 250 + [True] * 250
    assert Counted.times <= 1000, "numpy's took 375,000"


@pytest.mark.parametrize(
    ("labels", "others", "expected"),
    [
        ([1, 2], [2, 3], [False, True]),
        (["a", "b"], ["b"], [False, True]),
        ([2**70, 2**70 + 1], [2**70 + 1], [False, True]),
        (np.array([2**53 + 1, 2**53], np.uint64), np.array([2**53]), [False, True]),
        (np.array([2**63, 5], np.uint64), np.array([5, -1]), [False, True]),
    ],
)
def test_neighbours_are_told_apart_however_large(labels: Any, others: Any, expected: list[bool]) -> None:
    assert among(as_labels(labels), as_labels(others)).tolist() == expected
