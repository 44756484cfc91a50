from __future__ import annotations

import copy
import pickle
import warnings
from datetime import date

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlvae.data import GroupedData
from mlvae.data.splits import members_of_many
from mlvae.errors import DataError

laws = settings(max_examples=60, deadline=None)
labels = st.lists(st.integers(0, 6), min_size=4, max_size=60).filter(lambda values: 1 < len(set(values)) < len(values))


def rows_of(count: int) -> torch.Tensor:
    """Observations that say which row they were."""
    return torch.arange(count)[:, None]


def make(groups: object, **columns: object) -> GroupedData:
    return GroupedData.from_arrays(rows_of(len(groups)), groups, columns=columns)  # type: ignore[arg-type]


# --- construction


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (np.zeros((2, 3), np.uint8), torch.uint8),
        (np.zeros((2, 3), np.float64), torch.float32),
        (np.zeros((2, 3), ">i4"), torch.float32),
        (np.zeros((2, 3), bool), torch.float32),
        (np.zeros((3, 2))[:, ::-1].T, torch.float32),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.uint8),
        (torch.zeros(2, 3, dtype=torch.float16, requires_grad=True), torch.float32),
        ([[1, 2, 3], [4, 5, 6]], torch.float32),
    ],
)
def test_observations_are_uint8_or_float32(x: object, dtype: torch.dtype) -> None:
    data = GroupedData.from_arrays(x, [0, 0])
    assert data.x.dtype == dtype and data.shape == (3,) and not data.x.requires_grad


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([["a"], ["b"]]), "numbers"),
        (np.array([[None], [1]]), "numbers"),
        (np.zeros((2, 1), complex), "numbers"),
        (torch.zeros(2, 1, dtype=torch.complex64), "real"),
        (np.zeros(2), r"x\[:, None\]"),
        (np.zeros((0, 3)), "got none"),
        (np.zeros((2, 0)), "got none"),
        (np.zeros((1, 3)), "at least two observations"),
        ([[1, 2], [3]], "one shape"),
        (np.array([[0.0], [np.nan], [np.inf]]), "2 of 3 rows, the first in row 1"),
        (np.array([[1e300], [0.0]]), "first in row 0"),
    ],
)
def test_observations_that_cannot_be_used_are_refused(x: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        GroupedData.from_arrays(x)


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match=r"Expected `groups` of shape \(4,\); got \(3,\)\."):
        GroupedData.from_arrays(rows_of(4), [0, 0, 1])
    with pytest.raises(DataError, match=r"column 'eyes' of shape \(4,\); got \(4, 1\)"):
        GroupedData.from_arrays(rows_of(4), [0, 0, 1, 1], columns={"eyes": np.zeros((4, 1))})
    with pytest.raises(DataError, match="one source of groups"):
        GroupedData.from_arrays(rows_of(2), [0, 0], columns={"group": [0, 0]})


def test_without_groups_there_is_no_grouping_until_asked_for() -> None:
    data = GroupedData.from_arrays(rows_of(4), columns={"word": ["a", "a", "b", "b"]})
    assert data.by is None and repr(data) == "GroupedData('arrays': 4 x (1,) float32, columns: word)"
    for ask in (lambda: data.groups, lambda: data.num_groups, data.split, data.quarter_turns, lambda: data.deformed(1)):
        with pytest.raises(DataError, match="grouped_by"):
            ask()
    assert data.grouped_by("word").num_groups == 2
    assert GroupedData.from_arrays(rows_of(2), columns={"group": [1, 1]}).by == "group"


def test_a_misspelt_column_gets_the_nearest() -> None:
    data = make([0, 0, 1], mouth=[1, 2, 3])
    for ask in (lambda: data.column("moth"), lambda: data.codes("moth"), lambda: data.grouped_by("moth")):
        with pytest.raises(DataError, match="Did you mean 'mouth'"):
            ask()
    with pytest.raises(DataError, match="'person'"):
        GroupedData.from_arrays(rows_of(2), columns={"eyes": [1, 1]}, by="person")


