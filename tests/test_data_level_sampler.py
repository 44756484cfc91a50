from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlvae.data import LevelSampler
from mlvae.errors import DataError

laws = settings(max_examples=60, deadline=None)


def dense(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1]


@st.composite
def designs(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Two or three groupings, crossed, nested or by chance something between, with missing cells and uneven groups."""
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    n = draw(st.integers(2, 300))
    first = dense(np.minimum(random.geometric(draw(st.floats(0.05, 0.9)), n), 40))
    second = dense(random.integers(0, draw(st.integers(1, 60)), n))
    levels = {"a": first, "b": second}
    if draw(st.booleans()):
        levels["fine"] = dense(first * 1000 + random.integers(0, 4, n))
    return levels


ranges = st.tuples(st.integers(1, 5), st.integers(0, 5)).map(lambda ends: (ends[0], ends[0] + ends[1]))


@laws
@given(designs(), ranges, st.integers(1, 12), st.integers(0, 2))
def test_every_observation_exactly_once_in_sub_groups_of_one_group(
    ids: dict[str, np.ndarray], members: tuple[int, int], groups: int, epoch: int
) -> None:
    sampler = LevelSampler(ids, groups, members, seed=3)
    seen = []
    for rows, index in sampler.epoch(epoch):
        seen += rows.tolist()
        assert list(index) == list(ids)
        for name, sub in index.items():
            assert set(sub.tolist()) == set(range(int(sub.max()) + 1))
            for number in range(int(sub.max()) + 1):
                assert len(np.unique(ids[name][rows[sub == number].numpy()])) == 1
        for fine, coarse in sampler.nested:
            pairs = set(zip(index[fine].tolist(), index[coarse].tolist(), strict=True))
            if sampler._child[coarse] == fine:
                assert len(pairs) == int(index[fine].max()) + 1  # whole sub-groups of the level nested in it
    assert sorted(seen) == list(range(len(ids["a"])))


@laws
@given(designs(), st.integers(0, 6))
def test_to_resume_is_to_start_later(ids: dict[str, np.ndarray], start: int) -> None:
    whole = list(LevelSampler(ids, 4, (2, 4), seed=5).epoch(2))
    fresh = LevelSampler(ids, 4, (2, 4), seed=5)
    tail = list(fresh.epoch(2, start))
    assert len(whole) == fresh.batches(2) and len(tail) == max(0, len(whole) - start)
    for (rows, index), (rows_again, index_again) in zip(whole[start:], tail, strict=True):
        assert torch.equal(rows, rows_again)
        assert all(torch.equal(index[name], index_again[name]) for name in ids)


def company(ids: dict[str, np.ndarray], **options: object) -> dict[str, tuple[float, float, float]]:
    """For every level, of an epoch's batches: the fewest groups, the mean share of rows with company, mean members."""
    sampler = LevelSampler(ids, **options)  # type: ignore[arg-type]
    found: dict[str, list[tuple[int, float, float]]] = {name: [] for name in ids}
    for rows, _ in sampler.epoch(0):
        for name, codes in ids.items():
            _, index, sizes = np.unique(codes[rows.numpy()], return_inverse=True, return_counts=True)
            found[name].append((len(sizes), float((sizes[index] > 1).mean()), float(sizes.mean())))
    return {
        name: (min(n for n, _, _ in rows), *np.mean([row[1:] for row in rows], 0).tolist())
        for name, rows in found.items()
    }


def test_a_crossed_design_with_one_observation_a_cell_is_cut_into_sub_grids() -> None:
    character, font = np.repeat(np.arange(40), 200), np.tile(np.arange(200), 40)
    for groups, together, members in company({"character": character, "font": font}, groups=50).values():
        assert groups >= 30 and together > 0.995 and members >= 5
    # At random, the mean font of a batch of 250 from 200 would have hardly more than one member.


def test_a_sparse_crossed_design_is_not_thinned_out() -> None:
    random = np.random.default_rng(0)
    ids = {"a": dense(random.integers(0, 600, 60_000)), "b": dense(random.integers(0, 600, 60_000))}
    for _, together, members in company(ids, groups=70).values():
        assert together > 0.995 and members > 6
    # A batch of 350 of this density holds some 46 x 46 groups. Thinned out at first, it had held 120 x 120.


def test_a_full_grid_keeps_both_margins() -> None:
    character, font = np.repeat(np.arange(64), 256), np.tile(np.arange(256), 64)
    found = company({"character": character, "font": font}, groups=70)
    assert min(groups for groups, _, _ in found.values()) >= 50
    assert min(together for _, together, _ in found.values()) > 0.99


def test_few_crossed_groups_are_all_in_every_batch() -> None:
    speaker, word = np.repeat(np.arange(6), 450), np.tile(np.arange(10), 270)
    found = company({"speaker": speaker, "word": word}, groups=25)
    assert found["speaker"][0] == 6 and found["word"][0] == 10


def test_a_nest_is_cut_into_branches_with_several_people_a_country() -> None:
    person = np.repeat(np.arange(400), 20)
    country = person // 20
    ids = {"country": country, "person": person}
    found = company(ids, groups=50)
    assert found["country"][0] >= 2 and found["person"][1] == 1.0
    sampler = LevelSampler(ids, 50)
    assert sampler.nested == {("person", "country")}
    people = []
    for rows, index in sampler.epoch(0):
        for number in range(int(index["country"].max()) + 1):
            people.append(len(set(person[rows[index["country"] == number].numpy()])))
    assert np.mean(np.array(people) > 1) > 0.95 and np.median(people) >= 3


def crossed_with_nests(random: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    session, user, item = np.arange(24_000) // 20, random.zipf(1.5, 40_000) % 2000, random.zipf(1.5, 40_000) % 1500
    return {
        "three nested and one across": {
            "country": session // 100, "person": session // 10, "session": session, "word": np.arange(24_000) % 20,
        },
        "two chains": {"age": dense(user % 10), "user": dense(user), "genre": dense(item % 20), "item": dense(item)},
        "many words": {"country": np.arange(9000) // 900, "person": np.arange(9000) // 45,
                       "word": dense(random.integers(0, 200, 9000))},
    }  # fmt: skip


def test_nests_that_are_crossed_with_something_keep_groups_of_every_level() -> None:
    for design, ids in crossed_with_nests(np.random.default_rng(0)).items():
        for level, (groups, together, _) in company(ids, groups=70).items():
            assert groups >= 3 and together > 0.7, (design, level, groups, together)
    sampler = LevelSampler(crossed_with_nests(np.random.default_rng(0))["three nested and one across"], 70)
    each = [len(np.unique(i["session"])) / len(np.unique(i["person"])) for _, i in sampler.epoch(0)]
    assert np.mean(each) > 1.9, "a person's sessions are to be told from the person"


def test_very_uneven_groups_and_missing_cells_still_have_company() -> None:
    random = np.random.default_rng(0)
    a = dense(np.minimum(random.zipf(1.5, 6000), 300))
    b = dense(random.integers(0, 30, 6000) * (1 + a % 3))
    found = company({"a": a, "b": b}, groups=40)
    alone = {name: np.mean(np.bincount(codes)[codes] == 1) for name, codes in (("a", a), ("b", b))}
    for name in found:
        assert found[name][0] >= 20 and found[name][1] > 0.96 - alone[name]


def test_sizes_of_sub_groups() -> None:
    ids = {"a": np.repeat(np.arange(5), 60), "b": np.tile(np.arange(6), 50)}
    sizes = np.concatenate(
        [np.bincount(i) for _, index in LevelSampler(ids, 30, (3, 5)).epoch(0) for i in index.values()]
    )
    assert sizes.min() == 3 and sizes.max() <= 7 and {3, 4, 5} <= set(sizes.tolist())
    _, index = next(LevelSampler(ids, 2, "all").epoch(0))
    assert all(int(i.max()) + 1 <= 6 for i in index.values())


def test_a_pure_function_of_seed_and_epoch() -> None:
    ids = {"a": np.repeat(np.arange(5), 60), "b": np.tile(np.arange(6), 50)}

    def epoch(seed: int, number: int) -> list[list[int]]:
        return [rows.tolist() for rows, _ in LevelSampler(ids, 10, seed=seed).epoch(number)]

    assert epoch(1, 0) == epoch(1, 0) != epoch(1, 1)
    assert epoch(1, 0) != epoch(2, 0)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ({}, {}, "ids by level, .*; got none"),
        ([0, 1], {}, "ids by level, .*; got list"),
        ({"a": [0, 1], "b": [0, 0]}, {"nested": {("c", "b")}}, "got 'c'"),
        ({"a": [0, 1], "b": [0]}, {}, "{'a': 2, 'b': 1}"),
        ({"a": [0, 2], "b": [0, 1]}, {}, "codes"),
        ({"a": [0, 1], "b": [0, 0]}, {"groups": 0}, "groups"),
        ({"a": [0, 1], "b": [0, 0]}, {"members": (3, 2)}, "low <= high"),
    ],
)
def test_wrong_arguments_are_named(ids: dict[str, list[int]], options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LevelSampler(ids, **options)  # type: ignore[arg-type]
