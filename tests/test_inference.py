from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from mlvae import MLVAE, Evidence, Gallery, GroupBatch, GroupEvidence, Level, Objective, decoding, elbo, inference, loss
from mlvae.bound import importance_weighted_bound
from mlvae.errors import DataError, EvidenceError, ModelError
from mlvae.identification import verify
from mlvae.likelihoods import Normal
from oracles import group_log_marginal, linear_gaussian

LABELS = ["bo", "al", "bo", "cy", "al", "bo"]


@pytest.fixture
def model() -> MLVAE:
    torch.manual_seed(1)
    return MLVAE((6,), [Level("content", 3, by="g"), Level("style", 2, given=("content",))], width=16).double()


@pytest.fixture
def crossed() -> MLVAE:
    torch.manual_seed(1)
    levels = [Level("speaker", 3, by="speaker"), Level("word", 2, by="word", given=("speaker",)), Level("style", 2)]
    return MLVAE((6,), levels, width=16).double()


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(a: GroupEvidence, b: GroupEvidence, atol: float = 1e-9) -> bool:
    return all(
        torch.allclose(a.levels[name].precision, b.levels[name].precision, atol=atol, rtol=1e-9)
        and torch.allclose(a.levels[name].information, b.levels[name].information, atol=atol, rtol=1e-9)
        and torch.equal(a.levels[name].count, b.levels[name].count)
        for name in a.levels
    )


def test_evidence_of_two_calls_adds_to_that_of_one_and_is_taken_back(model: MLVAE) -> None:
    x = pictures(5)
    first, second = model.evidence(x[:3]), model.evidence(x[3:])
    both = first + second
    assert close(both, model.evidence(x))
    assert both.count().tolist() == [5]
    assert close(both - second, first)
    nothing = both - first - second
    assert nothing.count().tolist() == [0]
    assert torch.equal(nothing.posterior().precision, torch.ones(1, 3, dtype=torch.float64))


def test_groups_merge_by_their_labels(model: MLVAE) -> None:
    x = pictures(6)
    one = model.evidence(x, LABELS)
    two = model.evidence(x[3:], LABELS[3:]) + model.evidence(x[:3], LABELS[:3])
    assert one.groups["content"].tolist() == two.groups["content"].tolist() == ["al", "bo", "cy"]
    assert one.count().tolist() == [2, 3, 1]
    assert close(one, two)
    for row, label in enumerate(["al", "bo", "cy"]):
        alone = model.evidence(x[[i for i, name in enumerate(LABELS) if name == label]])
        assert torch.allclose(one.posterior().mean[row], alone.posterior().mean[0], atol=1e-9)
    with pytest.raises(EvidenceError, match="named on both sides"):
        one + model.evidence(x)


def test_a_group_that_one_side_does_not_know_keeps_what_it_has(model: MLVAE) -> None:
    x = pictures(4)
    known, other = model.evidence(x[:2], ["a", "b"]), model.evidence(x[2:], ["c", "b"])
    total = known + other
    assert total.count().tolist() == [1, 2, 1]
    assert torch.allclose(total.levels["content"].precision[0], known.levels["content"].precision[0])
    with pytest.raises(EvidenceError, match="at most the 0 votes"):
        known - other


def test_codes_with_and_without_groups(model: MLVAE) -> None:
    x = pictures(6)
    alone, together = model.codes(x), model.codes(x, LABELS)
    assert alone["content"].mean.shape == together["content"].mean.shape == (6, 3)
    assert torch.equal(together["content"].mean[0], together["content"].mean[2])
    assert (together["content"].precision >= alone["content"].precision - 1e-12).all()
    assert torch.allclose(together["content"].mean[3], alone["content"].mean[3])
    assert torch.allclose(alone["content"].mean[0], model.evidence(x[:1]).posterior().mean[0])


def test_swapping_with_oneself_is_reconstruction(model: MLVAE) -> None:
    a, b = pictures(3), pictures(3, seed=1)
    assert torch.equal(model.swap(a, a), model.reconstruct(a))
    assert torch.equal(model.swap(a, b, levels=[]), model.reconstruct(b))
    assert torch.equal(model.swap(a, b, levels=["content", "style"]), model.reconstruct(a))
    assert not torch.allclose(model.swap(a, b), model.reconstruct(b))
    with pytest.raises(DataError, match="3 and 2"):
        model.swap(a, b[:2])


