from __future__ import annotations

import functools
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import torch.nn.functional as F

import mlvae
from mlvae import MLVAE, GroupedData, Level
from mlvae.errors import DataError, ModelError
from mlvae.evaluate import Controls, bounds, diagnose, measures, table
from mlvae.evaluate.controls import digest_of, permuted, untrained
from mlvae.evaluate.few_shot import few_shot
from mlvae.evaluate.judge import Judge
from mlvae.evaluate.probes import cross_probe
from mlvae.evaluate.subject import Alone, Subject
from mlvae.evaluate.verification import verify
from mlvae.evidence import READOUTS, Evidence

SEEN = {
    "probe.content.k1.linear", "probe.content.k1.mlp", "probe.style.sample.mlp", "probe.style.sample.nats",
    "probe.style.mean.mlp", "k_curve.1.accuracy", "k_curve.5.variance", "verification.auc", "verification.eer",
    "open_set.auc",
}  # fmt: skip
UNSEEN = {
    "unseen.shots.1.accuracy", "unseen.shots.1.low", "unseen.shots.1.high", "unseen.shots.5.accuracy",
    "unseen.shots.5.low", "unseen.shots.5.high", "unseen.style.shots.5.accuracy", "verification.auc", "open_set.auc",
}  # fmt: skip
ALWAYS = {
    "elbo", "iwae", "kl.content", "kl.style", "active_units.content", "active_units.style", "reconstruction.mse",
    "reconstruction.mse_of_mean",
    "calibration.ratio", "calibration.coverage90", "calibration.k1.used", "generation.coverage", "generation.density",
    "swap.cross_member_mse",
}  # fmt: skip
PROTOCOL = Path(__file__).resolve().parents[1] / "docs" / "protocol.md"


def documented(key: str) -> bool:
    """Whether docs/protocol.md lists the key; <angle brackets> there stand for any word."""
    names = re.findall(r"`([\w.<>]+)`", PROTOCOL.read_text())
    return any(re.fullmatch(re.sub(r"<\w+>", r"[^.]+", name.replace(".", r"\.")), key) for name in names)


@pytest.fixture(scope="module")
def digits() -> GroupedData:
    return mlvae.read("digits").subset(slice(0, 700))


