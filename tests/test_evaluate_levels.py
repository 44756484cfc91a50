from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import nn

from mlvae import MLVAE, GroupedData, Level, elbo, evaluate
from mlvae.batch import GroupBatch
from mlvae.errors import DataError
from mlvae.evaluate import bounds, table
from mlvae.evaluate.levels import curves, matrix, shots
from mlvae.evaluate.measures import unasked
from mlvae.evaluate.subject import Subject
from mlvae.evaluate.swaps import cross_member_mse


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("mlvae.evaluate.probes"), "MOST_CHECKS", 8)


class Reader(nn.Module):
    """Hands each level two of the observation's six numbers, as mean; votes of precision 100."""

    def __init__(self, model: MLVAE) -> None:
        super().__init__()
        with torch.no_grad():
            for place, level in enumerate(model.levels):
                head = model.heads[level.name]
                head.weight.zero_()
                head.bias.zero_()
                head.weight[[0, 1], [2 * place, 2 * place + 1]] = 1.0
                head.bias[2:] = 5.0


def data(speakers: int = 6, first: int = 0, words: int = 5, takes: int = 8, seed: int = 0) -> GroupedData:
    """Observations that are (2 of the speaker, 2 of the word, 2 of noise)."""
    fixed, random = np.random.default_rng(7), np.random.default_rng(seed)
    of_speaker, of_word = 3 * fixed.normal(size=(40, 2)), 3 * fixed.normal(size=(5, 2))
    speaker = np.repeat(np.arange(first, first + speakers), words * takes)
    word = np.tile(np.repeat(np.arange(words), takes), speakers)
    x = np.concatenate([of_speaker[speaker], of_word[word], random.normal(size=(len(word), 2))], 1)
    x[:, :4] += 0.1 * random.normal(size=(len(word), 4))
    return GroupedData.from_arrays(x.astype(np.float32), columns={"speaker": speaker, "word": word}, by="speaker")


@pytest.fixture(scope="module")
def model() -> MLVAE:
    levels = [Level("speaker", 2, by="speaker"), Level("word", 2, by="word"), Level("style", 2)]
    model = MLVAE((6,), levels, likelihood="normal", encoder=nn.Identity(), width=8).eval()
    Reader(model)
    return model


def subject(model: MLVAE, train: GroupedData, new: GroupedData) -> Subject:
    return Subject(model, train, new, (train.groups, new.groups), 0)


def test_the_matrix_is_diagonal_where_levels_know_only_their_own(model: MLVAE) -> None:
    found = matrix(subject(model, data(), data(seed=1)))
    assert found["probe.speaker.word.of_groups"] == found["probe.word.speaker.of_groups"] == 0
    assert found["probe.speaker.chance"] == pytest.approx(1 / 6) and found["probe.word.chance"] == pytest.approx(1 / 5)
    for level in ("speaker", "word"):
        for factor in ("speaker", "word"):
            for kind in ("linear", "mlp"):
                accuracy = found[f"probe.{level}.{factor}.k1.{kind}"]
                assert accuracy > 0.95 if level == factor else accuracy < 0.35
    for factor in ("speaker", "word"):
        assert found[f"probe.style.{factor}.mean.linear"] < 0.35 and found[f"probe.style.{factor}.sample.mlp"] < 0.35
        assert found[f"probe.style.{factor}.sample.nats"] < 0.1


def test_unseen_groups_are_named_by_their_own_level_and_known_ones_have_a_curve(model: MLVAE) -> None:
    of = subject(model, data(), data(speakers=20, first=15, seed=1))
    found = shots(of)
    assert found["unseen.speaker.way"] == 20
    assert found["unseen.speaker.speaker.shots.1.accuracy"] > 0.8
    assert found["unseen.speaker.speaker.shots.5.accuracy"] >= found["unseen.speaker.speaker.shots.1.accuracy"]
    for other in ("word", "style"):
        assert found[f"unseen.speaker.{other}.shots.1.accuracy"] < 0.12
    assert 0 < found["unseen.speaker.pixels.shots.1.accuracy"] < 0.9
    assert not any(key.startswith("unseen.word") for key in found)
    assert {key.split(".")[1] for key in curves(of)} == {"word"}
    some = subject(model, data(), data(speakers=7, seed=1))  # one of seven is new
    assert {key.split(".")[1] for key in curves(some)} == {"speaker", "word"}
    assert "probe.word.word.k1.linear" in matrix(of) and "probe.speaker.speaker.k1.linear" not in matrix(of)


def test_evaluate_has_the_matrix_with_its_control(model: MLVAE) -> None:
    found = evaluate(model, data(), data(seed=1), quick=True)
    assert found["probe.word.word.k1.linear"] > 0.9
    assert "control.untrained.probe.word.word.k1.linear" in found and "k_curve.word.5.accuracy" in found


def test_a_factor_does_not_take_the_place_of_a_levels_numbers(model: MLVAE) -> None:
    """Sessions are numbered anew for each person: the column by itself is another question than the level."""
    of = data()
    columns = {**of.columns, "session": of.column("word") % 2}
    of = GroupedData.from_arrays(of.x, columns=columns, by="speaker")
    levels = [Level("speaker", 2, by="speaker"), Level("session", 2, by=("speaker", "word")), Level("style", 2)]
    other = MLVAE((6,), levels, likelihood="normal", encoder=nn.Identity(), width=8).eval()
    with pytest.raises(DataError, match="not called like a level; got 'session'"):
        evaluate(other, of, of, factors=["session"], quick=True, controls=False)
    assert unasked(model.group_levels, [("word", True), ("session", True)]) == [("session", True)]
    assert unasked(other.group_levels[:1], [("speaker", True)]) == [("speaker", True)], "of one level is no matrix"


