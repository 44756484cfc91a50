from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlvae import MLVAE, Evidence, GroupBatch, Held, Level, Normal, Objective, Ramp, elbo, loss
from mlvae.asked import GROWING, HOLDING, LIGHTER, NAMING
from mlvae.errors import ModelError, TrainingError
from mlvae.evidence import READOUTS, product_with_prior
from mlvae.likelihoods import Likelihood
from mlvae.objective import Loss, measured
from mlvae.penalties import PENALTIES, Adversaries, dependence, told
from mlvae.steps import compiled
from oracles import (
    group_log_marginal,
    linear_gaussian,
    slow_dependence,
    slow_latents,
    slow_leakage,
    slow_log_likelihood,
    slow_misidentification,
    witness,
)

PERSON = [3, 0, 0, 1, 1, 1, 2, 2, 2, 2, 0]  # ragged, one alone, in no order
COUNTRY = [1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0]
WORD = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 3]

MODELS: dict[str, tuple[list[Level], dict[str, list[int]]]] = {
    "one": ([Level("style", 3)], {}),
    "two": ([Level("content", 3, by="person"), Level("style", 2)], {"content": PERSON}),
    "given": ([Level("content", 3, by="person"), Level("style", 2, given=("content",))], {"content": PERSON}),
    "product": (
        [Level("content", 3, by="person", readout="product"), Level("style", 2, readout="average")],
        {"content": PERSON},
    ),
    "nested": (
        [Level("country", 2, by="country"), Level("person", 3, by="person", given=("country",)), Level("style", 2)],
        {"country": COUNTRY, "person": PERSON},
    ),
    "crossed": (
        [Level("speaker", 2, by="person"), Level("word", 2, by="word"), Level("style", 2, given=("speaker", "word"))],
        {"speaker": PERSON, "word": WORD},
    ),
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[MLVAE, GroupBatch]:
    torch.manual_seed(0)
    levels, groups = MODELS[request.param]
    model = MLVAE((5,), levels, width=8).double()
    return model, GroupBatch.of(torch.rand(len(PERSON), 5, dtype=torch.float64), groups)


def noise(model: MLVAE, batch: GroupBatch, draw: str, seed: int) -> Mapping[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = {
        level.name: len(batch) if draw == "observation" else batch.grouping(level.name).num_groups
        for level in model.levels
    }
    return {
        level.name: torch.empty(rows[level.name], level.dim, dtype=torch.float64).normal_(generator=generator)
        for level in model.levels
    }


def test_elbo_is_a_slow_loop_over_groups(case: tuple[MLVAE, GroupBatch]) -> None:
    model, batch = case
    terms = elbo(model, batch, generator=torch.Generator().manual_seed(9))
    codes, kls = slow_latents(model, batch, "all", noise(model, batch, "group", 9))
    log_likelihood = slow_log_likelihood(model, batch.x, codes)
    assert torch.allclose(terms.log_likelihood, torch.stack(log_likelihood), rtol=1e-10)
    for name, kl in kls.items():
        assert torch.allclose(terms.kl[name], kl, rtol=1e-10)
    total = sum(log_likelihood) - sum(kl.sum() for kl in kls.values())
    groups = len(kls[model.levels[0].name])
    assert torch.allclose(terms.elbo, total / groups, rtol=1e-10)
    assert torch.allclose(terms.elbo_per_observation, total / len(batch), rtol=1e-10)


@pytest.mark.parametrize(("shape", "reduced"), [((11, 5), lambda nats: nats), ((), lambda nats: nats.sum())])
def test_a_likelihood_that_does_not_say_nats_of_each_observation_is_refused(shape, reduced) -> None:
    class Unsummed(Likelihood):
        def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
            return reduced(-((x - output) ** 2))

        def mean(self, output: Tensor) -> Tensor:
            return output

        def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
            return output

    model = MLVAE((5,), [Level("content", 3, by="person"), Level("style", 2)], width=8, likelihood=Unsummed())
    batch = GroupBatch.of(torch.rand(11, 5), {"content": PERSON})
    for ask in (lambda: elbo(model, batch), lambda: loss(model, batch, Objective())):
        with pytest.raises(
            ModelError, match=re.escape(f"of Unsummed to say nats of each observation, shape (11,); got {shape}")
        ):
            ask()


@pytest.mark.parametrize("evidence", ["all", "held_out"])
def test_codes_at_the_mean_are_a_slow_loop_over_groups(case: tuple[MLVAE, GroupBatch], evidence) -> None:
    model, batch = case
    latents = model.encode(batch, draw="mean", evidence=evidence)
    codes, kls = slow_latents(model, batch, evidence)
    for name, latent in latents.items():
        assert torch.allclose(latent.sample, codes[name], rtol=1e-9, atol=1e-12)
        assert torch.allclose(latent.posterior.kl(), kls[name], rtol=1e-9)


@pytest.mark.parametrize("evidence", ["all", "held_out"])
def test_loss_is_the_weighted_bound_and_the_penalties(case: tuple[MLVAE, GroupBatch], evidence) -> None:
    model, batch = case
    first = model.levels[0].name
    objective = Objective(evidence, "observation", {first: 0.3}, independence=7.0, leakage=4.0, identification=2.0)
    result = loss(model, batch, objective, generator=torch.Generator().manual_seed(2))
    codes, kls = slow_latents(model, batch, evidence, noise(model, batch, "observation", 2))
    expected = sum(slow_log_likelihood(model, batch.x, codes))
    expected = expected - sum((0.3 if name == first else 1.0) * kl.sum() for name, kl in kls.items())
    penalty = 0.0
    latents = model.encode(batch, draw="mean")
    for shared in batch.ids:
        votes = latents[shared].votes
        given = model.level(shared).given
        if given:  # the votes depend on the coarser sample that was drawn
            votes = model.votes(shared, model.encoder(batch.x), [codes[name] for name in given])
        index = batch.ids[shared].tolist()
        speakers = unique([witness(model, batch, shared, i) for i in range(len(batch))])
        arrays = (np.stack([part.detach().numpy()[rows].sum(0) for rows in speakers])
                  for part in (votes.precision, votes.information))  # fmt: skip
        named = [index[rows[0]] for rows in speakers]
        penalty += 2.0 * slow_misidentification(*arrays, named, named)
        style = model.level("style")
        own = model.votes("style", model.encoder(batch.x), [codes[name] for name in style.given])
        said = READOUTS[style.readout](own)
        parts = (said.mean.detach().numpy(), said.precision.detach().numpy())
        told_of = max(0.0, slow_dependence(*parts, index, objective.moments))
        penalty += 7.0 * told_of / (1 + told_of)
        if "word" in batch.ids:
            other = batch.ids["word" if shared == "speaker" else "speaker"].tolist()
            alone = READOUTS[model.level(shared).readout](votes).mean.detach().numpy()
            penalty += 4.0 * max(0.0, slow_leakage(alone, index, other))
    expected = (expected - len(batch) * penalty) / len(kls[first])
    assert result.total.item() == pytest.approx(-expected.item(), rel=1e-7)
    kinds = ["independence", "identification", *["leakage"] * ("word" in batch.ids)]
    assert set(result.penalties) == (set(kinds) if batch.ids else set())
    assert set(result.log()) == {"log_likelihood", *(f"kl_{name}" for name in kls), *result.penalties}


def unique(rows: list[list[int]]) -> list[list[int]]:
    return [list(row) for row in dict.fromkeys(map(tuple, rows))]


def test_plain_loss_is_minus_the_elbo(case: tuple[MLVAE, GroupBatch]) -> None:
    model, batch = case
    result = loss(model, batch, Objective.plain(), generator=torch.Generator().manual_seed(1))
    bound = elbo(model, batch, generator=torch.Generator().manual_seed(1)).elbo
    assert torch.allclose(-result.total, bound, rtol=1e-12)
    assert result.penalties == {}


def test_one_level_with_product_is_a_hand_written_vae() -> None:
    model = MLVAE((5,), [Level("z", 3, readout="product")], width=8).double()
    x = torch.rand(7, 5, dtype=torch.float64)
    result = loss(model, GroupBatch(x), Objective.plain(), generator=torch.Generator().manual_seed(6))
    ours = torch.autograd.grad(result.total, list(model.parameters()))

    out = model.heads["z"](model.encoder(x))
    mean, log_var = out[:, :3], -9.210340371976184 * torch.tanh(out[:, 3:] / 9.210340371976184)
    eps = torch.empty(7, 3, dtype=torch.float64).normal_(generator=torch.Generator().manual_seed(6))
    logits = model.decoder(mean + torch.exp(0.5 * log_var) * eps)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum()
    by_hand = (cross_entropy + kl) / 7
    assert torch.allclose(result.total, by_hand, rtol=1e-12)
    for a, b in zip(ours, torch.autograd.grad(by_hand, list(model.parameters())), strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-12)


def copies(x: np.ndarray, times: int) -> GroupBatch:
    ids = np.repeat(np.arange(times), len(x))
    return GroupBatch.of(torch.from_numpy(np.tile(x, (times, 1))), {"content": ids})


def groupwise(model: MLVAE, batch: GroupBatch, generator: torch.Generator) -> Tensor:
    terms = elbo(model, batch, generator=generator)
    grouping = batch.groupings["content"]
    return (grouping.sum(terms.log_likelihood - terms.kl["style"]) - terms.kl["content"]).detach()


@pytest.mark.parametrize("size", [1, 3, 10])
def test_elbo_is_tight_at_the_optimum_and_below_it_elsewhere(size: int, generator: torch.Generator) -> None:
    x = np.random.default_rng(size).normal(size=(size, 2)) * 1.5
    exact, batch = group_log_marginal(x), copies(x, 3000)
    at = groupwise(linear_gaussian(), batch, generator)
    assert abs(at.mean() - exact) < 5 * at.std() / 3000**0.5
    off = groupwise(linear_gaussian(spoil=0.4), batch, generator)
    assert off.mean() + 5 * off.std() / 3000**0.5 < exact
    mean_field = groupwise(linear_gaussian(given=False), batch, generator)
    assert mean_field.mean() + 5 * mean_field.std() / 3000**0.5 < exact


def test_scaled_subsampling_counts_the_group_once_and_all_else_n_over_k() -> None:
    levels, groups = MODELS["two"]
    model = MLVAE((5,), levels, width=8).double()
    plain = GroupBatch.of(torch.rand(len(PERSON), 5, dtype=torch.float64), groups)
    totals = torch.tensor([10, 30, 40, 100])[plain.ids["content"]]
    batch = GroupBatch(plain.x, plain.groupings, plain.ids, {"content": totals})
    objective = Objective("all", "group", {}, independence=0, identification=0, subsampling="scaled")
    result = loss(model, batch, objective, generator=torch.Generator().manual_seed(3))
    codes, kls = slow_latents(model, batch, "all", noise(model, batch, "group", 3))
    weights = [totals[i].item() / PERSON.count(PERSON[i]) for i in range(len(PERSON))]
    log_likelihood = slow_log_likelihood(model, batch.x, codes)
    expected = sum(w * (ll - kl) for w, ll, kl in zip(weights, log_likelihood, kls["style"], strict=True))
    assert torch.allclose(-result.total, (expected - kls["content"].sum()) / 4, rtol=1e-6)
    with pytest.raises(ModelError, match="`totals`"):
        loss(model, plain, objective)


def test_weights_move_in_a_straight_line() -> None:
    objective = Objective(kl_weight={"content": Ramp(8.0, 2.0, until=0.5)}, independence=0, identification=0)
    assert [objective.weight("content", at) for at in (0.0, 0.25, 0.5, 1.0)] == [8.0, 5.0, 2.0, 2.0]
    assert objective.weight("style", 0.3) == 1.0
    assert Ramp(1.0, 3.0, until=0.0).at(0.0) == 3.0
    doubling = Ramp(2.0, 32.0, since=0.2, until=0.6, doubling=True)
    assert [doubling.at(at) for at in (0.0, 0.2, 0.3, 0.4, 0.8)] == pytest.approx([2, 2, 4, 8, 32])
    for start, end in ((0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)):
        with pytest.raises(TrainingError, match="above 0 at both ends"):
            Ramp(start, end, doubling=True)
    assert [Ramp(1.0, 3.0, since=0.5).at(at) for at in (0.0, 0.5, 0.75, 1.0)] == [1.0, 1.0, 2.0, 3.0]
    model, batch = linear_gaussian(), copies(np.ones((3, 2)), 2)
    early, late = (
        loss(model, batch, objective, progress=p, generator=torch.Generator().manual_seed(0)) for p in (0.0, 1.0)
    )
    assert torch.allclose(early.total - late.total, 6 * early.terms.kl["content"].sum() / 2)


def test_penalty_weights_move_too() -> None:
    levels, groups = MODELS["two"]
    model = MLVAE((5,), levels, width=8)
    batch = GroupBatch.of(torch.rand(len(PERSON), 5), groups)
    objective = Objective(independence=Ramp(0.0, 100.0), identification=0.0)
    early, late = (
        loss(model, batch, objective, progress=p, generator=torch.Generator().manual_seed(0)) for p in (0.0, 1.0)
    )
    expected = 100 * late.penalties["independence"] * len(batch) / late.terms.groups
    assert torch.allclose(late.total - early.total, expected, rtol=1e-3)


def test_a_held_weight_counts_what_it_has_come_to() -> None:
    levels, groups = MODELS["two"]
    model = MLVAE((5,), levels, width=8)
    batch = GroupBatch.of(torch.rand(len(PERSON), 5), groups)

    def total(independence: float | Held, **held: float) -> Loss:
        objective = Objective(independence=independence, identification=0.0)
        weights = {name: torch.tensor(value) for name, value in held.items()}
        return loss(model, batch, objective, generator=torch.Generator().manual_seed(0), held=weights)

    assert torch.equal(total(Held(), style=7.0).total, total(7.0).total)
    assert torch.equal(total(Held()).total, total(Held().least.at(1.0)).total)
    result = total(Held())
    style = product_with_prior(model.encode(batch)["style"].votes)
    assert torch.equal(result.told["style"], told(style, batch.ids["content"])[1]) and list(result.told) == ["style"]
    assert not result.told["style"].requires_grad and not total(0.0).told


def test_only_independence_can_be_held() -> None:
    for weight in (Held(), {"word": Held()}):
        with pytest.raises(TrainingError, match="weight of leakage; only independence"):
            Objective(leakage=weight)  # type: ignore[arg-type]
    for end in (0.0, float("nan")):
        with pytest.raises(TrainingError, match="above 0 for a held weight"):
            Held(end=end)


def test_a_log_is_in_nats_per_observation() -> None:
    levels, groups = MODELS["two"]
    model = MLVAE((5,), levels, width=8)
    result = loss(model, GroupBatch.of(torch.rand(len(PERSON), 5), groups), Objective())
    log, terms = result.log(), result.terms
    assert log["log_likelihood"].item() == pytest.approx(terms.log_likelihood.mean().item())
    assert log["kl_content"].item() == pytest.approx(terms.kl["content"].sum().item() / len(PERSON))
    assert log["identification"] == result.penalties["identification"]
    assert not any(value.requires_grad for value in log.values())


def test_opposite_styles_of_one_group_are_no_gain() -> None:
    model = MLVAE((4,), [Level("content", 2, by="g"), Level("style", 2)], width=8)
    batch = GroupBatch.of(torch.rand(4, 4), {"content": [0, 0, 1, 1]})
    style = Normal(torch.tensor([[5.0, 5.0], [-5.0, -5.0], [5.0, -5.0], [-5.0, 5.0]]), torch.full((4, 2), 100.0))
    assert dependence(style, batch.ids["content"]) < -100
    latents = model.encode(batch)
    votes = Evidence.votes(style.mean, style.precision - 1)
    shown = {**latents, "style": replace(latents["style"], votes=votes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MLVAE, "encode", lambda *_, **__: shown)
        result = loss(model, batch, Objective())
    assert result.penalties["independence"] == 0


def test_means_far_out_pull_no_harder_than_others() -> None:
    """Fifth powers make their estimate huge; paid for in full, it once spoiled whole runs."""
    model = MLVAE((4,), [Level("content", 2, by="g"), Level("style", 2)], width=8)
    batch = GroupBatch.of(torch.rand(8, 4), {"content": [0, 0, 0, 0, 1, 1, 1, 1]})
    latents = model.encode(batch)

    def pull(far: float) -> float:
        mean = torch.full((8, 2), 0.3)
        mean[:2] = far
        mean.requires_grad_()
        votes = replace(latents["style"].votes, precision=torch.full((8, 2), 20.0), information=21 * mean)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                MLVAE, "encode", lambda *_, **__: {**latents, "style": replace(latents["style"], votes=votes)}
            )
            penalty = loss(model, batch, Objective()).penalties["independence"]
        assert penalty <= 1
        return torch.autograd.grad(penalty, mean)[0].norm().item()

    assert pull(8.0) < pull(1.0)


def test_weights_that_are_not_named_stay() -> None:
    changed = Objective().changed(independence=7.0, content=0.5)
    assert isinstance(changed.independence, Ramp) and changed.weight("content", 0) == 0.5
    assert changed.independence.end == 7.0 and changed.independence.at(0.5) == pytest.approx(0.007 * GROWING.at(0.5))
    assert Objective().changed(independence=0.0).independence == 0.0
    assert changed.identification == Objective().identification and changed.weight("style", 0) == 1.0
    assert Objective.plain().changed() == Objective.plain()
    assert Objective().changed(leakage=9.0).leakage == Ramp(0.0, 9.0, since=0.3)
    assert Objective().changed(leakage=Ramp(1.0, 2.0)).leakage == Ramp(1.0, 2.0)
    assert Objective().changed(independence=Held(end=0.1)).independence == Held(end=0.1)
    by_level = Objective().changed(independence={"style": 5.0}, leakage={"word": Ramp(0.0, 1.0)}, identification=2.0)
    assert by_level.independence == {"style": GROWING.ending(5.0)} and by_level.identification == 2.0
    assert by_level.leakage == {"word": Ramp(0.0, 1.0)}


@pytest.mark.parametrize(
    "objective",
    [
        Objective(),
        Objective.plain(),
        Objective().changed(content=0.7, independence=3),
        Objective(independence=Held(0.4, 0.1, Ramp(2.0, 3.0), 30.0)),
        Objective(independence={"word": Ramp(0.0, 2.0), "style": Held(end=0.1)}, apart={"word": ("speaker",)}),
    ],
)
def test_objectives_survive_json(objective: Objective) -> None:
    assert Objective.from_settings(json.loads(json.dumps(asdict(objective)))) == objective


def crossed() -> tuple[MLVAE, GroupBatch]:
    """Observations that show speaker and word, and a style head that sees it: there is something to punish."""
    levels, groups = MODELS["crossed"]
    x = torch.rand(len(PERSON), 5)
    x[:, 0], x[:, 1] = torch.tensor(PERSON) / 3, torch.tensor(WORD) / 3
    model = MLVAE((5,), levels, width=8)
    with torch.no_grad():
        model.heads["style"].weight.mul_(5)
    return model, GroupBatch.of(x, groups)


def test_penalties_have_weights_by_level_and_pairs_by_name() -> None:
    model, batch = crossed()

    def total(**options) -> Tensor:
        objective = Objective(
            "all", "group", {}, **{"independence": 0.0, "leakage": 0.0, "identification": 0.0, **options}
        )
        return loss(model, batch, objective, generator=torch.Generator().manual_seed(0)).total

    bare = total()
    for kind in ("independence", "leakage", "identification"):
        names = ["style"] if kind == "independence" else ["speaker", "word"]
        parts = [total(**{kind: {name: 3.0}}) - bare for name in names]
        assert all(abs(part) > 1e-4 for part in parts)
        assert torch.allclose(total(**{kind: 3.0}) - bare, sum(parts), rtol=1e-3)
        ramped = total(**{kind: {names[-1]: Ramp(0.0, 3.0)}}) - bare
        assert torch.allclose(ramped, parts[-1], rtol=1e-3)
    apart = {"speaker": (), "word": (), "style": ("word",)}
    only = total(independence=3.0, apart=apart) - bare
    both = total(independence={"style": 3.0}) - bare
    assert not torch.allclose(only, both, rtol=1e-2)
    rest = total(independence=3.0, apart={**apart, "style": ("speaker",)}) - bare
    assert torch.allclose(only + rest, both, rtol=1e-3)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Compiles as training does, but for the code, which takes minutes; an error where it is not one graph."""
    from torch._dynamo.utils import counters

    whole = torch.compile

    def trace(function: Any, dynamic: bool, options: Any) -> Any:
        return whole(function, dynamic=dynamic, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", trace)
    counters.clear()
    return lambda: counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    "kind", ["two", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("given", "nested")), "crossed"]
)
def test_a_loss_compiles_as_one_graph_for_any_sizes(kind: str, traced: Callable[[], int]) -> None:
    levels, columns = MODELS[kind]
    model, sizes = MLVAE((5,), levels, width=8), ((36, 6, 6), (40, 8, 5), (61, 9, 7))
    objective, beside = Objective.for_groups(9), Adversaries(levels, dict.fromkeys(columns, torch.full((9,), 5)))
    with compiled(True) as fast:
        for n, people, words in sizes:
            person, place = torch.arange(n) % people, torch.arange(n)
            groups = {"person": person, "country": person // 3, "word": place // people % words}
            names = {name: {"content": "person", "speaker": "person"}.get(name, name) for name in columns}
            batch = GroupBatch.of(torch.rand(n, 5), {name: groups[of] for name, of in names.items()})
            results = []
            for measure in (measured, fast):
                torch.manual_seed(n)
                model.zero_grad()
                beside.zero_grad()
                result = loss(model, batch, objective, progress=0.7, measure=measure, adversaries=beside)
                result.total.backward()
                learning = (*model.parameters(), *beside.parameters())
                results.append((result.total, *(parameter.grad for parameter in learning)))
            for one, other in zip(*results, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert traced() == 1


def test_where_torch_cannot_compile_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = crossed()
    whole = torch.compile

    def without_a_compiler(*_: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **_: whole(function, backend=without_a_compiler))
    with compiled(True) as fast, pytest.raises(TrainingError, match=r"no compiler.*Install a C\+\+ compiler"):
        loss(model, batch, Objective.plain(), measure=fast)


def test_a_mistaken_penalty_is_told_compiled_too(monkeypatch: pytest.MonkeyPatch, traced: Callable[[], int]) -> None:
    levels, groups = MODELS["two"]
    model, batch = MLVAE((5,), levels, width=8), GroupBatch.of(torch.rand(len(PERSON), 5), groups)
    monkeypatch.setitem(PENALTIES, "mine", lambda question: question.alone.mean @ question.alone.mean)
    with compiled(True) as fast, pytest.raises(ModelError, match=r"penalty 'mine'.*test_objective"):
        loss(model, batch, Objective(further={"mine": 1.0}), measure=fast)


class Casting(torch.nn.Linear):
    """Computes in its own type, whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def test_leakage_is_counted_in_the_type_of_codes() -> None:
    n = 60
    model = MLVAE((5,), MODELS["crossed"][0], encoder=Casting(5, 8), decoder=torch.nn.Linear(6, 5)).double()
    batch = GroupBatch.of(torch.rand(n, 5), {"speaker": torch.arange(n) % 5, "word": torch.arange(n) // 5 % 4})
    assert loss(model, batch, Objective()).penalties["leakage"].dtype == torch.float64


def test_less_leakage_than_by_chance_is_no_gain() -> None:
    model, batch = crossed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlvae.penalties.asking.leaks", lambda means, *_: means.sum() * 0 - 5)
        assert loss(model, batch, Objective()).penalties["leakage"] == 0


def test_nested_levels_are_not_kept_apart() -> None:
    levels, groups = MODELS["nested"]
    model, batch = MLVAE((5,), levels, width=8), GroupBatch.of(torch.rand(len(PERSON), 5), groups)
    assert batch.nested == {("person", "country")}
    value = loss(model, batch, Objective(independence=0.0, leakage={"country": 1.0, "person": 1.0}, identification=0.0))
    assert value.penalties == {}


def test_scaled_subsampling_counts_each_level_by_its_own_inclusion() -> None:
    model, plain = crossed()
    totals = {"speaker": torch.tensor([10, 30, 40, 100])[plain.ids["speaker"]],
              "word": torch.tensor([20, 50, 7, 9])[plain.ids["word"]]}  # fmt: skip
    batch = GroupBatch(plain.x, plain.groupings, plain.ids, totals)
    objective = Objective("all", "group", {}, 0, 0, 0, "scaled")
    terms = elbo(model, batch, generator=torch.Generator().manual_seed(3))
    result = loss(model, batch, objective, generator=torch.Generator().manual_seed(3))
    weights = [totals["speaker"][i].item() / PERSON.count(PERSON[i]) for i in range(len(PERSON))]
    expected = sum(w * (ll - kl) for w, ll, kl in zip(weights, terms.log_likelihood, terms.kl["style"], strict=True))
    expected = expected - terms.kl["speaker"].sum()
    for word, kl in enumerate(terms.kl["word"]):
        rows = [i for i in range(len(WORD)) if WORD[i] == word]
        mean = sum(weights[i] for i in rows) / len(rows)
        expected = expected - kl * mean * len(rows) / totals["word"][rows[0]].item()
    assert torch.allclose(-result.total, expected / 4, rtol=1e-4)


def test_shared_levels_have_the_kl_weight_of_content() -> None:
    levels, _ = MODELS["crossed"]
    over = Objective(kl_weight={"content": 0.3, "word": 0.7}).over(levels)
    assert [over.weight(name, 0) for name in ("speaker", "word", "style")] == [0.3, 0.7, 1.0]
    assert Objective.plain().over(levels) == Objective.plain()
    assert over.over(levels) == over


def test_own_levels_have_the_kl_weight_of_style() -> None:
    shared = Level("person", 2, by="person")
    weighed = Objective().changed(style=4.0, pose=2.0)
    over = weighed.over([shared, Level("look", 2), Level("pose", 2)])
    assert [over.weight(name, 0) for name in ("person", "look", "pose")] == [0.2, 4.0, 2.0]
    assert over.over([shared, Level("look", 2), Level("pose", 2)]) == over
    called = [shared, Level("style", 2), Level("pose", 2)]
    assert Objective().changed(style=4.0).over(called).weight("pose", 0) == 1.0, "as saved runs mean it"
    with pytest.raises(ModelError, match="level of this model to weigh; got 'style'"):
        Objective().changed(style=4.0).over([shared])


def test_independence_of_each_level_is_by_whether_it_has_an_adversary() -> None:
    few, levels = Objective.for_groups(20), [Level("person", 2, by="person"), Level("style", 2), Level("pose", 2)]
    own = few.changed(independence={"style": 500.0, "pose": LIGHTER}).over(levels)
    assert own.independence == {"style": GROWING.ending(500.0), "pose": LIGHTER}
    assert own.adversary == {"style": 0.0, "pose": NAMING}, "it takes the place of the one adversary"
    for adversary in ({"style": 0.0, "pose": 10.0}, {"pose": 10.0}):
        assert few.changed(adversary=adversary).over(levels).independence == {"style": HOLDING, "pose": LIGHTER}
    both = few.changed(independence={"style": 500.0, "pose": LIGHTER}, adversary={"style": 3.0, "pose": 0.0})
    assert both.independence == {"style": GROWING.ending(500.0), "pose": HOLDING}
    assert few.over(levels) == few.over(levels).over(levels) and few.over(levels).independence == LIGHTER
    assert few.changed(independence={"style": 5.0, "pose": 5.0}).adversary == 0.0
    mixed = few.changed(adversary={"style": 0.0, "pose": 10.0}).over(levels)
    assert Objective.from_settings(json.loads(json.dumps(mixed.settings()))) == mixed == mixed.over(levels)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"evidence": "heldout"}, "'all' or 'held_out'; got 'heldout'"),
        ({"draw": "groups"}, "'group' or 'observation'"),
        ({"subsampling": "scale"}, "'own' or 'scaled'"),
        ({"identification": -5.0}, "identification from 0 on; got -5"),
        ({"kl_weight": {"style": Ramp(1.0, -1.0)}}, "kl_weight from 0 on"),
        ({"moments": 0}, "at least 1"),
        ({"apart": {"style": "word"}}, "`apart` as tuples of names by a level's name, .*got {'style': 'word'}"),
        ({"apart": ("style", "word")}, "`apart` as tuples"),
    ],
)
def test_what_makes_no_sense_is_refused(change, match: str) -> None:
    with pytest.raises(TrainingError, match=match):
        Objective(**change)


