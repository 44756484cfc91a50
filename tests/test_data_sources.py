from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import mlvae
from mlvae.data import GroupedData, read
from mlvae.data.sources import READERS
from mlvae.data.stored import Stored
from mlvae.errors import DataError
from mlvae.store.parts import parts_of

X = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
GROUP = np.array([0, 0, 1, 1, 2, 2])
WORD = np.array(["a", "b", "a", "b", "a", "b"])


@pytest.fixture
def save(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(name: str = "faces.npz", **arrays: object) -> Path:
        np.savez_compressed(tmp_path / name, **arrays)  # type: ignore[arg-type]
        return tmp_path / name

    return write


def test_a_file_becomes_data(save) -> None:  # type: ignore[no-untyped-def]
    path = save(x=X, group=GROUP, word=WORD, vocabulary=np.array(["a", "b"]), version=np.array(3))
    for source in (path, str(path)):
        data = read(source)
        assert data.name == "faces" and data.by == "group" and set(data.columns) == {"group", "word"}
        assert np.array_equal(data.x.numpy(), X)
    assert read(path, "word").groups.tolist() == WORD.tolist()


def test_another_array_may_hold_the_observations(save) -> None:  # type: ignore[no-untyped-def]
    path = save(images=X, group=GROUP)
    assert len(read(path, x="images")) == 6
    with pytest.raises(DataError, match=r"array 'x' in faces.npz.*'images', 'group'"):
        read(path)


def test_the_grouping_column_is_found_or_asked_for(save) -> None:  # type: ignore[no-untyped-def]
    assert read(save(x=X, word=WORD)).by == "word"
    with pytest.raises(DataError, match="'word', 'drawer'"):
        read(save(x=X, word=WORD, drawer=GROUP))
    with pytest.raises(DataError, match=r"none of shape \(6,\)"):
        read(save(x=X))
    with pytest.raises(DataError, match="Did you mean 'word'"):
        read(save(x=X, word=WORD), "wrod")
    with pytest.raises(DataError, match="no column of shape"):
        read(save(x=X), "person")


@pytest.mark.parametrize("by", [None, "group"])
@pytest.mark.parametrize("group", [GROUP[:5], GROUP[:, None]])
def test_a_grouping_column_of_another_length_is_refused(save, by, group) -> None:  # type: ignore[no-untyped-def]
    path = save(x=X, group=group, word=WORD)
    with pytest.raises(DataError, match=r"'group' of shape \(6,\).*got \((5,|6, 1)\)"):
        read(path, by)


def test_missing_labels_follow_the_policy(save) -> None:  # type: ignore[no-untyped-def]
    path = save(x=X, group=np.array([0, 0, 1, 1, np.nan, np.nan]))
    with pytest.raises(DataError, match="got 2 without one"):
        read(path)
    assert len(read(path, missing="drop")) == 4 and read(path, missing="own").num_groups == 4


def test_data_in_memory_are_regrouped() -> None:
    data = GroupedData.from_arrays(X, GROUP, columns={"word": WORD})
    assert read(data) is data
    assert read(data, "word").by == "word" and read(data, "word").x is not None
    with pytest.raises(DataError, match="Did you mean 'word'"):
        read(data, "wordd")


@pytest.mark.parametrize("ending", READERS)
def test_what_is_not_there_is_named(tmp_path: Path, ending: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / f"nowhere{ending}")
    with pytest.raises(DataError, match="Did you mean 'avatars'"):
        read("avatar")
    with pytest.raises(DataError, match="a directory"):
        read(tmp_path)


def test_other_endings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "faces.mat").write_text("x,group\n")
    with pytest.raises(DataError, match=r"ending in .npz, .*or .tsv; got 'faces.mat'.*from_arrays"):
        read(tmp_path / "faces.mat")


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 nearly"])
def test_what_is_not_an_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "faces.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"faces\.npz"):
        read(path)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "faces.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(DataError, match="single"):
        read(tmp_path / "faces.npz")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_off_is_refused(save, share: float) -> None:  # type: ignore[no-untyped-def]
    path = save(x=np.random.default_rng(0).random((50, 8, 8)), group=np.arange(50) // 5)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="cut off"):
        read(path)


def test_a_flipped_byte_is_noticed(save) -> None:  # type: ignore[no-untyped-def]
    path = save(x=np.random.default_rng(0).random((50, 8, 8)), group=np.arange(50) // 5)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match=r"array 'x' of faces\.npz cannot be read"):
        read(path)


def test_objects_are_never_unpickled(save) -> None:  # type: ignore[no-untyped-def]
    path = save(x=X, group=np.array(["a", None, "b", 1, 2, 3], object))
    with pytest.raises(DataError, match=r"array 'group'.*never loaded.*astype\(str\)"):
        read(path)


def shared_data() -> Path:
    folder = os.environ.get("MLVAE_SHARED_DATA")
    return Path(folder) if folder else Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.parametrize(
    ("file", "by", "groups"),
    [
        ("omniglot_28.npz", None, 1623),
        ("omniglot_28.npz", "alphabet", 50),
        ("orl_faces_64.npz", None, 40),
        ("fsdd_logmel_48x48.npz", "digit", 10),
        ("glyphs_aenigma_28.npz", "font", 461),
    ],
)
def test_real_files_are_read(file: str, by: str | None, groups: int) -> None:
    path = shared_data() / file
    if not path.is_file():
        pytest.skip(f"the shared data folder has no {file}")
    assert read(path, by).num_groups == groups


def test_embeddings_stay_on_disk_where_they_are_asked_to(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    pq.write_table(pa.table({"who": [i % 5 for i in range(50)], "vector": values.tolist()}), tmp_path / "codes.parquet")
    options = {"by": "who", "features": "vector", "cache": tmp_path / "kept"}
    here = read(tmp_path / "codes.parquet", in_memory=True, **options)
    there = read(tmp_path / "codes.parquet", in_memory=False, **options)
    assert isinstance(there.x, Stored) and isinstance(here.x, torch.Tensor)
    np.testing.assert_array_equal(there.x[:].numpy(), here.x.numpy())
    assert torch.equal(there.x[np.int64(3)], here.x[3])
    again = read(tmp_path / "codes.parquet", in_memory=False, **options)
    assert again.x.shape == (50, 6) and not again.gaps
    values[7, 2] = np.nan
    pq.write_table(pa.table({"who": [i % 5 for i in range(50)], "vector": values.tolist()}), tmp_path / "gaps.parquet")
    assert all(read(tmp_path / "gaps.parquet", in_memory=held, **options).gaps for held in (True, False, False))


def test_bytes_of_which_some_are_missing_in_a_later_file_have_gaps(tmp_path: Path) -> None:
    kind = pa.list_(pa.uint8())
    for name, rows in (("a", [[200, 2], [3, 4], [9, 9]]), ("b", [[5, None], [7, 8]])):
        table = {"who": [1, 2, 1][: len(rows)], "x": pa.array(rows, kind)}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    for in_memory in (True, False, False):  # the last from what was kept
        data = read(tmp_path, by="who", in_memory=in_memory)
        assert data.gaps and data.x[:].tolist()[:2] == [[200, 2], [3, 4]] and torch.isnan(data.x[:][3, 1])
    alone = [read(tmp_path / "a.parquet", by="who", in_memory=in_memory) for in_memory in (True, False)]
    assert all(data.x.dtype == torch.uint8 and not data.gaps for data in alone)
    # uint8 is scaled to [0, 1], decimals are not: a part of the whole is what the whole is.
    loaded = [part.load() for part in parts_of(tmp_path, "who")]
    assert [data is not None and data.x.dtype for data in loaded] == [torch.float32] * 2


def test_one_long_text_does_not_make_a_column_as_wide_as_itself(tmp_path: Path) -> None:
    notes = ["short"] * 999 + ["a long story " * 500]
    table = pa.table({"who": [i % 5 for i in range(1000)], "height": np.arange(1000) / 7, "note": notes})
    pq.write_table(table, tmp_path / "t.parquet")
    data = read(tmp_path / "t.parquet", by="who", features="height")
    column = data.column("note")
    assert column.nbytes < 10_000 and column[999] == notes[999]
    assert data.codes("note").tolist() == [1] * 999 + [0] and data.grouped_by("note").num_groups == 2
    train, new = data.split(by="observation", test=0.2)
    assert len(train) + len(new) == 1000 and "note" in data._repr_html_()


def test_rows_on_disk_may_have_gaps_only_where_it_is_said(tmp_path: Path) -> None:
    x = np.ones((40, 3), np.float32)
    x[::4, 1] = np.nan
    np.save(tmp_path / "w.npy", x)
    (tmp_path / "w.csv").write_text("person\n" + "\n".join(str(row % 5) for row in range(40)) + "\n")
    for in_memory in (True, False):
        with pytest.raises(DataError, match="--gaps"):
            read(tmp_path / "w.npy", by="person", in_memory=in_memory)
        assert read(tmp_path / "w.npy", by="person", in_memory=in_memory, gaps=True).gaps


def test_what_may_have_gaps_makes_a_model_that_knows_them() -> None:
    data = read(np.random.default_rng(0).normal(size=(40, 3)), groups=np.arange(40) % 5, gaps=True)
    model = mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=4)
    assert model.likelihood.missing and model.codes(torch.full((1, 3), torch.nan))["style"].mean.isfinite().all()


def test_masked_values_are_gaps_and_ragged_lists_are_told_of_padding() -> None:
    masked = np.ma.masked_array(np.full((4, 2), 999.0), mask=[[1, 0]] * 4)
    with pytest.raises(DataError, match="without masked values; got 4"):
        read(masked, groups=[0, 0, 1, 1])
    x = read(masked, groups=[0, 0, 1, 1], gaps=True).x
    assert torch.isnan(torch.as_tensor(x)[:, 0]).all() and (torch.as_tensor(x)[:, 1] == 999).all()
    for ragged in ([np.zeros((3, 2)), np.zeros((4, 2))], [[1.0, 2.0], [3.0]]):
        with pytest.raises(DataError, match="padded"):
            read(ragged, groups=[0, 1])


ALIKE: dict[str, tuple[Any, Any]] = {
    "int32": (pa.int32(), pa.int64()),
    "float": (pa.int64(), pa.float64()),
    "single": (pa.float32(), pa.float64()),
    "words": (pa.string(), pa.large_string()),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), pa.string()),
    "nothing": (pa.null(), pa.int64()),
    "truth": (pa.bool_(), pa.int64()),
    "times": (pa.timestamp("s"), pa.timestamp("ns")),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ALIKE)
def test_files_of_a_folder_may_hold_types_that_one_type_holds(name: str, turned: bool, tmp_path: Path) -> None:
    kinds = ALIKE[name][::-1] if turned else ALIKE[name]
    for part, kind in enumerate(kinds):
        words = pa.types.is_dictionary(kind) or kind in (pa.string(), pa.large_string())
        values = pa.array([None] * 2 if kind == pa.null() else ["1", "0"] if words else [1, 0])
        if kind == pa.float64():
            values = pa.array([2.5, 2.0**40])  # what no narrower type holds
        elif kind == pa.int64():
            values = pa.array([2**40, 3])
        table = {"note": values.cast(kind), "group": [1, 2], "x": [0.5, 1.5]}
        pq.write_table(pa.table(table), tmp_path / f"{part}.parquet")
    data = read(tmp_path, by="group", features="x")
    loaded = [part.load() for part in parts_of(tmp_path, "group", features="x")]
    notes = [str(note) for part in loaded if part is not None for note in part.column("note")]
    assert len(data) == 4 and len(notes) == 4
    if name != "nothing":
        assert notes == [str(note) for note in data.column("note")]