def test_groups_of_one_are_warned_of_once_and_not_in_subsets() -> None:
    with pytest.warns(UserWarning, match="content cannot be told from style"):
        make([0, 1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make([0, 0, 1]).subset([0, 2])


def test_repr_says_what_there_is() -> None:
    data = make(["a", "b", "b"], eyes=[1, 2, 3], mouth=[1, 2, 3])
    assert repr(data) == "GroupedData('arrays': 3 x (1,) float32, 2 groups by 'group' of 1-2, columns: eyes, mouth)"
    assert "1 group by 'group' of 3)" in repr(make([5, 5, 5]))


def test_data_can_be_copied_and_sent_to_workers() -> None:
    data = make(["a", "b", "b"])
    for again in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert repr(again) == repr(data)


# --- labels

GAPS = {
    "none": ["a", None, "b", "a"],
    "nan among text": ["a", float("nan"), "b", "a"],
    "blank": ["a", "", "b", "a"],
    "spaces": np.array(["a", "  ", "b", "a"]),
    "bytes": np.array([b"a", b"", b"b", b"a"]),
    "float nan": [1.0, np.nan, 2.0, 1.0],
    "float column": np.array([0.5, np.nan, 0.7, 0.5]),
    "tensor": torch.tensor([1.0, torch.nan, 2.0, 1.0]),
    "nat": np.array(["2020-01-01", "NaT", "2020-01-02", "2020-01-01"], "datetime64[D]"),
    "dates": [date(2020, 1, 1), None, date(2020, 1, 2), date(2020, 1, 1)],
    "masked": np.ma.masked_array([1, 9, 2, 1], [False, True, False, False]),
    "integers": [1, None, 2, 1],
}


@pytest.mark.parametrize("groups", GAPS.values(), ids=GAPS)
def test_missing_labels_follow_the_policy(groups: object) -> None:
    x = rows_of(4)
    with pytest.raises(DataError, match=r"got 1 without one .* the first in row 1"):
        GroupedData.from_arrays(x, groups)
    dropped = GroupedData.from_arrays(x, groups, missing="drop")
    assert dropped.x.flatten().tolist() == [0, 2, 3] and dropped.codes("group").tolist() == [0, 1, 0]
    own = GroupedData.from_arrays(x, groups, missing="own")
    codes = own.codes("group").tolist()
    assert len(own) == 4 and own.num_groups == 3 and codes[0] == codes[3] and codes.count(codes[1]) == 1


def test_labels_that_were_floats_only_for_their_gaps_become_integers() -> None:
    data = GroupedData.from_arrays(rows_of(4), [3.0, np.nan, 3.0, 8.0], missing="own")
    assert data.groups.tolist() == [3, 9, 3, 8] and data.groups.dtype == np.int64


def test_own_groups_never_collide_and_differ_from_one_another() -> None:
    data = GroupedData.from_arrays(rows_of(5), ["row 1", None, "", "row 1", "row 2"], missing="own")
    assert data.num_groups == 4
    assert GroupedData.from_arrays(rows_of(3), [-5, None, -5], missing="own").num_groups == 2
    with pytest.warns(UserWarning):
        assert GroupedData.from_arrays(rows_of(3), [None] * 3, missing="own").num_groups == 3


def test_dropping_must_leave_something() -> None:
    with pytest.raises(DataError, match="got 1 of 3"):
        GroupedData.from_arrays(rows_of(3), ["a", None, None], missing="drop")
    with pytest.raises(DataError, match="Did you mean 'drop'"):
        GroupedData.from_arrays(rows_of(3), ["a", "a", None], missing="dorp")


def test_other_columns_may_have_gaps_until_they_are_grouped_by() -> None:
    data = make([0, 0, 1], word=["a", None, "a"])
    with pytest.raises(DataError, match="column 'word'; got 1"):
        data.codes(("group", "word"))
    with pytest.raises(DataError, match="column 'word'; got 1"):
        GroupedData(data.x, data.columns, by="word")
    assert data.grouped_by("word", missing="drop").groups.tolist() == ["a", "a"]


def test_labels_of_mixed_types_are_refused() -> None:
    with pytest.raises(DataError, match="got int, str"):
        make([1, "1", 1])


def test_pandas_columns_are_taken() -> None:
    pandas = pytest.importorskip("pandas")
    for values in (
        pandas.Series([1, None, 1], dtype="Int64"),
        pandas.Series(["a", None, "a"], dtype="category"),
    ):
        assert GroupedData.from_arrays(rows_of(3), values, missing="own").num_groups == 2


@laws
@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from("uvw")), min_size=2, max_size=40))
def test_codes_are_dense_and_agree_exactly_where_the_labels_do(pairs: list[tuple[int, str]]) -> None:
    a, b = zip(*pairs, strict=True)
    data = GroupedData.from_arrays(rows_of(len(pairs)), columns={"a": a, "b": b})
    for by, keys in (("a", list(a)), (("a", "b"), pairs), (("b", "a"), [(v, u) for u, v in pairs])):
        known = {key: number for number, key in enumerate(sorted(set(keys)))}
        assert data.codes(by).tolist() == [known[key] for key in keys]  # type: ignore[arg-type, index]