@pytest.mark.parametrize(
    "objective",
    [
        Objective().changed(speakr=2.0), Objective(independence={"styl": 1.0}), Objective(identification={"wrd": 1.0}),
        Objective(apart={"style": ("wrd",)}), Objective(apart={"styl": ()}),
    ],
)  # fmt: skip
def test_levels_that_are_not_there_are_refused(objective: Objective) -> None:
    levels, _ = MODELS["crossed"]
    what = "`apart` to name levels of this model" if objective.apart else "a level of this model to weigh"
    with pytest.raises(ModelError, match=f"Expected {what}; got.*Did you mean"):
        objective.over(levels)
    with pytest.raises(ModelError, match="Did you mean"):
        loss(MLVAE((5,), levels, likelihood="normal", width=8), GroupBatch(torch.rand(4, 5)), objective)


@pytest.mark.parametrize("objective", [Objective(), Objective.plain()], ids=["default", "plain"])
def test_in_half_precision_only_the_networks_are_rounded(objective: Objective) -> None:
    torch.manual_seed(0)
    model = MLVAE((4, 4), [Level("content", 4, by="a"), Level("word", 3, by="b"), Level("style", 3)], width=16)
    batch = GroupBatch.of(torch.rand(24, 4, 4), {"content": torch.arange(24) % 4, "word": torch.arange(24) // 4 % 3})
    values = []
    for half in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            values.append(loss(model, batch, objective))
            latents = model.encode(batch)
    exact, mixed = values
    assert {t.dtype for t in (mixed.total, mixed.terms.log_likelihood, *mixed.terms.kl.values(),
                              *mixed.penalties.values())} == {torch.float32}  # fmt: skip
    assert {latent.evidence.precision.dtype for latent in latents.values()} == {torch.float32}
    assert mixed.total.item() == pytest.approx(exact.total.item(), rel=1e-2)
