"""Who is it? Against slow float64 formulas, and an exact model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlvae import Evidence, GroupEvidence
from mlvae.errors import EvidenceError
from mlvae.gallery import Gallery, Ranking
from mlvae.identification import Odds, belonging, verify
from oracles import group_log_marginal, linear_gaussian

READOUT = {"content": "product_with_prior"}


def simulated(groups: int, dim: int = 5, votes: int = 8, precision: float = 3.0, seed: int = 0) -> GroupEvidence:
    """Evidence of `votes` votes on groups drawn from the prior, precisions over two decades."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(groups, 1, dim, generator=generator, dtype=torch.float64)
    return around(truth, votes, precision, generator)


def around(truth: torch.Tensor, votes: int, precision: float, generator: torch.Generator) -> GroupEvidence:
    groups, _, dim = truth.shape
    spread = 10 ** (2 * torch.rand(groups, votes, dim, generator=generator, dtype=torch.float64) - 1)
    lam = precision * spread
    mean = truth + torch.randn(groups, votes, dim, generator=generator, dtype=torch.float64) / lam.sqrt()
    level = Evidence(lam.sum(1), (lam * mean).sum(1), torch.full((groups,), votes))
    return GroupEvidence({"content": level}, READOUT, {"content": np.arange(groups)})


def members(gallery_seed: int, groups: int, votes: int, precision: float, dim: int = 5) -> GroupEvidence:
    """Further votes on the groups of `simulated(seed=gallery_seed)`."""
    truth = torch.randn(groups, 1, dim, generator=torch.Generator().manual_seed(gallery_seed), dtype=torch.float64)
    return around(truth, votes, precision, torch.Generator().manual_seed(99))


