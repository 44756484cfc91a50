"""People within countries: what is kept out of training, and whether posteriors keep what they promise."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mlvae
from mlvae import MLVAE, GroupedData, Grouping, Level, Objective, evaluate, fit
from mlvae.asked import GROWING, HOLDING, LIGHTER, NAMING
from mlvae.batch import nests, speakers, within
from mlvae.calibration import Calibration
from mlvae.cli import main
from mlvae.commands.sharing import share_out, validation_of
from mlvae.errors import DataError, MLVAEError
from mlvae.evaluate import diagnose, table
from mlvae.evidence import Evidence
from mlvae.inspection import inspect
from mlvae.report import figures
from mlvae.resident import Resident
from mlvae.runs import options_of
from mlvae.temperature import temper
from oracles import three_levels

LEVELS = [Level("country", 2, by="country"), Level("person", 2, by=("country", "person")), Level("style", 2)]


def nested(countries: int, people: int, sessions: int, **columns: Any) -> GroupedData:
    person = np.repeat(np.arange(countries * people), sessions)
    x = torch.randn(len(person), 4, generator=torch.Generator().manual_seed(0))
    own = {"country": person // people, "person": person % people, **columns}
    return GroupedData.from_arrays(x, columns=own, by="country")


def test_a_share_of_the_people_of_each_country_is_new() -> None:
    country = np.repeat([0, 1, 2, 3], [20, 20, 10, 2])  # of 10, 10, 5 and 1 people
    person = np.arange(52) // 2
    data = GroupedData.from_arrays(torch.zeros(52, 1), columns={"country": country, "person": person}, by="country")
    train, new = data.split(of="person", within="country", test=0.3, seed=1)
    assert not set(train.column("person")) & set(new.column("person")) and len(train) + len(new) == 52
    found, people = np.unique(new.column("country"), return_counts=True)
    assert found.tolist() == [0, 1, 2] and people.tolist() == [6, 6, 4]  # rows: 3, 3 and 2 people of two rows each
    again = data.split(of="person", within="country", test=0.3, seed=1)[1]
    other = data.split(of="person", within="country", test=0.3, seed=2)[1]
    assert again.column("person").tolist() == new.column("person").tolist() != other.column("person").tolist()
    assert len(set(data.split(of="person", test=0.5)[1].column("person"))) == 13


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"within": "country"}, "`of` beside within='country'"),
        ({"within": "country", "of": "person", "by": "observation"}, "by='group'"),
        ({"within": "country", "of": "person"}, "lie in several"),
        ({"within": "country", "of": ("country", "person"), "test": 0.01}, "enough groups of .* in those of 'country'"),
        ({"of": "persn"}, "Did you mean 'person'"),
        ({"of": "person", "column": "country"}, "by='group' or 'observation' alone"),
        ({"of": "person", "by": "time", "time": "country"}, "by='group' or 'observation' alone"),
    ],
)
def test_splits_that_cannot_be_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        nested(3, 4, 2).split(**{"test": 0.3, **arguments})


@pytest.mark.parametrize(
    ("design", "how"),
    [
        ((30, 4, 3), {"by": "group", "of": "country"}),  # many countries: whole ones
        ((8, 15, 3), {"by": "group", "of": ("country", "person"), "within": "country"}),
        ((3, 4, 30), {"by": "observation"}),  # few people: none can be spared
        ((15, 2, 30), {"by": "observation"}),  # a fifth of two is nobody
    ],
)
def test_what_is_kept_out_of_nested_levels(design: tuple[int, int, int], how: dict[str, Any]) -> None:
    found = share_out(nested(*design), 0.2, 3, LEVELS)
    assert found == {**how, "test": 0.2, "seed": 3}


def test_no_level_beside_them_loses_a_group_that_only_it_has() -> None:
    common, rare = np.arange(360) % 3, np.arange(360) % 3
    rare[::12] = 100 + np.arange(30)  # in each country a word of its own, which its first person says
    words = [*LEVELS[:2], Level("word", 2, by="word"), LEVELS[2]]
    for word, way in ((common, "group"), (rare, "observation")):
        assert share_out(nested(30, 4, 3, word=word), 0.2, 0, words)["by"] == way


@pytest.mark.parametrize(
    ("characters", "fonts", "how"),
    [
        (6, 40, {"by": "group", "of": "font"}),  # those there are most of, and every character stays
        (40, 6, {"by": "group", "of": "character"}),
        (6, 10, {"by": "observation"}),  # few of both
    ],
)
def test_of_levels_that_are_crossed_whole_groups_of_the_one_that_has_most(
    characters: int, fonts: int, how: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"character": np.repeat(np.arange(characters), fonts * 8), "font": np.arange(characters * fonts * 8) // 8}
    columns["font"] %= fonts
    data = GroupedData.from_arrays(torch.zeros(len(columns["font"]), 4), columns=columns, by="character")
    levels = [Level("character", 2, by="character"), Level("font", 2, by="font"), Level("style", 2)]
    assert share_out(data, 0.2, 3, levels) == {**how, "test": 0.2, "seed": 3}
    rest, kept = validation_of(data, 0.1, 0, levels, asked=True)
    many = how.get("of", "")
    assert f"10% of {many} groups are kept out" in capsys.readouterr().out or how["by"] == "observation"
    for name in columns:
        known = set(rest.column(name))
        assert set(kept.column(name)).isdisjoint(known) if name == many else set(kept.column(name)) <= known


def test_an_item_that_one_user_has_is_not_lost_with_the_user() -> None:
    user = np.repeat(np.arange(40), 6)
    item = np.where((np.arange(240) % 6 == 0) & (user % 2 == 0), 100 + user, np.arange(240) % 6)
    data = GroupedData.from_arrays(torch.zeros(240, 4), columns={"user": user, "item": item}, by="user")
    levels = [Level("user", 2, by="user"), Level("item", 2, by="item"), Level("style", 2)]
    assert share_out(data, 0.2, 0, levels)["by"] == "observation"  # an item would be lost with its user


@pytest.mark.parametrize(
    ("design", "asked", "said", "people"),
    [
        ((8, 15, 6), None, "10% of country,person groups", 16),
        ((40, 5, 4), None, "5% of country groups", 10),
        ((8, 15, 6), 0.3, "30% of country,person groups", 40),
        ((8, 15, 60), 0.03, "country (whose person groups training knows); --validation 0.1 would keep country,per", 0),
        ((3, 4, 40), None, "Posteriors will be too sure of new groups: of country", None),
        ((3, 4, 100), None, "Posteriors will be too sure of new groups: of country", 0),
    ],
)
def test_whole_groups_are_kept_to_calibrate_nested_levels_on(
    design: tuple[int, int, int],
    asked: float | None,
    said: str,
    people: int | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = nested(*design)
    rest, kept = validation_of(data, asked or 0.05, 0, LEVELS, asked=asked is not None)
    out = capsys.readouterr().out
    assert said in out
    if people is None:
        assert kept is None and "Too few observations to keep 5%" in out and len(rest) == len(data)
    elif people == 0:
        assert set(kept.column(("country", "person"))) <= set(rest.column(("country", "person")))
    else:
        assert len(set(kept.column(("country", "person")))) == people and "too sure" not in out
        assert not set(kept.column(("country", "person"))) & set(rest.column(("country", "person")))


def test_a_run_measures_new_people_of_known_countries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = nested(8, 15, 6)
    with (tmp_path / "survey.csv").open("w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["country", "person", "a", "b", "c", "d"])
        labels = zip(data.column("country"), data.column("person"), data.x.tolist(), strict=True)
        write.writerows([f"c{country}", f"p{person}", *x] for country, person, x in labels)
    run, file_name = str(tmp_path / "run"), str(tmp_path / "survey.csv")
    levels = [f"--level={text}" for text in ("country:2:country", "person:2:country,person", "style:2")]
    main(["train", file_name, *levels, "--test", "0.2", "--epochs", "1", "--width", "8", "--out", run])
    kept = json.loads((tmp_path / "run" / "kept_out.json").read_text())
    assert (kept["by"], kept["of"], kept["within"]) == ("group", ["country", "person"], "country")
    model = mlvae.load(run)
    assert not torch.equal(model.calibration("country").temperature, torch.ones(2))
    capsys.readouterr()
    main(["evaluate", run, file_name, "--quick", "--controls", "none", "--out", str(tmp_path / "m.json")])
    found = json.loads((tmp_path / "m.json").read_text())
    assert "probe.country.country.k1.linear" in found and "probe.person.person.k1.linear" not in found
    assert found["unseen.person.way"] == 20
    assert "coverage of person's 90 % intervals" in capsys.readouterr().out


def test_who_speaks_for_whom() -> None:
    session, person, country = np.arange(24) // 2, np.arange(24) // 4, np.arange(24) // 12
    named = {"country": country, "person": person, "session": session, "word": np.arange(24) % 3}
    groupings = {name: Grouping.from_ids(ids) for name, ids in named.items()}
    assert speakers(groupings, nests(groupings)) == {"country": "person", "person": "session"}
    # Where each country has one person, the coarser is still the one that is named first.
    groupings["person"] = groupings["country"]
    assert speakers(groupings, within(groupings)) == {"country": "person", "person": "session"}
    assert speakers(groupings, nests(groupings)) == {"country": "session", "person": "session"}


def test_a_coarse_level_without_enough_witnesses_is_left_and_told() -> None:
    model, random = three_levels(), np.random.default_rng(0)
    person = np.repeat(np.arange(9), 20)
    x = random.normal(size=(180, 2))
    with pytest.warns(UserWarning, match="'country' stays as sure.* 9 groups of 'person' in 2"):
        temper(model, x, {"country": np.minimum(person // 4, 1), "person": person})
    assert torch.equal(model.calibration("country").temperature, torch.ones(2))
    assert not torch.equal(model.calibration("person").temperature, torch.ones(2))
    votes = Evidence.votes(torch.from_numpy(x), torch.ones(180, 2))
    with pytest.raises(DataError, match="at least 8 groups of a finer level .* got 7 \\(9 in 2 groups\\)"):
        Calibration.fit(votes, Grouping.from_ids(np.minimum(person // 4, 1)), Grouping.from_ids(person))


@pytest.mark.parametrize(
    ("nested", "message"),
    [
        ({("persn", "country")}, "Did you mean 'person'"),
        ({("person", "style")}, "levels that groups share; got 'style'"),
        (("person", "country"), r"as pairs of levels, \(finer, coarser\)"),
        ({("person", "country", "style")}, "as pairs of levels"),
        ({("country", "person")}, "every group of 'country' within one of 'person'"),
    ],
)
def test_pairs_that_are_not_nested_are_refused_and_forget_nothing(nested: Any, message: str) -> None:
    model, person = three_levels(), np.repeat(np.arange(24), 10)
    x, labels = np.random.default_rng(0).normal(size=(240, 2)), {"country": person // 12, "person": person}
    temper(model, x, labels)
    before = {name: value.clone() for name, value in model.calibrations.named_buffers()}
    with pytest.raises(MLVAEError, match=message):
        temper(model, x, labels, nested=nested)
    assert all(torch.equal(value, before[name]) for name, value in model.calibrations.named_buffers())


@pytest.mark.parametrize("free", [8, 30])
def test_errors_over_promises_are_one_in_the_mean_though_few_speak(free: int) -> None:
    """T/T̂ is 1 in the mean over samples: an unbiased T would promise (n - 2)/n of what it should, with few."""
    draws = torch.Generator().manual_seed(0)
    mean = 2 * torch.randn(free + 4, 4000, dtype=torch.float64, generator=draws)  # a dimension a sample
    witness = Grouping.each(free + 4)
    country = Grouping.from_ids(np.arange(free + 4) % 4)
    fitted = Calibration.fit(Evidence.votes(mean, torch.ones_like(mean)), country, witness)
    assert (4 / fitted.temperature).mean().item() == pytest.approx(1, abs=0.03)


def test_calibration_is_told_of_each_level_with_whole_people_for_countries() -> None:
    """Votes are exact for one observation: the person's keep their promise, the country's sum of all does not."""
    random = np.random.default_rng(0)
    from oracles import SCALE, WEIGHTS

    def sample(countries: int) -> GroupedData:
        person = np.repeat(np.arange(countries * 20), 10)
        columns = {"country": person // 20, "person": person}
        x = sum(WEIGHTS[name] * random.normal(size=(ids.max() + 1, 2))[ids] for name, ids in columns.items())
        noise = WEIGHTS["style"] * random.normal(size=(len(person), 2)) + SCALE * random.normal(size=(len(person), 2))
        return GroupedData.from_arrays(torch.from_numpy(x + noise), columns=columns, by="country")

    model, new = three_levels(), sample(30)
    plain = evaluate(model, sample(2), new, quick=True, controls=False)
    assert plain["calibration.country.k1.ratio"] > 3 and plain["calibration.ratio"] > 3
    calibration_set = sample(30)
    temper(model, calibration_set.x, {name: calibration_set.column(name) for name in ("country", "person")})
    mended = evaluate(model, sample(2), new, quick=True, controls=False)
    for k in (1, 2, 5, 10):
        assert mended[f"calibration.country.k{k}.ratio"] == pytest.approx(1, abs=0.25)
        assert 0.85 < mended[f"calibration.country.k{k}.coverage90"] < 0.95
    assert mended["calibration.person.k1.ratio"] == pytest.approx(1, abs=0.25)
    assert "calibration.person.k10.ratio" not in mended, "people have ten observations, countries twenty people"


def test_reports_tell_the_calibration_of_each_level() -> None:
    numbers = {
        f"calibration.{level}k1.{name}": value
        for level, ratio in (("", 1.1), ("country.", 1.1), ("person.", 3.0))
        for name, value in (("ratio", ratio), ("coverage90", 0.8), ("used", 1.0))
    } | {"calibration.ratio": 1.1, "calibration.coverage90": 0.8}
    text = table(numbers)
    assert "calibration of person at k = 1 (1 is right)    3.00" in text and "of content" not in text
    (trouble,) = diagnose(numbers)
    assert trouble.startswith("The posterior of 'person' is over-confident: squared errors are 3.00")
    drawn = figures.calibration(numbers)
    assert drawn is not None and "country: 80.0 % at 1; person: 80.0 % at 1" in drawn.alt


def test_levels_are_called_by_their_names() -> None:
    numbers = {"probe.content.k1.linear": 0.5, "control.untrained.probe.content.k1.linear": 0.5, "kl.hand": 0.1,
               "swap.content_of_style_giver": 0.4, "probe.chance": 0.1}  # fmt: skip
    said = " ".join([table(numbers, "person", "hand"), *diagnose(numbers, "person", "hand")])
    assert "group from person, linear probe" in said and "swaps that show the hand giver's group" in said
    assert "Person collapsed" in said and "Hand collapsed: 0.100" in said and "Hand carries person" in said
    assert "ontent" not in said and "tyle" not in said


def test_inspect_looks_at_levels_that_are_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = nested(8, 15, 6, word=np.arange(720) % 3)
    file = tmp_path / "survey.npz"
    np.savez(file, x=data.x.numpy(), **data.columns)
    asked = [("--level", text) for text in ("land:4:country", "person:8:country,person", "word:2:word", "style:4")]
    main(["inspect", str(file), *(part for pair in asked for part in pair)])
    said = capsys.readouterr().out
    assert "  land by country: 8 groups of 90 rows, 15 of person in each, crossed with word (100% of the pairs)" in said
    assert "  person by country,person: 120 groups of 6 rows, crossed with word" in said and "  style: each row" in said
    assert "--level person:8:country,person" in said.splitlines()[-1] and "--by" not in said.splitlines()[-1]
    assert "--validation" not in said and "Columns:" not in said, "their columns are levels"
    main(["inspect", str(file), "--level", "a:4:country", "--level", "b:8:country"])
    assert "! Expected levels of different groups; level 'a'" in capsys.readouterr().out
    assert main(["inspect", str(file), "--level", "who:4:country,person", "--level", "style:2"]) is None
    assert "120 groups of 6 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("design", "advised"),
    [((8, 15, 6), None), ((3, 4, 40), "0.15"), ((3, 4, 100), None), ((10, 8, 6), "0.3"), ((2, 14, 4), None)],
)
def test_inspect_says_of_calibration_what_training_will(
    design: tuple[int, int, int], advised: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    data = nested(*design)
    rest, new = data.split(**share_out(data, 0.2, 0, LEVELS))
    validation_of(rest, 0.05, 0, LEVELS, asked=False)
    said = [line.removeprefix("! ") for line in capsys.readouterr().out.splitlines() if "To calibrate" not in line]
    assert bool(said) == (design != (8, 15, 6))
    for found in (inspect(data, levels=LEVELS), inspect(rest, new, levels=LEVELS)):
        assert [text for text in found.problems if "uncalibrated" in text or "too sure" in text] == [
            f"{x}." for x in said
        ]
        assert found.options.get("validation") == advised
    if advised is not None:
        validation_of(rest, float(advised), 0, LEVELS, asked=True)
        left = capsys.readouterr().out
        assert "Too few" not in left and "--validation" not in left


def test_inspect_says_it_of_the_rows_that_a_column_leaves_to_train_on() -> None:
    data = nested(3, 4, 60, part=np.where(np.arange(720) % 4 == 0, "test", "train"))
    rest, new = data.split(column="part")
    found, known = inspect(data, levels=LEVELS), inspect(rest, new, levels=LEVELS)
    assert found.options == {"split-column": "part", "validation": "0.1"}
    assert known.options == {"validation": "0.1"} and set(known.problems) <= set(found.problems)


def test_train_says_how_levels_lie_and_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, country = tmp_path / "survey.csv", [f"c{person // 15}" for person in range(120) for _ in range(6)]
    country[3], country[100] = "", ""
    rows = [f"{land},p{row // 6},{row % 7},{row % 5}" for row, land in enumerate(country)]
    file.write_text("\n".join(["country,who,a,b", *rows]))
    levels = [("--level", text) for text in ("country:2:country", "person:2:who", "style:2")]
    asked = [*(part for pair in levels for part in pair), "--epochs", "1", "--width", "8", "--validation", "0"]
    main(["train", str(file), *asked, "--missing", "drop", "--out", str(tmp_path / "drop")])
    said = capsys.readouterr().out
    assert "Left out 2 rows without a label; 718 stay (--missing own would keep all)" in said
    assert "country: 8 groups of 89 to 90 rows, 15 of person in each\nperson by who: 120 groups" in said
    main(["train", str(file), *asked, "--missing", "own", "--out", str(tmp_path / "own")])
    said = capsys.readouterr().out
    assert "Left out" not in said and "as 2 of 120 person groups lie in several of country" in said


@pytest.mark.parametrize(
    ("levels", "option", "message"),
    [
        (
            ["country:2:country", "person:2:country,person", "style:2"],
            ["--leakage", "3"],
            "two levels that are crossed",
        ),
        (["country:2:country", "person:2:country,person"], ["--told", "0.1"], "a level of an observation's own"),
        (["style:2"], ["--identification", "3"], "a level that groups share"),
        (
            ["a:2:country", "b:2:person"],
            ["--leakage", "3", "--leakage", "5"],
            "of all levels that are not named; got 3 and 5",
        ),
        (["a:2:country", "style:2"], ["--independence", "style:5", "--independence", "style:6"], "got 'style' twice"),
    ],
)
def test_weights_that_no_level_is_asked_for_are_refused(
    levels: list[str], option: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = nested(4, 3, 4)
    np.savez(tmp_path / "survey.npz", x=data.x.numpy(), **data.columns)
    asked = [part for text in levels for part in ("--level", text)]
    with pytest.raises(SystemExit):
        main(
            ["train", str(tmp_path / "survey.npz"), *asked, *option, "--by", "country", "--out", str(tmp_path / "run")]
        )
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_own_levels_are_weighed_each_by_what_is_asked_of_it(tmp_path: Path) -> None:
    data = nested(4, 3, 4)
    np.savez(tmp_path / "survey.npz", x=data.x.numpy(), **data.columns)

    def asked(name: str, levels: list[str], *options: str) -> Objective:
        typed = [part for text in ("country:2:country", *levels) for part in ("--level", text)]
        out = tmp_path / name
        main(["train", str(tmp_path / "survey.npz"), *typed, "--epochs", "1", "--width", "8", "--validation", "0",
              "--out", str(out), *options])  # fmt: skip
        objective = options_of(out)["objective"]
        assert isinstance(objective, Objective)
        return objective

    found = asked(
        "one", ["style:2", "pose:2", "light:2"], "--independence", "style:500", "--style-kl", "4", "--kl", "pose:2"
    )
    assert found.adversary == {"style": 0.0, "pose": NAMING, "light": NAMING}
    assert found.independence == {"style": GROWING.ending(500.0), "pose": LIGHTER, "light": LIGHTER}
    assert [found.weight(name, 0) for name in ("country", "style", "pose", "light")] == [0.2, 4.0, 2.0, 4.0]
    found = asked("two", ["own:2", "pose:2"], "--adversary", "own:0", "--told", ".05", "--style-kl", "4")
    assert found.independence == {"own": replace(HOLDING, end=0.05), "pose": replace(LIGHTER, end=0.05)}
    assert found.weight("own", 0) == found.weight("pose", 0) == 4.0


def test_of_two_chains_the_one_whose_people_speak_for_more_is_kept_whole(capsys: pytest.CaptureFixture[str]) -> None:
    song = np.random.default_rng(0).integers(0, 30, 8 * 15 * 12)
    data = nested(8, 15, 12, song=song, genre=song // 6)
    levels = [*LEVELS[:2], Level("genre", 2, by="genre"), Level("song", 2, by="song"), LEVELS[2]]
    for order in (levels, [*levels[2:4], *levels[:2], levels[4]]):
        rest, kept = validation_of(data, 0.05, 0, order, asked=False)
        out = capsys.readouterr().out
        assert "10% of country,person groups" in out and "of genre (whose song groups training knows)" in out
        assert not set(kept.column(("country", "person"))) & set(rest.column(("country", "person")))
    assert share_out(data, 0.2, 0, levels)["of"] == ("country", "person")


def test_levels_crossed_with_each_other_in_one_that_both_are_nested_in(tmp_path: Path) -> None:
    """Schools and clubs of a country: one of them makes its sub-groups, in the batches as in the data."""
    random = np.random.default_rng(0)
    n, country = 600, np.repeat(np.arange(4), 150)
    columns = {"country": country, "school": country * 6 + random.integers(0, 6, n),
               "club": country * 5 + random.integers(0, 5, n)}  # fmt: skip
    data = GroupedData.from_arrays(
        torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), columns=columns, by="country"
    )
    levels = [Level(name, 2, by=name) for name in columns] + [Level("style", 2)]
    model = MLVAE.for_data(data, levels=levels, width=8)
    resident = Resident(model, data)
    assert resident.speaks == {"country": "club"}
    for part in resident.parts(resident.sampler(10, (2, 4), False, 0).epoch(0)):
        batch = resident.batch(model, part)
        assert batch.witnesses("country").refines(batch.grouping("country"))
    fit(model, data, epochs=1, groups=10, members=(2, 4), progress=False)


def test_nesting_is_that_of_the_training_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the one country that is kept out of 22, all words lie within it: they do not speak for it."""
    data = nested(22, 12, 20, word=np.random.default_rng(1).integers(0, 10, 22 * 12 * 20))
    np.savez(tmp_path / "survey.npz", x=data.x.numpy(), **data.columns)
    levels = ["country:2:country", "person:2:country,person", "word:2:word", "style:2"]
    asked = [part for text in levels for part in ("--level", text)]
    main(
        ["train", str(tmp_path / "survey.npz"), *asked, "--epochs", "1", "--width", "8", "--out", str(tmp_path / "run")]
    )
    assert "5% of country groups" in capsys.readouterr().out
    _, kept = validation_of(data, 0.05, 0, [Level.parse(text) for text in levels], asked=False)
    assert len(set(kept.column("country"))) == 1
    model = mlvae.load(tmp_path / "run")
    found = {name: value.clone() for name, value in model.calibration("country").named_buffers()}
    labels = {level.name: kept.codes(level.by) for level in model.group_levels if level.by}
    for pairs, same in (({("person", "country")}, True), (None, False)):
        temper(model, kept.x, labels, nested=pairs)
        assert torch.equal(model.calibration("country").temperature, found["temperature"]) == same


