"""Evidence on disk: written, merged, taken apart, and refused where it does not add."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import mlvae
from mlvae import MLVAE, Evidence, GroupEvidence, Level
from mlvae.errors import CheckpointError, EvidenceError
from mlvae.store import adding, files
from mlvae.store.layout import layout_of


def model(seed: int = 0, dim: int = 3) -> MLVAE:
    torch.manual_seed(seed)
    return MLVAE((4,), [Level("content", dim, by="group"), Level("style", 2)], width=8, likelihood="normal")


MODEL = model()


def some(labels: object, seed: int = 0) -> GroupEvidence:
    x = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    return MODEL.evidence(x, labels)  # type: ignore[arg-type]


def close(a: GroupEvidence, b: GroupEvidence, tolerance: float = 1e-12) -> bool:
    """Equal, whatever the order of groups, to 1e-12 of the values."""
    for name in a.levels:
        one, two = (np.argsort(e.groups[name]) for e in (a, b))  # type: ignore[arg-type]
        x, y = a.levels[name][torch.from_numpy(one)], b.levels[name][torch.from_numpy(two)]
        if a.groups[name][one].tolist() != b.groups[name][two].tolist():  # type: ignore[index]
            return False
        if not torch.equal(x.count, y.count):
            return False
        if not torch.allclose(x.precision, y.precision, rtol=tolerance, atol=tolerance):
            return False
        if not torch.allclose(x.information, y.information, rtol=tolerance, atol=tolerance):
            return False
    return True


@pytest.mark.parametrize("labels", [[3, 1, 3, 2], ["bo", "al", "bo", "cé"]], ids=["numbers", "strings"])
def test_a_file_holds_what_was_written_and_says_what_it_is(tmp_path: Path, labels: list[object]) -> None:
    evidence = some(labels)
    path = files.write(evidence, MODEL, tmp_path / "e.parquet")
    assert close(files.read(path), evidence)
    about = json.loads(pq.read_schema(path).metadata[b"mlvae"])
    assert about["levels"]["content"] == {"dim": 3, "readout": "product_with_prior", "temperature": [1.0, 1.0, 1.0]}
    assert about["model"] == mlvae.checkpoint.fingerprint(MODEL) and about["schema"] == 1
    assert [str(t) for t in pq.read_schema(path).types[2:]] == ["int64", *["list<element: double>"] * 2]


@pytest.mark.parametrize("labels", [lambda ids: ids, lambda ids: [f"g{i}" for i in ids]], ids=["numbers", "strings"])
def test_merging_is_adding_and_retracting_is_taking_back(tmp_path: Path, labels) -> None:
    a, b = some(labels([1, 2, 2, 3]), 1), some(labels([2, 3, 4]), 2)
    for name, evidence in (("a", a), ("b", b)):
        files.write(evidence, MODEL, tmp_path / name)
    total = adding.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "sub" / "c")
    assert close(files.read(total), a + b)
    rest = adding.retract(total, tmp_path / "b", tmp_path / "rest")
    assert close(files.read(rest), a)
    assert layout_of(rest) == layout_of(tmp_path / "a")
    nothing = adding.retract(rest, tmp_path / "a", tmp_path / "nothing")
    assert len(files.read(nothing).levels["content"]) == 0 and not layout_of(nothing).ledger
    again = adding.merge([nothing, tmp_path / "a"], tmp_path / "again")
    assert close(files.read(again), a)
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "sub", "rest", "nothing", "again"}


def test_taking_out_votes_that_were_never_added_is_refused(tmp_path: Path) -> None:
    for name, labels, seed in (("all", [1, 1, 2], 1), ("last", [2], 2), ("strange", [1], 3)):
        evidence = some(labels, seed)
        if name == "strange":
            evidence = replace(
                evidence,
                levels={"content": Evidence.votes(torch.ones(1, 3).double(), torch.full((1, 3), 1e3).double())},
            )
        files.write(evidence, MODEL, tmp_path / name)
    for name, message in (("strange", "of the 2 votes on group 1 of 'content' those 1 of"), ("last", "on group 2 of")):
        with pytest.raises(EvidenceError, match=message):
            adding.retract(tmp_path / "all", tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_several_levels_of_different_dimensions_add(tmp_path: Path) -> None:
    levels = [Level("speaker", 3, by="speaker"), Level("word", 2, by="word"), Level("style", 2)]
    crossed = MLVAE((4,), levels, width=8, likelihood="normal")
    x = torch.randn(6, 4)
    speaker, word = np.array(list("aabbcc")), np.array(list("xyxyxy"))
    parts = [crossed.evidence(x[r], {"speaker": speaker[r], "word": word[r]}) for r in (slice(0, 4), slice(4, 6))]
    paths = [files.write(part, crossed, tmp_path / f"{i}") for i, part in enumerate(parts)]
    whole = files.read(adding.merge(paths, tmp_path / "c"))
    assert close(whole, crossed.evidence(x, {"speaker": speaker, "word": word}), 1e-6)
    assert close(whole, parts[0] + parts[1])
    assert close(files.read(adding.retract(tmp_path / "c", paths[0], tmp_path / "r")), parts[1])
    written = pq.read_table(files.posterior(tmp_path / "c", tmp_path / "p"))
    assert sorted(written["level"].to_pylist()) == ["speaker"] * 3 + ["word"] * 2


def test_what_does_not_add_is_refused_and_named(tmp_path: Path) -> None:
    files.write(some([1, 2]), MODEL, tmp_path / "a")
    other = model(seed=1)
    files.write(other.evidence(torch.randn(2, 4), [1, 2]), other, tmp_path / "other")
    files.write(some(["x", "y"]), MODEL, tmp_path / "named")
    files.write(some([1], seed=3), MODEL, tmp_path / "b")
    before = sorted(tmp_path.iterdir())

    def fails(message: str, *inputs: str) -> None:
        with pytest.raises(EvidenceError, match=message):
            adding.merge([tmp_path / name for name in inputs], tmp_path / "out")

    fails(r"one model;.*/a is of model \w{12}, .*/other of \w{12}", "a", "other")
    fails(r"type of group labels of .*/a and .*/named differ", "a", "named")
    fails("once; .*/a holds a piece", "a", "a")
    fails("got none")
    fails("there is none", "a", "nowhere")
    shutil.copy(tmp_path / "a", tmp_path / "copy")
    fails("once; .*/copy holds a piece", "a", "copy")
    (tmp_path / "copy").unlink()
    adding.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
    fails("once; .*/b holds a piece", "ab", "b")
    with pytest.raises(CheckpointError, match="Expected nothing at"):
        adding.merge([tmp_path / "a"], tmp_path / "b")
    with pytest.raises(EvidenceError, match="at most the 0 votes that .*/b has on group 2"):
        adding.retract(tmp_path / "b", tmp_path / "a", tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rest = adding.retract(tmp_path / "ab", tmp_path / "b", tmp_path / "rest")
    fails("one model", "rest", "other")
    two = files.write(some([1, 1, 1, 1]), MODEL, tmp_path / "many")
    with pytest.warns(UserWarning, match="/b was not added to .*/many as it is"):
        once = adding.retract(two, tmp_path / "b", tmp_path / "once")
    with pytest.raises(EvidenceError, match="taken out already"):
        adding.retract(once, tmp_path / "b", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == sorted([*before, *(tmp_path / n for n in ("ab", "many", "once")), rest])


def test_damaged_files_are_told_apart(tmp_path: Path) -> None:
    path = files.write(some([1, 2, 3]), MODEL, tmp_path / "e")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-20])
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), tmp_path / "bare")
    table = pq.read_table(path)
    short = [row[:2] for row in table["precision"].to_pylist()]
    pq.write_table(table.set_column(3, "precision", [short]), tmp_path / "short")
    twice = mlvae.store.layout.layout_of(path)
    files.write_table(files.table_of(files.read(path), "int64").take([0, 0, 1]), twice, tmp_path / "twice")
    for name, message in (
        ("cut", "is damaged"), ("bare", "is not one"), ("short", "lists of 3 doubles"), ("twice", "once in"),
    ):  # fmt: skip
        with pytest.raises(EvidenceError, match=message):
            files.read(tmp_path / name)
    with pytest.raises(EvidenceError, match="2 of 'content' is there|1 of 'content' is there"):
        files.posterior(tmp_path / "twice", tmp_path / "p")
    assert files.read(adding.merge([tmp_path / "twice"], tmp_path / "mended")).count().tolist() in ([2, 1], [1, 2])


def test_the_posterior_on_disk_is_the_posterior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = some([1, 2, 2, 3, 5, 5])
    path = files.write(evidence, MODEL, tmp_path / "e")
    monkeypatch.setattr(files, "ROWS", 3)
    table = pq.read_table(files.posterior(path, tmp_path / "p"))
    assert table["group"].to_pylist() == [1, 2, 3, 5] and table["count"].to_pylist() == [1, 2, 1, 2]
    np.testing.assert_array_equal(np.stack(table["mean"].to_pylist()), evidence.posterior().mean.numpy())
    np.testing.assert_array_equal(np.stack(table["variance"].to_pylist()), evidence.posterior().variance.numpy())


def test_groups_without_votes_or_names_are_not_written(tmp_path: Path) -> None:
    evidence = some([1, 2])
    evidence = evidence + some([3]) - some([3])
    assert files.read(files.write(evidence, MODEL, tmp_path / "e")).groups["content"].tolist() == [1, 2]  # type: ignore[union-attr]
    with pytest.raises(EvidenceError, match="named groups"):
        files.write(MODEL.evidence(torch.randn(2, 4)), MODEL, tmp_path / "f")


def test_whole_numbers_beyond_int64_are_written_as_text(tmp_path: Path) -> None:
    for name, labels in (("array", np.array([2**63 + 1, 2**63, 1], np.uint64)), ("list", [2**63 + 1, 2**63, 1])):
        found = files.read(files.write(some(labels), MODEL, tmp_path / name)).groups["content"]
        assert sorted(found) == ["1", str(2**63), str(2**63 + 1)]  # type: ignore[arg-type]


def test_odd_names_are_files_not_patterns(tmp_path: Path) -> None:
    path = files.write(some([1]), MODEL, tmp_path / "it's [a] *.parquet")
    other = files.write(some([1], seed=2), MODEL, tmp_path / "b?")
    assert files.read(adding.merge([path, other], tmp_path / "o'ut[1]")).count().tolist() == [2]


def test_retraction_is_exact_to_1e_12_of_what_was_added(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def votes() -> GroupEvidence:
        precision = 10 ** (8 * torch.rand(50, 3, generator=generator, dtype=torch.float64) - 4)
        mean = 3 * torch.randn(50, 3, generator=generator, dtype=torch.float64)
        level = Evidence(precision, precision * mean, torch.ones(50, dtype=torch.int64))
        return replace(some([0]), levels={"content": level}, groups={"content": np.arange(50)})

    parts = [votes() for _ in range(6)]
    paths = [files.write(part, MODEL, tmp_path / f"{i}") for i, part in enumerate(parts)]
    left = adding.merge(paths, tmp_path / "all")
    for i in (4, 0, 2):
        left = adding.retract(left, paths[i], tmp_path / f"without{i}")
    found = files.read(left).levels["content"]
    order = torch.from_numpy(np.argsort(files.read(left).groups["content"]))
    expected = (parts[1] + parts[3] + parts[5]).levels["content"]
    for name in ("precision", "information"):
        magnitude = sum(getattr(part.levels["content"], name).abs() for part in parts)
        assert ((getattr(found, name)[order] - getattr(expected, name)).abs() <= 1e-12 * magnitude).all()
