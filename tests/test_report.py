"""The page that is sent: one file, every number of it as JSON, for pictures, sequences and tables."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mlvae
from mlvae import Level
from mlvae.cli import main
from mlvae.data import GroupedData
from mlvae.errors import MissingExtraError
from mlvae.report import figures, write
from mlvae.report.findings import find
from mlvae.report.matrix import matrix
from mlvae.report.words import learned


class Page(HTMLParser):
    """Text, addresses and pictures of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.addresses, self.pictures = "", [], []
        self.feed(source)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [v for name in ("src", "href", "action") if (v := values.get(name)) is not None]
        if tag == "img":
            self.pictures.append(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    main(["train", "digits", "--out", str(folder / "run"), "--epochs", "2", "--content-dim", "5", "--width=16"])
    main(["report", str(folder / "run"), "digits", "--out", str(folder / "sent" / "report.html")])
    return folder


def test_it_is_one_file_that_asks_for_nothing(folder: Path) -> None:
    source = (folder / "sent" / "report.html").read_text()
    page = Page(source)
    assert page.addresses and all(address.startswith("data:") for address in page.addresses)
    assert not re.search(r"<script|@import|url\(", source)
    assert all(picture.get("alt") for picture in page.pictures)
    for heading in (
        "Swaps",
        "Interpolations",
        "Maps of the codes",
        "Most surprising",
        "Training",
        "How this page was made",
    ):
        assert heading in page.text
    assert "mlvae train digits" in page.text and "mlvae report" in page.text and mlvae.__version__ in page.text


def test_its_numbers_are_in_the_metrics(folder: Path) -> None:
    numbers = json.loads((folder / "sent" / "report.json").read_text())
    text = Page((folder / "sent" / "report.html").read_text()).text
    assert f"{100 * numbers['probe.content.k1.linear']:.1f} %" in text
    assert f"{numbers['report.posterior.20.variance']:.3f}" in text
    assert numbers["report.train.observations"] == 1438 and numbers["report.new.of_known_groups"] == 1
    last = (folder / "run" / "log.csv").read_text().splitlines()[-1].split(",")
    assert numbers["report.training.2.loss"] == pytest.approx(float(last[1]))
    shown = {f"{value:,.1f}" for name, value in numbers.items() if name.startswith("report.score.observation.")}
    assert shown and all(f"{value} nats" in text for value in shown)


def test_a_wrong_label_is_found(tmp_path: Path) -> None:
    x = torch.cat([torch.zeros(10, 8, 8), torch.ones(10, 8, 8)]) + 0.01 * torch.rand(20, 8, 8)
    labels = np.repeat(["low", "high"], 10)
    labels[3] = "high"
    data = GroupedData.from_arrays(x, labels)
    model = mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8)
    _, beside = write(model, data, data, {"elbo": -1.0, "kl.style": 1.0}, tmp_path / "r.html", run=tmp_path)
    odds = {k: v for k, v in json.loads(beside.read_text()).items() if k.startswith("report.belonging.")}
    assert min(odds, key=odds.__getitem__) == "report.belonging.3.log_odds"


def test_more_observations_narrow_the_posterior(folder: Path) -> None:
    numbers = json.loads((folder / "sent" / "report.json").read_text())
    variances = [numbers[f"report.posterior.{k}.variance"] for k in (1, 2, 5, 10, 20)]
    assert variances == sorted(variances, reverse=True) and variances[0] < 1


def test_given_metrics_are_not_measured_again(folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"probe.content.k1.linear": 0.1234, "probe.chance": 0.1, "kl.style": 0.01}))
    out = tmp_path / "report.html"
    main(["report", str(folder / "run"), "digits", "--metrics", str(given), "--out", str(out)])
    text = Page(out.read_text()).text
    assert "12.3 %" in text and "Style collapsed: 0.010 nats" in text
    assert json.loads((tmp_path / "report.json").read_text())["probe.content.k1.linear"] == 0.1234
    assert "is in report.json beside it" in text
    with pytest.raises(SystemExit):
        main(["report", str(folder / "run"), "digits", "--metrics", str(given), "--out", str(tmp_path / "given.html")])
    assert "probe.chance" in given.read_text() and not (tmp_path / "given.html").exists()


