from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mlvae
from mlvae import MLVAE, Evidence, GroupedData, Level
from mlvae.errors import DataError
from mlvae.evaluate import few_shot, pixel_few_shot, probe, protocol, table
from mlvae.evaluate.few_shot import draw
from mlvae.evaluate.probes import cross_probe
from oracles import log_z

SEEN = {
    "probe.content.k1.linear", "probe.content.k1.mlp", "probe.style.sample.mlp", "probe.style.sample.nats",
    "probe.style.mean.mlp",
}  # fmt: skip
UNSEEN = {
    "unseen.shots.1.accuracy", "unseen.shots.1.low", "unseen.shots.1.high", "unseen.shots.5.accuracy",
    "unseen.shots.5.low", "unseen.shots.5.high", "unseen.style.shots.5.accuracy",
}  # fmt: skip
ALWAYS = {"elbo", "kl.content", "kl.style", "reconstruction.mse"}


def control(keys: set[str]) -> set[str]:
    return {f"control.untrained.{key}" for key in keys}


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
        monkeypatch.setattr(sys.modules[draw.__module__], "BLOCK", 1)
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


@pytest.fixture(scope="module")
def digits() -> GroupedData:
    return mlvae.read("digits").subset(slice(0, 700))


@pytest.fixture(scope="class")
def short():
    """Probes of at most 300 steps: enough for what these tests ask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[cross_probe.__module__], "MOST_CHECKS", 12)
        yield


@pytest.fixture(scope="class", params=["observation", "group"])
def trained(request, digits, short):
    torch.manual_seed(0)
    train, new = digits.split(by=request.param, test=0.3, seed=0)
    model = MLVAE.for_data(train, content_dim=4, style_dim=4, network="mlp", width=32)
    mlvae.fit(model, train, epochs=2, groups=20, progress=False, device="cpu")
    return request.param, model, train, new, mlvae.evaluate(model, train, new)


@pytest.mark.usefixtures("short")
class TestEvaluate:
    def test_keys(self, trained):
        split, _, _, _, metrics = trained
        if split == "observation":
            assert set(metrics) == SEEN | control(SEEN) | ALWAYS | {"probe.chance"}
        else:
            assert set(metrics) == UNSEEN | control(UNSEEN) | ALWAYS | {"unseen.way", "unseen.pixels.shots.1.accuracy"}
        assert all(type(value) is float and math.isfinite(value) for value in metrics.values())

    def test_numbers_make_sense(self, trained):
        split, model, _, new, metrics = trained
        assert metrics["elbo"] < 0 < metrics["kl.content"]
        x = model.prepare(new.x)
        assert metrics["reconstruction.mse"] == pytest.approx(F.mse_loss(model.reconstruct(new.x), x).item(), rel=1e-4)
        if split == "observation":
            assert metrics["probe.content.k1.mlp"] > 0.5 > 3 * metrics["probe.chance"]
        else:
            assert metrics["unseen.way"] == 3
            assert metrics["unseen.shots.1.low"] <= metrics["unseen.shots.1.accuracy"] <= metrics["unseen.shots.1.high"]

    def test_without_controls_and_with_the_same_seed_the_same_numbers(self, trained):
        _, model, train, new, metrics = trained
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        again = mlvae.evaluate(model, train, new, controls=False)
        assert again == {key: value for key, value in metrics.items() if not key.startswith("control.")}
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())

    def test_table_shows_every_number_beside_its_control(self, trained):
        split, _, _, _, metrics = trained
        lines = table(metrics).splitlines()
        assert len(lines) == 1 + (5 if split == "observation" else 3) + 2
        key = "probe.style.sample.mlp" if split == "observation" else "unseen.shots.5.accuracy"
        line = next(line for line in lines if ("style samples, MLP" if split == "observation" else "5 shots") in line)
        assert f"{100 * metrics[key]:.1f}" in line and f"{100 * metrics['control.untrained.' + key]:.1f}" in line
        assert table({}).strip().startswith("model")

    def test_labels_of_the_new_data_are_never_pooled(self, digits):
        """Content of an untrained network names the group no better when the labels could have helped."""
        train, new = digits.split(by="observation", test=0.3, seed=0)
        shuffled = GroupedData.from_arrays(new.x, np.random.default_rng(0).permutation(new.groups), by=new.by)
        model = MLVAE.for_data(train, content_dim=4, style_dim=4, network="mlp", width=32)
        metrics = mlvae.evaluate(model, train, shuffled, controls=False)
        assert metrics["probe.content.k1.linear"] == pytest.approx(metrics["probe.chance"], abs=0.06)

    def test_plain_vae_has_style_only(self, digits):
        train, new = digits.subset(slice(0, 400)), digits.subset(slice(400, 500))
        model = MLVAE.for_data(train, content_dim=0, style_dim=4, network="mlp", width=16)
        metrics = mlvae.evaluate(model, train, new, controls=False)
        style = {key for key in SEEN if "style" in key}
        assert set(metrics) == style | {"probe.chance", "elbo", "kl.style", "reconstruction.mse"}

    def test_few_members_leave_five_shots_out_and_single_ones_everything(self, digits):
        x = digits.x[:12]
        train = GroupedData.from_arrays(x, np.arange(12) // 4, by="g")
        model = MLVAE.for_data(train, content_dim=2, style_dim=2, network="mlp", width=8)
        three = GroupedData.from_arrays(x, 10 + np.arange(12) // 3, by="g")
        keys = set(mlvae.evaluate(model, train, three, controls=False))
        assert "unseen.shots.1.accuracy" in keys and not any("shots.5" in key for key in keys)
        one = GroupedData.from_arrays(x, [*range(10, 21), 10], by="g")
        assert set(mlvae.evaluate(model, train, one, controls=False)) == ALWAYS

    def test_a_leak_into_style_is_caught(self, digits, monkeypatch):
        """A style that carries the group in the new data only: a probe fitted on training styles misses it."""
        train, new = digits.split(by="observation", test=0.3, seed=0)
        model = MLVAE.for_data(train, content_dim=4, style_dim=4, network="mlp", width=32)

        def planted(model, data):
            codes = {level.name: mlvae.Normal.standard(len(data), level.dim) for level in model.levels}
            if data is new:
                labels = torch.from_numpy(data.groups.astype(np.int64))
                mean = 8.0 * (labels[:, None] >> torch.arange(4) & 1)
                codes["style"] = mlvae.Normal(mean, torch.ones(len(data), 4))
            return codes

        monkeypatch.setattr(protocol, "_codes", planted)
        metrics = mlvae.evaluate(model, train, new, controls=False)
        assert metrics["probe.style.sample.mlp"] > 0.9 and metrics["probe.style.sample.nats"] > 1.5
        assert metrics["probe.style.mean.mlp"] < 0.3, "the training probe alone would have missed it"

    def test_groups_that_training_saw_are_in_no_episode(self, digits):
        """Where `new` has both, only the groups that training never saw are named."""
        random = np.random.default_rng(0).random(len(digits)) < 0.5
        train, new = digits.subset(random & (digits.groups < 8)), digits.subset(~random | (digits.groups >= 8))
        model = MLVAE.for_data(train, content_dim=2, style_dim=2, network="mlp", width=8)
        mixed = mlvae.evaluate(model, train, new, controls=False)
        alone = mlvae.evaluate(model, train, new.subset(new.groups >= 8), controls=False)
        assert mixed["unseen.way"] == 2
        assert {k: v for k, v in mixed.items() if k.startswith("unseen")} == {
            k: v for k, v in alone.items() if k.startswith("unseen")
        }

    def test_other_shape(self, digits):
        model = MLVAE.for_data(digits, network="mlp", width=8)
        with pytest.raises(DataError, match="as `train`"):
            mlvae.evaluate(model, digits, GroupedData.from_arrays(np.zeros((4, 5)), [0, 0, 1, 1]))

    def test_columns_in_combination(self, digits):
        columns = {"a": np.arange(80) % 2, "b": np.arange(80) // 2 % 2}
        data = GroupedData.from_arrays(digits.x[:80], columns=columns, by="a")
        model = MLVAE(data.shape, [Level("pair", 2, by=("a", "b")), Level("own", 2)], width=8)
        assert mlvae.evaluate(model, data, data, controls=False)["probe.chance"] == 0.25


@pytest.mark.usefixtures("short")
class TestBound:
    def test_exact_on_whole_groups(self, digits):
        """The KLs, which need no noise, by hand."""
        data = digits.subset(np.random.default_rng(0).permutation(len(digits))[:300])
        model = MLVAE.for_data(data, content_dim=3, style_dim=2, network="mlp", width=8)
        metrics = mlvae.evaluate(model, data, data, controls=False)
        with torch.no_grad():
            content = model.evidence(data.x, data.groups).posterior("content").kl().sum().item() / 300
            style = model.codes(data.x)["style"].kl().sum().item() / 300
        assert metrics["kl.content"] == pytest.approx(content, rel=1e-4)
        assert metrics["kl.style"] == pytest.approx(style, rel=1e-4)

    @pytest.mark.parametrize(("largest", "expected"), [(90, 90), (101, 20)])
    def test_large_groups_are_cut_and_no_part_is_divided(self, largest, expected):
        sizes = torch.tensor([largest, 50, 3, *[77] * 30])
        ids = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        ids = ids[torch.randperm(len(ids))]
        batches = list(protocol._batches(ids))
        rows = torch.cat([rows for rows, _ in batches])
        assert rows.sort().values.equal(torch.arange(len(ids)))
        assert len(batches) > 1 and max(len(rows) for rows, _ in batches) < 1100
        parts = [set(part.tolist()) for _, part in batches]
        assert len(set.union(*parts)) == sum(map(len, parts)), "a part is in two batches"
        for rows, part in batches:
            assert max(torch.bincount(part - part.min())) <= expected
            for name in part.unique():
                assert len(ids[rows][part == name].unique()) == 1


def test_untrained_control_is_fresh_seeded_and_leaves_the_model_alone():
    torch.manual_seed(7)
    model = MLVAE((4, 4), [Level("content", 2, by="g"), Level("style", 2)], network="mlp", width=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    a, b, c = (dict(protocol._untrained(model, seed).named_parameters()) for seed in (0, 0, 1))
    name = "heads.content.weight"
    assert torch.equal(a[name], b[name])
    assert not torch.equal(a[name], c[name]) and not torch.equal(a[name], before[name])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_room_and_the_function_share_a_name():
    import mlvae.evaluate as room

    assert callable(mlvae.evaluate) and room.table is table
    with pytest.raises(TypeError, match="model"):
        mlvae.evaluate()