def test_the_ends_of_an_interpolation_are_reconstructions(model: MLVAE) -> None:
    a, b = pictures(3), pictures(3, seed=1)
    path = model.interpolate(a, b, steps=4)
    assert path.shape == (3, 4, 6)
    assert torch.allclose(path[:, 0], model.reconstruct(a))
    assert torch.allclose(path[:, -1], model.reconstruct(b))
    style = model.interpolate(a, b, steps=2, levels=["style"])
    content = model.codes(a)["content"].mean
    assert torch.allclose(style[:, 1], model.pictures({"content": content, "style": model.codes(b)["style"].mean}))
    with pytest.raises(ModelError, match="at least 2"):
        model.interpolate(a, b, steps=1)


def test_generation_repeats_by_seed_and_keeps_what_is_fixed(model: MLVAE) -> None:
    assert torch.equal(model.generate(4, seed=3), model.generate(4, seed=3))
    assert not torch.equal(model.generate(4, seed=3), model.generate(4, seed=4))
    code = model.evidence(pictures(2)).posterior()
    drawn = model.generate(4, content=code.mean, style=torch.zeros(2))
    assert torch.allclose(drawn, drawn[:1].expand(4, 6))
    with pytest.raises(ModelError, match="Did you mean 'content'"):
        model.generate(1, contnet=code.mean)
    with pytest.raises(ModelError, match=r"\(3,\), \(1, 3\) or \(5, 3\)"):
        model.generate(5, content=torch.zeros(2, 3))
    with pytest.raises(ModelError, match="content=posterior.mean"):
        model.generate(5, content=code)
    for n in (0, -1):
        with pytest.raises(ModelError, match=f"at least one observation to generate; got {n}"):
            model.generate(n)


def test_the_bayes_factor_is_exact_for_an_exact_model() -> None:
    model = linear_gaussian()
    random = np.random.default_rng(0)
    a, b = random.normal(size=(3, 2)) * 1.5, random.normal(size=(4, 2)) * 1.5
    expected = group_log_marginal(np.concatenate([a, b])) - group_log_marginal(a) - group_log_marginal(b)
    factor = model.evidence(a).log_bayes_factor(model.evidence(b))
    assert factor.shape == (1, 1)
    assert factor.item() == pytest.approx(expected, rel=1e-9)


def test_identification_is_bayes_rule_over_the_gallery_and_none() -> None:
    model = linear_gaussian()
    random = np.random.default_rng(0)
    gallery = [random.normal(size=(n, 2)) + 2 * random.normal(size=2) for n in (2, 1, 3)]
    probes = random.normal(size=(5, 2))
    known = model.evidence(np.concatenate(gallery), np.repeat([0, 1, 2], [2, 1, 3]))
    each = model.evidence(probes, np.arange(5))
    for new in (0.0, 0.3, 1.0):
        chances = each.identify(known, new=new)
        assert chances.shape == (5, 4)
        assert torch.allclose(chances.sum(1), torch.ones(5, dtype=torch.float64))
        weights = [
            [(1 - new) / 3 * np.exp(group_log_marginal(np.vstack([g, p])) - group_log_marginal(g)) for g in gallery]
            + [new * np.exp(group_log_marginal(p[None]))]
            for p in probes
        ]
        expected = np.array(weights) / np.sum(weights, 1, keepdims=True)
        np.testing.assert_allclose(chances.numpy(), expected, rtol=1e-8, atol=1e-15)
    with pytest.raises(EvidenceError, match="between 0 and 1"):
        each.identify(known, new=1.5)


def test_bayes_factors_need_a_prior() -> None:
    model = MLVAE((6,), [Level("content", 3, by="g", readout="product"), Level("style", 2)], width=16)
    evidence = model.evidence(pictures(2))
    with pytest.raises(EvidenceError, match="'product_with_prior'"):
        evidence.log_bayes_factor(evidence)


