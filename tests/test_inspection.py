from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mlvae
from mlvae.cli import main
from mlvae.data import GroupedData
from mlvae.inspection import inspect, save_picture


def test_it_finds_what_was_put_in() -> None:
    """Groups of known sizes in two countries, a crossed word, a gap, a still feature, two twins, and a leak."""
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(20), 6)
    x = random.normal(size=(120, 5))
    x[13] = x[14] + 1e-4
    x[:, 3] = 7.0
    x[::4, 2] = np.nan
    word = np.tile(list("abcdef"), 20)
    columns = {"country": person // 5, "word": word, "shot": np.arange(120), "year": np.full(120, 3)}
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


def test_group_sizes_are_counted_in_doubling_ranges() -> None:
    sizes = np.arange(1, 41)
    found = inspect(GroupedData.from_arrays(torch.randn(int(sizes.sum()), 3), np.repeat(np.arange(40), sizes)))
    assert found.bins[:3] == [("1-1", 1), ("2-3", 2), ("4-7", 4)] and sum(n for _, n in found.bins) == 40
    assert any("1 groups have one member" in problem for problem in found.problems)


def test_a_large_group_among_small_ones_is_told() -> None:
    data = GroupedData.from_arrays(torch.randn(1000, 2), [0] * 900 + [1 + i // 2 for i in range(100)])
    assert any("--resample" in problem for problem in inspect(data).problems)


@pytest.mark.parametrize(("groups", "members", "few"), [(30, 10, True), (101, 10, False), (10, 60, False)])
def test_few_pictures_of_few_groups_are_told(groups: int, members: int, few: bool) -> None:
    pictures = torch.randint(0, 256, (groups * members, 16, 16), dtype=torch.uint8)
    ids = torch.arange(groups).repeat_interleave(members)
    assert any("--deformed" in problem for problem in inspect(GroupedData.from_arrays(pictures, ids)).problems) == few
    assert not any("--deformed" in p for p in inspect(GroupedData.from_arrays(pictures / 255, ids)).problems)


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
    assert f"mlvae train '{tmp_path}/a table.csv' --by person --covariates site --out 'runs/a table'" in text
    assert "site as a covariate" in text and picture.exists()
