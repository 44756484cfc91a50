"""Encoding jobs: killed at any instant they go on, and nothing counts twice."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pyarrow import csv

from mlvae import MLVAE, GroupedData, Level, read, save
from mlvae.cli import main
from mlvae.data.sources import delimited, images
from mlvae.data.sources.raw import Asked
from mlvae.data.stored import Stored
from mlvae.errors import CheckpointError, DataError, ModelError
from mlvae.store import files, jobs, parts, stretches
from test_store import close


@pytest.fixture
def model() -> MLVAE:
    torch.manual_seed(0)
    return MLVAE((4,), [Level("content", 3, by="group"), Level("style", 2)], width=8, likelihood="normal")


def folder(path: Path, count: int = 5, rows: int = 40) -> GroupedData:
    """A folder of files whose groups overlap; returns all of it."""
    path.mkdir()
    x = np.random.default_rng(0).normal(size=(count * rows, 4)).astype(np.float32)
    group = np.random.default_rng(1).integers(0, 12, count * rows)
    for i in range(count):
        part = slice(i * rows, (i + 1) * rows)
        np.savez(path / f"{i}.npz", x=x[part], group=group[part])
    return GroupedData.from_arrays(x, group)


def test_a_folder_of_parts_gives_what_one_set_gives(tmp_path: Path, model: MLVAE) -> None:
    data, said = folder(tmp_path / "in"), list[str]()
    out, evidence = tmp_path / "codes.parquet", tmp_path / "evidence.parquet"
    assert jobs.encode(model, tmp_path / "in", out=out, evidence=evidence, say=said.append) == 5
    assert close(files.read(evidence), model.evidence(data.x, data.groups), 1e-9)
    codes = pq.read_table(out)
    assert codes["group"].to_pylist() == data.groups.tolist()
    expected = model.codes(data.x)["content"].mean.numpy()
    np.testing.assert_allclose(np.stack(codes["content_mean"].to_pylist()), expected, rtol=1e-5, atol=1e-6)
    assert {p.name for p in tmp_path.iterdir()} == {"in", "codes.parquet", "evidence.parquet"}
    assert "part 5 of 5" in said[-1] and "0 s to go" in said[-1]
    with pytest.raises(CheckpointError, match="Expected nothing at"):
        jobs.encode(model, tmp_path / "in", out=out, evidence=evidence)


def test_a_large_set_is_encoded_in_stretches(tmp_path: Path, model: MLVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder(tmp_path / "in")
    monkeypatch.setattr(parts, "STRETCH", 64)
    assert jobs.encode(model, data, evidence=tmp_path / "e") == 4
    assert close(files.read(tmp_path / "e"), model.evidence(data.x, data.groups), 1e-9)


def test_a_stopped_job_goes_on_and_refuses_to_become_another(
    tmp_path: Path, model: MLVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder(tmp_path / "in")
    original, taken = jobs.evidence_of, 0

    def stops(*arguments: object) -> object:
        nonlocal taken
        taken += 1
        if taken == 3:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "evidence_of", stops)
    with pytest.raises(KeyboardInterrupt):
        jobs.encode(model, tmp_path / "in", evidence=tmp_path / "e")
    monkeypatch.undo()
    other = MLVAE((4,), [Level("content", 3, by="group"), Level("style", 2)], width=8, likelihood="normal")
    with pytest.raises(CheckpointError, match="has other model"):
        jobs.encode(other, tmp_path / "in", evidence=tmp_path / "e")
    stamp = (tmp_path / "in" / "4.npz").stat().st_mtime_ns
    os.utime(tmp_path / "in" / "4.npz", ns=(stamp + 5, stamp + 5))
    with pytest.raises(CheckpointError, match="has other parts"):
        jobs.encode(model, tmp_path / "in", evidence=tmp_path / "e")
    os.utime(tmp_path / "in" / "4.npz", ns=(stamp, stamp))
    assert jobs.encode(model, tmp_path / "in", evidence=tmp_path / "e") == 3
    assert close(files.read(tmp_path / "e"), model.evidence(data.x, data.groups), 1e-9)


@pytest.mark.parametrize("place", ["adding.merge", "shutil.rmtree"])
def test_a_job_stopped_at_its_very_end_is_finished(
    tmp_path: Path, model: MLVAE, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    data, remove = folder(tmp_path / "in", count=3), shutil.rmtree

    def stops(what: object, *arguments: object, **options: object) -> None:
        if isinstance(what, list) or str(what).endswith(".parts"):  # not the database's own folder
            raise KeyboardInterrupt
        remove(what, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(f"mlvae.store.jobs.{place}", stops)
    with pytest.raises(KeyboardInterrupt):
        jobs.encode(model, tmp_path / "in", out=tmp_path / "c", evidence=tmp_path / "e")
    monkeypatch.undo()
    assert jobs.encode(model, tmp_path / "in", out=tmp_path / "c", evidence=tmp_path / "e") == 0
    assert close(files.read(tmp_path / "e"), model.evidence(data.x, data.groups), 1e-9)
    assert {p.name for p in tmp_path.iterdir()} == {"in", "c", "e"}


def test_what_came_to_a_target_meanwhile_stays(tmp_path: Path, model: MLVAE) -> None:
    folder(tmp_path / "in", count=3)
    for targets in (
        {"evidence": tmp_path / "e"},
        {"out": tmp_path / "c"},
        {"out": tmp_path / "c2", "evidence": tmp_path / "e2"},
    ):
        job = jobs.Job(model, tmp_path / "in", **targets)
        job.encode(job.begin()[0])
        for target in targets.values():
            target.write_text("my other file")
        with pytest.raises(CheckpointError, match="Expected nothing at"):
            jobs.encode(model, tmp_path / "in", **targets)
        assert all(target.read_text() == "my other file" and target.unlink() is None for target in targets.values())
        assert jobs.encode(model, tmp_path / "in", **targets) == 2
        assert all(target.stat().st_size > 100 for target in targets.values())


def test_what_cannot_be_done_in_parts_is_refused(tmp_path: Path, model: MLVAE) -> None:
    folder(tmp_path / "in")
    with pytest.raises(DataError, match="same names"):
        jobs.encode(model, tmp_path / "in", out=tmp_path / "c", missing="own")
    with pytest.raises(DataError, match="with --evidence; got own"):
        jobs.encode(model, tmp_path / "in", evidence=tmp_path / "e", missing="own")
    with pytest.raises(DataError, match="got none"):
        jobs.encode(model, tmp_path / "in")
    levels = [Level("speaker", 3, by="group"), Level("word", 2, by="group", given=("speaker",)), Level("style", 2)]
    with pytest.raises(ModelError, match="'word' sees another"):
        jobs.encode(MLVAE((4,), levels, likelihood="normal"), tmp_path / "in", evidence=tmp_path / "e")
    with pytest.raises(ModelError, match="plain VAE"):
        jobs.encode(MLVAE((4,), [Level("style", 2)]), tmp_path / "in", evidence=tmp_path / "e")


def test_groups_by_several_columns_have_one_label() -> None:
    levels = [Level("country", 2, by="country"), Level("person", 2, by=("country", "person")), Level("style", 2)]
    nested = MLVAE((4,), levels, width=8, likelihood="normal")
    columns = {"country": ["fr", "fr", "de"], "person": ["al", "bo", "al"]}
    data = GroupedData.from_arrays(torch.randn(3, 4), columns=columns, by="person")
    labels = jobs.evidence_of(nested, data).groups["person"]
    assert labels is not None and labels.tolist() == ["de,al", "fr,al", "fr,bo"]


ENCODE = """
import sys
from mlvae import load
from mlvae.store import jobs
jobs.encode(load(sys.argv[1]), sys.argv[2], out=sys.argv[3] + "/c", evidence=sys.argv[3] + "/e")
"""


def test_killed_at_random_instants_a_job_ends_with_the_same_evidence(tmp_path: Path, model: MLVAE) -> None:
    data = folder(tmp_path / "in", count=40, rows=30)
    save(model, tmp_path / "run")
    out, random_ = tmp_path / "out", random.Random(0)
    out.mkdir()
    command = [sys.executable, "-c", ENCODE, str(tmp_path / "run"), str(tmp_path / "in"), str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    kills = 0
    while not (out / "e").exists():
        job = subprocess.Popen(command, env=environment)
        before = len(list(out.rglob("*.evidence.parquet")))
        while job.poll() is None and len(list(out.rglob("*.evidence.parquet"))) == before and not (out / "e").exists():
            time.sleep(0.002)
        time.sleep(random_.random() * 0.05)
        if kills < 3 and job.poll() is None:
            job.send_signal(signal.SIGKILL)
            kills += 1
        job.wait()
    assert kills >= 2
    assert close(files.read(out / "e"), model.evidence(data.x, data.groups), 1e-9)
    assert len(pq.read_table(out / "c")) == len(data)


def test_built_in_sets_are_encoded(tmp_path: Path) -> None:
    data = read("digits")
    model = MLVAE.for_data(data, content_dim=2, style_dim=2, width=8)
    assert jobs.encode(model, "digits", evidence=tmp_path / "e") == 1
    assert files.read(tmp_path / "e").count().sum() == len(data)


def one_after_another(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Watches parts being read: the rows of each; an earlier one must be gone, so that never two are held."""
    rows: list[int] = []
    last: list[weakref.ref[torch.Tensor]] = []
    original = stretches.grouped

    def watched(*arguments: object) -> GroupedData | None:
        assert not any(ref() is not None for ref in last)
        data = original(*arguments)  # type: ignore[arg-type]
        rows.append(0 if data is None else len(data))
        last[:] = [] if data is None else [weakref.ref(data.x)]
        return data

    monkeypatch.setattr(stretches, "grouped", watched)
    return rows


