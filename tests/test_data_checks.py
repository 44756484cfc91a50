from __future__ import annotations

import numpy as np
import pytest
import torch

from mlvae.data import GroupedData
from mlvae.data.checks import leaks, near_duplicates


def test_a_row_in_both_parts_is_found_and_a_near_one_is_not() -> None:
    x = torch.randn(30, 5)
    x[20], x[25] = x[3], x[7] + 1e-6
    data = GroupedData.from_arrays(x, np.arange(30) // 3)
    assert leaks(data.subset(slice(15)), data.subset(slice(15, 30))).tolist() == [[3, 5]]
    assert len(leaks(data.subset(slice(10)), data.subset(slice(10, 15)))) == 0


def test_gaps_and_pictures_are_compared_too() -> None:
    x = np.array([[1.0, np.nan], [2.0, 3.0], [1.0, np.nan], [5.0, 6.0]])
    data = GroupedData.from_arrays(x, [0, 0, 1, 1], gaps=True)
    assert leaks(data.subset([0, 1]), data.subset([2, 3])).tolist() == [[0, 0]]
    pictures = GroupedData.from_arrays(np.zeros((4, 3, 3), np.uint8), [0, 0, 1, 1])
    assert len(leaks(pictures.subset([0]), pictures.subset([1, 2, 3]))) == 3


def test_near_duplicates_are_members_of_one_group() -> None:
    x = torch.randn(60, 8)
    x[11] = x[10] + 1e-3
    x[40] = x[5]  # of another group: no matter of votes
    data = GroupedData.from_arrays(x, np.arange(60) // 6)
    assert near_duplicates(data).tolist() == [[10, 11]]


def test_near_duplicates_are_looked_for_in_part_of_large_data() -> None:
    x = torch.randn(5000, 3)
    x[1::2] = x[::2]
    data = GroupedData.from_arrays(x, np.arange(5000) // 10)
    assert 500 <= len(near_duplicates(data)) <= 1300


@pytest.mark.parametrize("directions", [1, 2, 6])
def test_independent_rows_of_few_columns_are_no_near_duplicates(directions: int) -> None:
    random = np.random.default_rng(0)
    group = np.arange(1200) // 30
    told = 0
    for _ in range(20):
        mixed = random.normal(size=(40, directions))[group] + random.normal(size=(1200, directions))
        x = torch.from_numpy(mixed @ random.normal(size=(directions, 6)))
        told += len(near_duplicates(GroupedData.from_arrays(x, group)))
    assert told <= 5  # 1 in the mean
    x[100] = x[101]
    assert [100, 101] in near_duplicates(GroupedData.from_arrays(x, group)).tolist()