@pytest.mark.parametrize("precision", [1e-3, 3.0, 1e3, 1e7])
@pytest.mark.parametrize("dim", [1, 5, 64])
def test_block_scores_are_the_bayes_factor(precision: float, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlvae.gallery.BLOCK", 7)
    known = simulated(20, dim, precision=precision)
    queries = members(0, 20, 2, precision, dim)
    exact = queries.log_bayes_factor(known)
    rough = Gallery(known).log_bayes_factors(queries.levels["content"]).double()
    likely = exact > exact.amax(1, keepdim=True) - 10
    assert ((exact - rough).abs()[likely] < 2e-3).all()
    assert torch.allclose(exact, rough, rtol=1e-4, atol=2e-3)


def test_dimensions_without_precision_say_nothing() -> None:
    known = simulated(20)
    query = members(0, 4, 1, 3.0)
    level = query.levels["content"]
    used = torch.tensor([True, False, True, True, False])
    silent = Evidence(level.precision * used, level.information * used, level.count)
    rough = Gallery(known).log_bayes_factors(silent)
    exact = GroupEvidence({"content": silent}, READOUT, query.groups).log_bayes_factor(known)
    assert torch.allclose(rough.double(), exact, rtol=1e-4, atol=1e-3)
    nothing = Gallery(known).log_bayes_factors(Evidence.empty(1, 5))
    assert torch.equal(nothing, torch.zeros(1, 20))


def test_identification_is_bayes_rule_and_the_truth_is_found() -> None:
    known, queries = simulated(200), members(0, 200, 4, 10.0)
    chances = queries.identify(known, new=0.1)
    ranking = Gallery(known).identify(queries, k=3, new=0.1)
    best, place = chances[:, :-1].topk(3)
    assert torch.allclose(ranking.probability, best, rtol=1e-3, atol=1e-9)
    assert torch.allclose(ranking.none, chances[:, -1], rtol=1e-3)
    sure = best[:, 0] - best[:, 1] > 1e-6
    assert (ranking.groups[:, 0] == place[:, 0].numpy())[sure.numpy()].all()
    assert (ranking.groups[:, 0] == np.arange(200)).mean() > 0.8


def test_the_odds_of_those_named_are_float64() -> None:
    known, queries = simulated(50), members(0, 50, 4, 10.0)
    ranking = Gallery(known).identify(queries, k=2)
    assert torch.allclose(ranking.log_odds, queries.log_bayes_factor(known).topk(2).values, rtol=1e-12, atol=1e-9)


def test_an_exact_model_gives_exact_odds() -> None:
    model = linear_gaussian()
    random = np.random.default_rng(0)
    groups = [random.normal(size=(n, 2)) + 2 * random.normal(size=2) for n in (2, 1, 3)]
    known = model.evidence(np.concatenate(groups), np.repeat([0, 1, 2], [2, 1, 3]))
    probe = random.normal(size=(1, 2))
    ranking = Gallery(known).identify(model.evidence(probe), k=3, new=0.2)
    apart = group_log_marginal(probe)
    expected = [group_log_marginal(np.vstack([g, probe])) - group_log_marginal(g) - apart for g in groups]
    order = np.argsort(expected)[::-1]
    assert ranking.groups[0].tolist() == order.tolist()
    np.testing.assert_allclose(ranking.log_odds[0], np.array(expected)[order], rtol=1e-9)
    weights = np.exp(np.array(expected)) * 0.8 / 3
    assert ranking.none.item() == pytest.approx(0.2 / (0.2 + weights.sum()), rel=1e-4)


def test_rankings_of_parts_of_a_gallery_add_up() -> None:
    known, queries = simulated(90), members(0, 6, 2, 3.0)

    def part(start: int, stop: int) -> Ranking:
        level = known.levels["content"][start:stop]
        labels = np.arange(start, stop)
        return Gallery(GroupEvidence({"content": level}, READOUT, {"content": labels})).identify(queries, 4, new=0.1)

    whole, parts = Gallery(known).identify(queries, 4, new=0.1), part(0, 2) + part(2, 50) + part(50, 90)
    assert whole.groups.tolist() == parts.groups.tolist() and whole.known == parts.known == 90
    assert torch.allclose(whole.probability, parts.probability, rtol=1e-5)
    assert torch.allclose(whole.none, parts.none, rtol=1e-5)


def test_queries_in_turns_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    known, queries = simulated(30), members(0, 30, 2, 3.0)
    whole = Gallery(known).identify(queries)
    monkeypatch.setattr("mlvae.gallery.SCORES", 70)
    turns = Gallery(known).identify(queries)
    assert whole.groups.tolist() == turns.groups.tolist() and torch.equal(whole.log_total, turns.log_total)


def test_none_of_these_ends() -> None:
    known, queries = simulated(10), members(0, 3, 2, 3.0)
    assert Gallery(known).identify(queries, new=1.0).none.tolist() == [1, 1, 1]
    closed = Gallery(known).identify(queries, k=10, new=0.0)
    assert closed.none.tolist() == [0, 0, 0]
    assert torch.allclose(closed.probability.sum(1), torch.ones(3, dtype=torch.float64))
    with pytest.raises(EvidenceError, match="k=0"):
        Gallery(known).identify(queries, 0)
    with pytest.raises(EvidenceError, match=r"new=1.5"):
        Gallery(known).identify(queries, new=1.5)


def test_layouts_that_cannot_be_compared_are_refused() -> None:
    known = simulated(4)
    with pytest.raises(EvidenceError, match="5 dimensions; got 3"):
        Gallery(known).identify(simulated(2, dim=3))
    with pytest.raises(EvidenceError, match="'product_with_prior'"):
        Gallery(GroupEvidence(known.levels, {"content": "product"}, known.groups))
    with pytest.raises(EvidenceError, match="named groups"):
        Gallery(GroupEvidence(known.levels, READOUT, {"content": None}))


def test_verification_knows_large_numbers_of_two_types_apart() -> None:
    known, claimed = simulated(2), simulated(2)
    near = np.array([2**63 - 2, 2**63 - 1])  # one float
    claimed = GroupEvidence(claimed.levels, READOUT, {"content": near.astype(np.uint64) + np.uint64(1)})
    labels, _ = verify(GroupEvidence(known.levels, READOUT, {"content": near}), claimed)
    assert labels.tolist() == [str(2**63 - 1)]


def test_verification_compares_groups_of_one_name() -> None:
    known, claimed = simulated(20), members(0, 20, 4, 10.0)
    labels, odds = verify(known, claimed)
    assert labels.tolist() == list(range(20)) and (odds > 0).float().mean() > 0.8
    assert torch.allclose(odds, claimed.log_bayes_factor(known).diagonal())
    turned = GroupEvidence(claimed.levels, READOUT, {"content": (np.arange(20) + 7) % 20 + 5})
    shifted, wrong = verify(known, turned)
    assert shifted.tolist() == list(range(5, 20)) and wrong.median() < -3
    with pytest.raises(EvidenceError, match="same name"):
        verify(known, GroupEvidence(claimed.levels, READOUT, {"content": np.arange(20) + 50}))


def test_calibration_mends_factors_that_are_too_sure() -> None:
    """Gaussian log-odds of variance 2m around ±m are right; three times as large they are three times too sure."""
    generator = torch.Generator().manual_seed(0)
    draw = 3**0.5 * torch.randn(2, 4000, generator=generator, dtype=torch.float64)
    same, different = draw[0] + 1.5, draw[1] - 1.5
    right, mended = Odds.fit(same, different), Odds.fit(3 * same + 1, 3 * different + 1)
    assert right.scale == pytest.approx(1, abs=0.06) and right.offset == pytest.approx(0, abs=0.08)
    assert mended.scale == pytest.approx(right.scale / 3, rel=1e-2)
    assert torch.allclose(mended(3 * same + 1), right(same), atol=0.02)
    assert mended.nats(3 * same + 1, 3 * different + 1) == pytest.approx(right.nats(same, different), abs=1e-3)
    assert Odds().nats(3 * same + 1, 3 * different + 1) > 1.2 * right.nats(same, different)
    assert Odds(scale=0.0).nats(same, different[:7]) == pytest.approx(np.log(2))
    assert np.isfinite(Odds.fit(torch.full((5,), 9.0), torch.full((5,), -9.0)).scale)
    with pytest.raises(EvidenceError, match="0 and 5"):
        Odds.fit(same[:0], different[:5])


def test_p_values_of_members_are_uniform_and_those_of_strangers_small() -> None:
    known, own = simulated(3000), members(0, 3000, 1, 3.0)
    groups, votes = known.levels["content"], own.levels["content"]
    mine = belonging(votes, groups)
    turned = groups[(torch.arange(3000) + 1) % 3000]
    strangers = belonging(votes, turned)
    assert abs(mine.p_value.mean().item() - 0.5) < 0.03
    assert abs((mine.p_value < 0.1).double().mean().item() - 0.1) < 0.03
    assert (strangers.p_value < 0.1).double().mean() > 0.6
    assert torch.allclose(mine.log_odds, verify(known, own)[1])
    assert torch.equal(belonging(Evidence.empty(1, 5), groups[:1]).p_value, torch.ones(1, dtype=torch.float64))