# --- subsets and splits


def test_subset_takes_rows_slices_and_masks() -> None:
    data = make([0, 0, 1, 1], eyes=["a", "b", "c", "d"])
    for rows in ([2, 0], np.array([2, 0]), torch.tensor([2, 0]), [-2, 0]):
        part = data.subset(rows)
        assert part.x.flatten().tolist() == [2, 0] and part.column("eyes").tolist() == ["c", "a"]
        assert part.by == data.by and part.name == data.name
    assert len(data.subset(slice(1, None))) == 3 and len(data.subset(3)) == 1
    assert data.subset(data.groups == 1).x.flatten().tolist() == [2, 3]


@pytest.mark.parametrize("rows", [[4], [], [0.5], [True, False], slice(2, 2), np.zeros(4, bool)])
def test_rows_that_are_not_there_are_refused(rows: object) -> None:
    with pytest.raises(DataError):
        make([0, 0, 1, 1]).subset(rows)


@laws
@given(labels, st.sampled_from(["group", "observation"]), st.floats(0.01, 0.99), st.integers(0, 5))
def test_splits_are_disjoint_cover_everything_and_repeat(groups: list[int], by: str, test: float, seed: int) -> None:
    data = make(groups)
    train, new = data.split(by=by, test=test, seed=seed)
    kept, held = set(train.x.flatten().tolist()), set(new.x.flatten().tolist())
    assert not kept & held and kept | held == set(range(len(groups)))
    assert torch.equal(new.x, data.split(by=by, test=test, seed=seed)[1].x)
    if by == "group":
        assert not set(train.groups) & set(new.groups)
    else:
        sizes, fresh = np.bincount(groups), np.bincount(new.groups, minlength=max(groups) + 1)
        assert (fresh[sizes == 1] == 0).all() and (fresh[sizes > 1] >= 1).all()
        assert set(train.groups) == set(groups)
        assert (np.abs(fresh - test * sizes)[sizes > 1] <= 1).all()


def test_splits_take_the_share_that_was_asked_for() -> None:
    data = make(np.repeat(np.arange(20), 10))
    assert data.split(by="group", test=0.25)[1].num_groups == 5
    assert len(data.split(by="observation", test=0.3)[1]) == 60
    first, second = (data.split(test=0.5, seed=seed)[1].groups for seed in (0, 1))
    assert set(first) != set(second)


@pytest.mark.parametrize("split", [[0, 0, 1, 2], [0.0, 0.0, np.nan, -1.0], [False, False, True, True]])
def test_split_by_column_trains_on_zero_only(split: list[float]) -> None:
    train, new = make([0, 0, 1, 1], split=split).split(column="split")
    assert train.x.flatten().tolist() == [0, 1] and new.x.flatten().tolist() == [2, 3]


def test_splits_that_cannot_be_made_are_refused() -> None:
    data = make([0, 0, 1, 1], zero=[0] * 4, one=[1] * 4, word=["train"] * 4)
    for column in ("zero", "one"):
        with pytest.raises(DataError, match=column):
            data.split(column=column)
    with pytest.raises(DataError, match="'word' to be 0 or 'train' in some rows"):
        data.split(column="word")
    with pytest.raises(DataError, match="column='zero'"):
        data.split(by="zero")
    for test in (0, 1, -0.5, float("nan")):
        with pytest.raises(DataError, match="between 0 and 1"):
            data.split(test=test)
    with pytest.raises(DataError, match="two groups"):
        make([0, 0, 0]).split(by="group")
    with pytest.warns(UserWarning):
        alone = make([0, 1, 2])
    with pytest.raises(DataError, match="at least two"):
        alone.split(by="observation")


