"""The command line from end to end, and what it says to mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

import mlvae
from mlvae import MLVAE, GroupedData, __version__, read
from mlvae.asked import Objective
from mlvae.cli import main
from mlvae.commands import COMMANDS
from mlvae.commands.common import opened
from mlvae.commands.show import _line, trained_options
from mlvae.runs import options_of


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a user's mistake."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    main(["train", "digits", "--out", str(folder), "--epochs", "1", "--content-dim", "5", "--width=16"])
    return folder


def test_train_saves_its_resolved_options_which_run_again(run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["content_dim"] == 5 and config["members"] == [2, 8]
    main(["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_rows_that_the_split_keeps_out_are_never_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    x = random.integers(0, 255, (60, 4, 4), dtype=np.uint8)
    group, split = np.repeat(np.arange(6), 10), np.repeat([0, 0, 0, 0, 1, 2], 10)
    other = x.copy()
    other[split != 0] = 255 - other[split != 0]
    for name, pictures in (("a", x), ("b", other)):
        np.savez(tmp_path / f"{name}.npz", x=pictures, person=group, part=split)
        main(
            ["train", str(tmp_path / f"{name}.npz"), "--by", "person", "--split-column", "part", "--epochs", "2",
             "--out", str(tmp_path / name)]
        )  # fmt: skip
    assert "20 rows kept out" in capsys.readouterr().out
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def picture_folder(folder: Path, people: int, each: int) -> None:
    """Pictures in a folder a person."""
    random = np.random.default_rng(0)
    for person in range(people):
        (folder / f"p{person:02}").mkdir(parents=True)
        for place in range(each):
            picture = random.integers(0, 256, (16, 16), np.uint8)
            Image.fromarray(picture).save(folder / f"p{person:02}" / f"{place}.png")


@pytest.mark.parametrize(("people", "each", "way"), [(24, 8, "group"), (6, 10, "observation")])
def test_a_share_is_kept_out_of_training_and_measured_on(
    people: int, each: int, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture_folder(tmp_path / "faces", people, each)
    options = ["--test", "0.25", "--seed", "3", "--epochs", "1", "--width", "8", "--network", "mlp"]
    main(["train", str(tmp_path / "faces"), *options, "--out", str(tmp_path / "run")])
    whole = mlvae.read(tmp_path / "faces")
    _, new = whole.split(by=way, test=0.25, seed=3)
    assert f"{len(new)} rows kept out" in capsys.readouterr().out
    for person, picture in zip(new.groups, new.column("file"), strict=True):  # others in their places teach nothing
        Image.new("L", (16, 16), 7).save(tmp_path / "faces" / person / picture)
    main(["train", str(tmp_path / "faces"), *options, "--out", str(tmp_path / "again")])
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert weights[0] == weights[1]
    capsys.readouterr()
    assert "in their order" in fails(capsys, "evaluate", str(tmp_path / "run"), str(tmp_path / "faces"), "--quick")
    main(["evaluate", str(tmp_path / "again"), str(tmp_path / "faces"), "--quick", "--controls", "none"])
    said = capsys.readouterr().out
    assert ("unseen groups, 6-way" in said) == (way == "group") and "ELBO" in said
    main(["train", str(tmp_path / "faces"), "--epochs", "1", "--width", "8", "--out", str(tmp_path / "all")])
    assert "no rows kept out" in capsys.readouterr().out
    said = fails(capsys, "evaluate", str(tmp_path / "all"), str(tmp_path / "faces"), "--quick")
    assert "--test 0.2" in said and "--split-column" in said
    (tmp_path / "faces" / "p00" / "0.png").unlink()
    assert f"the {len(whole)} rows of {people} groups" in fails(
        capsys, "evaluate", str(tmp_path / "run"), str(tmp_path / "faces"), "--quick"
    )
    said = fails(capsys, "train", "digits", "--test", "0.2", "--out", str(tmp_path / "no"))
    assert "one of --test and a column" in said and "'split'" in said


def test_rows_in_another_order_or_under_other_names_are_not_those_that_were_kept_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By group: other names over the same rows. By observation, where groups are few: the same rows shuffled."""
    random = np.random.default_rng(0)
    for groups, way in ((24, "names"), (4, "rows")):
        rows = [(f"d{i % groups}", *np.round(random.normal(size=3), 3)) for i in range(120)]
        file, run = tmp_path / f"{way}.csv", str(tmp_path / way)
        header = "device,a,b,c\n"
        file.write_text(header + "".join(",".join(map(str, row)) + "\n" for row in rows))
        main(["train", str(file), "--by", "device", "--test", "0.2", "--epochs", "1", "--width", "8", "--out", run])
        assert f"mlvae evaluate {run} {file} --out metrics.json" in capsys.readouterr().out
        main(["evaluate", run, str(file), "--quick", "--controls", "none"])
        other = [(f"d{(i + 1) % groups}", *row[1:]) for i, row in enumerate(rows)]
        if way == "rows":  # within their groups, so that labels stand as they did
            other = [rows[(i + groups) % len(rows)] for i in range(len(rows))]
        file.write_text(header + "".join(",".join(map(str, row)) + "\n" for row in other))
        assert "in their order" in fails(capsys, "evaluate", run, str(file), "--quick", "--controls", "none")