def test_three_crossed_levels_go_through_the_same_calls(crossed: MLVAE) -> None:
    x = pictures(6)
    groups = {"speaker": LABELS, "word": [0, 1, 0, 1, 1, 0]}
    evidence = crossed.evidence(x, groups)
    assert evidence.count("speaker").tolist() == [2, 3, 1]
    assert evidence.count("word").tolist() == [3, 3]
    assert (evidence - evidence).count("word").tolist() == [0, 0]
    assert evidence.identify(evidence, "word").shape == (2, 3)
    codes = crossed.codes(x, groups)
    assert {name: code.mean.shape[1] for name, code in codes.items()} == {"speaker": 3, "word": 2, "style": 2}
    assert torch.equal(crossed.swap(x, x), crossed.reconstruct(x))
    assert not torch.allclose(crossed.swap(x, x.flip(0), levels=["word"]), crossed.reconstruct(x.flip(0)))
    assert torch.allclose(crossed.interpolate(x, x.flip(0), levels=["word"])[:, 0], crossed.reconstruct(x))
    assert crossed.generate(2, word=evidence.posterior("word").mean).shape == (2, 6)
    batch = GroupBatch.of(x, groups)
    assert set(elbo(crossed, batch).kl) == {"speaker", "word", "style"}
    assert torch.isfinite(loss(crossed, batch, Objective()).total)
    assert importance_weighted_bound(crossed, batch, content_samples=2, style_samples=2).shape == (2,)
    with pytest.raises(DataError, match="'word'"):
        crossed.evidence(x, {"speaker": LABELS})
    with pytest.raises(DataError, match="dictionary"):
        crossed.evidence(x, LABELS)