@pytest.mark.parametrize("given", [(), ("a",)])
@pytest.mark.parametrize("nested", [False, True])
def test_the_bound_is_that_of_all_rows_at_once(
    nested: bool, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is decoded at a time, and though nested, `a` is cut: a group of `b` is whole and its KL counts once."""
    monkeypatch.setattr(bounds, "BATCH", 60)
    n, random = 240, np.random.default_rng(0)
    a = random.integers(0, 2 if nested else 24, n)
    b = a * 5 + random.integers(0, 5, n) if nested else random.integers(0, 5, n)
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    of = GroupedData.from_arrays(x, columns={"a": a, "b": b}, by="a")
    levels = [Level("a", 2, by="a"), Level("b", 2, by="b", given=given), Level("style", 2, given=given)]
    torch.manual_seed(0)
    model = MLVAE.for_data(of, levels=levels, network="mlp", width=8).eval()
    found = [bounds.bound(Subject(model, of, of, (of.groups, of.groups), seed)) for seed in range(20)]
    rows, parts = (torch.cat(each) for each in zip(*bounds._batches(of.codes("a")), strict=True))
    batch = GroupBatch.of(model.prepare(of.x)[rows], {"a": parts, "b": b[rows]})
    with torch.no_grad():
        terms = [elbo(model, batch) for _ in range(20)]
    for name in ("a", "b", "style"):
        kl = np.mean([term.kl[name].sum().item() for term in terms]) / n
        # Given a draw of another level, a posterior is as random as that.
        assert np.mean([each[f"kl.{name}"] for each in found]) == pytest.approx(kl, rel=0.02 if given else 1e-5)
    bound = np.mean([term.elbo_per_observation.item() for term in terms])
    assert np.mean([each["elbo"] for each in found]) == pytest.approx(bound, rel=0.01)


def test_the_table_has_linear_probes_of_shared_levels_and_names_of_new_groups() -> None:
    text = table({
        "probe.speaker.word.k1.linear": 0.14, "probe.speaker.word.k1.mlp": 0.58, "probe.word.chance": 0.1,
        "unseen.speaker.speaker.shots.1.accuracy": 0.74, "unseen.speaker.way": 20.0,
    })  # fmt: skip
    found = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:]}
    assert found["speaker.word.k1.linear"] == ["14.0", "10.0"] and found["speaker.word.k1.mlp"] == ["58.0", "10.0"]
    assert found["unseen.speaker.speaker.shots.1"] == ["74.0", "5.0"]


def test_of_a_country_no_two_pictures_of_one_person_are_asked() -> None:
    """Codes that know the person and nothing of the country name countries only where people are asked for again."""
    country = np.repeat(np.arange(60), 40)
    person, random = np.repeat(np.arange(240), 10), np.random.default_rng(0)
    x = np.concatenate([3 * random.normal(size=(240, 2))[person], random.normal(size=(2400, 4))], 1).astype(np.float32)
    data = GroupedData.from_arrays(x, columns={"country": country, "person": person}, by="country")
    levels = [Level("country", 2, by="country"), Level("person", 2, by="person"), Level("style", 2)]
    made = MLVAE((6,), levels, likelihood="normal", encoder=nn.Identity(), width=8).eval()
    Reader(made)
    train, new = data.split(of="country", test=0.5, seed=0)
    found = evaluate(made, train, new, quick=True)
    assert found["unseen.way"] == 20 and found["unseen.shots.1.accuracy"] < 0.1
    assert found["unseen.country.country.shots.1.accuracy"] < 0.1 and "unseen.shots.5.accuracy" not in found
    assert abs(found["verification.auc"] - 0.5) < 0.05 and found["open_set.accuracy"] < 0.15
    assert found["unseen.person.country.shots.1.accuracy"] > 0.5, "which the country's codes do tell"
    assert abs(found["control.untrained.verification.auc"] - 0.5) < 0.06
    one = subject(made, train, new)
    assert len(one.rows("country")) == new.codes("person").max() + 1 and len(one.rows("person")) == len(new)


def test_shots_of_another_way_are_left_out_and_pixels_are_as_asked(model: MLVAE) -> None:
    """Chance is that of the episodes shown: two new speakers of many takes, and ten of two."""
    train, new = data(), data(12, first=20, takes=1)
    few = np.isin(new.column("speaker"), np.unique(new.column("speaker"))[:10])
    new = new.subset(np.flatnonzero(~few | (new.column("word") < 2)))
    found = shots(subject(model, train, new), pixels=False)
    assert found["unseen.speaker.way"] == 12 and "unseen.speaker.speaker.shots.1.accuracy" in found
    assert not any(".shots.5." in key or "pixels" in key for key in found if key.startswith("unseen.speaker."))


def test_cross_members_of_a_crossed_design_keep_their_words(model: MLVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    swap = MLVAE.swap
    monkeypatch.setattr(MLVAE, "swap", lambda *given: taken.append(given[3]) or swap(*given))
    new = data(seed=1)
    cross_member_mse(model, new.x, new.column("speaker"))
    assert taken and all(levels == ["speaker"] for levels in taken)