# --- quarter turns


@pytest.mark.parametrize("shape", [(5, 5), (3, 5, 5)])
def test_quarter_turns_make_new_groups_of_turned_pictures(shape: tuple[int, ...]) -> None:
    x = torch.rand(4, *shape)
    data = GroupedData.from_arrays(x, [12, 12, 15, 15], columns={"eyes": [1, 2, 3, 4]})
    turned = data.quarter_turns()
    assert len(turned) == 16 and turned.num_groups == 8 and turned.shape == shape
    assert set(turned.groups) == {f"{label}@{angle}" for label in (12, 15) for angle in (0, 90, 180, 270)}
    assert torch.equal(turned.subset(turned.groups == "15@90").x, torch.rot90(x[2:], 1, (-2, -1)))
    assert turned.column("eyes").tolist() == [1, 2, 3, 4] * 4
    first = turned.x[turned.column("eyes") == 1]
    assert torch.equal(torch.rot90(first[3], 1, (-2, -1)), first[0])


@pytest.mark.parametrize("shape", [(5,), (4, 5), (5, 5, 3), (2, 3, 5, 5)])
def test_only_square_images_turn(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="square"):
        GroupedData.from_arrays(torch.zeros(2, *shape), [0, 0]).quarter_turns()


# --- deformed copies


@pytest.mark.parametrize("shape", [(9, 7), (3, 9, 7)])
@pytest.mark.parametrize("whole", [True, False])
def test_deformed_copies_are_new_groups_whose_members_change_alike(shape: tuple[int, ...], whole: bool) -> None:
    x = torch.rand(6, *shape)
    x[1], x[4] = x[0], x[3]  # twins within a group
    x = (255 * x).round().to(torch.uint8) if whole else x
    data = GroupedData.from_arrays(x, ["ann"] * 3 + ["bob"] * 3, columns={"eyes": range(6)})
    more = data.deformed(3, seed=1)
    assert more.x.shape == (24, *shape) and more.x.dtype == data.x.dtype and more.num_groups == 8
    assert torch.equal(more.x[:6], data.x) and more.column("eyes").tolist() == [*range(6)] * 4
    assert set(more.groups) == {f"{name}+{number}" for name in ("ann", "bob") for number in range(4)}
    for number in range(1, 4):
        ann, bob = (more.subset(more.groups == f"{name}+{number}").x for name in ("ann", "bob"))
        assert torch.equal(ann[0], ann[1]) and torch.equal(bob[0], bob[1]) and not torch.equal(ann[0], ann[2])
        assert not torch.equal(ann[0], x[0]) and not torch.equal(bob[0], x[3])
    first, second = (more.subset(more.groups == f"ann+{number}").x[0] for number in (1, 2))
    assert not torch.equal(first, second)
    assert torch.equal(data.deformed(3, seed=1).x, more.x) and not torch.equal(data.deformed(3, seed=2).x, more.x)
    alone = data.deformed(3, seed=1, alone=True)
    assert torch.equal(alone.x, more.x[6:]) and alone.groups.tolist() == more.groups[6:].tolist()
    assert alone.column("eyes").tolist() == [*range(6)] * 3


def test_copies_deformed_further_are_further_away() -> None:
    x = torch.zeros(2, 32, 32)
    x[:, 8:24, 8:16] = 1.0
    data = GroupedData.from_arrays(x, [0, 1])

    def changed(amount: float) -> float:
        copies = data.deformed(40, amount=amount, alone=True).x
        either = [(copies - picture).abs().mean((1, 2)) for picture in (x[0], x[0].flip(-1))]
        return float(torch.minimum(*either).mean())

    small, usual, large = changed(1e-3), changed(1), changed(3)
    assert small < 0.01 < usual < large / 1.5
    for amount in (0, -1, float("nan"), float("inf")):
        with pytest.raises(DataError, match="number above 0 by which to deform"):
            data.deformed(2, amount=amount)