def test_a_column_does_not_say_what_a_run_kept_out_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else groups that it was trained on would count as unseen."""
    random = np.random.default_rng(0)
    x, device = random.normal(size=(240, 3)).astype(np.float32), np.arange(240) % 24
    np.savez(tmp_path / "plain.npz", x=x, device=device)
    run, quick = str(tmp_path / "run"), ("--quick", "--controls", "none")
    main(
        [
            "train",
            str(tmp_path / "plain.npz"),
            "--by",
            "device",
            "--test",
            "0.25",
            "--epochs",
            "1",
            "--width",
            "8",
            "--out",
            run,
        ]
    )
    _, new = mlvae.read(tmp_path / "plain.npz", by="device").split(by="group", test=0.25)
    trained = np.setdiff1d(device, new.groups)
    np.savez(
        tmp_path / "again.npz",
        x=x,
        device=device,
        split=np.isin(device, trained[:6]),
        mine=np.isin(device, trained[:5]),
    )
    for file in ("plain", "again"):
        main(["evaluate", run, str(tmp_path / f"{file}.npz"), *quick, "--out", str(tmp_path / f"{file}.json")])
    plain, again = (json.loads((tmp_path / f"{file}.json").read_text()) for file in ("plain", "again"))
    assert plain == again
    capsys.readouterr()
    main(["evaluate", run, str(tmp_path / "again.npz"), *quick, "--split-column", "mine"])
    assert "! 50 of the 50 rows that 'mine' marks as new are among those that this run" in capsys.readouterr().out


def test_resume_begins_where_there_is_nothing_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One command for a queue that starts what it stops; a run killed before it saved has its options there."""
    run = tmp_path / "run"
    command = ["train", "digits", "--out", str(run), "--width", "8", "--epochs", "2"]
    main([*command, "--resume"])
    assert f"There is nothing in {run} to go on from yet: training begins" in capsys.readouterr().out
    first = (run / "model.safetensors").read_bytes()
    for file in run.glob("*.safetensors"):
        file.unlink()
    main([*command, "--resume"])
    assert (run / "model.safetensors").read_bytes() == first
    capsys.readouterr()
    main([*command, "--resume"])
    assert "training begins" not in capsys.readouterr().out
    (run / "training.safetensors").unlink()
    (run / "training.1.safetensors").unlink(missing_ok=True)
    assert "training.safetensors" in fails(capsys, *command, "--resume")  # a model alone is not begun over
    assert "--resume" in fails(capsys, *command)


def test_what_an_attempt_kept_out_is_not_taken_for_what_the_run_did(tmp_path: Path) -> None:
    picture_folder(tmp_path / "faces", 6, 10)
    command = ["train", str(tmp_path / "faces"), "--width", "8", "--network", "mlp", "--out", str(tmp_path / "run")]
    for attempt, kept in ((["--test", "0.5"], True), ([], False), (["--test", "0.5"], True)):
        with pytest.raises(SystemExit):  # before there is a run, but after its options were written
            main([*command, *attempt, "--device", "tpu"])
        assert ("test" in json.loads((tmp_path / "run" / "kept_out.json").read_text())) == kept
    main([*command, "--epochs", "1"])
    assert json.loads((tmp_path / "run" / "kept_out.json").read_text())["column"] is None
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["test"] is None
    with pytest.raises(SystemExit):
        main([*command, "--epochs", "1", "--test", "0.5"])  # there is a run now: its options stay
    assert json.loads((tmp_path / "run" / "kept_out.json").read_text())["column"] is None


def test_words_and_numbers_as_text_say_what_is_kept_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, labels in (("words", ("train", "test")), ("digits", ("0", "1")), ("bad", ("a", "b"))):
        rows = [f"p{i // 10},{labels[i % 10 > 6]},{i % 7}" for i in range(60)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["person,split,age", *rows]))
        command = ["train", str(tmp_path / f"{name}.csv"), "--by", "person", "--epochs", "1", "--width", "8"]
        if name == "bad":
            assert "it has 'a', 'b'. Change them" in fails(capsys, *command, "--out", str(tmp_path / name))
        else:
            main([*command, "--out", str(tmp_path / name)])
            assert "18 rows kept out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "digits", "--epochs", "three"), "a whole number for --epochs; got 'three'. See mlvae train --help"),
        (("train", "digits", "--lr", "fast"), "a number for --lr; got 'fast'"),
        (("train", "digits", "--members", "2,x"), "two whole numbers, such as 2,8, for --members"),
        (("train", "digits", "--missing", "all"), "one of 'error', 'drop', 'own' for --missing; got 'all'"),
        (("train", "digits", "--quarter-turns", "maybe"), "nothing more; got 'maybe'"),
        (("train", "digits", "--level"), "after --level; got nothing"),
        (("train", "digits", "--gap"), "Unknown option --gap. Did you mean --gaps? See mlvae train --help"),
        (("train", "digits", "--gap", "true"), "Unknown option --gap. Did you mean --gaps?"),
        (("train", "digits", "--lev", "content:4:group", "--lev", "style:4"), "Did you mean --level?"),
        (("train", "digits", "--style=3"), "Did you mean --style-dim or --style-given-content or --style-kl?"),
        (("draw", "swap", "a", "digits", "--level", "content"), "Unknown option --level. Did you mean --levels?"),
        (("evidence", "merge", "a", "b", "--ou", "c"), "Did you mean --out? See mlvae evidence merge --help"),
        (("train", "digits", "--s", "3"), "Unknown option --s. See mlvae train --help"),
        (("train",), "Expected data; got nothing for it. See mlvae train --help"),
        (("evaluate",), "Expected run, data; got nothing for them"),
        (("evaluate", "a", "b", "--folders", "x"), "--folders. inspect, train, encode have it. See mlvae evaluate"),
        (("report", "a", "b", "--quick"), "Unknown option --quick. evaluate has it."),
        (("evidence", "idntify", "a", "b"), "Did you mean 'identify'? See mlvae evidence --help"),
        (("evidence",), "got none. It is one of merge, retract,"),
        (("evidence", "identify", "a", "b", "--quick"), "See mlvae evidence identify --help"),
        (("train", "digits", "--epochs", "0", "--out", "x"), "at least one epoch, a whole number; got 0"),
        (("train", "digits", "--lr", "0", "--out", "x"), "a learning rate above 0; got 0.0"),
        (("train", "digits", "--device", "tpu", "--out", "x"), "a device that is here"),
        (("encode", "a", "b", "--out", "c.xlsx"), "a .parquet file to write; got c.xlsx"),
    ],
)
def test_mistakes_are_told_in_words(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *arguments)
    assert not list(tmp_path.glob("x/*.safetensors"))