def test_what_is_kept_out_may_be_nested_otherwise(tmp_path: Path) -> None:
    """Training is done by then: a person who moved after it is no reason to lose it."""
    data, moved = (nested(4, 6, 8, who=np.repeat(np.arange(24), 8)) for _ in range(2))
    moved.columns["country"][0] = 3
    levels = [Level("country", 2, by="country"), Level("person", 2, by="who"), Level("style", 2)]
    model = MLVAE.for_data(data, levels=levels, width=8)
    mlvae.fit(model, data, tmp_path / "run", valid=moved, epochs=1)
    assert not torch.equal(model.calibration("country").temperature, torch.ones(2))


def test_one_level_by_a_combination_is_what_is_kept_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = nested(8, 15, 12)
    who = [Level("who", 2, by=("country", "person")), LEVELS[2]]
    assert share_out(data, 0.2, 0, who) == {"by": "group", "of": ("country", "person"), "test": 0.2, "seed": 0}
    np.savez(tmp_path / "survey.npz", x=data.x.numpy(), **data.columns)
    main(
        [
            "inspect",
            str(tmp_path / "survey.npz"),
            "--by",
            "person",
            "--level",
            "who:2:country,person",
            "--level",
            "style:2",
        ]
    )
    said = capsys.readouterr().out
    assert "Groups: 120 by 'country,person', of 12 to 12" in said
    assert "--by person --test 0.2" in said.splitlines()[-1]