def test_a_deformed_picture_is_still_one_of_the_same_things() -> None:
    """Far less changed than another picture would be, and still within [0, 1]."""
    x = torch.zeros(2, 32, 32)
    x[0, 8:24, 8:16], x[1, 8:24, 16:24] = 1.0, 1.0
    more = GroupedData.from_arrays(x, [0, 1]).deformed(40).x
    assert more.min() >= 0 and more.max() <= 1
    for own, other in ((0, 1), (1, 0)):
        overlaps = [
            max((picture * x[own]).sum(), (picture.flip(-1) * x[own]).sum()) / x[own].sum() for picture in more[own::2]
        ]
        assert min(overlaps) > 0.5
        assert max((more[own::2] * x[other]).sum((1, 2)) / x[other].sum()) > 0.5  # some are mirrored


@pytest.mark.parametrize(
    ("x", "copies", "message"),
    [
        (torch.zeros(2, 5), 1, "pictures"),
        (torch.zeros(2, 2, 3, 5, 5), 1, "pictures"),
        (torch.full((2, 5, 5), 1.5), 1, "numbers in"),
        (torch.full((2, 5, 5), -0.5), 1, "numbers in"),
        (torch.zeros(2, 5, 5), 0, "at least one"),
    ],
)
def test_what_cannot_be_deformed_is_refused(x: torch.Tensor, copies: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        GroupedData.from_arrays(x, [0, 0]).deformed(copies)


# --- by time, and in folds


def test_a_split_by_time_keeps_what_came_last() -> None:
    when = np.array(["2024-01-03", "2024-01-01", "2024-01-02", "2024-01-03", "2024-01-01"], "datetime64[D]")
    data = make([0, 0, 1, 1, 1], when=when, year=[3, 1, 2, 3, 1], word=list("abcde"))
    for column in ("when", "year"):
        train, new = data.split(by="time", time=column, test=0.3)
        assert train.column(column).max() < new.column(column).min() and len(new) == 2
    with pytest.raises(DataError, match="time='...'"):
        data.split(by="time")
    with pytest.raises(DataError, match="'word'; got <U1"):
        data.split(by="time", time="word")
    with pytest.raises(DataError, match="two different times"):
        make([0, 0, 1], year=[1, 1, 1]).split(by="time", time="year")


@laws
@given(labels, st.integers(2, 5), st.integers(0, 3))
def test_folds_are_whole_groups_and_all_of_them(groups: list[int], k: int, seed: int) -> None:
    data = make(groups)
    if k > data.num_groups:
        with pytest.raises(DataError, match="folds"):
            data.folds(k)
        return
    parts = list(data.folds(k, seed=seed))
    assert len(parts) == k
    assert sorted(row for _, new in parts for row in new.x.flatten().tolist()) == list(range(len(groups)))
    for train, new in parts:
        assert not set(train.groups) & set(new.groups) and len(train) + len(new) == len(groups)


def test_whole_numbers_as_floats_are_the_same_names() -> None:
    data = GroupedData.from_arrays(torch.zeros(3, 2), columns={"person": [2.0, 2.0, 5.0]}).grouped_by("person")
    assert data.groups.tolist() == [2, 2, 5] and data.groups.dtype.kind == "i"
    assert GroupedData.from_arrays(torch.zeros(2, 2), [0.5, 1.0]).groups.tolist() == [0.5, 1.0]


def test_some_members_of_many_groups_are_whole_groups_and_of_few_groups_as_many_as_there_is_room_for() -> None:
    def counts(groups: int, members: int) -> np.ndarray:
        ids = np.random.default_rng(1).permutation(np.repeat(np.arange(groups), members))
        rows = members_of_many(ids, 2000, np.random.default_rng(0))
        assert len(np.unique(rows)) == len(rows) <= 2000
        return np.unique(np.bincount(ids[rows], minlength=groups), return_counts=True)

    assert [part.tolist() for part in counts(10, 500)] == [[200], [10]]
    assert [part.tolist() for part in counts(1000, 50)] == [[0, 20], [900, 100]]
    assert [part.tolist() for part in counts(30, 3)] == [[3], [30]]