@pytest.mark.parametrize(("text", "members"), [("3", [3, 3]), ("2,4", [2, 4]), ("[2, 4]", [2, 4])])
def test_a_pair_is_typed_as_one_would(text: str, members: list[int], tmp_path: Path) -> None:
    for spelt in (["--members", text], [f"--members={text}"]):
        out = tmp_path / str(len(spelt))
        main(["train", "digits", "--out", str(out), "--epochs", "1", "--width", "8", "--groups", "200", *spelt])
        assert yaml.safe_load((out / "config.yaml").read_text())["members"] == members


def test_encode_writes_a_row_an_observation_and_a_row_a_group(run: Path, tmp_path: Path) -> None:
    files = [tmp_path / "c.parquet", tmp_path / "e.parquet"]
    main(["encode", str(run), "digits", "--out", str(files[0]), "--evidence", str(files[1])])
    codes, evidence = map(pq.read_table, files)
    data = read("digits")
    assert codes.num_rows == len(data)
    assert {"group", "content_mean", "content_variance", "style_mean"} <= {*codes.column_names}
    assert len(codes["content_mean"][0].as_py()) == 5
    assert evidence["count"].to_pylist() == np.bincount(data.groups).tolist()
    assert evidence["group"].to_pylist() == list(range(10))


@pytest.mark.parametrize("kind", ["swap", "interpolate", "generate", "reconstruct"])
def test_draw_writes_a_picture(run: Path, tmp_path: Path, kind: str) -> None:
    main(["draw", kind, str(run), "digits", "--out", str(tmp_path / "grid.png"), "--count", "4"])
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.ndim == 2 and picture.std() > 10


def test_info_alone_is_what_a_bug_report_needs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["info"])
    told = capsys.readouterr().out
    assert "numbers: as expected" in told and f"can be written to: {tmp_path}" in told
    assert "safetensors 0" in told and "threads" in told


def test_info_tells_wrong_numbers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlvae.Evidence.sum", lambda evidence, grouping: evidence)
    main(["info"])
    assert "WRONG: evidence adds to" in capsys.readouterr().out


def test_info_names_versions_and_levels(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(run)])
    said = capsys.readouterr().out
    assert "torch" in said and "content: 5 dimensions, shared by group" in said


def test_evaluate_trains_its_controls_once_and_writes_every_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 30)
    x = random.integers(0, 60, (120, 4, 4), dtype=np.uint8) + (40 * group[:, None, None]).astype(np.uint8)
    np.savez(
        tmp_path / "d.npz", x=x, group=group, split=np.tile([0, 0, 1], 40), tilt=random.normal(size=120),
        hat=random.integers(0, 2, 120),
    )  # fmt: skip
    data, out, file = (str(tmp_path / name) for name in ("d.npz", "run", "m.json"))
    main(["train", data, "--out", out, "--epochs", "2", "--width", "8", "--lr", "0.003"])
    command = ["evaluate", out, data, "--by", "group", "--factors", "tilt,hat", "--out", file]
    main(command)
    metrics = json.loads(Path(file).read_text())
    assert {"control.vae.elbo", "control.permuted.probe.content.k1.linear", "probe.style.tilt.sample.mlp.r2"} <= set(
        metrics
    )
    assert "probe.content.hat.k1.mlp" in metrics
    assert len(list((tmp_path / "controls").iterdir())) == 2
    said = capsys.readouterr().out
    assert "plain VAE" in said and "Training the control 'vae'" in said
    assert options_of(tmp_path / "run")["lr"] == 0.003
    main(command)
    assert "Training the control" not in capsys.readouterr().out
    assert "Did you mean 'hat'" in fails(capsys, "evaluate", out, data, "--factors", "hta")
    (tmp_path / "run" / "config.yaml").write_text("a: [")
    assert "config.yaml" in fails(capsys, *command)