@pytest.fixture(scope="class")
def short():
    """Probes of at most 300 steps, a hasty judge, a loose bound: enough for what these tests ask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[cross_probe.__module__], "MOST_CHECKS", 12)
        patch.setattr(Judge, "fit", functools.partial(Judge.fit, steps=60))
        patch.setattr(bounds, "SAMPLES", 20)
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
        control = {f"control.untrained.{key}" for key in (SEEN if split == "observation" else UNSEEN)}
        if split == "observation":
            swaps = {
                f"swap.{what}" for what in ("content_of_donor", "content_of_style_giver", "reconstructed", "judge")
            }
            assert SEEN | control | ALWAYS | swaps | {"probe.chance"} <= set(metrics)
        else:
            more = {"unseen.way", "unseen.pixels.shots.1.accuracy", "amortisation.gap", "amortisation.seconds"}
            assert UNSEEN | control | ALWAYS | more <= set(metrics)
        assert all(type(value) is float and math.isfinite(value) for value in metrics.values())

    def test_every_number_is_explained(self, trained):
        metrics = trained[-1]
        own = {re.sub(r"^control\.\w+\.", "", key) for key in metrics}
        assert [key for key in sorted(own) if not documented(key)] == []

    def test_numbers_make_sense(self, trained):
        split, model, train, new, metrics = trained
        assert metrics["elbo"] < 0 < metrics["kl.content"]
        x = model.prepare(new.x)
        assert metrics["reconstruction.mse"] == pytest.approx(F.mse_loss(model.reconstruct(new.x), x).item(), rel=1e-4)
        mean = model.prepare(train.x).mean(0).expand_as(x)
        assert metrics["reconstruction.mse_of_mean"] == pytest.approx(F.mse_loss(mean, x).item(), rel=1e-4)
        if split == "observation":
            assert metrics["probe.content.k1.mlp"] > 0.5 > 3 * metrics["probe.chance"]
        else:
            assert metrics["unseen.way"] == 3
            assert metrics["unseen.shots.1.low"] <= metrics["unseen.shots.1.accuracy"] <= metrics["unseen.shots.1.high"]

    def test_without_controls_and_with_the_same_seed_the_same_numbers(self, trained):
        _, model, train, new, metrics = trained
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        again = mlvae.evaluate(model, train, new, controls=False)
        pooled = {key for key in metrics if re.match(r"k_curve\.(?!1\.)", key)}
        assert bool(pooled) == (trained[0] == "observation")
        left_out = {key for key in metrics if key.startswith("control.") or "seconds" in key} | pooled
        own = {key: value for key, value in metrics.items() if key not in left_out}
        assert {key: value for key, value in again.items() if "seconds" not in key} == own
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())

    def test_table_shows_a_number_beside_its_control(self, trained):
        split, _, _, _, metrics = trained
        lines = table(metrics).splitlines()
        key = "probe.style.sample.mlp" if split == "observation" else "unseen.shots.5.accuracy"
        line = next(line for line in lines if ("style samples, MLP" if split == "observation" else "5 shots") in line)
        assert f"{100 * metrics[key]:.1f}" in line and f"{100 * metrics['control.untrained.' + key]:.1f}" in line
        assert "untrained" in lines[0] and "plain VAE" not in lines[0]
        assert table({}).strip().startswith("model")

    def test_labels_of_the_new_data_are_never_pooled(self, digits):
        """Content of an untrained network names the group no better when the labels could have helped."""
        train, new = digits.split(by="observation", test=0.3, seed=0)
        shuffled = GroupedData.from_arrays(new.x, np.random.default_rng(0).permutation(new.groups), by=new.by)
        model = MLVAE.for_data(train, content_dim=4, style_dim=4, network="mlp", width=32)
        metrics = mlvae.evaluate(model, train, shuffled, controls=False)
        assert metrics["probe.content.k1.linear"] == pytest.approx(metrics["probe.chance"], abs=0.06)

    def test_plain_vae_is_asked_what_its_one_level_knows(self, digits):
        train, new = digits.subset(slice(0, 400)), digits.subset(slice(400, 500))
        model = MLVAE.for_data(train, content_dim=0, style_dim=4, network="mlp", width=16)
        metrics = mlvae.evaluate(model, train, new, controls=False)
        assert {"probe.content.k1.linear", "elbo", "iwae", "kl.style"} <= set(metrics)
        assert not any(key.startswith(("probe.style", "calibration", "amortisation")) for key in metrics)

    def test_labels_pooled_at_test_flatter_an_untrained_network(self, digits):
        """The cheat of published numbers: k > 1 by the test label. The protocol shows it where it happens."""
        train, new = digits.split(by="observation", test=0.4, seed=0)
        torch.manual_seed(0)
        model = MLVAE.for_data(train, content_dim=3, style_dim=2, network="mlp", width=32)
        metrics = mlvae.evaluate(model, train, new)
        alone, pooled = (metrics[f"control.untrained.k_curve.{k}.accuracy"] for k in (1, 10))
        assert pooled > alone + 0.2
        assert metrics["control.untrained.k_curve.1.accuracy"] == metrics["control.untrained.probe.content.k1.linear"]

    def test_factors_are_read_from_both_levels(self, digits):
        """A number and a label that each level is told of, or not."""
        train, new = digits.split(by="observation", test=0.3, seed=0)
        random = np.random.default_rng(0)
        parts = []
        for part in (train, new):
            more = {"height": random.normal(size=len(part)), "hand": random.integers(0, 2, len(part))}
            parts.append(GroupedData(part.x, {**part.columns, **more}, part.by, part.name))
        model = MLVAE.for_data(train, content_dim=2, style_dim=2, network="mlp", width=8)

        def sure(part, name):
            mean = torch.from_numpy(part.column(name)).double()[:, None].expand(-1, 2)
            return mlvae.Normal(mean, torch.full_like(mean, 1e4))

        codes = [{"content": sure(part, "height"), "style": sure(part, "hand")} for part in parts]
        subject = Subject(model, *parts, (parts[0].groups, parts[1].groups))
        subject.__dict__["before"], subject.__dict__["after"] = (Alone(each, {}) for each in codes)
        metrics = measures.factors(subject, [measures.factor(name, *parts) for name in ("height", "hand")])
        assert metrics["probe.content.height.k1.mlp.r2"] > 0.95 and metrics["probe.style.height.sample.mlp.r2"] < 0.1
        assert metrics["probe.content.height.k1.linear.r2"] > 0.95
        assert metrics["probe.style.hand.sample.mlp"] > 0.95 and metrics["probe.style.hand.sample.linear"] > 0.95
        assert metrics["probe.content.hand.k1.mlp"] < metrics["probe.hand.chance"] + 0.15
        assert all(documented(key) for key in metrics)

    def test_quick_asks_the_same_of_codes_and_nothing_of_pictures(self, trained):
        _, model, train, new, metrics = trained
        quick = mlvae.evaluate(model, train, new, quick=True)
        assert quick == {key: metrics[key] for key in quick}
        slow = {"iwae", "swap", "generation", "amortisation"}
        assert {key.split(".")[0] for key in set(metrics) - set(quick)} <= slow
        assert slow & {key.split(".")[0] for key in quick} == set()

    @pytest.mark.parametrize(("spec", "named"), [("n", False), ("n:label", True), ("few", True), ("few:number", False)])
    def test_a_factor_says_whether_it_holds_labels(self, spec, named):
        columns = {"n": np.arange(60) % 30, "few": np.arange(60) % 3, "g": np.arange(60) % 2}
        data = GroupedData.from_arrays(np.zeros((60, 2)), columns=columns, by="g")
        assert measures.factor(spec, data, data) == (spec.partition(":")[0], named)
        with pytest.raises(DataError, match="'n:label'"):
            measures.factor("n:lable", data, data)
        with pytest.raises(DataError, match="at least two values"):
            measures.factor("few", data, data.subset(data.column("few") == 1))
        with pytest.raises(DataError, match="or others"):
            measures.factor("n:label", data.subset(data.column("n") < 10), data.subset(data.column("n") > 20))

    def test_the_papers_own_model_is_measured_too(self, digits):
        train, new = digits.split(by="observation", test=0.3, seed=0)
        model = MLVAE.for_data(train, content_dim=3, style_dim=2, readout="product", network="mlp", width=16)
        metrics = mlvae.evaluate(model, train, new, quick=True)
        assert {"probe.content.k1.linear", "k_curve.5.accuracy", "elbo"} <= set(metrics)
        assert "verification.auc" not in metrics, "without a prior a Bayes factor has no meaning"

    @pytest.mark.parametrize("readout", [*READOUTS, "own"])
    def test_votes_are_what_heads_say_whatever_is_read_out_of_them(self, readout, digits, monkeypatch):
        monkeypatch.setitem(READOUTS, "own", lambda e: mlvae.Normal(e.information / (4 + e.precision), 4 + e.precision))
        data = digits.subset(slice(0, 50))
        model = MLVAE.for_data(data, content_dim=3, style_dim=2, readout=readout, network="mlp", width=16)
        part = Subject(model, data, data, (data.groups, data.groups)).after
        said = mlvae.inference.votes(model, data.x, data.groups)["content"][0]
        assert torch.equal(part.votes["content"].precision, said.precision)
        assert torch.equal(part.votes["content"].information, said.information)
        for name, votes in part.votes.items():
            assert torch.allclose(READOUTS[readout](votes).mean.float(), part.codes[name].mean, atol=1e-5)

    def test_unknown_factor(self, digits):
        with pytest.raises(DataError, match="colour"):
            mlvae.evaluate(MLVAE.for_data(digits, network="mlp", width=8), digits, digits, factors=["colour"])

    def test_few_members_leave_five_shots_out_and_single_ones_everything(self, digits):
        x = digits.x[:12]
        train = GroupedData.from_arrays(x, np.arange(12) // 4, by="g")
        model = MLVAE.for_data(train, content_dim=2, style_dim=2, network="mlp", width=8)
        three = GroupedData.from_arrays(x, 10 + np.arange(12) // 3, by="g")
        keys = set(mlvae.evaluate(model, train, three, controls=False))
        assert "unseen.shots.1.accuracy" in keys and not any("shots.5" in key for key in keys)
        one = GroupedData.from_arrays(x, [*range(10, 21), 10], by="g")
        assert not any(key.startswith("unseen") for key in mlvae.evaluate(model, train, one, controls=False))

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
            votes = {name: Evidence(code.precision, code.precision * code.mean, torch.ones(len(data)).long())
                     for name, code in codes.items()}  # fmt: skip
            return Alone(codes, votes)

        monkeypatch.setattr(sys.modules[Subject.__module__], "_alone", planted)
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

    def test_to_name_unseen_groups_the_training_part_is_not_encoded(self, digits, monkeypatch):
        train, new = digits.split(by="group", test=0.3, seed=0)
        model = MLVAE.for_data(train, content_dim=2, style_dim=2, network="mlp", width=8)
        subject = Subject(model, train, new, (train.groups, new.groups), seed=3)
        sample = measures._samples(subject, "style")[1]
        assert torch.equal(measures._sample_of_new(subject, "style"), sample)
        room = sys.modules[Subject.__module__]
        encoded, original = [], room._alone
        monkeypatch.setattr(room, "_alone", lambda model, data: encoded.append(data) or original(model, data))
        found = mlvae.evaluate(model, train, new, controls=False, seed=3)
        style = Evidence.votes(sample, torch.ones_like(sample))
        expected = few_shot(style, new.groups, shots=5, seed=3).accuracy
        assert found["unseen.style.shots.5.accuracy"] == expected
        assert [len(data) for data in encoded] == [len(new)]

    def test_what_chance_is_stands_beside_data_with_gaps(self, digits):
        x = torch.as_tensor(digits.x).float() / 16
        x[::7, 0, 0] = torch.nan
        holed = GroupedData.from_arrays(x, digits.groups, gaps=True)
        train, new = holed.subset(holed.groups < 7), holed.subset(holed.groups >= 7)
        model = MLVAE.for_data(train, content_dim=2, style_dim=2, network="mlp", width=8)
        metrics = mlvae.evaluate(model, train, new, controls=False, quick=True)
        assert metrics["unseen.way"] == 3 and "unseen.shots.1.accuracy" in metrics
        assert "unseen.pixels.shots.1.accuracy" not in metrics, "raw observations with gaps cannot be compared"

    def test_errors_are_of_the_values_that_are_observed(self, digits):
        x = torch.as_tensor(digits.x[:60]).float() / 16
        x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5] = torch.nan
        data = GroupedData.from_arrays(x, digits.groups[:60], gaps=True)
        model = MLVAE.for_data(data, content_dim=2, style_dim=2, network="mlp", width=8)
        metrics = bounds.bound(Subject(model, data, data, (data.groups, data.groups)))
        seen = model.prepare(x)
        error, blind = (part - seen for part in (model.reconstruct(x), seen.nanmean(0)))
        assert metrics["reconstruction.mse"] == pytest.approx(error.square().nanmean().item(), rel=1e-4)
        assert metrics["reconstruction.mse_of_mean"] == pytest.approx(blind.square().nanmean().item(), rel=1e-4)

    def test_of_categories_it_is_the_share_that_is_another(self):
        random = np.random.default_rng(0)
        words = np.array(["tea", "milk", "tea", "juice", None], object)[random.integers(0, 5, 90)]
        frame = {"word": words, "number": random.normal(size=90), "person": np.arange(90) % 9}
        data = mlvae.read(pandas.DataFrame(frame), "person", features="all")
        model = MLVAE.for_data(data, content_dim=2, style_dim=2, network="mlp", width=8)
        metrics = bounds.bound(Subject(model, data, data, (data.groups, data.groups)))
        seen, shown = model.prepare(data.x), model.reconstruct(data.x)
        known = ~seen.isnan()
        squares = (seen - torch.tensor([model.schema.features[0].categories.index("tea"), seen[:, 1].mean()]))[
            :, 1
        ].square()
        wrong = (shown[:, 0] != seen[:, 0])[known[:, 0]].sum() + (shown - seen)[:, 1].square().sum()
        assert metrics["reconstruction.mse"] == pytest.approx((wrong / known.sum()).item(), rel=1e-4)
        other = (words[known[:, 0].numpy()] != "tea").sum() + squares.sum()
        assert metrics["reconstruction.mse_of_mean"] == pytest.approx((other / known.sum()).item(), rel=1e-4)

    def test_other_shape(self, digits):
        model = MLVAE.for_data(digits, network="mlp", width=8)
        with pytest.raises(DataError, match="as `train`"):
            mlvae.evaluate(model, digits, GroupedData.from_arrays(np.zeros((4, 5)), [0, 0, 1, 1]))

    def test_something_else_than_data(self, digits):
        model = MLVAE.for_data(digits, network="mlp", width=8)
        for name, parts in (("train", (digits.x, digits)), ("new", (digits, None))):
            with pytest.raises(DataError, match=f"`{name}`; got"):
                mlvae.evaluate(model, *parts)

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
        batches = list(bounds._batches(ids))
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
    a, b, c = (dict(untrained(model, seed).named_parameters()) for seed in (0, 0, 1))
    name = "heads.content.weight"
    assert torch.equal(a[name], b[name])
    assert not torch.equal(a[name], c[name]) and not torch.equal(a[name], before[name])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_room_and_the_function_share_a_name():
    first = "from mlvae import evaluate; import mlvae.evaluate as room; print(callable(evaluate), room.table.__name__)"
    done = subprocess.run([sys.executable, "-c", first], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "table"], "whichever is asked for first"
    import mlvae.evaluate as room

    assert callable(mlvae.evaluate) and room.table is table
    with pytest.raises(TypeError, match="model"):
        mlvae.evaluate()


@pytest.mark.usefixtures("short")
class TestControls:
    @pytest.fixture
    def parts(self, digits):
        return digits.split(by="observation", test=0.3, seed=0)

    def test_are_trained_once_and_kept_with_their_numbers(self, parts, tmp_path, capsys):
        train, new = parts
        model = MLVAE.for_data(train, content_dim=3, style_dim=2, network="mlp", width=16)
        options = {"epochs": 1, "groups": 20, "device": "cpu"}
        controls = Controls(tmp_path, options)
        said = []
        first = mlvae.evaluate(model, train, new, controls=controls, say=said.append)
        assert said[0].startswith("Teaching a judge") and said[-1] == "The same of the control 'permuted'"
        assert "vae" in capsys.readouterr().out
        plain, place = controls.get("vae", model, train)
        assert [(level.dim, level.by) for level in plain.levels] == [(5, None)]
        written = json.loads(next(place.glob("metrics-*.json")).read_text())
        assert written["elbo"] == first["control.vae.elbo"] and "control.permuted.probe.content.k1.linear" in first
        ratio = first["swap.cross_member_mse"] / first["control.vae.reconstruction.mse"]
        assert first["swap.cross_member_mse_ratio"] == ratio
        again = mlvae.evaluate(model, train, new, controls=controls)
        assert capsys.readouterr().out == ""
        assert {k: v for k, v in again.items() if "seconds" not in k} == {
            k: v for k, v in first.items() if "seconds" not in k
        }

    def test_other_data_or_settings_are_another_control(self, parts, tmp_path):
        train, _ = parts
        model = MLVAE.for_data(train, content_dim=3, style_dim=2, network="mlp", width=16)
        quick = {"epochs": 1, "groups": 60, "device": "cpu"}
        places = {
            Controls(tmp_path, {**quick, **more}, progress=False).get(kind, model, data)[1]
            for kind, more, data in (
                ("vae", {}, train),
                ("permuted", {}, train),
                ("vae", {"lr": 1e-3}, train),
                ("vae", {}, train.subset(slice(0, 300))),
            )
        }
        assert len(places) == 4

    def test_another_default_is_another_control(self, parts, tmp_path, monkeypatch):
        """The objective that nobody named is what the control was trained with, all the same."""
        train, _ = parts
        model = MLVAE.for_data(train, content_dim=3, style_dim=2, network="mlp", width=16)
        controls = Controls(tmp_path, {"epochs": 1, "groups": 60, "device": "cpu"}, progress=False)
        places = {kind: controls.get(kind, model, train)[1] for kind in ("vae", "permuted")}
        monkeypatch.setattr("mlvae.asked.FEW", 5)
        assert controls.get("vae", model, train)[1] == places["vae"]
        assert controls.get("permuted", model, train)[1] != places["permuted"]

    def test_stopped_control_goes_on(self, parts, tmp_path):
        train, _ = parts
        model = MLVAE.for_data(train, content_dim=3, style_dim=2, network="mlp", width=16)
        controls = Controls(tmp_path, {"epochs": 1, "groups": 60, "device": "cpu"}, progress=False)
        before, place = controls.get("permuted", model, train)
        (place / "finished").unlink()
        after, same = controls.get("permuted", model, train)
        assert same == place
        assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))

    def test_permuted_groups_have_their_sizes_and_no_meaning(self, digits):
        shuffled = permuted(digits, 0)
        assert torch.equal(shuffled.x, digits.x)
        assert (np.bincount(shuffled.groups) == np.bincount(digits.groups)).all()
        assert (shuffled.groups == digits.groups).mean() < 0.2

    def test_mistakes(self, parts, tmp_path):
        train, _ = parts
        model = MLVAE.for_data(train, network="mlp", width=8, encoder=torch.nn.Sequential(torch.nn.Flatten()))
        with pytest.raises(ModelError, match="encoder"):
            Controls(tmp_path).get("vae", model, train)
        with pytest.raises(ModelError, match="'vea'"):
            Controls(tmp_path).get("vea", model, train)


GOOD = {
    "probe.content.k1.linear": 0.99, "control.untrained.probe.content.k1.linear": 0.6, "kl.style": 12.0,
    "probe.style.sample.mlp": 0.12, "probe.style.sample.nats": 0.02, "calibration.ratio": 1.1,
    "swap.content_of_style_giver": 0.01, "reconstruction.mse": 0.4, "reconstruction.mse_of_mean": 0.98,
}  # fmt: skip


class TestDiagnose:
    def test_nothing_to_say(self):
        assert diagnose(GOOD) == []
        assert diagnose({}) == []

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"probe.content.k1.linear": 0.61}, "Content collapsed"),
            ({"kl.style": 0.01}, "Style collapsed"),
            ({"probe.style.sample.nats": 0.8}, "Style knows the group"),
            ({"calibration.ratio": 4.0}, "over-confident"),
            ({"calibration.ratio": 0.3}, "under-confident"),
            ({"swap.content_of_style_giver": 0.4}, "style giver"),
            ({"reconstruction.mse": 1.22}, "1.22 from what their own codes show, squared, and 0.98 from the mean"),
            ({"probe.content.age.k1.mlp.r2": 0.6}, "'age'"),
            ({"probe.content.hat.k1.mlp": 0.9, "probe.hat.chance": 0.5}, "'hat'"),
        ],
    )
    def test_each_trouble_has_its_words(self, change, says):
        found = diagnose({**GOOD, **change})
        assert len(found) == 1 and says in found[0]

    def test_a_leak_to_unseen_groups(self):
        found = diagnose({"unseen.style.shots.5.accuracy": 0.3, "unseen.way": 20.0})
        assert len(found) == 1 and "Style knows" in found[0]

    def test_what_an_untrained_network_tells_as_well_is_no_confound(self):
        told = {**GOOD, "probe.content.hat.k1.mlp": 0.62, "probe.hat.chance": 0.5}
        assert "'hat'" in diagnose({**told, "control.untrained.probe.content.hat.k1.mlp": 0.55})[0]
        assert diagnose({**told, "control.untrained.probe.content.hat.k1.mlp": 0.66}) == []

    def test_leaks_between_several_levels(self):
        told = {
            "probe.style.sample.nats": 0.01, "probe.style.sample.mlp": 0.1, "probe.word.chance": 0.1,
            "probe.style.word.sample.nats": 2.2, "probe.style.word.sample.mlp": 0.99,
            "probe.speaker.word.k1.linear": 0.98, "control.untrained.probe.speaker.word.k1.linear": 0.2,
            "probe.word.word.k1.linear": 0.12, "control.untrained.probe.word.word.k1.linear": 0.12,
            "probe.speaker.speaker.k1.linear": 0.97, "probe.style.speaker.sample.nats": 0.02,
        }  # fmt: skip
        collapsed, leaks = diagnose(told, "speaker")
        assert "'word' names its own groups in 12%, an untrained network in 12%" in collapsed
        assert "'speaker' tells 'word' (98%, chance 10%); 'style' tells 'word' (99% from samples, 2.20 nats)" in leaks
        assert "`leakage`" in leaks and "--told" in leaks
        (leaks,) = diagnose({**told, "probe.word.word.k1.linear": 0.9, "probe.speaker.word.of_groups": 1.0}, "speaker")
        assert "'speaker' tells" not in leaks and "`leakage`" not in leaks, "a person may tell the country"
        few = {"probe.style.word.sample.nats": 0.05, "probe.speaker.word.k1.linear": 0.19}
        assert diagnose({**told, **few, "probe.word.word.k1.linear": 0.9}, "speaker") == []

    def test_leaks_between_several_levels_of_unseen_groups(self):
        told = {
            "unseen.speaker.way": 20.0, "unseen.speaker.speaker.shots.5.accuracy": 0.9,
            "unseen.speaker.word.shots.5.accuracy": 0.4, "unseen.speaker.style.shots.5.accuracy": 0.09,
            "unseen.speaker.pixels.shots.1.accuracy": 0.3,
        }  # fmt: skip
        (leak,) = diagnose(told, "speaker")
        assert "'word' tells 'speaker' (40% of new ones, chance 5%)" in leak and "pixels" not in leak
        assert diagnose({**told, "control.untrained.unseen.speaker.word.shots.5.accuracy": 0.45}, "speaker") == []


def test_a_table_in_other_units_reads_the_same(tmp_path, short):
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 12)
    x = random.normal(size=(24, 5))[groups] + 0.5 * random.normal(size=(288, 5))
    found = []
    for place, scale in enumerate([np.ones(5), np.array([1e3, 1e-3, 1, 40, 7])]):
        rows = [f"g{g}," + ",".join(map(str, row)) for g, row in zip(groups, x * scale, strict=True)]
        (tmp_path / f"{place}.csv").write_text("\n".join(["who,a,b,c,d,e", *rows]))
        data = mlvae.read(str(tmp_path / f"{place}.csv"), by="who")
        train, new = data.split(by="group", test=0.4)
        torch.manual_seed(0)
        model = MLVAE.for_data(train, content_dim=3, style_dim=2, width=16)
        found.append(mlvae.evaluate(model, train, new, seed=0))
    one, other = found
    for key in ("unseen.pixels.shots.1.accuracy", "generation.coverage", "swap.cross_member_mse", "elbo"):
        assert other[key] == pytest.approx(one[key], abs=0.02), key
    assert one["unseen.pixels.shots.1.accuracy"] > 0.5


def test_a_level_that_is_called_content_is_no_confounded_factor():
    told = {**GOOD, "probe.content.content.k1.mlp": 0.9, "probe.content.chance": 0.2}
    assert diagnose(told) == []


def test_words_that_only_new_rows_have_are_gaps_to_the_protocol(tmp_path):
    random, file = np.random.default_rng(0), tmp_path / "t.csv"
    words = ["red" if row % 2 else "blue" for row in range(120)]
    words[-1] = "rare"
    rows = [f"{row // 6},{words[row]},{random.normal():.3f},{int(row >= 90)}" for row in range(120)]
    file.write_text("\n".join(["who,colour,a,split", *rows]))
    train, new = mlvae.read(file, by="who").split(column="split")
    model = MLVAE.for_data(train, content_dim=2, style_dim=2, width=8)
    mlvae.fit(model, train, epochs=1, progress=False)
    found = mlvae.evaluate(model, train, new)
    assert "elbo" in found and not any(math.isnan(value) for value in found.values())


def test_what_cannot_be_made_anew_is_told(monkeypatch):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.turn = torch.nn.Parameter(torch.full((4, 4), 7.0))

        def forward(self, x):
            return x @ self.turn

    model = MLVAE((4,), [Level("content", 2, by="g"), Level("style", 2)], encoder=Own(), width=8)
    with pytest.warns(UserWarning, match=r"the trained weights of encoder \(Own\)"):
        untrained(model)
    Own._reset_parameters = lambda self: torch.nn.init.zeros_(self.turn)
    assert untrained(model).encoder.turn.abs().sum() == 0


def test_numbers_of_controls_are_of_all_labels_and_covariates():
    x, columns = torch.rand(40, 3), {"a": np.arange(40) % 4, "b": np.arange(40) % 5, "site": np.arange(40) % 2}
    data = GroupedData.from_arrays(x, columns=columns, by="a")
    other = GroupedData.from_arrays(x, columns={**columns, "b": np.arange(40) % 3}, by="a")
    assert digest_of(data, ["a"]) == digest_of(other, ["a"]) != digest_of(other, ["a", "b"])
    assert digest_of(data, [("a", "b")]) != digest_of(other, [("a", "b")])
    shuffled = permuted(data.with_covariates("site"))
    assert (shuffled.column("site") == columns["site"]).all() and (shuffled.column("b") != columns["b"]).any()


def test_labels_and_factors_that_are_missing_are_refused(digits):
    votes = Evidence.votes(torch.zeros(4, 1), torch.ones(4, 1))
    for ask in (few_shot, verify):
        with pytest.raises(DataError, match="without one"):
            ask(votes, [1, 1, float("nan"), 2])
    with pytest.raises(DataError, match="finite votes"):
        few_shot(Evidence.votes(torch.full((4, 1), torch.nan), torch.ones(4, 1)), [1, 1, 2, 2])
    hats = replace(digits, columns={**digits.columns, "hat": np.array(["a", None] * (len(digits) // 2))})
    with pytest.raises(DataError, match="factor 'hat' in every row"):
        measures.factor("hat", hats, hats)