def test_chunks_do_not_show(model: MLVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    x = pictures(7)
    whole = model.evidence(x), model.reconstruct(x)
    for module in ("heads", "decoding"):
        monkeypatch.setattr(f"mlvae.{module}.CHUNK", 3)
    assert close(model.evidence(x), whole[0])
    assert torch.allclose(model.reconstruct(x), whole[1])


def test_the_model_keeps_its_mode_and_asks_for_no_gradient(model: MLVAE) -> None:
    assert model.train().training
    assert not model.reconstruct(pictures(2)).requires_grad
    assert model.training
    assert not model.evidence(pictures(2)).levels["content"].precision.requires_grad


def test_bad_input_is_refused(model: MLVAE) -> None:
    x = pictures(3)
    with pytest.raises(DataError, match=r"\(3,\), for 'content'; got \(2,\)"):
        model.evidence(x, [0, 1])
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        model.evidence(x + 5)
    x[2, 0] = torch.inf
    with pytest.raises(DataError, match="row 2"):
        model.codes(x)
    with pytest.raises(DataError, match=r"got \(3, 5\)"):
        model.reconstruct(x[:, :5])
    with pytest.raises(ModelError, match="plain VAE"):
        MLVAE((6,), [Level("style", 2)]).evidence(x)
    with pytest.raises(ModelError, match="Did you mean 'content'"):
        model.evidence(pictures(2)).posterior("contnet")


@pytest.mark.parametrize("x", ["abc", [["a", "b"]], object()])
def test_what_is_no_array_is_refused(model: MLVAE, x: object) -> None:
    with pytest.raises(DataError, match=rf"array \(N, \.\.\.\) of numbers; got {type(x).__name__}"):
        model.evidence(x)  # type: ignore[arg-type]


def test_evidence_of_two_models_neither_adds_nor_is_compared(model: MLVAE) -> None:
    """Of the same weights loaded twice it does; a new calibration is another model, as its votes are others."""
    torch.manual_seed(5)
    other, again = MLVAE(model.shape, model.levels), copy.deepcopy(model)
    x, ids = pictures(4), ["a", "a", "b", "b"]
    mine, theirs = model.evidence(x, ids), other.evidence(x, ids)
    assert len((mine + again.evidence(x, ids)).levels["content"]) == 2
    for mix in (
        lambda: mine + theirs, lambda: mine - theirs, lambda: mine.identify(theirs), lambda: verify(mine, theirs),
        lambda: Gallery(mine).identify(theirs, 1), lambda: model.score(x, ids, theirs),
    ):  # fmt: skip
        with pytest.raises(EvidenceError, match="one model; got that of two"):
            mix()
    again.calibration("content").temperature.fill_(2.0)
    with pytest.raises(EvidenceError, match="one model"):
        mine + again.evidence(x, ids)
    unknown = replace(theirs, model="")
    assert (mine + unknown).model == mine.model and (unknown + mine).model == mine.model


def test_an_observation_without_any_value_is_no_evidence() -> None:
    torch.manual_seed(0)
    levels = [Level("content", 2, by="g"), Level("style", 2)]
    model = MLVAE((4,), levels, likelihood=Normal(missing=True), width=8)
    x = torch.randn(5, 4)
    x[1], x[3, :3] = torch.nan, torch.nan
    with pytest.warns(UserWarning, match="1 of 5 observations have no value at all"):
        evidence = model.evidence(x, ["a", "a", "b", "b", "c"])
    with pytest.warns(UserWarning, match="1 of 2"):
        nothing = model.evidence(x[:2], ["b", "a"])
    kept = torch.tensor([0, 2, 3, 4])
    assert close(evidence, model.evidence(x[kept], ["a", "b", "b", "c"]))
    assert nothing.count().tolist() == [0, 1] and nothing.posterior().mean[0].tolist() == [0, 0]
    with pytest.warns(UserWarning, match="1 of 5"):
        codes = model.codes(x)
    assert torch.equal(codes["style"].mean[1], torch.zeros(2)) and not codes["style"].mean[3].eq(0).any()


def test_observations_are_scored_against_the_others_of_their_group_or_against_what_is_known(model: MLVAE) -> None:
    x = pictures(6)
    scores = model.score(x, LABELS)["content"]
    assert scores.log_odds.shape == scores.p_value.shape == (6,)
    for row in range(6):
        others = [i for i in range(6) if i != row and LABELS[i] == LABELS[row]]
        if not others:
            assert scores.log_odds[row].item() == pytest.approx(0, abs=1e-12)
            continue
        rest = model.evidence(x[others])
        expected = model.evidence(x[[row]]).log_bayes_factor(rest).item()
        assert scores.log_odds[row].item() == pytest.approx(expected, abs=1e-9)
        known = rest if row % 2 else model.evidence(x[others], [LABELS[row]] * len(others))
        again = model.score(x[[row]], None if row % 2 else [LABELS[row]], known)["content"]
        assert again.log_odds.item() == pytest.approx(expected, abs=1e-9)
        assert again.p_value.item() == pytest.approx(scores.p_value[row].item(), abs=1e-9)
    assert model.score(x[:1], ["nobody"], model.evidence(x, LABELS))["content"].log_odds.item() == 0
    with pytest.raises(EvidenceError, match="named on both sides"):
        model.score(x[:1], None, model.evidence(x, LABELS))


def test_numbers_are_compared_with_text_as_text_in_every_call(model: MLVAE) -> None:
    x, labels = pictures(4), np.array([10, 9, 10, 9])
    numbers, words = model.evidence(x, labels), model.evidence(x, labels.astype(str))
    for mine, known in ((labels, words), (labels.astype(str), numbers)):
        odds = model.score(x, mine, known)["content"].log_odds
        assert torch.equal(odds, model.score(x, labels, numbers)["content"].log_odds) and odds.all()
    assert (numbers - words).count().tolist() == [0, 0]


@pytest.mark.parametrize("labels", [[1.0, np.nan, 1.0], ["a", None, "a"], ["a", " ", "a"]])
def test_missing_labels_are_no_group(model: MLVAE, labels: list[object]) -> None:
    with pytest.raises(DataError, match=r"got 1 without one .* the first in row 1"):
        model.evidence(pictures(3), labels)


@pytest.mark.parametrize("labels", [["a", 1, "a"], np.array(["a", 1, "a"], object)])
def test_labels_of_two_types_are_refused(model: MLVAE, labels: object) -> None:
    with pytest.raises(DataError, match="Expected group ids of one type; got int, str"):
        model.evidence(pictures(3), labels)  # type: ignore[arg-type]


def test_one_look_serves_codes_and_evidence() -> None:
    levels = [Level("a", 3, by="a"), Level("b", 2, by="b", given=("a",)), Level("style", 2, given=("a",))]
    for model in (
        MLVAE((6,), [Level("a", 3, by="a"), Level("style", 2)], width=8, likelihood="normal").double(),
        MLVAE((6,), levels, width=8, likelihood="normal").double(),
    ):
        x = torch.randn(40, 6, dtype=torch.float64)
        labels = {level.name: np.arange(40) % 5 for level in model.group_levels}
        heads = inference.looked(model, x)
        for name, code in model.codes(x[10:20]).items():
            ours = model.codes(x[10:20], heads=heads[10:20])[name]
            assert torch.allclose(ours.mean, code.mean) and torch.allclose(ours.precision, code.precision)
        one, other = model.evidence(x, labels), model.evidence(x, labels, heads=heads)
        for name, evidence in one.levels.items():
            assert torch.allclose(evidence.information, other.levels[name].information)
            assert np.array_equal(other.groups[name], np.arange(5))


def test_codes_of_every_level_are_asked_for() -> None:
    model = MLVAE((6,), [Level("content", 2, by="person"), Level("style", 2)], width=4)
    codes = model.codes(torch.rand(3, 6))
    for wrong, named in (({"content": torch.zeros(1, 2)}, "'style'"), ({}, "'content'"), (codes, "pass the mean")):
        with pytest.raises(ModelError, match=named):
            model.pictures(wrong)
    assert model.reconstruct(torch.rand(0, 6)).shape == (0, 6)
    with pytest.raises(ModelError, match="whole number"):
        model.generate(2.0)
    evidence = model.evidence(torch.rand(3, 6), [0, 0, 1])
    with pytest.raises(ModelError, match="got GroupEvidence"):
        model.generate(2, content=evidence)
    with pytest.raises(EvidenceError, match="the gallery is empty"):
        nobody = GroupEvidence({"content": Evidence.empty(0, 2)}, evidence.readouts, {"content": np.array([])})
        evidence.identify(nobody)


def test_observations_without_a_value_have_a_code_where_no_prior_has_one() -> None:
    levels = [Level("content", 2, by="person", readout="product"), Level("style", 2, readout="product")]
    model = MLVAE((6,), levels, likelihood=Normal(missing=True), width=4)
    x = torch.rand(3, 6)
    x[1] = torch.nan
    with pytest.warns(UserWarning, match="no value at all"):
        assert all(code.mean.isfinite().all() for code in model.codes(x).values())


def test_rows_that_may_have_gaps_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = [Level("content", 2, by="person"), Level("style", 2)]
    model = MLVAE((6,), levels, likelihood=Normal(missing=True), width=4)
    prepared, original = [], MLVAE.prepare
    monkeypatch.setattr(MLVAE, "prepare", lambda self, x: prepared.append(len(x)) or original(self, x))
    monkeypatch.setattr("mlvae.heads.CHUNK", 3)
    x = torch.rand(7, 6)
    x[5] = torch.nan
    with pytest.warns(UserWarning, match="1 of 7 observations have no value at all"):
        assert model.evidence(x, [0, 0, 0, 1, 1, 2, 2]).count().tolist() == [3, 2, 1]
    assert prepared == [3, 3, 1]


def test_one_level_may_be_named_without_a_list() -> None:
    model = MLVAE((6,), [Level("content", 2, by="person"), Level("style", 2)], width=4)
    x = torch.rand(2, 6)
    assert torch.equal(model.swap(x[:1], x[1:], "content"), model.swap(x[:1], x[1:], ["content"]))


def test_a_group_whose_votes_were_all_taken_back_is_not_known(model: MLVAE) -> None:
    x = pictures(6)
    query = model.evidence(x[3:4])
    rest = model.evidence(x, LABELS) - model.evidence(x[[0, 2, 5]], ["bo"] * 3)
    known = query.identify(rest, new=0.1)
    assert rest.groups["content"].tolist() == ["al", "bo", "cy"] and known[0, 1] == 0
    without = query.identify(model.evidence(x[[1, 3, 4]], ["al", "cy", "al"]), new=0.1)
    assert torch.allclose(known[:, [0, 2, 3]], without)
    ranking = Gallery(rest).identify(query, k=3, new=0.1)
    assert set(ranking.groups[0].tolist()) == {"al", "cy"} and torch.allclose(ranking.none, known[:, 3])
    nothing = rest - model.evidence(x[[1, 3, 4]], ["al", "cy", "al"])
    for ask in (lambda: query.identify(nothing), lambda: Gallery(nothing)):
        with pytest.raises(EvidenceError, match="all of its groups have none"):
            ask()
    with pytest.raises(EvidenceError, match="at least one query"):
        Gallery(rest).identify(replace(query, levels={"content": query.levels["content"][:0]}))


def test_numbers_of_two_kinds_name_the_same_groups_and_no_others(model: MLVAE) -> None:
    x, large = pictures(2), np.array([2**60, 2**60 + 1])
    both = model.evidence(x, large) + model.evidence(x, large.astype(np.uint64))
    assert both.groups["content"].tolist() == [str(2**60), str(2**60 + 1)] and both.count().tolist() == [2, 2]
    floats = model.evidence(x, [1.0, 2.0]) + model.evidence(x, ["1", "2"])
    assert floats.groups["content"].tolist() == ["1", "2"] and floats.count().tolist() == [2, 2]


def test_codes_sum_as_evidence_does() -> None:
    torch.manual_seed(0)
    model, n = MLVAE((2,), [Level("content", 2, by="g"), Level("style", 1)], likelihood="normal", width=4), 60_000
    x = torch.randn(n, 2)
    code, posterior = model.codes(x, [0] * n)["content"], model.evidence(x, [0] * n).posterior("content")
    assert torch.allclose(code.precision[0].double(), posterior.precision[0], rtol=1e-6)
    assert torch.allclose(code.mean[0].double(), posterior.mean[0], atol=1e-6)
    with pytest.raises(DataError, match="levels that groups share"):
        model.codes(x[:2], {"content": [0, 1], "style": [0, 0]})


def test_pictures_take_codes_in_any_precision(model: MLVAE) -> None:
    means = {name: code.mean for name, code in model.codes(pictures(2)).items()}
    single = decoding.pictures(model, {name: mean.float() for name, mean in means.items()})
    assert torch.allclose(single, decoding.pictures(model, means), atol=1e-6)


def test_of_a_coarse_level_the_others_of_ones_own_person_say_nothing() -> None:
    """As if country were known by the person alone: of a country of one person nothing speaks for an observation."""
    torch.manual_seed(0)
    levels = [Level("country", 2, by="c"), Level("person", 2, by="p"), Level("style", 2)]
    model = MLVAE((6,), levels, width=8).double()
    x, person = pictures(12), np.arange(12) // 3
    found = model.score(x, {"country": [0] * 9 + [1] * 3, "person": person})
    assert (found["country"].log_odds[9:] == 0).all() and found["country"].log_odds[:9].all()
    rest = model.evidence(x[3:9], {"country": [0] * 6, "person": person[3:9]})
    against = model.score(x[:1], {"country": [0], "person": [0]}, rest)
    assert torch.allclose(found["country"].log_odds[:1], against["country"].log_odds)
    assert torch.allclose(
        found["person"].log_odds, model.score(x, {"country": np.arange(12), "person": person})["person"].log_odds
    )


def test_pairs_and_codes_that_do_not_fit_are_named(model: MLVAE) -> None:
    with pytest.raises(DataError, match="as many observations in `a` as in `b`"):
        model.swap(pictures(3), pictures(2))
    codes = {"content": torch.zeros(3, 3), "style": torch.zeros(3, 2)}
    for name, wrong in (("content", torch.zeros(3, 2)), ("style", torch.zeros(2, 2)), ("style", torch.zeros(2))):
        with pytest.raises(ModelError, match=rf"Expected a code \(N, \d\) of '{name}'"):
            model.pictures({**codes, name: wrong})


def test_parts_that_are_frozen_stay_so(model: MLVAE) -> None:
    model.train()
    model.encoder.eval()
    model.evidence(pictures(4), ["a", "a", "b", "b"])
    assert model.training and not model.encoder.training


def test_names_of_arguments_are_no_names_of_levels() -> None:
    for name in ("seed", "n", "independence"):
        with pytest.raises(ModelError, match="is taken by an argument"):
            MLVAE((6,), [Level(name, 3, by="g"), Level("style", 2)])


def test_a_gallery_that_is_asked_nothing_answers_nothing(model: MLVAE) -> None:
    gallery = Gallery(model.evidence(pictures(4), ["a", "a", "b", "b"]))
    assert gallery.log_bayes_factors(Evidence.empty(0, 3)).shape == (0, 2)


def test_who_was_not_added_is_named_by_the_label(model: MLVAE) -> None:
    evidence = model.evidence(pictures(3), [10, 20, 3])
    with pytest.raises(EvidenceError, match="the 0 votes of group 30; got 1"):
        evidence - model.evidence(pictures(1), [30])