def test_new_groups_of_turned_and_deformed_pictures_are_learned_from_and_by_controls_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But never measured: evaluation is of the groups that there are."""
    from mlvae.evaluate import Controls

    learned: list[int] = []
    get = Controls.get

    def counted(self: Controls, kind: str, model: MLVAE, train: GroupedData, seed: int = 0) -> tuple[MLVAE, Path]:
        assert self.train is not None and len(train) == 24
        learned.append(len(self.train))
        return get(self, kind, model, train, seed)

    monkeypatch.setattr(Controls, "get", counted)
    random = np.random.default_rng(0)
    file, folder = tmp_path / "faces.npz", tmp_path / "run"
    np.savez(
        file, x=random.integers(0, 255, (36, 5, 5), dtype=np.uint8), person=np.repeat(np.arange(6), 6),
        split=np.repeat([0, 1], [24, 12]),
    )  # fmt: skip
    main(
        ["train", str(file), "--by", "person", "--out", str(folder), "--epochs", "1", "--validation", "0",
         "--quarter-turns", "--deformed", "2", "--width", "8"]
    )  # fmt: skip
    assert "288 x (5, 5) uint8, 48 groups" in capsys.readouterr().out  # 4 turns of 3
    main(["evaluate", str(folder), str(file), "--out", str(tmp_path / "metrics.json")])
    assert learned == [288, 288]
    again = ["train", str(file), "--out", str(tmp_path / "b")]
    assert "at least one deformed copy" in fails(capsys, *again, "--by", "person", "--deformed", "-1")
    for option in (["--deformed", "2"], ["--quarter-turns"]):  # which of the levels is another after it?
        levels = ["--level", "person:2:person", "--level", "style:2"]
        assert "without --level" in fails(capsys, *again, *levels, *option)


def test_levels_are_calibrated_on_copies_deformed_further_where_others_are_learned_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of twenty people is kept out, and none of the copies is one that was learned from."""
    import mlvae.training

    seen: list[tuple[GroupedData, GroupedData | None]] = []
    fit = mlvae.training.fit

    def watched(model: MLVAE, part: GroupedData, out: str, *, valid: GroupedData | None, **options: Any) -> object:
        seen.append((part, valid))
        return fit(model, part, out, valid=valid, **options)

    monkeypatch.setattr(mlvae.training, "fit", watched)
    file = tmp_path / "faces.npz"
    x = np.random.default_rng(0).integers(0, 255, (120, 8, 8), dtype=np.uint8)
    np.savez(file, x=x, person=np.repeat(range(20), 6))
    command = ["train", str(file), "--by", "person", "--epochs", "1", "--width", "8", "--deformed", "2"]
    main([*command, "--out", str(tmp_path / "a")])
    assert "No person is kept out of training: levels are calibrated on 200 copies" in capsys.readouterr().out
    part, valid = seen[0]
    assert len(part) == 120 * 3 and valid is not None and valid.num_groups == 200
    assert not {x.numpy().tobytes() for x in part.x} & {x.numpy().tobytes() for x in valid.x}
    assert not torch.equal(mlvae.load(tmp_path / "a").calibration("content").temperature, torch.ones(16))
    for more, kept in ((["--validation", "0"], 120), (["--validation", "0.5"], 60), (["--objective", "paper"], 120)):
        main([*command, *more, "--out", str(tmp_path / more[1])])
        part, valid = seen.pop()
        assert len(part) == kept * 3 and (valid is None) == (kept == 120)


def test_objectives_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("paper", "vae"):
        main(["train", "digits", "--out", str(tmp_path / name), "--epochs", "1", "--width", "8", "--objective", name])
        main(["info", str(tmp_path / name)])
    said = capsys.readouterr().out
    assert "shared by group, product" in said and "style: 32 dimensions" in said


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "new")
    assert "Did you mean --epochs?" in fails(capsys, "train", "digits", "--out", out, "--epcohs", "3")
    assert "Did you mean 'paper'" in fails(capsys, "train", "digits", "--out", out, "--objective", "papre")
    assert "Did you mean 'group'" in fails(capsys, "train", "digits", "--out", out, "--by", "gruop")
    assert "--out" in fails(capsys, "train", "digits")
    assert "Resume it (--resume, resume=True), or name another folder" in fails(
        capsys, "train", "digits", "--out", str(run), "--epochs", "1", "--content-dim", "5", "--width", "16"
    )
    assert "nowhere" in fails(capsys, "info", str(tmp_path / "nowhere"))
    assert "Did you mean 'swap'" in fails(capsys, "draw", "swpa", str(run), "digits", "--out", out)
    (tmp_path / "c.yaml").write_text("data: digits\nepocs: 3\n")
    assert "Did you mean --epochs?" in fails(capsys, "train", "--config", str(tmp_path / "c.yaml"), "--out", out)
    assert not (tmp_path / "new").exists()


def test_a_warning_is_one_line_without_a_place_in_the_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((6, 4), np.float32), group=np.arange(6))
    program = f"from mlvae.cli import main; main(['inspect', {str(tmp_path / 'd.npz')!r}, '--by', 'group'])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr
    assert "mlvae: Every group of 'group' has one observation" in said
    assert ".py" not in said and "warnings.warn" not in said


