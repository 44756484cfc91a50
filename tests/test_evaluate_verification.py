from __future__ import annotations

import numpy as np
import pytest
import torch

from mlvae import Evidence
from mlvae.errors import DataError
from mlvae.evaluate.verification import (
    _auc,
    _eer,
    _interval,
    _log_bayes_factors,
    _reliability,
    draw_pairs,
    open_set,
    verify,
)
from mlvae.group_evidence import GroupEvidence
from oracles import log_z


def exact_votes(groups: int, members: int, dim: int = 2, seed: int = 0) -> tuple[Evidence, np.ndarray]:
    """x_i = c_g + noise, whose votes are the exact likelihood factors of c_g ~ N(0, 1)."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(groups), members)
    x = random.normal(size=(groups, dim))[labels] + random.normal(size=(len(labels), dim)) * 0.4
    x = torch.from_numpy(x)
    return Evidence.votes(x, torch.full_like(x, 1 / 0.4**2)), labels


def sharpened(votes: Evidence, by: float) -> Evidence:
    return Evidence(votes.precision * by, votes.information * by, votes.count)


@pytest.fixture
def scored():
    """Scores with many ties: dense ranks, and which are positive."""
    random = np.random.default_rng(0)
    positive = random.random(500) < 0.4
    scores = np.round(random.normal(size=500) + positive, 1)
    return scores, np.unique(scores, return_inverse=True)[1], positive


class TestCurves:
    def test_auc_is_the_one_of_scikit_learn_ties_included(self, scored):
        from sklearn.metrics import roc_auc_score

        scores, rank, positive = scored
        area = _auc(rank, positive.astype(float), (~positive).astype(float))
        assert area == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)

    def test_weights_count_pairs_so_many_times(self, scored):
        _, rank, positive = scored
        times = np.random.default_rng(1).integers(0, 4, len(rank))
        again = np.repeat(np.arange(len(rank)), times)
        expected = _auc(rank[again], positive[again].astype(float), (~positive[again]).astype(float))
        assert _auc(rank, times * positive, times * ~positive) == pytest.approx(expected, abs=1e-12)

    def test_equal_error_rate_lies_on_the_roc_of_scikit_learn(self, scored):
        from scipy.optimize import brentq
        from sklearn.metrics import roc_curve

        scores, rank, positive = scored
        false, accepted, _ = roc_curve(positive, scores, drop_intermediate=False)
        expected = brentq(lambda rate: 1 - rate - np.interp(rate, false, accepted), 0, 1)
        assert _eer(rank, positive.astype(float), (~positive).astype(float)) == pytest.approx(expected, abs=1e-9)
        assert 0.2 < expected < 0.4

    def test_reliability_of_known_odds(self):
        random = np.random.default_rng(0)
        probability = np.sort(random.random(50_000))
        same = (random.random(50_000) < probability).astype(float)
        rank = np.arange(50_000)
        right = _reliability(probability, rank, same)
        assert right.error < 0.01
        assert right.predicted == pytest.approx(np.arange(0.05, 1, 0.1), abs=0.01)
        assert right.observed == pytest.approx(right.predicted, abs=0.03)
        # A constant claim of 0.9 where half are the same, in whatever order: off by 0.4 in every bin.
        claim = _reliability(np.array([0.9]), np.zeros(1000, int), np.repeat([1.0, 0.0], 500))
        assert claim.error == pytest.approx(0.4)
        assert claim.observed == pytest.approx((0.5,) * 10)


class TestPairs:
    @pytest.mark.parametrize("shots", [1, 2])
    def test_half_are_the_same_and_no_observation_is_on_both_sides(self, shots):
        groups = np.random.default_rng(0).permutation(np.repeat(list("abcde"), [1, 4, 5, 9, 30]))
        drawn = draw_pairs(groups, shots=shots, pairs=2000)
        left, right = groups[drawn.left], groups[drawn.right]
        assert drawn.left.shape == drawn.right.shape == (2000, shots)
        assert (left == left[:, :1]).all() and (right == right[:, :1]).all()
        assert ((left[:, 0] == right[:, 0]) == drawn.same).all() and drawn.same.sum() == 1000
        assert all(len(set(row)) == 2 * shots for row in torch.cat([drawn.left, drawn.right], 1).tolist())
        assert "a" not in left and "a" not in right
        names = np.array(list("abcde"))[drawn.groups]
        assert (names == np.stack([left[:, 0], right[:, 0]], 1)).all()
        # groups are equally likely on both sides and in both kinds
        for kind in (drawn.same, ~drawn.same):
            for side in (left, right):
                assert np.unique(side[kind, 0], return_counts=True)[1] == pytest.approx([250] * 4, abs=60)

    def test_same_seed_same_pairs(self):
        groups = np.repeat(np.arange(9), 5)
        a, b, c = (draw_pairs(groups, pairs=100, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(a.left, b.left) and torch.equal(a.right, b.right) and not torch.equal(a.left, c.left)


class TestVerify:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch):
        monkeypatch.setitem(verify.__globals__, "BOOTSTRAPS", 300)

    @pytest.mark.parametrize("shots", [1, 2])
    def test_equals_a_loop_over_pairs(self, shots):
        random = np.random.default_rng(0)
        mean, precision = random.normal(size=(24, 3)), random.uniform(0, 4, size=(24, 3))
        groups = np.repeat(list("abcdef"), 4)
        drawn = draw_pairs(groups, shots=shots, pairs=60, seed=4)
        information = mean * precision
        scores = []
        for left, right in zip(drawn.left.tolist(), drawn.right.tolist(), strict=True):
            z = [log_z(precision[rows].sum(0), information[rows].sum(0)) for rows in (left + right, left, right)]
            scores.append(z[0] - z[1] - z[2])
        scores = np.array(scores)
        above = scores[drawn.same][:, None] - scores[~drawn.same][None]
        votes = Evidence.votes(torch.from_numpy(mean), torch.from_numpy(precision))
        result = verify(votes, groups, shots=shots, pairs=60, seed=4)
        assert result.auc == pytest.approx((above > 0).mean() + 0.5 * (above == 0).mean(), abs=1e-12)
        assert np.mean(result.reliability.predicted) == pytest.approx((1 / (1 + np.exp(-scores))).mean(), abs=1e-9)
        assert result.shots == shots

    def test_odds_of_the_right_model_are_reliable_and_of_a_wrong_one_are_not(self):
        votes, groups = exact_votes(1500, 4)
        right, over, under = (verify(sharpened(votes, by), groups) for by in (1.0, 8.0, 0.1))
        assert right.reliability.error < 0.02
        assert over.reliability.error > 0.06 and under.reliability.error > 0.06
        assert right.low < right.auc < right.high < right.low + 0.05
        assert 0.8 < right.auc < 0.99 and 0.05 < right.eer < 0.3
        more = verify(votes, groups, shots=2)
        assert more.auc > right.auc + 0.01 and more.eer < right.eer

    def test_votes_that_say_nothing_are_at_chance(self, generator):
        groups = np.repeat(np.arange(200), 4)
        noise = Evidence.votes(torch.randn(800, 3, generator=generator), torch.ones(800, 3))
        result = verify(noise, groups)
        assert result.low < 0.5 < result.high and result.eer == pytest.approx(0.5, abs=0.03)
        empty = verify(sharpened(noise, 0.0), groups)
        assert (empty.auc, empty.eer, empty.reliability.error) == (0.5, 0.5, 0.0), "ties are no luck"

    def test_interval_covers_what_other_groups_give(self):
        """A bootstrap over pairs would be 1.5 standard deviations wide; over groups it is 3.9 or, cautious, more."""
        aucs = [verify(*exact_votes(15, 10, seed=seed), pairs=2000).auc for seed in range(20)]
        results = [verify(*exact_votes(15, 10, seed=seed), pairs=2000) for seed in (97, 98, 99)]
        width = np.mean([result.high - result.low for result in results])
        assert 3 * np.std(aucs) < width < 8 * np.std(aucs)

    def test_interval_equals_pairs_repeated_as_often_as_their_groups_were_drawn(self, monkeypatch):
        from sklearn.metrics import roc_auc_score

        monkeypatch.setitem(_interval.__globals__, "BOOTSTRAPS", 25)
        drawn = draw_pairs(np.repeat(np.arange(6), 3), pairs=80)
        rank = np.random.default_rng(2).integers(0, 30, 80)
        areas = []
        for times in np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), 25):
            kept = [
                pair
                for pair, (a, b) in enumerate(drawn.groups)
                for _ in range(times[a] if a == b else times[a] * times[b])
            ]
            areas.append(roc_auc_score(drawn.same[kept], rank[kept]))
        assert _interval(rank, drawn) == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=1e-12)

    def test_two_groups_and_few_pairs(self):
        votes = Evidence.votes(torch.tensor([[-3.0], [-3.1], [3.0], [3.1]]), torch.full((4, 1), 10.0))
        result = verify(votes, ["a", "a", "b", "b"], pairs=4)
        assert (result.auc, result.low, result.high, result.eer) == (1.0, 1.0, 1.0, 0.0)
        assert len(result.reliability.predicted) == 4

    def test_same_seed_same_numbers(self):
        votes, groups = exact_votes(20, 4)
        a, b, c = (verify(votes, groups, pairs=500, seed=seed) for seed in (1, 1, 2))
        assert a == b != c

    @pytest.mark.parametrize(
        ("groups", "options", "message"),
        [
            ([0, 0, 1], {}, "4 observations"),
            ([0, 0, 0, 1], {}, "two groups of 2"),
            ([0, 0, 1, 1], {"shots": 2}, "two groups of 4"),
            ([0, 0, 1, 1], {"shots": 0}, "`shots`"),
            ([0, 0, 1, 1], {"pairs": 1}, "`pairs`"),
        ],
    )
    def test_bad_input(self, groups, options, message):
        with pytest.raises(DataError, match=message):
            verify(Evidence.votes(torch.zeros(4, 2), torch.ones(4, 2)), groups, **options)

    def test_votes_must_be_finite(self):
        with pytest.raises(DataError, match="finite"):
            verify(Evidence.votes(torch.full((4, 2), torch.nan), torch.ones(4, 2)), [0, 0, 1, 1])


class TestOpenSet:
    def test_score_is_the_odds_of_identify(self):
        votes, _ = exact_votes(9, 1)
        queries, gallery = votes[torch.arange(4)], votes[torch.arange(4, 9)]
        q, g = (GroupEvidence({"c": e}, {"c": "product_with_prior"}, {"c": None}) for e in (queries, gallery))
        factors = _log_bayes_factors(queries, gallery)
        none = q.identify(g, "c", new=0.5)[:, -1]
        torch.testing.assert_close(torch.sigmoid(-(factors.logsumexp(1) - np.log(5))), none)

    def test_tells_known_groups_from_new_ones(self):
        groups = np.repeat(np.arange(21), 3)
        mean = torch.from_numpy(groups)[:, None] * 10.0
        result = open_set(Evidence.votes(mean, torch.full_like(mean, 1e3)), groups, share=0.3)
        assert (result.auc, result.accuracy, result.known, result.new) == (1.0, 1.0, 6, 15)

    def test_more_support_is_better(self):
        votes, groups = exact_votes(60, 8, dim=6)
        one, five = open_set(votes, groups), open_set(votes, groups, shots=5)
        assert 0.6 < one.auc < five.auc and one.accuracy + 0.05 < five.accuracy < 1

    def test_votes_that_say_nothing_are_at_chance(self, generator):
        groups = np.repeat(np.arange(40), 4)
        noise = Evidence.votes(torch.randn(160, 3, generator=generator), torch.ones(160, 3))
        result = open_set(noise, groups, draws=40)
        assert result.auc == pytest.approx(0.5, abs=0.04)
        assert result.accuracy == pytest.approx(1 / 20, abs=0.03)
        empty = open_set(sharpened(noise, 0.0), groups)
        assert empty.auc == 0.5 and empty.accuracy == pytest.approx(1 / 20), "ties are no luck"

    def test_every_group_is_sometimes_in_the_gallery(self):
        """Ten groups that any query finds and ten that none does: a fixed half would give 1, or chance."""
        groups = np.repeat(np.arange(20), 4)
        mean = torch.from_numpy(np.where(groups < 10, groups, 0))[:, None] * 10.0
        precision = torch.from_numpy(np.where(groups < 10, 1e3, 0))[:, None]
        assert 0.4 < open_set(Evidence.votes(mean, precision), groups).accuracy < 0.75

    def test_query_is_not_in_the_support(self, generator):
        """A group of unlike members: only an observation found in its own support would be named."""
        groups = np.repeat(np.arange(30), 2)
        mean = torch.randn(60, 8, generator=generator) * 3
        result = open_set(Evidence.votes(mean, torch.full_like(mean, 1e3)), groups)
        assert result.accuracy < 0.2

    def test_same_seed_same_numbers_and_small_groups_take_no_part(self):
        votes, groups = exact_votes(12, 4)
        assert open_set(votes, groups, seed=1) == open_set(votes, groups, seed=1) != open_set(votes, groups, seed=2)
        groups[:4] = [100, 101, 102, 103]
        result = open_set(votes, groups)
        assert result.known + result.new == 11

    @pytest.mark.parametrize(
        ("groups", "options", "message"),
        [
            ([0, 0, 1], {}, "4 observations"),
            ([0, 0, 0, 1], {}, "two groups of 2"),
            ([0, 0, 1, 1], {"shots": 0}, "`shots`"),
            ([0, 0, 1, 1], {"draws": 0}, "`draws`"),
            ([0, 0, 1, 1], {"share": 1.0}, "`share`"),
        ],
    )
    def test_bad_input(self, groups, options, message):
        with pytest.raises(DataError, match=message):
            open_set(Evidence.votes(torch.zeros(4, 2), torch.ones(4, 2)), groups, **options)
