from __future__ import annotations

import importlib
import math
import sys

import numpy as np
import pytest
import torch

from mlvae import Evidence
from mlvae.errors import DataError
from mlvae.evaluate import few_shot, pixel_few_shot, probe
from mlvae.evaluate.few_shot import draw
from mlvae.evaluate.probes import cross_probe, cross_regress, regress
from oracles import log_z


def noisy_bits(n: int, flip: float) -> tuple[torch.Tensor, np.ndarray]:
    """Codes of which one of three dimensions is a label of two, wrong with probability ``flip``."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, n)
    codes = random.normal(size=(n, 3))
    codes[:, 1] = labels ^ (random.random(n) < flip)
    return torch.from_numpy(codes), labels


class TestProbe:
    @pytest.mark.parametrize("kind", ["linear", "mlp"])
    def test_recovers_the_information_that_was_put_in(self, kind):
        codes, labels = noisy_bits(12_000, 0.1)
        result = probe(codes[:8000], labels[:8000], codes[8000:], labels[8000:], kind)
        information = math.log(2) + 0.1 * math.log(0.1) + 0.9 * math.log(0.9)
        assert result.nats == pytest.approx(information, abs=0.03)
        assert result.accuracy == pytest.approx(0.9, abs=0.015)

    @pytest.mark.parametrize("kind", ["linear", "mlp"])
    def test_independent_codes_hold_nothing(self, kind, generator):
        codes = torch.randn(8000, 4, generator=generator)
        labels = np.random.default_rng(1).choice(4, 8000, p=[0.4, 0.2, 0.2, 0.2])
        result = probe(codes[:5000], labels[:5000], codes[5000:], labels[5000:], kind)
        assert result.chance == pytest.approx(0.4, abs=0.03)
        assert result.accuracy == pytest.approx(result.chance, abs=0.02)
        assert abs(result.nats) < 0.02

    def test_only_the_mlp_reads_what_is_not_linear(self, generator):
        codes = torch.randn(3000, 2, generator=generator)
        labels = (codes[:, 0] * codes[:, 1] > 0).long()
        parts = codes[:2000], labels[:2000], codes[2000:], labels[2000:]
        assert probe(*parts, "linear").accuracy < 0.6
        assert probe(*parts, "mlp").accuracy > 0.95

    def test_scale_shift_and_a_constant_dimension_change_nothing(self):
        codes, labels = noisy_bits(600, 0.2)
        moved = torch.cat([1e3 * codes + 50, torch.ones(600, 1)], 1)
        a = probe(codes[:400], labels[:400], codes[400:], labels[400:])
        b = probe(moved[:400], labels[:400], moved[400:], labels[400:])
        assert b.nats == pytest.approx(a.nats, abs=1e-4)

    def test_linear_is_the_logistic_regression_of_scikit_learn(self, generator):
        from sklearn.linear_model import LogisticRegression

        codes = torch.randn(600, 5, generator=generator)
        labels = (codes @ torch.randn(5, 4, generator=generator) + torch.randn(600, 4, generator=generator)).argmax(1)
        codes = (codes - codes[:400].mean(0)) / codes[:400].std(0, correction=0)
        theirs = LogisticRegression(tol=1e-8, max_iter=1000).fit(codes[:400].numpy(), labels[:400].numpy())
        names = np.full(200, theirs.predict_proba(codes[400:].numpy())[range(200), labels[400:]])
        shares = np.bincount(labels[400:]) / 200
        expected = -(shares * np.log(shares)).sum() + np.log(names).mean()
        ours = probe(codes[:400], labels[:400], codes[400:], labels[400:])
        assert ours.nats == pytest.approx(expected, abs=1e-3)

    def test_same_seed_same_numbers_and_the_global_generator_is_left_alone(self):
        codes, labels = noisy_bits(300, 0.2)
        before = torch.random.get_rng_state()
        results = [probe(codes[:200], labels[:200], codes[200:], labels[200:], "mlp", seed=3) for _ in range(2)]
        assert results[0] == results[1]
        assert torch.equal(before, torch.random.get_rng_state())

    def test_labels_of_any_type(self):
        codes, labels = noisy_bits(300, 0.0)
        words = np.array(["ann", "bob"])[labels]
        assert probe(codes[:200], words[:200], codes[200:], words[200:]).accuracy == 1.0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"train_labels": np.arange(9) % 2}, "same rows"),
            ({"test_codes": torch.zeros(4, 7)}, "dimensions in both parts"),
            ({"test_codes": torch.full((4, 3), torch.nan)}, "finite test codes"),
            ({"test_labels": np.array([0, 1, 0, 5])}, "got 5"),
            ({"kind": "linaer"}, "'linear'"),
            ({"train_codes": torch.zeros(0, 3), "train_labels": np.zeros(0)}, "Expected train codes"),
        ],
    )
    def test_bad_input(self, change, message):
        arguments = {
            "train_codes": torch.randn(10, 3),
            "train_labels": np.arange(10) % 2,
            "test_codes": torch.randn(4, 3),
            "test_labels": np.arange(4) % 2,
        }
        with pytest.raises(DataError, match=message):
            probe(**{**arguments, **change})

    def test_cross_probe_uses_both_halves_and_leaves_single_labels_out(self):
        codes, labels = noisy_bits(2000, 0.05)
        labels[0] = 7
        assert cross_probe(codes, labels, "linear").accuracy == pytest.approx(0.95, abs=0.02)
        assert cross_probe(codes[:2], np.array([0, 1])) is None

    def test_a_number_that_only_the_new_part_leaks_is_found_by_the_crossed_regression(self, generator):
        before, after = torch.randn(2, 1000, 2, generator=generator)
        values, noise = torch.randn(1000, generator=generator), torch.randn(1000, generator=generator)
        leaked = after[:, 0] + 0.5 * noise
        assert regress(before, values, after, leaked, "linear") < 0.02
        assert cross_regress(after, leaked, "linear") == pytest.approx(1 / 1.25, abs=0.03)


class TestFewShot:
    @pytest.fixture
    def votes(self, generator):
        mean = torch.randn(30, 3, generator=generator)
        precision = torch.rand(30, 3, generator=generator) * 4
        return Evidence.votes(mean, precision), np.repeat(list("abcdef"), [3, 4, 5, 6, 7, 5])

    @pytest.mark.parametrize(("way", "shots"), [(4, 1), (20, 2), (20, 4)])
    def test_equals_a_loop_in_float64(self, votes, way, shots):
        evidence, groups = votes
        drawn = draw(groups, way=way, shots=shots, episodes=40, seed=5)
        precision, information = evidence.precision.double().numpy(), evidence.information.double().numpy()
        right = []
        for support, query in zip(drawn.support.tolist(), drawn.query.tolist(), strict=True):
            for own, row in enumerate(query):
                factors = []
                for rows in support:
                    with_query = [*rows, row]
                    factors.append(
                        log_z(precision[with_query].sum(0), information[with_query].sum(0))
                        - log_z(precision[rows].sum(0), information[rows].sum(0))
                        - log_z(precision[row], information[row])
                    )
                right.append(int(np.argmax(factors)) == own)
        result = few_shot(evidence, groups, way=way, shots=shots, episodes=40, seed=5)
        assert result.accuracy == pytest.approx(np.mean(right), abs=1e-12)
        assert result.way == drawn.query.shape[1]

    def test_blocks_change_nothing(self, votes, monkeypatch):
        whole = few_shot(*votes, episodes=100)
        for limit in ("BLOCK", "SORTED"):
            monkeypatch.setattr(sys.modules[draw.__module__], limit, 1)
        assert few_shot(*votes, episodes=100) == whole

    def test_draws_members_of_the_groups_and_none_twice(self, votes):
        _, groups = votes
        drawn = draw(groups, way=3, shots=4, episodes=300)
        rows = torch.cat([drawn.support, drawn.query[..., None]], 2)
        assert all(len(set(episode.flatten().tolist())) == 15 for episode in rows)
        names = np.array(list("abcdef"))[drawn.groups]
        assert (groups[rows] == names[..., None]).all()
        assert "a" not in names and "b" not in names, "too small for four shots and a query"
        # 300 x 3 draws of one of four groups; then every member of the group of 7 is the query equally often
        assert np.bincount(drawn.query[drawn.groups == 4].numpy() - 18, minlength=7).min() > 10

    def test_separates_distinct_groups(self):
        groups = np.repeat(np.arange(25), 4)
        mean = torch.from_numpy(groups)[:, None] * 10.0
        result = few_shot(Evidence.votes(mean, torch.full_like(mean, 1e3)), groups)
        assert (result.accuracy, result.low, result.high, result.way) == (1.0, 1.0, 1.0, 20)
        assert pixel_few_shot(mean, groups).accuracy == 1.0

    def test_votes_that_say_nothing_are_at_chance(self, generator):
        groups = np.repeat(np.arange(40), 8)
        votes = Evidence.votes(torch.randn(320, 4, generator=generator), torch.ones(320, 4))
        result = few_shot(votes, groups, shots=5)
        assert result.low < 0.05 < result.high
        assert result.accuracy == pytest.approx(0.05, abs=0.02)
        same = Evidence.votes(torch.zeros(320, 4), torch.ones(320, 4))
        assert few_shot(same, groups).accuracy == pytest.approx(0.05), "ties are no luck"

    def test_pixels_are_the_nearest_mean_in_the_same_episodes(self, generator):
        x = torch.randint(0, 256, (30, 2, 3), generator=generator, dtype=torch.uint8)
        groups = np.arange(30) % 5
        drawn = draw(groups, way=4, shots=2, episodes=50, seed=1)
        right = []
        for support, query in zip(drawn.support, drawn.query, strict=True):
            means = [x[rows].double().mean(0) for rows in support]
            for own, row in enumerate(query):
                distances = [((x[row].double() - mean) ** 2).sum().item() for mean in means]
                right.append(int(np.argmin(distances)) == own)
        assert pixel_few_shot(x, groups, way=4, shots=2, episodes=50, seed=1).accuracy == pytest.approx(np.mean(right))

    @pytest.mark.parametrize(
        ("groups", "options", "message"),
        [
            ([0, 0, 1], {}, "4 observations"),
            ([0, 0, 0, 1], {}, "two groups of 2"),
            ([0, 0, 1, 1], {"way": 1}, "`way`"),
            ([0, 0, 1, 1], {"shots": 0}, "`shots`"),
        ],
    )
    def test_bad_input(self, groups, options, message):
        votes = Evidence.votes(torch.zeros(4, 2), torch.ones(4, 2))
        with pytest.raises(DataError, match=message):
            few_shot(votes, groups, **options)


def test_a_linear_probe_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    whole = probe(x[:300], y[:300], x[300:], y[300:])
    monkeypatch.setattr(importlib.import_module("mlvae.evaluate.probes"), "LOGITS", 100)
    parts = probe(x[:300], y[:300], x[300:], y[300:])
    assert parts.accuracy == whole.accuracy and parts.nats == pytest.approx(whole.nats, abs=1e-6)


def test_a_number_that_a_half_does_not_vary_in_is_not_read_by_halves() -> None:
    x, values = torch.randn(200, 2), np.zeros(200)
    values[7] = 1.0
    assert cross_regress(x, values) is None
