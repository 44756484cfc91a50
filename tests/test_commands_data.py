"""A mixed table from the command line: inspect, train, encode, draw, evaluate, each by the columns of training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

import mlvae
from mlvae.checkpoint import fingerprint
from mlvae.cli import main


def visits(rows: int, seed: int = 0) -> dict[str, object]:
    random = np.random.default_rng(seed)
    person = np.arange(rows) // 5
    age = random.normal(50, 15, rows // 5)[person] + random.normal(size=rows)
    return {
        "person": [f"p{p}" for p in person],
        "age": np.where(random.random(rows) < 0.1, np.nan, age),
        "ward": random.choice(["a", "b", "c"], rows),
        "smokes": (person % 2).astype(bool),
        "visits": random.poisson(3, rows),
        "site": random.choice(["north", "south"], rows),
        "part": (person >= 0.8 * rows / 5).astype(int),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("visits")
    pq.write_table(pa.table(visits(300)), folder / "visits.parquet")
    main([
        "train", str(folder / "visits.parquet"), "--by", "person", "--features",
        "all,visits:count,-site", "--covariates", "site", "--split-column", "part",
        "--out", str(folder / "run"), "--epochs", "2",
        "--width", "16", "--content-dim", "3", "--style-dim", "3", "--validation", "0", "--augment", "noise:0.01",
    ])  # fmt: skip
    return folder / "run"


def test_new_data_are_read_by_the_columns_of_training(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = visits(40, seed=1)
    new["ward"] = ["unheard of"] * 40
    pq.write_table(pa.table(dict(reversed({**new, "extra": range(40)}.items()))), tmp_path / "new.parquet")
    out = tmp_path / "codes.parquet"
    main(["encode", str(run), str(tmp_path / "new.parquet"), "--by", "person", "--out", str(out)])
    codes = pq.read_table(out)
    assert codes.num_rows == 40 and {"content_mean", "style_variance", "site"} <= set(codes.column_names)
    main(["info", str(run)])
    text = capsys.readouterr().out
    assert "feature visits: count" in text and "covariate site: category (north, south)" in text and "Mixed" in text
    del new["age"]
    pq.write_table(pa.table(new), tmp_path / "new.parquet")
    other = tmp_path / "other.parquet"
    with pytest.raises(SystemExit):
        main(["encode", str(run), str(tmp_path / "new.parquet"), "--by", "person", "--out", str(other)])
    assert "'age' is missing" in capsys.readouterr().err


def test_new_rows_are_written_in_their_own_units_and_words(run: Path, tmp_path: Path) -> None:
    data, out = str(run.parent / "visits.parquet"), tmp_path / "new.csv"
    main(["draw", "generate", str(run), data, "--by", "person", "--count", "50", "--out", str(out)])
    made = csv.read_csv(out)
    assert made.column_names == ["site", "age", "ward", "smokes", "visits"] and made.num_rows == 50
    assert set(made["ward"].to_pylist()) <= {"a", "b", "c"} and 20 < np.mean(made["age"].to_numpy()) < 80


def test_a_table_is_evaluated(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "metrics.json"
    main([
        "evaluate", str(run), str(run.parent / "visits.parquet"), "--by", "person", "--split-column", "part",
        "--controls", "none", "--out", str(out),
    ])  # fmt: skip
    assert "elbo" in out.read_text() and "swap" not in out.read_text()
    assert json.loads(out.read_text())["model"] == fingerprint(mlvae.load(run))


def test_training_says_that_the_new_part_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    x[50:] = x[:10]
    np.savez(tmp_path / "x.npz", x=x, group=np.arange(60) // 5, split=(np.arange(60) >= 50).astype(int))
    main([
        "train", str(tmp_path / "x.npz"), "--by", "group", "--out", str(tmp_path / "run"), "--epochs", "1",
        "--width", "8", "--validation", "0",
    ])  # fmt: skip
    assert "! 10 of 10 rows kept out of training are in it too" in capsys.readouterr().out


def test_of_a_run_made_in_python_it_says_that_new_rows_may_be_old(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = mlvae.read("digits")
    train, _ = data.split(by="observation", test=0.2, seed=0)  # another share than the column's
    model = mlvae.MLVAE.for_data(train, content_dim=2, style_dim=2, network="mlp", width=8)
    mlvae.fit(model, train, tmp_path / "python", epochs=1, progress=False)

    def said(run: str, *options: str) -> str:
        main(["draw", "swap", str(tmp_path / run), "digits", "--out", str(tmp_path / "swap.png"), *options])
        return capsys.readouterr().out

    assert "made in Python" in said("python") and "359 are new if" in said("python")
    assert "made in Python" not in said("python", "--split-column", "split")
    main(["train", "digits", "--out", str(tmp_path / "line"), "--epochs", "1", "--width", "8"])
    assert "made in Python" not in said("line")


def test_a_word_that_is_in_every_row_can_be_made_again(tmp_path: Path) -> None:
    lines = [f"{i % 4},{i / 3},A" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["who,height,kind", *lines]))
    data, run, out = str(tmp_path / "t.csv"), str(tmp_path / "run"), tmp_path / "new.csv"
    main(["train", data, "--by", "who", "--features", "height,kind", "--out", run, "--epochs", "1", "--width", "8",
          "--validation", "0"])  # fmt: skip
    main(["draw", "generate", run, data, "--by", "who", "--count", "40", "--out", str(out)])
    assert set(csv.read_csv(out)["kind"].to_pylist()) <= {"A", "", None}