def test_a_run_knows_what_it_was_grouped_by(tmp_path: Path) -> None:
    """The command that training prints at its end, and those of the README, need no --by."""
    x = np.random.default_rng(0).random((60, 8, 8), np.float32)
    person, group, split = np.arange(60) // 6, np.arange(60) % 2, (np.arange(60) >= 48).astype(int)
    np.savez(tmp_path / "d.npz", x=x, person=person, group=group, split=split)
    names = [f"x{i}" for i in range(4)]
    pq.write_table(
        pa.table({**dict(zip(names, x[:, 0, :4].T, strict=True)), "person": person, "group": group}),
        tmp_path / "d.parquet",
    )
    out = str(tmp_path / "run")
    main(["train", str(tmp_path / "d.npz"), "--by", "person", "--out", out, "--epochs", "1", "--width", "8"])
    main(["draw", "swap", out, str(tmp_path / "d.npz"), "--out", str(tmp_path / "swap.png")])
    main(["encode", out, str(tmp_path / "d.npz"), "--evidence", str(tmp_path / "a.parquet")])
    assert pq.read_table(tmp_path / "a.parquet")["group"].to_pylist() == list(range(10))
    table = str(tmp_path / "table")
    main(["train", str(tmp_path / "d.parquet"), "--by", "person", "--features", "x*", "--out", table, "--epochs", "1"])
    main(["encode", table, str(tmp_path / "d.parquet"), "--evidence", str(tmp_path / "b.parquet")])
    assert pq.read_table(tmp_path / "b.parquet").num_rows == 10


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    program = "import sys; from mlvae.cli import main; sys.stdin.readline(); main(['--help'])"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin and child.stdout and child.stderr
    child.stdout.close()
    child.stdin.write(b"go\n")
    child.stdin.close()
    said = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait() == 0 and "Traceback" not in said, said


def test_observations_of_another_shape_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "wide.npz", x=np.zeros((4, 9, 9), np.uint8), group=[0, 0, 1, 1])
    message = fails(capsys, "encode", str(run), str(tmp_path / "wide.npz"), "--out", str(tmp_path / "c.parquet"))
    assert "(8, 8)" in message and "(4, 9, 9)" in message and not (tmp_path / "c.parquet").exists()


HEAVY = {"torch", "numpy", "jsonargparse", "yaml", "PIL", "pyarrow", "pandas", "sklearn", "matplotlib", "rich",
         "lightning_fabric", "duckdb"}  # fmt: skip
"""What takes long to import."""


def imported(code: str) -> tuple[set[str], str]:
    """The heavy packages that a program imports, and what it prints."""
    ending = "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stderr.split()), done.stdout


def test_starting_imports_next_to_nothing() -> None:
    heavy, overview = imported("from mlvae.cli import main; main(['--help'])")
    assert not heavy and "mlvae train faces.npz --by person" in overview
    assert not imported("import mlvae")[0]
    assert imported("from mlvae import MLVAE, GroupedData, fit, read")[0] <= {"torch", "numpy", "yaml"}


def test_help_of_many_options_has_headings_and_usage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def helped(*words: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            main([*words, "--help"])
        return capsys.readouterr().out

    text = helped("train")
    assert text.startswith("usage: mlvae train data [options]\n\n")
    found = text.split("\n\n")
    for heading, first, last in (
        ("the model", "--level", "--style-given-content"), ("what is asked of it", "--objective", "--kl"),
        ("batches and steps", "--groups", "--keep"), ("reading the data", "--missing", "--on-bad-file"),
    ):  # fmt: skip
        section = next(part for part in found if part.startswith(f"{heading}:\n  {first} "))
        assert f"\n  {last} " in section
    assert all(text.count(f"\n  {option} ") == 1 for option in ("--level", "--kl", "--out", "--members"))
    assert helped("evidence", "identify").startswith("usage: mlvae evidence identify gallery query [options]\n")
    assert helped("evidence", "merge").startswith("usage: mlvae evidence merge FILE ... [options]\n")
    assert helped("evidence").startswith("usage: mlvae evidence [options]")
    assert helped("info").startswith("usage: mlvae info [run] [options]\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kl", "style=2"), "'style=2'"),
        (("--kl", "style:2", "--kl", "style:3"), "one --kl of a level; got 'style' twice"),
        (("--told", ".1", "--independence", "5"), "--told and --independence"),
        (("--augment", "shake:2"), "shake"),
        (("--network", "nowhere:made"), "nowhere"),
        (("--level", "style"), "'style'"),
    ],
)
def test_wrong_options_are_told_before_data_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str], said: str
) -> None:
    assert said in fails(capsys, "train", str(tmp_path / "not_there.npz"), "--out", str(tmp_path / "run"), *options)


def test_help_of_a_command_does_not_import_torch() -> None:
    code = "from mlvae.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass"
    heavy, text = imported(code)
    assert heavy <= {"jsonargparse", "yaml"}
    assert "--split-column" in text and "Example: mlvae train" in text


def test_no_command_shows_the_commands_and_a_misspelt_one_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    main(["--version"])
    assert capsys.readouterr().out == f"mlvae {__version__}\n"
    assert "Did you mean 'train'?" in fails(capsys, "trian", "digits")


