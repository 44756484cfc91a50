"""Odd data and plain mistakes from end to end: each of these once gave wrong groups in silence, or a traceback."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import mlvae
from mlvae import MLVAE, GroupedData, Level
from mlvae.checkpoint import save
from mlvae.cli import main
from mlvae.errors import DataError, EvidenceError
from mlvae.schema import as_feature
from mlvae.sklearn import MLVAEIdentifier
from mlvae.store import files, jobs
from mlvae.store.living import EvidenceStore

HASTY = ("--epochs", "1", "--width", "8", "--validation", "0")


def survey(countries: int = 6, people: int = 8, sessions: int = 5, **columns: np.ndarray) -> GroupedData:
    person = np.repeat(np.arange(countries * people), sessions)
    x = torch.randn(len(person), 3, generator=torch.Generator().manual_seed(0))
    own = {"country": person // people, "person": person % people, **columns}
    return GroupedData.from_arrays(x, columns=own, by="country")


def saved(data: GroupedData, file: Path, **columns: np.ndarray) -> Path:
    np.savez(file, x=data.x.numpy(), **{**data.columns, **columns})
    return file


def model_of(levels: list[Level]) -> MLVAE:
    torch.manual_seed(0)
    return MLVAE((3,), levels, likelihood="normal", width=8)


def table(file: Path, header: str, rows: list[str]) -> Path:
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_one_level_by_two_columns_has_evidence_on_both(tmp_path: Path) -> None:
    file = saved(survey(), tmp_path / "s.npz")
    model = model_of([Level("who", 2, by=("country", "person")), Level("style", 2)])
    jobs.encode(model, file, evidence=tmp_path / "e.parquet")
    found = files.read(tmp_path / "e.parquet")
    assert len(found.groups["who"]) == 48 and found.count("who").unique().tolist() == [5]
    assert "3,7" in found.groups["who"].tolist()


@pytest.mark.parametrize("folder", [False, True])
def test_a_gap_in_a_second_level_is_no_group_called_nan(tmp_path: Path, folder: bool) -> None:
    data = survey()
    person = np.arange(240.0) // 5
    person[:3] = np.nan
    (tmp_path / "parts").mkdir()
    file = saved(data, tmp_path / "parts" / "s.npz", person=person)
    model = model_of([Level("country", 2, by="country"), Level("person", 2, by="person"), Level("style", 2)])
    source = file.parent if folder else file
    with pytest.raises(DataError, match="column 'person'; got 3 without one"):
        jobs.encode(model, source, evidence=tmp_path / "e.parquet")
    jobs.encode(model, source, evidence=tmp_path / "e.parquet", missing="drop")
    found = files.read(tmp_path / "e.parquet")
    assert sorted(found.groups["person"].tolist()) == sorted(map(str, range(48)))
    assert int(found.count("person").sum()) == int(found.count("country").sum()) == 237


def test_long_numbers_name_their_own_groups(tmp_path: Path) -> None:
    long = [str(12345678901234567890 + place // 3) for place in range(15)]
    file = table(tmp_path / "long.csv", "person,a,b", [f"{who},{row % 4},{row % 5}" for row, who in enumerate(long)])
    assert mlvae.read(file, by="person").groups.tolist() == long
    whole = [str(1234567890123456781 + place // 3) for place in range(15)]
    rows = [f"{who},{row % 4},{row % 5}" for row, who in enumerate([*whole[:-1], ""])]
    gap = mlvae.read(table(tmp_path / "gap.csv", "person,a,b", rows), by="person", missing="drop")
    assert gap.groups.astype(str).tolist() == whole[:-1]
    pq.write_table(pa.table({"person": [*map(int, whole[:-1]), None], "a": range(15)}), tmp_path / "gap.parquet")
    assert mlvae.read(tmp_path / "gap.parquet", by="person", missing="drop").groups.astype(str).tolist() == whole[:-1]


def test_words_that_are_views_are_words(tmp_path: Path) -> None:
    words = pa.array(["ann", "ann", "bob", "bob"], pa.string_view())
    frame = pa.table({"person": words, "hat": words, "x": [0.0, 1.0, 2.0, 3.0]})
    pq.write_table(frame, tmp_path / "f.parquet")
    for source in (frame, tmp_path / "f.parquet"):
        data = mlvae.read(source, by="person", features="all")
        assert data.groups.tolist() == ["ann", "ann", "bob", "bob"] and data.shape == (2,)


def test_numbers_with_none_among_them_stay_numbers() -> None:
    ages = np.array([31, None, 20], dtype=object)
    assert as_feature("age", ages).kind == "number" and as_feature("age", np.array([1, None, 0])).kind == "binary"
    assert np.isnan(as_feature("age", ages).codes(ages)[1])
    data = GroupedData.from_arrays(torch.rand(3, 2), [0, 0, 1], columns={"age": ages}).with_covariates("age")
    assert data.schema.covariates[0].kind == "number"


def test_a_gap_among_numbers_that_are_words_is_no_word(tmp_path: Path) -> None:
    values = pa.array([1.0, float("nan"), 2.0, 1.0])
    pq.write_table(pa.table({"person": [0, 0, 1, 1], "code": values}), tmp_path / "f.parquet")
    feature = mlvae.read(tmp_path / "f.parquet", by="person", features="code:category").schema.features[0]
    assert feature.categories == ("1", "2")


def test_csv_files_with_their_columns_in_another_order_are_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    table(folder / "a.csv", "person,a,b", ["0,1,2", "0,3,4"])
    table(folder / "b.csv", "b,a,person", ["6,5,1", "8,7,1"])
    assert mlvae.read(folder, by="person").x.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_decimal_commas_are_told(tmp_path: Path) -> None:
    file = table(tmp_path / "c.csv", "person;x;n", ["0;1,25;3", "0;2,5;4", "1;0,75;5", "1;,5;6"])
    with pytest.warns(UserWarning, match="Column 'x' of c holds numbers with commas"):
        assert mlvae.read(file, by="person").shape == (1,)


def test_agreeing_to_a_conversion_brings_pictures_back(tmp_path: Path) -> None:
    for person in ("ann", "bob"):
        (tmp_path / "faces" / person).mkdir(parents=True)
        for number in range(4):
            mode = "RGBA" if number == 3 else "RGB"
            Image.new(mode, (6, 6), "red").save(tmp_path / "faces" / person / f"{number}.png")
    assert len(mlvae.read(tmp_path / "faces", on_bad_file="skip").skipped) == 2
    assert len(mlvae.read(tmp_path / "faces", on_bad_file="skip", mode="RGB")) == 8


def test_what_is_read_already_takes_no_options_of_reading() -> None:
    data = mlvae.read("digits")
    for source in ("digits", data):
        for option in ({"groups": [0]}, {"features": "a"}, {"size": 4}, {"mode": "L"}):
            with pytest.raises(DataError, match=f"for `{next(iter(option))}`.*Leave the option out"):
                mlvae.read(source, **option)


def test_one_of_two_columns_of_vectors_is_found_again(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors = {name: random.normal(size=(60, 4)).tolist() for name in ("clip", "dino")}
    pq.write_table(pa.table({"person": np.arange(60) // 6, **vectors}), tmp_path / "emb.parquet")
    file, run = str(tmp_path / "emb.parquet"), str(tmp_path / "run")
    main(["train", file, "--by", "person", "--features", "clip", "--test", "0.2", "--out", run, *HASTY])
    main(["encode", run, file, "--out", str(tmp_path / "codes.parquet")])
    assert pq.read_metadata(tmp_path / "codes.parquet").num_rows == 60
    main(["evaluate", run, file, "--quick", "--controls", "none"])


def test_labels_with_zeros_before_them_are_known_again(tmp_path: Path) -> None:
    rows = [f"{row // 6:03},{row % 7},{row % 5}" for row in range(360)]
    file, run = str(table(tmp_path / "z.csv", "person,a,b", rows)), str(tmp_path / "run")
    main(["train", file, "--by", "person", "--test", "0.2", "--out", run, *HASTY])
    main(["evaluate", run, file, "--quick", "--controls", "none"])
    assert mlvae.read(file, like=mlvae.load(run)).groups[0] == "000"


def test_several_levels_grouped_otherwise_are_known_again(tmp_path: Path) -> None:
    file, run = str(saved(survey(person=np.arange(240) // 5), tmp_path / "n.npz")), str(tmp_path / "run")
    levels = [part for text in ("country:2:country", "person:2:person", "style:2") for part in ("--level", text)]
    main(["train", file, *levels, "--by", "person", "--test", "0.3", "--out", run, *HASTY])
    main(["evaluate", run, file, "--quick", "--controls", "none"])


def test_columns_that_say_who_is_trained_on_are_no_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{row // 6},{row % 7},{int(row > 40)}" for row in range(60)]
    file = str(table(tmp_path / "s.csv", "person,a,split", rows))
    said = fails(capsys, "train", file, "--by", "person", "--features", "a,split", "--out", str(tmp_path / "run"))
    assert "'split' is both" in said and "--features '...,-split'" in said


def test_groups_of_rows_without_a_label_are_no_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = np.arange(60.0) // 6
    groups[:2] = np.nan
    file, run = tmp_path / "d.npz", str(tmp_path / "run")
    np.savez(file, x=np.random.default_rng(0).normal(size=(60, 3)), group=groups)
    main(["train", str(file), "--missing", "own", "--out", run, *HASTY])
    target = str(tmp_path / "e.parquet")
    assert "got own" in fails(capsys, "encode", run, str(file), "--evidence", target, "--missing", "own")
    main(["encode", run, str(file), "--evidence", target])
    assert "Rows without a label are left out" in capsys.readouterr().out
    assert int(files.read(target).count().sum()) == 58
    main(["encode", run, str(file), "--out", str(tmp_path / "c.parquet")])
    assert pq.read_metadata(tmp_path / "c.parquet").num_rows == 60


def test_a_calibration_is_of_one_model_and_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = survey()
    places = {}
    for number in (0, 1):
        torch.manual_seed(number)
        model = MLVAE((3,), [Level("content", 2, by="country"), Level("style", 2)], likelihood="normal", width=8)
        for half in (0, 1):
            places[number, half] = str(tmp_path / f"{number}{half}.parquet")
            part = data.subset(np.arange(half, 240, 2))
            files.write(model.evidence(part.x, part.groups), model, Path(places[number, half]))
    ours, theirs = ([places[number, half] for half in (0, 1)] for number in (0, 1))
    made = str(tmp_path / "cal.json")
    main(["evidence", "calibrate", *ours, "--out", made])
    main(["evidence", "verify", *ours, "--calibration", made])
    assert "another model" in fails(capsys, "evidence", "verify", *theirs, "--calibration", made)
    assert "there is something" in fails(capsys, "evidence", "calibrate", *ours, "--out", ours[0])
    assert files.read(ours[0]).count().sum() == 120


def test_unknown_is_no_large_number(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    model = model_of([Level("content", 2, by="g"), Level("style", 2)])
    y = (np.arange(60) // 6).astype(np.uint8)
    y[y == 9] = 255
    named = MLVAEIdentifier(model, new=0.9).fit(x, y)
    assert -1 in named.classes_ and 255 in named.classes_ and named.predict_proba(x).shape == (60, 11)


def test_a_column_that_begins_empty_or_changes_its_type_is_written(tmp_path: Path) -> None:
    model = model_of([Level("content", 2, by="g"), Level("style", 2)])
    notes = np.array([None] * 8200 + ["x"], dtype=object)
    data = GroupedData.from_arrays(torch.zeros(8201, 3), np.arange(8201) // 2, columns={"note": notes}, by="g")
    jobs.encode(model, data, out=tmp_path / "sparse.parquet")
    assert pq.read_table(tmp_path / "sparse.parquet")["note"].to_pylist()[-1] == "x"
    (tmp_path / "parts").mkdir()
    for number, session in enumerate((np.arange(4), np.array(["a", "b", "c", "d"]))):
        np.savez(tmp_path / "parts" / f"{number}.npz", x=np.zeros((4, 3)), g=[0, 0, 1, 1], session=session)
    jobs.encode(model, tmp_path / "parts", out=tmp_path / "both.parquet", by="g")
    assert pq.read_table(tmp_path / "both.parquet")["session"].to_pylist() == ["0", "1", "2", "3", "a", "b", "c", "d"]


def test_one_target_is_not_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of([Level("content", 2, by="group"), Level("style", 2)])
    data, target = survey().grouped_by("country"), tmp_path / "same.parquet"
    with pytest.raises(DataError, match="Expected two files"):
        jobs.encode(model, data, out=target, evidence=target)
    save(model, tmp_path / "run")
    file = table(tmp_path / "t.csv", "group,a,b,c", ["0,1,2,3", "0,2,3,4"])
    said = fails(capsys, "draw", "generate", str(tmp_path / "run"), str(file), "--out", str(file))
    assert "another file than the data" in said and len(list(csv.reader(file.open()))) == 3


def test_labels_that_are_too_many_or_ids_that_are_a_word_are_refused(tmp_path: Path) -> None:
    model = model_of([Level("content", 2, by="g"), Level("style", 2)])
    store = EvidenceStore(tmp_path / "store", model)
    for groups in (["a", "b", "c"], ["a"]):
        with pytest.raises(EvidenceError, match=r"one group an observation, shape \(2,\)"):
            store.add(["1", "2"], torch.zeros(2, 3), groups)
    with pytest.raises(EvidenceError, match="the text 'ef'"):
        store.add("ef", torch.zeros(2, 3), ["a", "b"])


def test_mistakes_in_options_are_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, where = str(tmp_path / "run"), tmp_path / "with space"
    assert "a seed from 0 on; got -1" in fails(capsys, "train", "digits", "--out", run, "--seed", "-1")
    assert "a .png file" in fails(capsys, "inspect", "digits", "--out", str(tmp_path / "look"))
    patient = ("--patience", "0", "--epochs", "1", "--network", "mlp", "--width", "8")
    assert "a patience of at least one" in fails(capsys, "train", "digits", "--out", run, *patient)
    where.mkdir()
    file = saved(survey(), where / "s.npz")
    main(["train", str(file), "--by", "country", "--test", "0.2", "--out", str(where / "run"), *HASTY])
    assert f"mlvae evaluate '{where / 'run'}' '{file}'" in capsys.readouterr().out


def test_votes_that_are_no_numbers_are_told() -> None:
    model = model_of([Level("content", 2, by="g"), Level("style", 2)])
    x = torch.zeros(4, 3)
    x[2] = 3e38
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(10.0)
    with pytest.raises(DataError, match="its votes of row 2"):
        model.evidence(x, [0, 0, 1, 1])