def test_a_forgotten_column_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = nested(4, 3, 4)
    np.savez(tmp_path / "survey.npz", x=data.x.numpy(), **data.columns)
    main(["inspect", str(tmp_path / "survey.npz"), "--level", "country:4", "--level", "person:4:person"])
    assert "! Level 'country' has no column" in (said := capsys.readouterr().out)
    assert "--level country:4:country" in said and "Level 'person'" not in said


def test_counters_are_found_within_the_finest_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "survey.csv").open("w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["country", "person", "day", "a"])
        random = np.random.default_rng(0)
        write.writerows([f"c{p // 6}", f"p{p}", day, random.normal()] for p in range(24) for day in range(12))
    asked = ["--level", "country:2:country", "--level", "person:2:person", "--level", "style:2"]
    main(["inspect", str(tmp_path / "survey.csv"), *asked])
    assert "--features numbers,-day" in capsys.readouterr().out


def test_a_few_gaps_do_not_hide_how_columns_lie(tmp_path: Path) -> None:
    from mlvae.inspection import inspect

    country = (np.arange(48) // 12).astype(object)
    country[[3, 40]] = None
    data = GroupedData.from_arrays(torch.randn(48, 3), columns={"who": np.arange(48) // 4, "land": country}, by="who")
    found = inspect(data)
    assert found.columns["land"].startswith("coarser: 4 values, 2 missing, one for each group")
    assert found.levels == ["content by who", "style"], "with gaps it cannot be a level yet"