def test_several_levels_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "d.npz", x=random.integers(0, 255, (240, 4, 4), dtype=np.uint8), split=np.tile([0, 0, 1], 80),
        country=np.repeat(["uk", "us"], 120), person=np.tile(np.repeat([0, 1, 2], 40), 2), word=np.arange(240) % 5,
        row=np.arange(240), one=np.zeros(240),
    )  # fmt: skip
    data, out = str(tmp_path / "d.npz"), str(tmp_path / "run")
    command = ["train", data, "--out", out, "--epochs", "1", "--width", "8", "--validation", "0.3",
               "--level", "country:2:country", "--level=person:3:country,person", "--level", "word:2:word",
               "--level", "style:2", "--kl", "word:0.5", "--leakage", "word:3", "--identification", "4",
               "--identification", "person:2", "--independence", "7"]  # fmt: skip
    main(command)
    objective = options_of(out)["objective"]
    assert objective.leakage["word"].end == 3 and objective.leakage["person"] == Objective().leakage
    assert objective.identification == {"country": 4, "person": 2, "word": 4} and objective.independence.end == 7
    assert objective.weight("word", 0) == 0.5 and objective.weight("person", 0) == objective.weight("country", 0)
    main(["info", out])
    assert "shared by ('country', 'person')" in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["level"][1] == "person:3:country,person"
    main(["train", "--config", str(tmp_path / "run" / "config.yaml"), "--out", str(tmp_path / "again")])
    assert all((tmp_path / name / "model.safetensors").stat().st_size for name in ("run", "again"))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "run" / "model.safetensors"
    ).read_bytes()
    main(["encode", out, data, "--evidence", str(tmp_path / "e.parquet"), "--out", str(tmp_path / "c.parquet")])
    table = pq.read_table(tmp_path / "e.parquet").to_pydict()
    assert table["level"] == ["country"] * 2 + ["person"] * 6 + ["word"] * 5
    assert table["group"][:4] == ["uk", "us", "uk,0", "uk,1"] and table["count"][:3] == [120, 120, 40]
    assert "word_mean" in pq.read_table(tmp_path / "c.parquet").column_names
    for name, levels in (("g.png", []), ("w.png", ["--levels", "word,style"])):
        main(["draw", "swap", out, data, "--out", str(tmp_path / name), "--count", "3", *levels])
    assert (tmp_path / "g.png").read_bytes() != (tmp_path / "w.png").read_bytes()
    assert "Did you mean 'word'" in fails(
        capsys, "draw", "swap", out, data, "--out", str(tmp_path / "g.png"), "--levels", "wrod"
    )
    for level, message in [
        ("row:2:row", "each of its 160 groups has one"), ("one:2:one", "constant"), ("a:2:word", "the same"),
        ("a:2:wrod", "Did you mean 'word'"), ("a:b", "name:dimensions:column"),
    ]:  # fmt: skip
        said = fails(capsys, "train", data, "--out", str(tmp_path / "no"), "--level", "word:2:word", "--level", level)
        assert message in said
    assert "Did you mean 'word'" in fails(capsys, *command[:3], str(tmp_path / "no"), *command[4:], "--kl", "wrod:1")
    assert "name:weight" in fails(capsys, *command[:3], str(tmp_path / "no"), *command[4:], "--kl", "word")
    for option, message in (
        (["--leakage", "wrod:1"], "Did you mean 'word'"), (["--leakage", "style:1"], "level that groups share"),
        (["--told", "0.1"], "one of --told and --independence"),
        (["--independence", "word:1"], "own level"), (["--independence", "style:much"], "name:weight"),
    ):  # fmt: skip
        assert message in fails(capsys, *command[:3], str(tmp_path / "no"), *command[4:], *option)
    assert not (tmp_path / "no").exists()