@pytest.mark.parametrize("content", ["{", '{"a": "b"}', "[1]", '{"model": "1234abcd56", "elbo": 1.0}', None])
def test_metrics_that_are_none_or_of_another_model_are_refused(
    content: str | None, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    if content is not None:
        (tmp_path / "m.json").write_text(content)
    with pytest.raises(SystemExit):
        main(
            [
                "report",
                str(folder / "run"),
                "digits",
                "--metrics",
                str(tmp_path / "m.json"),
                "--out",
                str(tmp_path / "r"),
            ]
        )
    assert "mlvae evaluate --out" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def series() -> GroupedData:
    x = torch.sin(torch.arange(32) / 5 + torch.arange(40)[:, None, None]) + torch.arange(2)[:, None]
    return GroupedData.from_arrays(x, np.arange(40) % 4)


def tabular(folder: Path) -> GroupedData:
    random = np.random.default_rng(0)
    rows = [f"{'abcd'[i % 4]},{random.normal():.3f},{'xyz'[i % 3]},<b>{i}" for i in range(40)]
    file = folder / "t.csv"
    file.write_text("group,height,kind,note\n" + "\n".join(rows))
    return mlvae.read(file, by="group", features="height,kind")


@pytest.mark.parametrize("kind", ["series", "table", "vae"])
def test_sequences_tables_and_plain_vaes(kind: str, tmp_path: Path) -> None:
    data = tabular(tmp_path) if kind == "table" else series()
    options: dict[str, Any] = {"network": "series"} if kind == "series" else {}
    content = 0 if kind == "vae" else 3
    model = mlvae.MLVAE.for_data(data, content_dim=content, style_dim=2, width=8, **options)
    train, new = data.split(by="observation", test=0.4)
    metrics = mlvae.evaluate(model, train, new, quick=True, controls=False)
    page, beside = write(model, train, new, metrics, tmp_path / "r.html", run=tmp_path)
    found = Page(page.read_text())
    assert sum(str(picture["src"]).startswith("data:image/svg") for picture in found.pictures) > 30
    assert ("Swaps" in found.text) == (kind != "vae")
    assert json.loads(beside.read_text())["report.new.observations"] == len(new)


def test_a_table_with_gaps_and_unseen_groups(tmp_path: Path) -> None:
    """The protocol gives no number of raw pixels there, but there is a chance."""
    random = np.random.default_rng(0)
    rows = [f"{i // 4},{random.normal():.3f},{'' if i % 5 == 0 else random.normal():}" for i in range(80)]
    (tmp_path / "t.csv").write_text("group,a,b\n" + "\n".join(rows))
    data = mlvae.read(tmp_path / "t.csv", by="group", features="a,b")
    model = mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8)
    train, new = data.split(by="group", test=0.4)
    metrics = mlvae.evaluate(model, train, new, quick=True)
    page, beside = write(model, train, new, metrics, tmp_path / "r.html", run=tmp_path)
    assert json.loads(beside.read_text())["unseen.way"] == new.num_groups == 8
    assert "8 groups never seen names them" in Page(page.read_text()).text and "chance 12.5 %" in page.read_text()


def test_the_matrix_has_levels_factors_chance_and_controls() -> None:
    two = mlvae.MLVAE((4,), [Level("content", 2, by="person"), Level("style", 2)], likelihood="normal")
    numbers = {
        "probe.chance": 0.1, "probe.content.k1.mlp": 0.9, "probe.style.sample.mlp": 0.1,
        "control.untrained.probe.content.k1.mlp": 0.3, "control.permuted.probe.content.k1.mlp": 0.2,
        "probe.tilt.chance": 0.5, "probe.style.tilt.sample.mlp.r2": 0.75, "probe.content.k1.linear": 0.8, "elbo": -1.0,
    }  # fmt: skip
    found = matrix(two, numbers)
    assert found is not None and found.columns == ["content", "style, a sample"]
    assert [name for name, _ in found.rows] == ["person", "tilt"]
    content, style = found.rows[0][1]
    assert content is not None and style is not None
    assert (content.value, content.beside) == ("90.0", "chance 10.0, untrained 30.0, shuffled 20.0")
    assert content.depth == 0.89 and style.depth == 0
    gap, tilt = found.rows[1][1]
    assert gap is None and tilt is not None and (tilt.value, tilt.beside, tilt.depth) == ("R² 0.75", "", 0.75)
    assert matrix(two, {"elbo": -1.0}) is None
    levels = [Level("voice", 2, by="speaker"), Level("word", 2, by="digit"), Level("style", 2)]
    three = mlvae.MLVAE((4,), levels, likelihood="normal")
    keys = ("voice.voice", "voice.word", "word.voice", "word.word", "content.digit")
    found = matrix(three, {f"probe.{key}.k1.mlp": 0.5 for key in keys} | {"probe.word.chance": 0.1})
    assert found is not None and found.columns == ["voice", "word"]
    assert [name for name, _ in found.rows] == ["speaker", "digit"]


