"""CSV a block of lines at a time is what it would be whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from mlvae.data import read
from mlvae.data.sources import delimited
from mlvae.data.sources.raw import Asked
from mlvae.errors import DataError
from mlvae.store.parts import parts_of


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """300 lines in some seven blocks, each of which looks different from the others in some column."""
    lines = ["person,age,size,seen,site,all"]
    for i in range(300):
        age = "" if i < 100 else str(i) if i < 200 else f"{i}.5"
        site = str(i % 3) if i < 200 else "abc"[i % 3]
        lines.append(f"p{i % 9},{age},{i / 7:.3f},20{i % 20 + 10}-01-02{'T03:04:05' * (i > 250)},{site},")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    monkeypatch.setattr(delimited, "BLOCK", 1500)
    return tmp_path / "table.csv"


def test_blocks_together_have_the_types_and_rows_of_the_whole(table: Path) -> None:
    whole = csv.read_csv(table, convert_options=csv.ConvertOptions(strings_can_be_null=True))
    blocks, schema, skipped = delimited.csv_blocks([table], Asked())
    assert len(blocks) > 5 and sum(block.rows for block in blocks) == 300 and not skipped
    assert schema == whole.schema and len({str(block.read().schema) for block in blocks}) > 2
    assert pa.concat_tables([block.read(schema) for block in blocks]).equals(whole)
    streamed = delimited.streamed(blocks, schema, "table")
    some = pa.Table.from_batches(streamed.batches(["site", "age"]))
    assert some.equals(whole.select(["site", "age"]))


def test_a_table_that_is_not_kept_in_memory_gives_the_same_data(table: Path) -> None:
    options = {"by": "person", "features": "age,size,site:category"}
    here, there = (read(table, in_memory=in_memory, **options) for in_memory in (True, False))
    np.testing.assert_array_equal(here.x[:].numpy(), there.x[:].numpy())
    assert here.schema == there.schema and here.column("seen").tolist() == there.column("seen").tolist()


@pytest.mark.parametrize("types", [{"int64", "double"}, {"bool", "int64"}, {"date32[day]", "timestamp[s]"}])
def test_what_has_nothing_in_common_is_words(types: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"int64": "1", "double": "1.5", "bool": "true", "date32[day]": "2020-01-02",
              "timestamp[s]": "2020-01-02T03:04:05"}  # fmt: skip
    (tmp_path / "t.csv").write_text("".join(["a\n"] + [f"{values[kind]}\n" * 40 for kind in sorted(types)]))
    monkeypatch.setattr(delimited, "BLOCK", 20)
    _, schema, _ = delimited.csv_blocks([tmp_path / "t.csv"], Asked())
    common = {"double": "double", "bool": "string", "date32[day]": "timestamp[s]"}
    assert str(schema.field("a").type) == next(common[kind] for kind in common if kind in types)


def test_a_ragged_row_is_named_by_its_number(table: Path) -> None:
    text = table.read_text().splitlines()
    text[1 + 207] += ",one too many"
    table.write_text("\n".join(text))
    for in_memory in (True, False):
        with pytest.raises(DataError, match=r"table\.csv.*row 207.*Correct that row"):
            read(table, "person", in_memory=in_memory)


def test_a_file_that_changes_while_it_is_read_is_an_error(table: Path) -> None:
    blocks, schema, _ = delimited.csv_blocks([table], Asked())
    table.write_text(table.read_text() + "\np1,1,1,2010-01-02,1,")
    with pytest.raises(DataError, match=r"table\.csv to stay as it was"):
        blocks[-1].read(schema)


@pytest.mark.parametrize("block", [None, 40])
def test_labels_written_with_a_zero_before_them_are_words(
    block: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else 1, 01 and 001 would be one device; as a feature 05 is five."""
    if block is not None:
        monkeypatch.setattr(delimited, "BLOCK", block)
    rows = [f"{device},{part:02},{value}" for device in ("1", "01", "001", "2") for part, value in enumerate("12345")]
    (tmp_path / "a.csv").write_text("device,part,value\n" + "\n".join(rows) + "\n")
    data = read(tmp_path / "a.csv", by="device")
    assert np.unique(data.groups).tolist() == ["001", "01", "1", "2"] and data.shape == (2,)
    assert data.x[:5, 0].tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "b.csv").write_text("device,value\n1,01\n1,2\n0,3\n")
    assert read(tmp_path / "b.csv", by="device").groups.tolist() == [1, 1, 0]


def test_line_breaks_within_quotes_are_read_in_blocks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f'{i % 5},{i / 7},"first line {i}\nline two"' for i in range(3000)]
    (tmp_path / "notes.csv").write_text("\n".join(["who,height,note", *lines, ""]))
    monkeypatch.setattr("mlvae.data.sources.delimited.BLOCK", 5000)
    data = read(tmp_path / "notes.csv", by="who", features="height")
    assert len(data) == 3000 and data.column("note")[2999] == "first line 2999\nline two"
    (tmp_path / "open.csv").write_text('who,height\n1,2\n"3,4\n5,6\n')
    with pytest.raises(DataError, match=r"open\.csv"):
        read(tmp_path / "open.csv", by="who", features="height")


def test_labels_beside_an_array_and_of_the_only_column_left_keep_their_zeros(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("person\n007\n7\n007\n7\n8\n8\n")
    np.save(tmp_path / "x.npy", np.zeros((6, 2), np.float32))
    expected = ["007", "7", "007", "7", "8", "8"]
    assert read(tmp_path / "x.npy", by="person").groups.tolist() == expected
    (part,) = parts_of(tmp_path / "x.npy", "person")
    data = part.load()
    assert data is not None and data.groups.tolist() == expected
    (tmp_path / "t.csv").write_text("person,a\n" + "\n".join(f"{who},01" for who in expected) + "\n")
    only = read(tmp_path / "t.csv", features="a")
    assert only.by == "person" and only.groups.tolist() == expected and only.x[0].item() == 1