def test_evidence_is_added_taken_back_and_asked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = read("digits")
    for name, rows in (("a", slice(0, 600)), ("b", slice(600, 1200)), ("q", slice(1200, 1300))):
        np.savez(tmp_path / f"{name}.npz", x=data.x[rows].numpy(), group=data.groups[rows])
        main(["encode", str(run), str(tmp_path / f"{name}.npz"), "--evidence", str(tmp_path / name)])
    a, b, q, ab = (str(tmp_path / name) for name in ("a", "b", "q", "ab"))
    main(["evidence", "merge", a, b, "--out", ab])
    main(["evidence", "retract", ab, b, "--out", str(tmp_path / "rest")])
    assert "it does not forget" in capsys.readouterr().out
    counts = {name: sum(pq.read_table(tmp_path / name)["count"].to_pylist()) for name in ("a", "b", "ab", "rest")}
    assert counts == {"a": 600, "b": 600, "ab": 1200, "rest": 600}
    main(["evidence", "posterior", ab, "--out", str(tmp_path / "p.parquet")])
    assert pq.read_table(tmp_path / "p.parquet").column_names == ["level", "group", "count", "mean", "variance"]
    main(["evidence", "calibrate", a, b, "--out", str(tmp_path / "c.json")])
    assert "Fitted on 10 pairs of one group and 90 of two: " in capsys.readouterr().out
    main(["evidence", "identify", ab, q, "-k", "3", "--new", "0.1", "--calibration", str(tmp_path / "c.json")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and all(line.count("nats") == 3 and "none of these" in line for line in lines)
    main(["evidence", "identify", ab, q, "-k", "3", "--out", str(tmp_path / "r.parquet")])
    twice = pq.read_table(ab)
    pq.write_table(pa.concat_tables([twice, twice]).replace_schema_metadata(twice.schema.metadata), tmp_path / "twice")
    assert "every group once" in fails(capsys, "evidence", "identify", str(tmp_path / "twice"), q)
    assert pq.read_table(tmp_path / "r.parquet").num_rows == 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main(["evidence", "verify", ab, q])
    assert capsys.readouterr().out.count("nats") == 10
    assert "Expected nothing at" in fails(capsys, "evidence", "merge", a, b, "--out", ab)
    assert "--out" in fails(capsys, "evidence", "merge", a, b)
    assert "holds a piece" in fails(capsys, "evidence", "merge", a, a, "--out", str(tmp_path / "new"))
    with pytest.warns(UserWarning, match="compared with itself"):
        main(["evidence", "verify", ab, b])
    capsys.readouterr()
    assert "Did you mean 'content'" in fails(capsys, "evidence", "verify", ab, q, "--level", "contnet")
    assert "between 0 and 1" in fails(capsys, "evidence", "verify", ab, q, "--prior", "1.5")
    assert "Did you mean --calibration?" in fails(capsys, "evidence", "verify", ab, q, "--calibratoin", "x")
    assert "cannot be read" in fails(capsys, "evidence", "verify", ab, q, "--calibration", a)


def test_adding_evidence_up_needs_no_torch(tmp_path: Path) -> None:
    code = """
import sys
from mlvae.cli import main
try:
    main(["evidence", "merge", "nowhere", "--out", "x"])
except SystemExit:
    assert "torch" not in sys.modules
"""
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=path
    )
    assert done.returncode == 0 and "there is none" in done.stderr, done.stderr


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """People in countries, numbered anew in each; two columns say what is kept out, and some rows have no country."""
    random = np.random.default_rng(0)
    rows = ["country,person,fold,split,a,b"]
    for number in range(400):
        country, person = number % 4, number // 4 % 6
        known = "" if number % 50 == 7 else f"C{country}"
        a, b = random.normal(country, 1, 2)
        rows.append(f"{known},{person},{'new' if number % 5 == 0 else 'train'},{number % 2},{a},{b}")
    (tmp_path / "survey.csv").write_text("\n".join(rows))
    return tmp_path / "survey.csv"


LEVELS = ("--level", "country:2:country", "--level", "person:2:country, person", "--level", "style:2")
HASTY = ("--epochs", "1", "--groups", "10", "--width", "8", "--features", "a,b")


def test_a_run_reads_its_data_as_it_did_in_training(survey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(survey.parent / "run")
    main(["train", str(survey), "--out", out, *LEVELS, *HASTY, "--split-column", "fold", "--missing", "drop"])
    model, part, held, how = opened(out, str(survey), None, None, None, None, new=True)
    assert how == {"column": "fold"} and (len(part), len(held)) == (312, 80)
    assert {level.by for level in model.group_levels} == {"country", ("country", "person")}
    _, part, _, how = opened(out, str(survey), None, "split", None, None)
    assert how == {"column": "split"} and len(part) == 200
    main(["encode", out, str(survey), "--out", str(survey.parent / "codes")])
    assert "C0,1" in (line := pq.read_table(survey.parent / "codes").to_pylist()[4]).values() or line
    typed = _line("train", {"level": ["a:2:a", "b:2:a,b"], "members": [2, 8], "test": 0.2})
    assert typed == "mlvae train --level a:2:a --level b:2:a,b --members 2,8 --test 0.2"


def test_one_level_is_grouped_by_its_own_column(survey: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, options = str(survey.parent / "one"), [*HASTY, "--missing", "drop", "--level", "style:2"]
    main(["train", str(survey), "--out", out, "--level", "country:2:country", *options])
    assert "2 groups by 'country'" in capsys.readouterr().out
    pairs = str(survey.parent / "pairs")
    main(["train", str(survey), "--out", pairs, "--level", "person:2:country,person", *options])
    main(["evaluate", pairs, str(survey), "--quick", "--controls", "none"])
    wrong = ["train", str(survey), "--out", out, *options]
    assert "Did you mean 'country'" in fails(capsys, *wrong, "--level", "country:2:contry")
    assert "Leave --by out" in fails(capsys, *wrong, "--level", "country:2:country", "--by", "person")
    assert "--style-dim" in fails(capsys, *wrong, "--level", "country:2:country", "--style-dim", "4")


def test_windows_with_gaps_and_known_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3, 20)).astype(np.float32)
    x[random.random(x.shape) < 0.2] = np.nan
    file, out = str(tmp_path / "watches.npz"), str(tmp_path / "run")
    np.savez(
        file, x=x, person=np.arange(60) % 6, site=np.array(["A", "B"])[np.arange(60) % 2], split=np.arange(60) // 45
    )
    train = ["train", file, "--by", "person", "--out", out, "--network", "series", "--covariates", "site", *HASTY[:-2]]
    assert "--gaps" in fails(capsys, *train)
    main(["inspect", file, "--by", "person", "--covariates", "site", "--gaps"])
    said = capsys.readouterr().out
    assert "20." in said and "--gaps" in said.splitlines()[-1]
    main([*train, "--gaps"])
    main(["evaluate", out, file, "--quick", "--out", str(tmp_path / "metrics.json")])
    assert np.isfinite(json.loads((tmp_path / "metrics.json").read_text())["reconstruction.mse"])
    main(["encode", out, file, "--out", str(tmp_path / "codes")])
    assert pq.read_table(tmp_path / "codes").num_rows == 60
    data = read(file, like=mlvae.load(out))
    assert data.gaps and data.by == "person"
    assert "Leave the option out" in fails(capsys, "train", "digits", "--gaps", "--out", out)


def test_names_of_folders_are_remembered(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for place in range(24):
        folder = tmp_path / "faces" / f"p{place % 3}" / f"s{place % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{place}.png")
    out, levels = str(tmp_path / "run"), ["--level", "person:2:person", "--level", "session:2:person,session"]
    main(["train", str(tmp_path / "faces"), "--out", out, "--folders", "person,session", *levels, "--level", "style:2",
          "--epochs", "1", "--groups", "4", "--width", "4", "--validation", "0"])  # fmt: skip
    for kind in ("swap", "interpolate"):
        main(
            ["draw", kind, out, str(tmp_path / "faces"), "--levels", "session", "--out", str(tmp_path / f"{kind}.png")]
        )
    main(["encode", out, str(tmp_path / "faces"), "--evidence", str(tmp_path / "e.parquet")])
    assert "p0,p0/s0" in pq.read_table(tmp_path / "e.parquet")["group"].to_pylist()


def test_pictures_are_drawn_on_the_scale_of_their_data(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (40, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, group=np.arange(40) % 4)
    data, run, out = str(tmp_path / "x.npz"), str(tmp_path / "run"), tmp_path / "swap.png"
    main(["train", data, "--out", run, "--epochs", "1", "--width", "8", "--validation", "0"])
    main(["draw", "swap", run, data, "--out", str(out), "--count", "3"])
    first = np.asarray(Image.open(out).convert("L"))[: 8 * 7, 8 * 7 + 2 :]  # the top row: pictures of the data
    assert (first == 0).mean() < 0.2, "half of all pixels lie below 0, and are no black"


def test_a_column_that_came_after_training_marks_rows_that_were_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    x, person, later = random.normal(size=(120, 4)).astype(np.float32), np.arange(120) % 12, np.arange(120) % 12 > 7
    np.savez(tmp_path / "a.npz", x=x, person=person)
    np.savez(tmp_path / "b.npz", x=x, person=person, split=later, fold=np.arange(120) % 12 > 8)
    np.savez(tmp_path / "c.npz", x=x + 1, person=person, split=later)
    small = ("--by", "person", "--epochs", "1", "--width", "8", "--validation", "0")
    main(["train", str(tmp_path / "a.npz"), *small, "--out", str(tmp_path / "all")])
    main(["train", str(tmp_path / "b.npz"), *small, "--split-column", "fold", "--out", str(tmp_path / "some")])
    capsys.readouterr()

    def told(run: str, data: str, column: str | None = None) -> str:
        opened(str(tmp_path / run), str(tmp_path / data), None, column, None, None)
        return capsys.readouterr().out

    assert "! 40 of the 40 rows that 'split' marks as new are among those" in told("all", "b.npz")
    assert "!" not in told("all", "c.npz"), "other data"
    assert "!" not in told("some", "b.npz"), "as it was trained"
    assert "! 10 of the 40 rows that 'split' marks as new are among those" in told("some", "b.npz", "split")


def test_a_plain_vae_is_measured_by_what_its_run_was_grouped_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    x, ids = random.integers(0, 255, (120, 8, 8), dtype=np.uint8), np.arange(120)
    np.savez(tmp_path / "a.npz", x=x, person=ids % 30, group=ids % 5)
    run, data = str(tmp_path / "run"), str(tmp_path / "a.npz")
    small = ("--epochs", "1", "--width", "8", "--network", "mlp", "--out", run)
    main(["train", data, "--by", "person", "--objective", "vae", "--test", ".2", *small])
    said = capsys.readouterr().out
    assert f"mlvae draw reconstruct {run} {data} --out reconstruct.png" in said
    main(["draw", "reconstruct", run, data, "--out", str(tmp_path / "r.png")])
    np.savez(tmp_path / "b.npz", x=x, person=ids % 30, site=ids % 5)
    main(["encode", run, str(tmp_path / "b.npz"), "--out", str(tmp_path / "codes.parquet")])
    assert pq.read_table(tmp_path / "codes.parquet").num_rows == 120


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("draw", "swap", "RUN", "digits", "--out", "a.png", "--seed", "-1"), "Expected a seed from 0 on"),
        (("draw", "swap", "RUN", "digits", "--out", "swap"), "Expected a file that ends in .png"),
        (("draw", "generate", "RUN", "digits", "--out", "a.csv", "--levels", "style"), "--levels with a swap"),
        (
            ("draw", "generate", "RUN", "digits", "--out", "a.csv", "--split-column", "x"),
            "--split-column with pictures",
        ),
        (("report", "RUN", "digits", "--seed", "-1"), "Expected a seed from 0 on"),
        (("train", "digits", "--out", "NEW", "--kl", "independence:3"), "Expected a level of this model for --kl"),
        (("train", "digits", "--out", "NEW", "--width", "-3"), "Expected a width of at least 1"),
        (("train", "digits", "--out", "NEW", "--keep", "-1"), "at least one training state (--keep)"),
        (("train", "digits", "--out", "NEW", "--objective", "vae", "--style-given-content"), "--style-given-content"),
        (("train", "digits", "--out", "NEW", "--whole-groups", "--members", "2,4"), "one of --members and --whole"),
        (("train", "digits", "--out", "NEW", "--patience", "3", "--validation", "0"), "--validation .1"),
        (("explore", "RUN", "digits", "--port", "99999"), "Expected to listen at"),
    ],
)
def test_what_once_ended_in_a_traceback_or_was_passed_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    if words[0] == "explore":
        pytest.importorskip("fastapi")
    places = {"RUN": str(run), "NEW": str(tmp_path / "new")}
    assert message in fails(capsys, *(places.get(word, word) for word in words))
    assert not (tmp_path / "new" / "model.safetensors").exists()


def test_the_reports_command_is_the_one_that_was_run(tmp_path: Path) -> None:
    trained = {"validation": 0.0, "in_memory": False, "compile": False, "by": None}
    assert _line("train", trained_options(trained), "a.npz") == "mlvae train a.npz --validation 0.0 --in-memory false"
