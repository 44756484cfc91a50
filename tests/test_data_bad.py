"""Data as they come: every mistake is named with its file, row or column, and with what to do."""

from __future__ import annotations

import io
import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import mlvae
from mlvae.data import GroupedData, read
from mlvae.data.stored import Stored
from mlvae.errors import DataError

ROWS = 8
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def csv(text: str, name: str = "table.csv", encoding: str = "utf-8") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(text.encode(encoding))
        return folder / name

    return make


def parquet(**columns: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pq.write_table(pa.table({"person": ["a", "b"] * (ROWS // 2), **columns}), folder / "table.parquet")
        return folder / "table.parquet"

    return make


def pictures(save: Callable[[Path], None]) -> Callable[[Path], Path]:
    """Four grey pictures of two people, and one that is different."""

    def make(folder: Path) -> Path:
        for i in range(4):
            place = folder / "faces" / "ab"[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(GREY + i).save(place / f"{i}.png")
        save(folder / "faces" / "a" / "odd.png")
        return folder / "faces"

    return make


def truncated(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60])


def cmyk(path: Path) -> None:
    Image.new("CMYK", (8, 8)).save(path.with_suffix(".jpg"))


def alpha(path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(path)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((8, 8), 257 * 100, np.uint16)).save(path)


def _mixed(share: int) -> str:
    return "person,age\n" + "".join(f"p{i % 2},{i if i % 10 < share else 'unknown'}\n" for i in range(20))


BAD: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "mixed types": (
        csv(_mixed(9)),
        {},
        r"'age' of table; 18 of 20 .* and row 9 .the first is 0. holds 'unknown'",
    ),
    "mixed types, named": (csv(_mixed(7)), {"features": "age"}, r"row 7 .*holds 'unknown'.*age:category"),
    "mixed types in a frame": (
        lambda _: pytest.importorskip("pandas").DataFrame({"person": ["a", "b"], "age": [1, "old"]}),
        {},
        "age",
    ),
    "types that differ between files": (
        lambda folder: (
            csv("person,age\na,1\n", "1.csv")(folder),
            csv('person,age\na,"old"\n', "2.csv")(folder),
            folder,
        )[2],
        {"features": "age"},
        "one type",
    ),
    "types that differ between Parquet files": (
        lambda folder: (
            pq.write_table(pa.table({"person": ["a"], "age": [1]}), folder / "1.parquet"),
            pq.write_table(pa.table({"person": ["a"], "age": ["old"]}), folder / "2.parquet"),
            folder,
        )[2],
        {},
        r"Expected int64 in column 'age' of .*2\.parquet, as in 1\.parquet; got string",
    ),
    "words as numbers": (csv("person,age\na,old\nb,young\n"), {"features": "age:number"}, "'age'.*age:category"),
    "evidence for data": (
        parquet(person=range(ROWS), count=[1] * ROWS, precision=[[1.0, 2.0]] * ROWS, information=[[0.0, 1.0]] * ROWS),
        {},
        "holds evidence. Ask it with mlvae evidence",
    ),
    "a group column with nulls": (parquet(person=["a", None] * 4, age=range(ROWS)), {}, "'person'; got 4.*in row 1"),
    "dates as features": (
        parquet(when=pa.array(range(ROWS), pa.timestamp("s")), age=range(ROWS)),
        {"features": "when,age"},
        "'when' holds dates",
    ),
    "a date as a covariate": (
        parquet(when=pa.array(range(ROWS), pa.timestamp("s")), age=range(ROWS)),
        {"covariates": ["when"]},
        "'when'; got datetime",
    ),
    "duplicate column names": (csv("person,age,age\na,1,2\nb,3,4\n"), {}, "'age' occurs twice"),
    "no feature": (csv("person,city\na,x\nb,y\n"), {}, r"at least one feature.*'city' \(category\)"),
    "a misspelt feature": (csv("person,age\na,1\nb,2\n"), {"features": "aeg"}, "Did you mean 'age'"),
    "a misspelt kind": (csv("person,age\na,1\nb,2\n"), {"features": "age:cuont"}, "Did you mean 'count'"),
    "the group among the features": (csv("person,age\n1,1\n2,2\n"), {"features": "age,person"}, "'person' is both"),
    "infinity": (parquet(age=[1.0, np.inf] * 4), {}, "'age'.*infinity"),
    "a ragged row": (csv("person,age\na,1\nb,2,3\n"), {}, r"table.csv.*row 1 .*Correct that row"),
    "not UTF-8": (csv("person,age\nañ,1\nb,2\n", encoding="latin1"), {}, r"table.csv.*not UTF-8.*iconv"),
    "an empty CSV": (csv(""), {}, r"table\.csv"),
    "no rows": (csv("person,age\n"), {}, "it has none"),
    "zero-byte Parquet": (csv("", "table.parquet"), {}, r"table\.parquet is empty \(0 bytes\)"),
    "no Parquet": (csv("PAR1 nearly", "table.parquet"), {}, r"table\.parquet cannot be read"),
    "files with other columns": (
        lambda folder: (csv("person,age\na,1\n", "1.csv")(folder), csv("person,size\na,1\n", "2.csv")(folder), folder)[
            2
        ],
        {},
        r"2\.csv.*\['age', 'size'\]",
    ),
    "vectors of different lengths": (parquet(code=[[1.0, 2.0]] * 7 + [[1.0]]), {}, "'code' of table; they differ"),
    "two columns of vectors": (parquet(a=[[1.0]] * ROWS, b=[[1.0]] * ROWS), {}, "'a', 'b'. Choose one"),
    "a folder without images": (lambda folder: folder, {}, "holds neither"),
    "a picture outside folders": (
        pictures(lambda p: Image.fromarray(GREY).save(p.parents[1] / "x.png")),
        {},
        r"x\.png is in faces itself",
    ),
    "pictures of different depth": (
        pictures(lambda p: ((p.parent / "more").mkdir(), Image.fromarray(GREY).save(p.parent / "more" / "x.png"))),
        {},
        r"x\.png is not",
    ),
    "pictures and a table": (pictures(lambda p: p.with_suffix(".csv").write_text("a\n1\n")), {}, "holds both"),
    "a truncated picture": (pictures(truncated), {}, r"odd\.png cannot be read.*on-bad-file"),
    "no picture": (pictures(lambda p: p.write_text("hello")), {}, r"odd\.png cannot be read"),
    "CMYK": (pictures(cmyk), {}, r"odd\.jpg is CMYK.*--mode"),
    "an alpha channel": (pictures(alpha), {}, r"odd\.png has an alpha channel.*--mode"),
    "16 bits": (pictures(sixteen_bits), {}, r"odd\.png has more than 8 bits"),
    "different sizes": (pictures(lambda p: Image.fromarray(GREY[:5]).save(p)), {}, "8 x 8, 5 x 8.*--size"),
    "a misspelt mode": (pictures(cmyk), {"mode": "rgb"}, "'rgb'"),
    "a misspelt policy": (pictures(truncated), {"on_bad_file": "skp"}, "Did you mean 'skip'"),
    "rows of an archive on disk": (
        lambda folder: (np.savez(folder / "x.npz", x=np.zeros((4, 2)), person=[1, 1, 2, 2]), folder / "x.npz")[1],
        {"in_memory": False},
        r"read from disk; got x\.npz, which is unpacked whole. Save np\.save\('x\.npy', x\)",
    ),
    "a mapped array of objects": (
        lambda folder: (np.save(folder / "x.npy", np.array([[1, "a"]], object)), folder / "x.npy")[1],
        {},
        r"numbers in x\.npy",
    ),
    "a mapped array that was cut off": (
        lambda folder: (
            np.save(folder / "x.npy", np.zeros((9, 9))),
            os.truncate(folder / "x.npy", 500),
            folder / "x.npy",
        )[2],
        {},
        r"x\.npy; it is cut off",
    ),
    "columns of another length beside an array": (
        lambda folder: (
            np.save(folder / "x.npy", np.zeros((3, 2))),
            csv("person\na\nb\n", "x.csv")(folder),
            folder / "x.npy",
        )[2],
        {},
        r"3 rows of x\.npy in x\.csv; column 'person' has the shape \(2,\)",
    ),
    "several data sets": (lambda _: {"train": 1, "test": 2}, {}, "'train', 'test'. Choose one"),
    "something else": (lambda _: 3, {}, "got int"),
    "items of different shapes": (lambda _: _Ragged(), {}, "item 1 has"),
}


class _Ragged:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: int) -> Any:
        return torch.zeros(place + 1), "a"


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_named(name: str, tmp_path: Path) -> None:
    make, options, message = BAD[name]
    with pytest.raises(DataError, match=message):
        read(make(tmp_path), by="group" if "picture" in name or "faces" in name else "person", **options)


@pytest.mark.parametrize("save", [truncated, lambda path: path.write_bytes(b"")], ids=["truncated", "empty"])
def test_a_bad_picture_is_skipped_and_counted_where_asked(save: Callable[[Path], None], tmp_path: Path) -> None:
    folder = pictures(save)(tmp_path)
    for _ in range(2):  # the second time from what was kept
        data = read(folder, on_bad_file="skip")
        assert len(data) == 4 and [Path(name).name for name in data.skipped] == ["odd.png"]
    train = data.subset([0, 1, 2, 3])
    model = mlvae.MLVAE.for_data(train, content_dim=2, style_dim=2, width=8)
    history = mlvae.fit(model, train, tmp_path / "run", epochs=1, progress=False)
    assert history.epochs[0]["skipped_files"] == 1
    assert "skipped_files" in (tmp_path / "run" / "log.csv").read_text()


def test_bad_pictures_and_bad_files_of_a_table_are_skipped_and_counted_where_asked(tmp_path: Path) -> None:
    png = [encoded(GREY + number) for number in range(6)]
    columns = {"image": [{"bytes": held, "path": None} for held in png], "person": [1, 1, 2, 2, 3, 3]}
    columns["image"][1], columns["image"][4] = None, {"bytes": png[4][:40], "path": None}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"'image' of t; row 1 .the first is 0. has none. Embed.*on-bad-file"):
        read(tmp_path / "t.parquet", "person")
    (tmp_path / "zero.parquet").write_bytes(b"")
    for _ in range(2):  # the second time from what was kept
        data = read(tmp_path, "person", on_bad_file="skip")
        assert data.groups.tolist() == [1, 2, 2, 3] and data.x.tolist() == [(GREY + n).tolist() for n in (0, 2, 3, 5)]
        assert [Path(name).name[:12] for name in data.skipped] == ["zero.parquet", "row 1 (the f", "row 4 (the f"]
    here = read(pa.table(columns), "person", on_bad_file="skip")
    assert torch.equal(here.x, data.x) and len(here.skipped) == 2


def encoded(pixels: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_a_bad_table_is_skipped_where_asked(tmp_path: Path) -> None:
    parquet(age=range(ROWS))(tmp_path)
    (tmp_path / "zero.parquet").write_bytes(b"")
    data = read(tmp_path, "person", on_bad_file="skip")
    assert len(data) == ROWS and len(data.skipped) == 1
    with pytest.raises(DataError, match="all 1 cannot"):
        read(tmp_path / "zero.parquet", "person", on_bad_file="skip")


@pytest.mark.parametrize(
    ("save", "mode", "value"),
    [(cmyk, "RGB", 255), (alpha, "L", 255), (sixteen_bits, "L", 100)],
    ids=["cmyk", "alpha", "16-bit"],
)
def test_pictures_are_brought_to_a_mode_that_is_named(
    save: Callable[[Path], None], mode: str, value: int, tmp_path: Path
) -> None:
    data = read(pictures(save)(tmp_path), mode=mode)
    odd = data.x[[name.startswith("odd") for name in data.column("file")].index(True)]
    assert odd.shape == ((8, 8) if mode == "L" else (3, 8, 8)) and int(odd.float().mean()) == value


def test_a_mode_that_was_agreed_to_in_training_holds_for_new_pictures(tmp_path: Path) -> None:
    folder = pictures(alpha)(tmp_path)
    agreed = mlvae.MLVAE.for_data(read(folder, mode="L"), content_dim=2, style_dim=2, width=8)
    plain = mlvae.MLVAE.for_data(read(folder, on_bad_file="skip"), content_dim=2, style_dim=2, width=8)
    (tmp_path / "new").mkdir()
    new = pictures(alpha)(tmp_path / "new")
    assert len(read(new, like=mlvae.load(mlvae.save(agreed, tmp_path / "run")))) == 5
    with pytest.raises(DataError, match=r"odd\.png has an alpha channel"):
        read(new, like=mlvae.load(mlvae.save(plain, tmp_path / "plain")), cache=tmp_path / "kept")


def test_a_file_that_changes_stops_training_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    data = read(tmp_path / "x.npy", groups=np.arange(64) // 4, in_memory=False)
    assert isinstance(data.x, Stored)
    model = mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8)
    mlvae.fit(model, data, tmp_path / "run", epochs=1, progress=False)
    kept = (tmp_path / "run" / "model.safetensors").read_bytes()
    time.sleep(0.01)
    np.save(tmp_path / "x.npy", np.zeros((64, 4), np.float32))
    with pytest.raises(DataError, match=r"x\.npy to stay as it was.*is intact"):
        mlvae.fit(model, data, tmp_path / "other", epochs=1, progress=False)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == kept


def test_a_million_groups_of_one_are_warned_of_in_seconds() -> None:
    start = time.perf_counter()
    with pytest.warns(UserWarning, match="content cannot be told from style"):
        data = read(np.zeros((1_000_000, 2), np.float32), groups=np.arange(1_000_000))
    assert data.num_groups == 1_000_000 and time.perf_counter() - start < 20


def test_one_group_of_a_million_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="one group.*nothing to tell"):
        data = read(np.zeros((1_000_000, 2), np.float32), groups=np.zeros(1_000_000, int))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.subset(slice(10)).num_groups == 1


def test_columns_in_another_order_and_words_never_seen_follow_the_rule(tmp_path: Path) -> None:
    """Columns by name; a word that training did not see is a gap; a column that is gone is named."""
    random = np.random.default_rng(0)
    table = {"person": list("aabbccdd"), "age": random.normal(40, 9, 8), "site": list("xyxyxyxy"), "n": range(8)}
    train = read(pa.table(table), "person", features="age,site,n:count")
    model = mlvae.load(mlvae.save(mlvae.MLVAE.for_data(train, content_dim=2, style_dim=2, width=8), tmp_path))
    shuffled = pa.table({name: table[name] for name in ("n", "site", "person", "age")})
    again = read(shuffled, "person", like=model)
    assert torch.equal(again.x, train.x) and [f.name for f in again.schema.features] == ["age", "site", "n"]
    strange = read(pa.table({**table, "site": list("xyxyzyxy"), "extra": range(8)}), "person", like=model)
    assert torch.isnan(strange.x[4, 1]) and torch.isfinite(model.codes(strange.x)["content"].mean).all()
    with pytest.raises(DataError, match="'age' is missing"):
        read(pa.table({"person": ["a", "b"], "site": ["x", "y"], "n": [1, 2]}), "person", like=model)


def test_a_word_only_the_new_part_has_is_a_gap() -> None:
    table = {"person": list("aabbccdd"), "age": np.arange(8.0), "site": list("xyxyxyzz")}
    data = read(pa.table(table), "person", features="age,site")
    train, new = data.subset(slice(6)), data.subset([6, 7])
    model = mlvae.MLVAE.for_data(train, content_dim=2, style_dim=2, width=8)
    assert model.schema.features[1].unseen == (2,)
    assert torch.isnan(model.prepare(new.x)[:, 1]).all() and not torch.isnan(model.prepare(train.x)).any()
    assert model.prepare(train.x)[:, 0].mean().abs() < 1e-6  # scaled by the training part alone
    torch.testing.assert_close(model.restore(model.prepare(train.x)), train.x)
    assert model.schema.table(train.x)["site"].tolist() == list("xyxyxy")


def test_a_rare_word_of_a_large_table_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlvae.observing.FITTED", 10)
    site = np.array(["x", "y"] * 50, dtype="<U4")
    site[77] = "rare"
    table = {"person": np.arange(100) // 5, "age": np.arange(100.0), "site": site}
    data = read(pa.table(table), "person", features="age,site")
    assert mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8).schema.features[1].unseen == ()
    without = data.subset(np.arange(100) != 77)
    model = mlvae.MLVAE.for_data(without, content_dim=2, style_dim=2, width=8)
    assert [model.schema.features[1].categories[code] for code in model.schema.features[1].unseen] == ["rare"]


def test_labels_that_are_no_list_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one label for each observation"):
        GroupedData.from_arrays(np.zeros((3, 2), np.float32), tmp_path)


PEOPLE = np.arange(2000) % 4


def large() -> np.ndarray[Any, Any]:
    return 1.7e9 + 20 * np.random.default_rng(0).standard_normal((2000, 3))


def as_table(x: np.ndarray[Any, Any]) -> pa.Table:
    return pa.table({"p": np.arange(len(x)) % 4, "time": x[:, 0], "lag": x[:, 1] - x[:, 2]})


LARGE = {
    "column 'time' are": lambda folder: read(as_table(large()), by="p"),
    "column 'x' at (0,) (and at 2": lambda folder: read(pa.table({"p": PEOPLE, "x": large().tolist()}), by="p"),
    "`x` at (0,) (and at 2 places more)": lambda folder: GroupedData.from_arrays(large(), PEOPLE),
    "`x` at (0,)": lambda folder: GroupedData.from_arrays(torch.from_numpy(large()).long(), PEOPLE),
    "column 'time'": lambda folder: read(as_table(large()), by="p", features="lag", covariates=("time",)),
    "'x.npy' at": lambda folder: np.save(folder / "x.npy", large()) or read(folder / "x.npy", groups=PEOPLE),
}


@pytest.mark.parametrize(("what", "source"), LARGE.items(), ids=["table", "vectors", "array", "tensor", "known", "npy"])
def test_numbers_that_float32_rounds_together_are_told(
    tmp_path: Path, what: str, source: Callable[[Path], GroupedData]
) -> None:
    with pytest.warns(UserWarning, match=re.escape(what)):
        source(tmp_path)


def test_numbers_that_float32_holds_are_not(recwarn: pytest.WarningsRecorder) -> None:
    noise = 1 + 1e-15 * np.random.default_rng(0).standard_normal(2000)
    columns = [large()[:, 0] - 1.7e9, 2.0**24 - np.arange(2000), np.full(2000, 1.7e9 + 1), noise, np.full(2000, np.nan)]
    x = np.stack(columns, 1)
    GroupedData.from_arrays(x, PEOPLE, gaps=True)
    read(pa.table({"p": PEOPLE, **{f"c{i}": x[:, i] for i in range(4)}}), by="p")
    read(as_table(1e3 * np.arange(3 * 10**5.0).reshape(-1, 3) + 1.7e9), by="p")  # spread shows over all pieces only
    assert not [str(warning.message) for warning in recwarn if "float32" in str(warning.message)]


@pytest.mark.parametrize("labels", [[np.uint8(255), None, np.uint8(1)], [2**63 - 1, None, 3]])
def test_rows_without_a_label_have_groups_of_their_own_beside_large_numbers(labels: list[object]) -> None:
    data = GroupedData.from_arrays(np.zeros((3, 2), np.float32), labels, missing="own")
    assert data.num_groups == 3
