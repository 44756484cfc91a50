from __future__ import annotations

import importlib
import io
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import mlvae
from mlvae.cli import main
from mlvae.commands.sharing import share_out, validation_of
from mlvae.data import GroupedData
from mlvae.data.splits import SHARES, TEST
from mlvae.inspection import inspect, save_picture
from mlvae.settings import setting

train = importlib.import_module("mlvae.commands.train")  # the package has a function of that name


def test_it_finds_what_was_put_in() -> None:
    """Groups of known sizes in two countries, a crossed word, a gap, a still feature, two twins, and a leak."""
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(20), 6)
    x = random.normal(size=(120, 5))
    x[13] = x[14] + 1e-4
    x[:, 3] = 7.0
    x[::4, 2] = np.nan
    word = np.tile(list("abcdef"), 20)
    columns = {
        "country": person // 5,
        "iso": np.array(list("wxyz"))[person // 5],
        "word": word,
        "shot": np.arange(120),
        "year": np.full(120, 3),
    }
    data = GroupedData.from_arrays(x, person, by="person", columns=columns, gaps=True)
    train, new = data.subset(slice(96)), data.subset(slice(90, 120))
    found = inspect(train, new)
    assert found.bins == [("6", 16)] and found.features == {"feature 2": "25.0% missing", "feature 3": "never varies"}
    assert found.columns["country"].startswith("coarser: 4") and found.columns["word"].startswith("crossed: 6")
    assert "each observation its own" in found.columns["shot"] and "says nothing" in found.columns["year"]
    assert found.levels == ["country by country", "content by person", "style"]
    assert found.likelihood.startswith("Normal") and "'missing': True" in found.likelihood
    twins, leaked = (next(p for p in found.problems if word in p) for word in ("13 and 14", "rows kept out"))
    assert twins.startswith("1 pairs") and leaked.startswith("6 of 30")
    text = found.text()
    assert "16 by 'person', of 6 to 6" in text and "! 6 of 30" in text
    assert "Kept out of training: 30 rows of 5 groups, 4 of them new" in text


def test_group_sizes_are_counted_in_doubling_ranges() -> None:
    sizes = np.arange(1, 41)
    found = inspect(GroupedData.from_arrays(torch.randn(int(sizes.sum()), 3), np.repeat(np.arange(40), sizes)))
    assert found.bins[:3] == [("1-1", 1), ("2-3", 2), ("4-7", 4)] and sum(n for _, n in found.bins) == 40
    assert any("1 groups have one member" in problem for problem in found.problems)


def test_a_large_group_among_small_ones_is_told() -> None:
    data = GroupedData.from_arrays(torch.randn(1000, 2), [0] * 900 + [1 + i // 2 for i in range(100)])
    found = inspect(data)
    assert any("--resample" in problem for problem in found.problems) and "resample" in found.options


@pytest.mark.parametrize(("groups", "members", "few"), [(30, 10, True), (101, 10, False), (10, 60, False)])
def test_few_pictures_of_few_groups_are_told(groups: int, members: int, few: bool) -> None:
    pictures = torch.randint(0, 256, (groups * members, 16, 16), dtype=torch.uint8)
    ids = torch.arange(groups).repeat_interleave(members)
    found = inspect(GroupedData.from_arrays(pictures, ids))
    assert any("--deformed 15" in problem for problem in found.problems) == few == ("deformed" in found.options)
    assert not any("--deformed" in p for p in inspect(GroupedData.from_arrays(pictures / 255, ids)).problems)


@pytest.mark.parametrize(
    "sizes", [[10] * 12, [16] * 19, [16] * 20, [10] * 30, [20] * 30, [2] * 100, [3, 4], [*range(1, 22)], [1] * 9 + [90]]
)
def test_the_advised_share_is_the_least_that_training_takes(sizes: list[int]) -> None:
    assert setting("default").validation == SHARES[0]
    data = GroupedData.from_arrays(torch.randn(sum(sizes), 2), np.repeat(np.arange(len(sizes)), sizes))
    part, new = data.split(**share_out(data, TEST, 0))
    enough = [share for share in SHARES if validation_of(part, share, 0, (), asked=True)[1] is not None]
    advised = str(enough[0]) if enough and enough[0] != SHARES[0] else None
    for found, test in ((inspect(data), str(TEST)), (inspect(part, new), None)):
        assert (found.options.get("test"), found.options.get("validation")) == (test, advised)
        assert any(f"--test {TEST}" in problem for problem in found.problems) == (test is not None)
        assert any(f"--validation {advised}" in problem for problem in found.problems) == (advised is not None)


def test_the_column_of_the_split_is_told_once() -> None:
    x, person = torch.randn(40, 2), np.arange(40) // 4
    data = GroupedData.from_arrays(x, person, columns={"part": person >= 8, "split": np.arange(40) % 2})
    found = inspect(*data.split(column="part"), split="part")
    assert found.kept_out == "Kept out of training by 'part': 8 rows of 2 groups, 2 of them new"
    assert list(found.columns) == ["split"] and found.kept_out in found.text()
    assert not inspect(data).kept_out


def test_what_is_said_of_training_is_what_it_does() -> None:
    import inspect as python

    from mlvae import training
    from mlvae.inspection import findings
    from mlvae.tuning import Choice

    defaults = [python.signature(each).parameters["groups"].default for each in (training.fit, train.train, Choice)]
    assert [*defaults, training.STEPS] == [findings.GROUPS] * 3 + [findings.STEPS]
    data = GroupedData.from_arrays(torch.randn(7000, 2), torch.arange(7000) // 10)
    assert "25 an epoch, each of up to 70 sub-groups of 2 to 8 members (280 observations)" in inspect(data).text()


def test_a_column_that_says_train_is_proposed_as_the_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"p{i % 6},{i * i % 7},{i * i % 5},{('train', 'train', 'later')[i // 6 % 3]}" for i in range(90)]
    (tmp_path / "d.csv").write_text("\n".join(["person,a,b,part", *rows]))
    main(["inspect", str(tmp_path / "d.csv"), "--by", "person"])
    text = capsys.readouterr().out
    assert "part: says 'train' of some rows" in text and "--test" not in text
    command = text.splitlines()[-1].removeprefix("Next: mlvae ")
    assert "--split-column part" in command
    main([*shlex.split(command)[:-1], str(tmp_path / "run"), "--epochs", "1", "--width", "8"])
    assert "30 rows kept out" in capsys.readouterr().out


def test_features_that_count_are_told(tmp_path: Path) -> None:
    """`time` rises in each device and `row` in the file; what is measured, said by 0 and 1, or falls once does not."""
    random = np.random.default_rng(0)
    file = tmp_path / "readings.csv"
    lines = ["time,row,level,onset,falls,device," + ",".join(f"b{i}" for i in range(10))]
    for i in range(40):
        time, device = 1 + i // 20, i % 20
        known = "" if i == 7 else time
        values = ",".join(f"{value:.3f}" for value in random.normal(size=10))
        lines.append(
            f"{known},{i},{time + random.random():.2f},{int(time > 1)},{time - 3 * (i == 31)},d{device},{values}"
        )
    file.write_text("\n".join(lines))
    found = inspect(mlvae.read(file, "device"))
    assert found.options["features"] == "numbers,-time,-row"
    few = np.isin(found.data.groups, [f"d{n}" for n in range(9)])
    assert "features" not in inspect(found.data.subset(few)).options  # it may be chance
    assert any(p.startswith("time, row: ") and "--features numbers,-time,-row." in p for p in found.problems)
    names = ", ".join(["time", "row", "level", "onset", "falls", *(f"b{i}" for i in range(7))])
    assert f"\nFeatures: {names} and 3 more\n" in found.text()
    left = mlvae.read(file, "device", features=found.options["features"])
    assert [feature.name for feature in left.schema.features][:3] == ["level", "onset", "falls"]
    assert "features" not in inspect(left).options
    assert "features" not in inspect(mlvae.read(file, "device", features="time")).options  # nothing would be left
    found = inspect(mlvae.read(file, "device", features="time,b*"), features="time,b*")
    assert any("--features 'time,b*,-time'" in problem for problem in found.problems)


def test_identifiers_too_large_for_float32_to_tell_apart_count_too(tmp_path: Path) -> None:
    """As steps of 1 do at 2 billion; what is the same throughout a group, or falls, is another thing."""
    lines = ["ident,area,falls,small,level,device"]
    for i in range(400):
        lines.append(f"{2_000_000_000 + i},{3e9 + i // 20:.0f},{2_000_000_000 - 128 * i},{7 + i // 50},.{i},d{i // 20}")
    file = tmp_path / "readings.csv"
    file.write_text("\n".join(lines))
    assert inspect(mlvae.read(file, "device")).options["features"] == "numbers,-ident"


@pytest.mark.parametrize("data", ["digits", "avatars"])
def test_the_picture_shows_members(data: str, tmp_path: Path) -> None:
    path = save_picture(inspect(mlvae.read(data)), tmp_path / "look.png")
    with Image.open(path) as picture:
        assert picture.width > 420 and np.asarray(picture)[:, 420:].std() > 10


def test_the_command_says_what_to_run_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = tmp_path / "a table.csv", tmp_path / "look.png"
    file.write_text("person,age,site\n" + "".join(f"p{i // 3},{i},{'AB'[i % 2]}\n" for i in range(30)))
    main(["inspect", str(file), "--by", "person", "--covariates", "site", "--out", str(picture)])
    text = capsys.readouterr().out
    assert f"mlvae train '{tmp_path}/a table.csv' --by person --covariates site --test 0.2 --out 'runs/a table'" in text
    assert "site as a covariate" in text and picture.exists()


def test_the_proposed_command_runs_with_what_is_advised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    sizes = [3] * 30 + [400]
    rows = [(f"p{p}", visit, *random.normal(size=2)) for p, size in enumerate(sizes) for visit in range(size)]
    (tmp_path / "d.csv").write_text("person,visit,a,b\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    main(["inspect", "d.csv", "--by", "person"])
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("Next: mlvae ")
    assert command == "train d.csv --by person --features numbers,-visit --test 0.2 --resample --out runs/d"
    main([*shlex.split(command), "--epochs", "1", "--width", "8"])
    assert [feature.name for feature in mlvae.load("runs/d").schema.features] == ["a", "b"]


def test_names_of_picture_files_are_no_factor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for place in range(160):
        file = tmp_path / "faces" / "france" / f"p{place // 5}" / f"{place % 5}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16), np.uint8)).save(file)
    main(["inspect", str(tmp_path / "faces"), "--by", "who", "--folders", "country,who", "--size", "16"])
    text = capsys.readouterr().out
    assert "country: one value" in text and "file:" not in text
    advised = "--size 16 --folders country,who --deformed 15 --test 0.2 --out runs/faces"
    assert f"--by who {advised}" in text
    with pytest.raises(SystemExit):  # a picture of nobody, the next time
        main(["inspect", str(tmp_path / "faces"), "--by", "who", "--out", str(tmp_path / "faces" / "look.png")])
    assert "none among them" in capsys.readouterr().err and not (tmp_path / "faces" / "look.png").exists()


@pytest.mark.parametrize(
    ("data", "option", "value", "what"),
    [
        ("d.csv", "folders", "a,b", "a folder of pictures"),
        ("d.parquet", "folders", "a,b", "a folder of pictures"),
        ("d.csv", "size", "32", "pictures in files"),
        ("avatars", "mode", "L", "pictures in files"),
        ("digits", "features", "a", "a table"),
        ("faces", "features", "a", "a table"),
    ],
)
def test_an_option_that_would_be_passed_over_is_refused(
    data: str, option: str, value: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "d.csv").write_text("group,a,b\n" + "".join(f"{i // 3},{i * i % 7},{i % 5}\n" for i in range(30)))
    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    pictures = [{"bytes": picture.getvalue()}] * 4
    for name in ("ann", "bob"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for place in range(2):
            (tmp_path / "faces" / name / f"{place}.png").write_bytes(picture.getvalue())
    pq.write_table(pa.table({"picture": pictures, "group": [0, 0, 1, 1]}), tmp_path / "d.parquet")
    monkeypatch.chdir(tmp_path)
    for command in (["inspect", data], ["train", data, "--out", "run"]):
        with pytest.raises(SystemExit) as stop:
            main([*command, f"--{option}", value])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert f"Expected {what} for " in said and f"--{option}" in said and f"got '{data}'. Leave the" in said
