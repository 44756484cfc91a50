from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlvae.data import GroupSampler
from mlvae.errors import DataError

sizes = st.lists(st.integers(1, 30), min_size=1, max_size=12)
ranges = st.tuples(st.integers(1, 6), st.integers(0, 6)).map(lambda ends: (ends[0], ends[0] + ends[1]))
laws = settings(max_examples=60, deadline=None)


def ids_of(counts: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def sub_groups(sampler: GroupSampler, epoch: int = 0) -> list[np.ndarray]:
    return [
        rows[index == number].numpy() for rows, index in sampler.epoch(epoch) for number in range(int(index.max()) + 1)
    ]


@laws
@given(sizes, ranges, st.integers(1, 5), st.integers(0, 3))
def test_every_observation_exactly_once_in_sub_groups_of_one_group(
    counts: list[int], members: tuple[int, int], groups: int, epoch: int
) -> None:
    ids = ids_of(counts)
    sampler = GroupSampler(ids, groups=groups, members=members, seed=3)
    chunks = sub_groups(sampler, epoch)
    assert sorted(np.concatenate(chunks)) == list(range(len(ids)))
    assert all(len(set(ids[chunk])) == 1 for chunk in chunks)


@laws
@given(sizes, ranges)
def test_sizes_are_within_the_range_but_for_one_of_each_group(counts: list[int], members: tuple[int, int]) -> None:
    ids = ids_of(counts)
    chunks = sub_groups(GroupSampler(ids, groups=4, members=members))
    assert all(len(chunk) <= members[1] for chunk in chunks)
    short = [ids[chunk[0]] for chunk in chunks if len(chunk) < members[0]]
    assert len(short) == len(set(short))


@laws
@given(sizes, ranges, st.integers(1, 5), st.integers(0, 8), st.booleans())
def test_to_resume_is_to_start_later(
    counts: list[int], members: tuple[int, int], groups: int, start: int, resample: bool
) -> None:
    sampler = GroupSampler(ids_of(counts), groups=groups, members=members, resample=resample, seed=5)
    whole, tail = list(sampler.epoch(2)), list(sampler.epoch(2, start=start))
    assert len(whole) == sampler.batches(2)
    assert len(tail) == max(0, len(whole) - start)
    for (rows, index), (rows_again, index_again) in zip(whole[start:], tail, strict=True):
        assert torch.equal(rows, rows_again) and torch.equal(index, index_again)


@laws
@given(sizes, ranges, st.integers(0, 3))
def test_resampling_draws_about_as_many_and_never_one_twice_in_a_sub_group(
    counts: list[int], members: tuple[int, int], epoch: int
) -> None:
    ids = ids_of(counts)
    chunks = sub_groups(GroupSampler(ids, groups=4, members=members, resample=True), epoch)
    assert 0 < sum(map(len, chunks)) <= len(ids)  # less those that a batch has already
    assert all(len(set(ids[chunk])) == 1 and len(set(chunk)) == len(chunk) for chunk in chunks)


@laws
@given(sizes, st.integers(1, 5))
def test_index_is_dense_and_in_order(counts: list[int], groups: int) -> None:
    for rows, index in GroupSampler(ids_of(counts), groups=groups).epoch(0):
        assert rows.dtype == index.dtype == torch.int64 and rows.shape == index.shape
        assert index[0] == 0 and int(index.max()) < groups
        assert set(index.diff().tolist()) <= {0, 1}


def test_all_members_means_whole_groups() -> None:
    ids = ids_of([7, 1, 30])
    chunks = sub_groups(GroupSampler(ids, groups=2, members="all"))
    assert sorted(map(len, chunks)) == [1, 7, 30]
    drawn = sub_groups(GroupSampler(ids, groups=2, members="all", resample=True, seed=1))
    assert sum(len(chunk) not in (1, 7, 30) for chunk in drawn) <= 1  # cut where the epoch is full


def test_batches_are_full_but_for_the_last() -> None:
    sampler = GroupSampler(ids_of([10] * 10), groups=8, members=2)
    counts = [int(index.max()) + 1 for _, index in sampler.epoch(0)]
    assert counts == [8] * 6 + [2] and len(sampler) == 7


def test_sizes_are_drawn_evenly_and_groups_get_different_ones() -> None:
    chunks = sub_groups(GroupSampler(ids_of([400] * 50), members=(1, 4)))
    counts = np.bincount([len(chunk) for chunk in chunks])[1:]
    assert counts.min() > 0.85 * counts.mean()


def test_resampling_gives_every_group_the_same_chance() -> None:
    ids = ids_of([1000, 1000, 10, 10])
    chunks = sub_groups(GroupSampler(ids, groups=4, members=2, resample=True))
    drawn = np.bincount([ids[chunk[0]] for chunk in chunks])
    assert drawn.min() > 0.75 * drawn.mean()
    rows = np.bincount(np.concatenate(chunks), minlength=len(ids))
    assert rows[ids >= 2].min() > 0


def test_seed_and_epoch_change_the_plan_and_nothing_else_does() -> None:
    ids = ids_of([20] * 5)
    first = [rows.tolist() for rows, _ in GroupSampler(ids, seed=1).epoch(0)]
    assert first == [rows.tolist() for rows, _ in GroupSampler(torch.from_numpy(ids), seed=1).epoch(0)]
    assert first != [rows.tolist() for rows, _ in GroupSampler(ids, seed=1).epoch(1)]
    assert first != [rows.tolist() for rows, _ in GroupSampler(ids, seed=2).epoch(0)]


def test_a_start_past_the_end_gives_nothing() -> None:
    assert list(GroupSampler([0, 0, 1]).epoch(0, start=99)) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 0}, "groups"),
        ({"groups": 2.5}, "groups"),
        ({"members": 0}, "members"),
        ({"members": (0, 3)}, "members"),
        ({"members": (4, 3)}, "low <= high"),
        ({"members": (1, 2, 3)}, "both ends"),
        ({"members": "al"}, "Did you mean 'all'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GroupSampler([0, 0, 1, 1], **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[], [0, 0, 2], [-1, 0], [0.0, 1.0], [[0, 1]], ["a", "b"], [0, 10**12]])
def test_ids_must_be_dense(ids: list[object]) -> None:
    with pytest.raises(DataError, match="codes"):
        GroupSampler(ids)


def test_wrong_epochs_and_starts_are_named_at_once() -> None:
    sampler = GroupSampler([0, 0, 1, 1])
    with pytest.raises(DataError, match="start"):
        sampler.epoch(0, start=-1)
    with pytest.raises(DataError, match="epoch"):
        sampler.epoch(-1)


def test_half_a_million_observations_are_planned_quickly() -> None:
    sampler = GroupSampler(np.random.default_rng(0).integers(0, 5000, 500_000), groups=64)
    rows, _ = next(sampler.epoch(0))
    assert len(rows) > 64


@laws
@given(sizes, ranges, st.integers(1, 9), st.integers(0, 3))
def test_no_observation_of_a_batch_is_drawn_twice(
    counts: list[int], members: tuple[int, int], groups: int, epoch: int
) -> None:
    """It would be another member of its own group, and tell of it what no other does."""
    ids = ids_of(counts)
    for rows, index in GroupSampler(ids, groups=groups, members=members, resample=True).epoch(epoch):
        assert len(rows.unique()) == len(rows)
        assert index.unique().tolist() == list(range(int(index.max()) + 1))
        assert all(len(np.unique(ids[rows[index == number]])) == 1 for number in range(int(index.max()) + 1))