@pytest.mark.parametrize("names", [("content", "style", "pose"), ("country", "content", "style")])
def test_the_matrix_tells_roles_from_levels_of_their_names(names: tuple[str, str, str]) -> None:
    """Keys without a factor are of the first shared level and the last own one, whatever others are called."""
    first, second, own = names
    model = mlvae.MLVAE((4,), [Level(first, 2, by="a"), Level(second, 2, by="b"), Level(own, 2)], likelihood="normal")
    numbers = {
        f"probe.{first}.{first}.k1.mlp": 0.91, f"probe.{first}.{second}.k1.mlp": 0.12,
        f"probe.{second}.{first}.k1.mlp": 0.13, f"probe.{second}.{second}.k1.mlp": 0.94,
        f"probe.{own}.{first}.sample.mlp": 0.15, f"probe.{own}.{second}.sample.mlp": 0.16,
        "probe.content.k1.mlp": 0.91, "probe.style.sample.mlp": 0.15, "probe.style.mean.mlp": 0.37,
        "probe.content.eyes.k1.mlp": 0.58, "probe.style.eyes.sample.mlp": 0.59,
    }  # fmt: skip
    for told in (numbers, dict(reversed(numbers.items()))):
        found = matrix(model, told)
        assert found is not None and found.columns == [first, second, f"{own}, a sample", f"{own}, its mean"]
        values = {name: [cell and cell.value for cell in cells] for name, cells in found.rows}
        assert values == {
            "a": ["91.0", "13.0", "15.0", "37.0"], "b": ["12.0", "94.0", "16.0", None],
            "eyes": ["58.0", None, "59.0", None],
        }  # fmt: skip


def test_a_first_epoch_does_not_flatten_the_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(figures, "_uri", lambda canvas: drawn.append(canvas) or "")
    history = [
        {"epoch": e, "loss": 1.0, "log_likelihood": -1e6 if e == 1 else e, "kl_style": 2.0} for e in range(1, 31)
    ]
    figures.training(history)
    low, high = drawn[0].axes[0].get_ylim()
    assert -10 < low < 4 and 30 < high < 40