def stopped(monkeypatch: pytest.MonkeyPatch, after: int, **options: Any) -> None:
    """A job that ends when so many parts are encoded."""
    original, taken = jobs.evidence_of, 0

    def stops(*arguments: object) -> object:
        nonlocal taken
        taken += 1
        if taken > after:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(jobs, "evidence_of", stops)
        jobs.encode(**options)


@pytest.fixture(params=["parquet", "csv"])
def table(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files, in row groups or blocks of lines that are no stretches; groups and notes have gaps in one stretch."""
    random_ = np.random.default_rng(0)
    monkeypatch.setattr(delimited, "BLOCK", 4000)  # some 90 lines
    (tmp_path / "in").mkdir()
    for number in range(2):
        group = pa.array(random_.integers(0, 5, 250)).cast("float64").to_pylist()
        note: list[int | None] = list(range(250))
        word: list[str | None] = ["x"] * 250
        if number == 1:
            group[100], note[70], word[64:128] = None, None, [None] * 64
        columns = {"b": random_.normal(size=250), "group": group, "note": note, "word": word, "a": random_.random(250)}
        if request.param == "csv":
            csv.write_csv(pa.table(columns), tmp_path / "in" / f"{number}.csv")
        else:
            pq.write_table(pa.table(columns), tmp_path / "in" / f"{number}.parquet", row_group_size=90)
    return tmp_path / "in"


def test_a_table_is_read_a_stretch_at_a_time_and_each_row_once(
    tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read(table, by="group", missing="drop", features="a,b", labels=["note"])
    # In float64: in float32 a row's last bits depend on how many are encoded with it.
    model = MLVAE.for_data(data, content_dim=3, style_dim=2, width=8).double()
    monkeypatch.setattr(stretches, "ROWS", 64)
    decoded: list[int] = []
    original, parsed = pq.ParquetFile.iter_batches, delimited.Block.read

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        for batch in original(self, *arguments, **options):
            decoded.append(len(batch) if "a" in batch.schema.names else 0)  # not the look at the labels alone
            yield batch

    def counted_block(self: Any, *arguments: Any) -> Any:
        block = parsed(self, *arguments)
        decoded.append(len(block) if "a" in block.schema.names else 0)
        return block

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    monkeypatch.setattr(delimited.Block, "read", counted_block)
    rows = one_after_another(monkeypatch)
    csv_there = (table / "0.csv").exists()
    job: dict[str, Any] = {
        "model": model, "source": table, "out": tmp_path / "c", "evidence": tmp_path / "e", "by": "group",
        "missing": "drop",
    }  # fmt: skip
    stopped(monkeypatch, 3, **job)
    assert rows == [64, 64, 64, 58]  # the fourth was read, and not finished
    del rows[:]
    assert jobs.encode(**job) == 5
    assert rows == [58, 64, 63, 64, 58]
    # Read on, not anew: the rest of the first file's row groups (or blocks) after the stop, and the second file.
    blocks = (
        [block.rows for block in delimited.csv_blocks([table / "0.csv"], Asked())[0]] if csv_there else [90, 90, 70]
    )
    assert len(blocks) > 2 and sum(decoded) == 250 + sum(blocks) - sum(blocks[:2]) + 250
    assert close(files.read(tmp_path / "e"), model.evidence(data.x, data.groups), 1e-9)
    codes = pq.read_table(tmp_path / "c")
    assert codes["group"].to_pylist() == data.groups.tolist() and codes["word"].null_count == 63  # one was dropped
    assert codes["note"].null_count + np.isnan(codes["note"].drop_null().to_numpy()).sum() == 1


def test_a_part_without_a_label_is_passed_over(tmp_path: Path, model: MLVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "ROWS", 64)
    x = np.random.default_rng(0).normal(size=(130, 4)).astype(np.float32)
    groups = [None] * 64 + ["ann"] * 66
    pq.write_table(pa.table({"x": x.tolist(), "group": pa.array(groups)}), tmp_path / "t.parquet")
    out = {"out": tmp_path / "c", "evidence": tmp_path / "e"}
    assert jobs.encode(model, tmp_path / "t.parquet", missing="drop", **out) == 3
    assert close(files.read(tmp_path / "e"), model.evidence(x[64:], groups[64:]), 1e-6)  # 64 rows and 2
    assert len(pq.read_table(tmp_path / "c")) == 66
    with pytest.raises(DataError, match="missing='drop'"):
        jobs.encode(model, tmp_path / "t.parquet", evidence=tmp_path / "again")


def test_files_of_one_row_of_none_with_a_label_and_damaged_ones_are_parts(tmp_path: Path, model: MLVAE) -> None:
    data = folder(tmp_path / "in", count=2)
    one = {"x": np.ones((1, 4), np.float32), "group": np.array([5])}
    np.savez(tmp_path / "in" / "one.npz", **one)  # type: ignore[arg-type]
    np.savez(tmp_path / "in" / "none.npz", x=np.zeros((3, 4), np.float32), group=np.full(3, np.nan))
    whole = (tmp_path / "in" / "0.npz").read_bytes()
    (tmp_path / "in" / "odd.npz").write_bytes(whole[: len(whole) // 2])
    said, out = list[str](), {"out": tmp_path / "c", "evidence": tmp_path / "e", "missing": "drop"}
    with pytest.raises(DataError, match=r"odd\.npz cannot be read.*--on-bad-file skip"):
        jobs.encode(model, tmp_path / "in", **out)  # type: ignore[arg-type]
    shutil.rmtree(tmp_path / "e.parts")
    skip = {"on_bad_file": "skip"}
    assert jobs.encode(model, tmp_path / "in", reading=skip, say=said.append, **out) == 5  # type: ignore[arg-type]
    expected = model.evidence(torch.cat([data.x, torch.ones(1, 4)]), [*data.groups, 5])
    assert close(files.read(tmp_path / "e"), expected, 1e-5)
    assert len(pq.read_table(tmp_path / "c")) == len(data) + 1
    assert "Skipped 1 files" in said[-1] and "odd.npz" in said[-1]


def test_a_folder_of_pictures_is_decoded_a_stretch_at_a_time_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(150):
        place = tmp_path / "in" / f"{number % 4}" / f"{number:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)).save(place)
    data = read(tmp_path / "in", cache=tmp_path / "kept")
    # In float64: in float32 a row's last bits depend on how many are encoded with it.
    model = MLVAE.for_data(data, content_dim=3, style_dim=2, width=8).double()
    monkeypatch.setattr(stretches, "ROWS", 64)
    decoded, rows, original = list[str](), one_after_another(monkeypatch), images.decode

    def counted(name: str, *arguments: Any, **options: Any) -> Any:
        decoded.append(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(images, "decode", counted)
    job: dict[str, Any] = {"model": model, "source": tmp_path / "in", "evidence": tmp_path / "e"}
    stopped(monkeypatch, 1, **job)
    assert rows == [64, 64]
    assert jobs.encode(**job) == 2 and rows[2:] == [64, 22]
    assert len(decoded) == 150 + 64 and len(set(decoded[:64] + decoded[128:])) == 150
    assert close(files.read(tmp_path / "e"), model.evidence(data.x, data.groups), 1e-9)
    assert not (tmp_path / "in" / ".mlvae").exists()


@pytest.mark.parametrize("beside", ["parquet", "csv", "npz"])
def test_an_array_is_read_a_stretch_at_a_time(
    beside: str, tmp_path: Path, model: MLVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    group = (np.arange(200) % 7).astype(float)
    group[[3, 150]] = np.nan
    np.save(tmp_path / "x.npy", x)
    labels = pa.table({"group": pa.array(group, from_pandas=True), "note": [f"n{i}" for i in range(200)]})
    if beside == "npz":
        np.savez(tmp_path / "x.npz", group=group, note=labels["note"].to_numpy().astype(str))
    else:
        {"csv": csv.write_csv, "parquet": pq.write_table}[beside](labels, tmp_path / f"x.{beside}")
    monkeypatch.setattr(stretches, "ROWS", 64)
    monkeypatch.setattr(parts, "STRETCH", 64)
    monkeypatch.setattr(delimited, "BLOCK", 500)
    data = read(tmp_path / "x.npy", by="group", missing="drop")
    model = model.double()
    job: dict[str, Any] = {
        "model": model, "source": tmp_path / "x.npy", "out": tmp_path / "c", "evidence": tmp_path / "e", "by": "group",
        "missing": "drop",
    }  # fmt: skip
    stopped(monkeypatch, 1, **job)
    reads: list[int] = []
    original = Stored._read

    def watched(self: Any, key: Any, count: int) -> torch.Tensor:
        reads.append(count)
        return original(self, key, count)

    monkeypatch.setattr(Stored, "_read", watched)
    assert jobs.encode(**job) == 3
    assert max(reads) <= 64
    assert close(files.read(tmp_path / "e"), model.evidence(data.x, data.groups), 1e-9)
    codes = pq.read_table(tmp_path / "c")
    assert codes["group"].to_pylist() == data.groups.tolist()
    assert codes["note"].to_pylist() == data.column("note").tolist()


@pytest.mark.parametrize("ending", ["parquet", "csv", "npy"])
def test_labels_that_are_whole_in_one_stretch_only_are_decimals_in_all(
    ending: str, tmp_path: Path, model: MLVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "ROWS", 64)
    x = np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)
    dose = np.repeat([1.0, 2.0, 2.5], 50)
    source, columns = tmp_path / f"t.{ending}", {f"x{i}": x[:, i] for i in range(4)}
    if ending == "npy":
        np.save(source, x)
        pq.write_table(pa.table({"dose": dose}), tmp_path / "t.parquet")  # the only column, which nobody need name
    else:
        write = csv.write_csv if ending == "csv" else pq.write_table
        write(pa.table({**columns, "dose": dose}), source)
    features = None if ending == "npy" else "x*"
    data = read(source, features=features)
    job: dict[str, Any] = {"out": tmp_path / "c", "evidence": tmp_path / "e", "reading": {"features": features}}
    assert jobs.encode(model.double(), source, **job) == 3
    assert close(files.read(tmp_path / "e"), model.evidence(data.x, data.groups.astype(str)), 1e-6)
    assert pq.read_table(tmp_path / "c")["dose"].to_pylist() == dose.tolist()


def archives(path: Path, *labels: Any, name: str = "group") -> np.ndarray[Any, Any]:
    """A folder of files with these labels; returns their observations."""
    path.mkdir()
    x = np.random.default_rng(0).normal(size=(sum(map(len, labels)), 4)).astype(np.float32)
    ends = np.cumsum([0, *map(len, labels)])
    for number, some in enumerate(labels):
        np.savez(path / f"{number}.npz", x=x[ends[number] : ends[number + 1]], **{name: some})
    return x


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "labels", [([1, 2, 2], [1.0, 2.0, 4.0]), ([1, 2], [1.0, np.nan, 2.0]), ([1, 2, 2], [1.0, 2.5, 2.5]),
               ([1.0, 2.0], np.array([2.5, 1.0], np.float32))],
)  # fmt: skip
def test_labels_name_the_same_groups_in_all_files_of_a_folder(
    labels: tuple[Any, Any], turned: bool, tmp_path: Path, model: MLVAE
) -> None:
    labels = labels[::-1] if turned else labels
    whole = GroupedData.from_arrays(archives(tmp_path / "in", *labels), np.concatenate(labels), missing="drop")
    names = whole.groups if whole.groups.dtype.kind == "i" else whole.groups.astype(str)
    job: dict[str, Any] = {"out": tmp_path / "c", "evidence": tmp_path / "e", "missing": "drop"}
    assert jobs.encode(model.double(), tmp_path / "in", **job) == 2
    assert close(files.read(tmp_path / "e"), model.evidence(whole.x, names), 1e-6)
    assert pq.read_table(tmp_path / "c")["group"].to_pylist() == whole.groups.tolist()
    levels = [Level("content", 3, by="group"), Level("twice", 2, by=("group", "group")), Level("style", 2)]
    both = MLVAE((4,), levels, width=8, likelihood="normal").double()
    jobs.encode(both, tmp_path / "in", evidence=tmp_path / "two", missing="drop")
    assert len(files.read(tmp_path / "two").groups["twice"]) == len(np.unique(names))  # type: ignore[arg-type]


def test_labels_of_two_types_are_told_before_anything_is_encoded(tmp_path: Path, model: MLVAE) -> None:
    job: dict[str, Any] = {"out": tmp_path / "c", "evidence": tmp_path / "e"}
    for number, (some, said) in enumerate((
        (["1", "2"], "numbers in column 'group' of .*1.npz, as in 0.npz; got text. Write it with one type"),
        ([True, False], "got bool"),
        (np.array([1, 2], np.uint64), "got uint64"),
        (np.array([1, 2], "M8[D]"), "got datetime64"),
    )):  # fmt: skip
        archives(tmp_path / f"{number}", [1, 2, 3], some)
        with pytest.raises(DataError, match=said):
            jobs.Job(model, tmp_path / f"{number}", **job)
    skip = {"on_bad_file": "skip"}
    assert jobs.encode(model, tmp_path / "0", **job, reading=skip) == 2 and pq.read_table(tmp_path / "c").num_rows == 3
    archives(tmp_path / "large", [2**53 + 1, 2], [1.5, 2.5])
    with pytest.raises(DataError, match=r"below 2\*\*53 in column 'group' of .*0.npz"):
        jobs.encode(model, tmp_path / "large", evidence=tmp_path / "again")


def test_labels_that_change_beside_an_array_make_another_job(
    tmp_path: Path, model: MLVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((6, 4), np.float32))
    np.savez(tmp_path / "x.npz", group=[1, 1, 2, 2, 3, 3])
    job: dict[str, Any] = {"model": model, "source": tmp_path / "x.npy", "evidence": tmp_path / "e"}
    stopped(monkeypatch, 0, **job)
    assert jobs.Job(**job).begin() == [0]
    np.savez(tmp_path / "x.npz", group=[1, 1, 2, 2, 3, 4])
    with pytest.raises(CheckpointError, match="has other parts"):
        jobs.encode(**job)


def test_a_saved_set_that_changes_makes_another_job(
    tmp_path: Path, model: MLVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    table = {f"x{i}": [0.0, 1.0, 2.0, 3.0] for i in range(4)}
    datasets.Dataset.from_dict({**table, "group": [1, 1, 2, 2]}).save_to_disk(tmp_path / "saved")
    job: dict[str, Any] = {"model": model, "source": tmp_path / "saved", "evidence": tmp_path / "e"}
    stopped(monkeypatch, 0, **job)
    (file,) = (tmp_path / "saved").glob("*.arrow")
    changed = pa.table({**table, "group": [1, 1, 2, 9]})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, changed.schema) as stream:
        stream.write_table(changed)  # in place: the folder's own time stays
    with pytest.raises(CheckpointError, match="has other parts"):
        jobs.encode(**job)


@pytest.mark.parametrize("kind", ["tables", "pictures"])
def test_a_job_that_writes_beside_what_it_reads_goes_on(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "ROWS", 64)
    for number in range(100):
        if kind == "pictures":
            place = tmp_path / f"{number % 4}" / f"{number:03}.png"
            place.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8), number, np.uint8)).save(place)
    if kind == "tables":
        x = np.random.default_rng(0).normal(size=(100, 4)).tolist()
        pq.write_table(pa.table({"x": x, "group": [1, 2] * 50}), tmp_path / "t.parquet")
    data = read(tmp_path, cache=tmp_path / ".kept")
    model = MLVAE.for_data(data, content_dim=3, style_dim=2, width=8).double()
    job: dict[str, Any] = {"model": model, "source": tmp_path, "evidence": tmp_path / "e"}
    stopped(monkeypatch, 1, **job)
    assert list((tmp_path / "e.parts").glob("*.parquet"))
    assert torch.equal(read(tmp_path, cache=tmp_path / ".kept").x, data.x)
    removing = shutil.rmtree

    def stops(what: object, *_: object, **__: object) -> None:
        if str(what).endswith(".parts"):
            raise KeyboardInterrupt
        removing(str(what))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # the target is there, and not yet finished
        patch.setattr(jobs.shutil, "rmtree", stops)
        jobs.encode(**job)
    assert (tmp_path / "e").exists() and jobs.encode(**job) == 0
    assert close(files.read(tmp_path / "e"), model.evidence(data.x, data.groups), 1e-6)


@pytest.mark.parametrize("source", ["in", "in/*.parquet", "in/**/*.parquet", "in/t*"])
def test_what_the_next_job_would_read_as_observations_is_not_written(
    source: str, tmp_path: Path, model: MLVAE, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    x = np.random.default_rng(0).normal(size=(20, 4)).tolist()
    pq.write_table(pa.table({"x": x, "group": [1, 2] * 10}), tmp_path / "in" / "t.parquet")
    target = tmp_path / "in" / "to.parquet"
    for targets in ({"out": target}, {"evidence": target}):
        with pytest.raises(DataError, match="none among them; got .*to.parquet.*in another folder"):
            jobs.encode(model, tmp_path / source, **targets)  # type: ignore[arg-type]
    assert [file.name for file in (tmp_path / "in").iterdir()] == ["t.parquet"]
    save(model, tmp_path / "run")
    with pytest.raises(SystemExit):
        main(["draw", "generate", str(tmp_path / "run"), str(tmp_path / source), "--out", str(target)])
    assert "none among them" in capsys.readouterr().err
    for elsewhere in (tmp_path / "c.parquet", tmp_path / "in" / "c", tmp_path / "inside" / "c.parquet"):
        assert jobs.encode(model, tmp_path / source, out=elsewhere) == 1


def test_codes_may_go_where_no_folder_is_yet_and_to_another_disk(
    tmp_path: Path, model: MLVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder(tmp_path / "in")
    replace = os.replace

    def between_disks(source: Path, target: Path) -> None:
        if Path(source).parent.name.endswith(".parts") and Path(target).parent.name == "new":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", between_disks)
    out, evidence = tmp_path / "new" / "c.parquet", tmp_path / "e.parquet"
    jobs.encode(model, tmp_path / "in", out=out, evidence=evidence)
    assert pq.read_metadata(out).num_rows == len(data) and not (tmp_path / "e.parquet.parts").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Expected to write .*file/c.parquet"):  # before anything is encoded
        jobs.encode(model, tmp_path / "in", out=tmp_path / "file" / "c.parquet", evidence=tmp_path / "f.parquet")
    assert not (tmp_path / "f.parquet.parts").exists()


def test_a_pattern_passes_over_what_unfinished_jobs_left(
    tmp_path: Path, model: MLVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "other")
    x = np.random.default_rng(0).normal(size=(20, 4)).tolist()
    pq.write_table(pa.table({"x": x, "group": [1, 2] * 10}), tmp_path / "t.parquet")
    job = {"source": tmp_path / "other", "out": tmp_path / "c", "evidence": tmp_path / "to.parquet"}
    stopped(monkeypatch, 1, model=model, **job)
    assert len(list(tmp_path.glob("to.parquet.parts/*.parquet"))) > 1
    for pattern in ("**/*.parquet", "t*"):
        assert len(read(tmp_path / pattern)) == 20
        assert jobs.encode(model, tmp_path / pattern, out=tmp_path / f"{len(pattern)}") == 1
    (tmp_path / "my.parts").mkdir()  # that is written out is meant
    shutil.copy(tmp_path / "t.parquet", tmp_path / "my.parts" / "t.parquet")
    assert len(read(tmp_path / "my.parts" / "*.parquet")) == 20


def test_what_is_wrong_in_a_part_is_named_with_the_part(
    tmp_path: Path, model: MLVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "ROWS", 64)
    x = np.zeros((130, 4), np.float32)
    x[100, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    pq.write_table(pa.table({"group": [1, 2] * 65}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"row 36 .*the first of the part 000000000064"):
        jobs.encode(model, tmp_path / "x.npy", evidence=tmp_path / "e")
    pq.write_table(pa.table({"group": [1, 2] * 60}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"130 rows of x\.npy in x\.parquet; it has 120"):
        jobs.encode(model, tmp_path / "x.npy", evidence=tmp_path / "e")


def test_types_that_differ_between_files_are_told_before_anything_is_encoded(tmp_path: Path, model: MLVAE) -> None:
    (tmp_path / "in").mkdir()
    for name, notes in (("a", [1, 2]), ("b", ["one", "two"])):
        table = {"x": np.zeros((2, 4)).tolist(), "group": [1, 2], "note": notes}
        pq.write_table(pa.table(table), tmp_path / "in" / f"{name}.parquet")
    with pytest.raises(DataError, match=r"int64 in column 'note' of .*b\.parquet, as in a\.parquet; got string"):
        jobs.Job(model, tmp_path / "in", evidence=tmp_path / "e")


def test_nested_folders_are_encoded_under_the_names_of_training(tmp_path: Path) -> None:
    for number in range(24):
        place = tmp_path / "in" / f"c{number % 2}" / f"p{number % 6}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)).save(place)
    data = read(tmp_path / "in", by="person", folders=("country", "person"))
    levels = [Level("country", 2, by="country"), Level("person", 2, by="person"), Level("style", 2)]
    model = MLVAE.for_data(data, levels=levels, width=8).double()
    save(model, tmp_path / "run")
    main([
        "encode", str(tmp_path / "run"), str(tmp_path / "in"), "--folders", "country,person",
        "--evidence", str(tmp_path / "e"), "--out", str(tmp_path / "c"),
    ])  # fmt: skip
    labels = {name: data.column(name) for name in ("country", "person")}
    assert close(files.read(tmp_path / "e"), model.evidence(data.x, labels), 1e-5)  # saved in float32
    assert pq.read_table(tmp_path / "c")["country"].to_pylist() == labels["country"].tolist()


def test_a_job_that_failed_at_once_leaves_nothing_in_the_way_of_the_next(tmp_path: Path) -> None:
    columns = {"age": list(map(str, range(20))), "person": ["a", "b"] * 10}
    pq.write_table(pa.table({**columns, "age": range(20)}), tmp_path / "good.parquet")
    model = MLVAE.for_data(read(tmp_path / "good.parquet", by="person"), content_dim=2, style_dim=2, width=8)
    columns["age"][13] = "old"
    csv.write_csv(pa.table(columns), tmp_path / "t.csv")
    job: dict[str, Any] = {"model": model, "source": tmp_path / "t.csv", "evidence": tmp_path / "e", "by": "person"}
    with pytest.raises(DataError, match="'age' of t; row 13 .the first is 0. holds 'old'. Correct it"):
        jobs.encode(**job)
    assert not (tmp_path / "e.parts").exists()
    columns["age"][13] = "13"
    csv.write_csv(pa.table(columns), tmp_path / "t.csv")
    assert jobs.encode(**job) == 1


def test_what_a_job_skips_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        (tmp_path / "in" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / "in" / f"{number % 2}" / f"{number}.png")
    (tmp_path / "in" / "1" / "odd.png").write_bytes(b"no picture")
    reading, said = {"on_bad_file": "skip"}, list[str]()
    data = read(tmp_path / "in", cache=tmp_path / "kept", on_bad_file="skip")
    model = MLVAE.for_data(data, content_dim=2, style_dim=2, width=8)
    jobs.encode(model, tmp_path / "in", evidence=tmp_path / "e", reading=reading, say=said.append)
    assert "Skipped 1 files" in said[-1] and "odd.png" in said[-1]
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "odd.parquet").write_bytes(b"")
    pq.write_table(pa.table({"x": np.zeros((4, 64), np.float32).tolist(), "group": [1, 1, 2, 2]}),
                   tmp_path / "tables" / "t.parquet")  # fmt: skip
    flat = MLVAE((64,), [Level("content", 2, by="group"), Level("style", 2)], width=8)
    jobs.encode(flat, tmp_path / "tables", evidence=tmp_path / "f", reading=reading, say=said.append)
    assert "Skipped 1 files" in said[-1] and "odd.parquet" in said[-1]