def test_two_shared_levels(tmp_path: Path) -> None:
    columns = {"a": np.arange(48) % 4, "b": np.arange(48) // 4 % 3}
    data = GroupedData.from_arrays(torch.rand(48, 8, 8), columns=columns).grouped_by("a")
    levels = [Level("one", 2, by="a"), Level("two", 2, by="b"), Level("style", 2)]
    model = mlvae.MLVAE.for_data(data, levels=levels, width=8)
    train, new = data.split(by="observation", test=0.5)
    page, _ = write(model, train, new, {"kl.style": 1.0}, tmp_path / "r.html", run=tmp_path, factors=["b"])
    assert "one: 2 dimensions, shared by a; two: 2 dimensions, shared by b" in Page(page.read_text()).text
    alts = [str(picture["alt"]) for picture in Page(page.read_text()).pictures]
    assert sum(alt.startswith("Maps of one and two and style codes") for alt in alts) == 2


def test_more_pictures_of_one_person_are_no_more_people_of_a_country(tmp_path: Path) -> None:
    person = np.repeat(np.arange(12), 10)
    data = GroupedData.from_arrays(torch.rand(120, 4), columns={"country": person // 3, "person": person}, by="country")
    by = ("country", "person")
    levels = [*(Level(name, 2, by=name) for name in by), Level("style", 2)]
    model = mlvae.MLVAE.for_data(data, levels=levels, width=8).eval()
    numbers = find(model, data, data, run=tmp_path).numbers
    assert [key for key in numbers if key.startswith("report.posterior.")] == [
        f"report.posterior.{k}.variance" for k in (1, 2)
    ], "of three people each"
    promises = {f"calibration.{level}.k1.{name}": 0.9 for level in by for name in ("ratio", "coverage90")}
    written, _ = write(model, data, data, {"kl.style": 1.0, **promises}, tmp_path / "r.html", run=tmp_path)
    page = Page(written.read_text())
    first, last = (f"{numbers[f'report.posterior.{k}.variance']:.3f}" for k in (1, 2))
    assert f"a country's posterior falls from {first} after one person to {last} after 2, one observation of each" in (
        " ".join(page.text.split())
    )
    assert "What more groups by person, one observation of each, add." in page.text
    assert "country, groups by person: 1" in page.text and "person, observations: 1" in page.text
    assert "Of country whole groups by person are counted, not observations." in page.text
    told = " ".join(str(picture["alt"]) for picture in page.pictures)
    assert "After k groups by person, one observation of each." in told and "after k observations" not in told.lower()
    assert "country, groups by person: 90.0 % at 1; person: 90.0 % at 1" in told


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    data = series()
    model = mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8)
    with pytest.raises(MissingExtraError, match=r"mlvae\[report\]"):
        write(model, data, data, {}, tmp_path / "r.html", run=tmp_path)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):  # and before the run is looked for, or anything measured
        main(["report", "nowhere", "digits"])
    assert "mlvae[report]" in capsys.readouterr().err


def test_groups_with_hostile_names_are_only_text(tmp_path: Path) -> None:
    data = GroupedData.from_arrays(torch.rand(8, 8, 8), np.array(["<script>x</script>", "b"] * 4))
    model = mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8)
    page, _ = write(model, data, data, {"elbo": -1.0, "kl.style": 1.0}, tmp_path / "r.html", run=tmp_path)
    assert "<script" not in page.read_text()


def test_the_words_say_what_chance_and_an_untrained_network_give() -> None:
    model = mlvae.MLVAE((4,), [Level("content", 2, by="person"), Level("style", 2)], likelihood="normal")
    numbers = {
        "report.train.observations": 1200.0, "report.train.groups": 30.0, "unseen.way": 20.0,
        "unseen.shots.1.accuracy": 0.9, "control.untrained.unseen.shots.1.accuracy": 0.07, "kl.style": 3.21,
    }  # fmt: skip
    first, second = learned(model, numbers)
    assert first == (
        "From 1,200 observations of 30 groups, content was to learn what a person shares: one example of each of 20"
        " groups never seen names them in 90.0 % of cases (chance 5.0 %, an untrained network 7.0 %)."
    )
    assert second == "Style, an observation's own, costs 3.2 nats per observation."
    three = mlvae.MLVAE(
        (4,), [Level("a", 2, by="exercise"), Level("b", 2, by="day"), Level("style", 2)], likelihood="normal"
    )
    also = {**numbers, "probe.b.b.k1.linear": 0.7, "probe.b.chance": 0.2, "probe.a.chance": 0.5}
    first = learned(three, also)[0]
    assert "was to learn what an exercise shares" in first and first.endswith(
        "; b names its day in 70.0 % (chance 20.0 %)."
    )
    nested = {key: value for key, value in also.items() if not key.startswith(("unseen", "control"))}
    assert learned(three, nested)[0].endswith("how well was not measured; b names its day in 70.0 % (chance 20.0 %).")
    first = learned(three, {**nested, "probe.a.a.k1.linear": 0.6})[0]
    assert "names its exercise in 60.0 % of cases (chance 50.0 %)" in first and "b names its day" in first
    first = learned(three, {**nested, "unseen.a.a.shots.1.accuracy": 0.6, "unseen.a.way": 4.0})[0]
    assert "one example of each of 4 groups never seen names them in 60.0 % of cases (chance 25.0 %)" in first
    assert "costs 0.033 nats" in learned(model, {**numbers, "kl.style": 0.0331})[1]


def test_dollars_in_labels_are_no_formulas() -> None:
    labels = np.array(["$p0^$<b>", "$p1^$<b>"] * 4)
    points = {"content": np.random.default_rng(0).normal(size=(8, 2))}
    for numeric, values in ((False, labels), (True, np.arange(8))):
        drawn = figures.maps(points, values, "who$_$", {"content": "90 %"}, numeric)
        assert drawn.uri.startswith("data:image/svg") and "who$_$" in drawn.alt
