from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mlvae import MLVAE, GroupBatch, GroupedData, Level, Objective, elbo, loss
from mlvae.errors import DataError, MLVAEError, ModelError
from mlvae.evidence import READOUTS
from mlvae.likelihoods import Bernoulli
from mlvae.likelihoods import Normal as NormalLikelihood

TWO = [Level("content", 4, by="g"), Level("style", 3)]


def small(**options) -> MLVAE:
    return MLVAE((6,), TWO, **{"width": 16, "likelihood": "normal", **options})


def batch(n: int = 8) -> GroupBatch:
    return GroupBatch.of(torch.randn(n, 6), {"content": [0, 0, 0, 1, 1, 2, 3, 3][:n]})


@pytest.mark.parametrize("objective", [Objective(), Objective.plain()], ids=["default", "plain"])
@pytest.mark.parametrize("given", [(), ("content",)], ids=["style", "style-given-content"])
@pytest.mark.parametrize(("network", "shape"), [("mlp", (9,)), ("conv", (16, 16)), ("conv", (3, 33, 33))])
def test_every_parameter_gets_a_gradient(network, shape, given, objective) -> None:
    levels = [Level("content", 4, by="g"), Level("style", 3, given=given)]
    model = MLVAE(shape, levels, network=network, width=16, likelihood=NormalLikelihood("per_feature", shape))
    x = torch.randn(12, *shape)
    loss(model, GroupBatch.of(x, {"content": np.arange(12) // 3}), objective).total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    largest = {name: gradient.abs().max().item() for name, gradient in gradients.items()}
    assert np.isfinite(list(largest.values())).all()
    median = np.median(list(largest.values()))
    assert {name: g for name, g in largest.items() if g <= 1e-6 * median} == {}


@pytest.mark.parametrize("readout", sorted(READOUTS))
@pytest.mark.parametrize("layout", [1, 2, 3])
def test_what_a_head_says_of_an_own_level_is_its_posterior(layout, readout) -> None:
    levels = [Level("content", 4, by="g", readout=readout), Level("style", 3, readout=readout)]
    model = MLVAE((6,), levels, likelihood="normal", layout=layout).double()
    features = model.features(torch.randn(5, 6, dtype=torch.float64))
    for level in levels:
        said = model.said(level.name, features)[:, : level.dim]
        votes = model.votes(level.name, features)
        own = layout > 1 and level.name == "style" and readout == "product_with_prior"
        means = READOUTS[readout](votes).mean if own else votes.information / votes.precision
        torch.testing.assert_close(means, said, rtol=1e-12, atol=1e-12)


def test_a_layout_of_another_version_is_refused() -> None:
    with pytest.raises(ModelError, match="layout 1, 2 or 3; got 4"):
        small(layout=4)


@pytest.mark.parametrize("draw", ["group", "observation", "mean"])
@pytest.mark.parametrize("evidence", ["all", "held_out"])
def test_draws(draw, evidence) -> None:
    latent = small().encode(batch(), draw=draw, evidence=evidence)["content"]
    assert latent.votes.precision.shape == latent.sample.shape == (8, 4)
    assert latent.posterior.mean.shape == latent.evidence.precision.shape == (4, 4)
    together = torch.equal(latent.sample[0], latent.sample[1])
    assert together == (draw in ("group", "mean") and evidence == "all")


def test_all_evidence_at_the_mean_is_the_posterior_mean() -> None:
    latent = small().encode(batch(), draw="mean")["content"]
    assert torch.equal(latent.sample, latent.posterior.mean[batch().grouping("content").index])


def test_held_out_evidence_does_not_know_the_observation_itself() -> None:
    model, first = small(), batch()
    x = first.x.clone()
    x[0] += 3
    changed = GroupBatch(x, first.groupings, first.ids)
    before, after = (model.encode(b, draw="mean", evidence="held_out")["content"].sample for b in (first, changed))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
    x[5] += 3  # alone in its group, it has only its own vote
    alone = model.encode(changed, draw="mean", evidence="held_out")["content"].sample
    assert not torch.allclose(before[5], alone[5])


def test_the_same_generator_gives_the_same_sample() -> None:
    model, data = small(), batch()
    first, second = (elbo(model, data, generator=torch.Generator().manual_seed(4)).elbo for _ in range(2))
    assert first == second
    assert elbo(model, data, generator=torch.Generator().manual_seed(5)).elbo != first


@pytest.mark.parametrize("value", [-1e4, 1e4])
@pytest.mark.parametrize("readout", ["product_with_prior", "product", "average"])
def test_wild_heads_stay_finite(value: float, readout: str) -> None:
    model = MLVAE((6,), [Level("content", 2, by="g", readout=readout), Level("style", 2)], likelihood="bernoulli")
    with torch.no_grad():
        for head in model.heads.values():
            head.bias.fill_(value)
    data = GroupBatch.of(torch.rand(8, 6), {"content": np.arange(8) // 4})
    result = loss(model, data, Objective())
    result.total.backward()
    assert torch.isfinite(result.total)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    votes = model.votes("content", model.encoder(data.x))
    assert (votes.precision >= 0.99e-4).all()
    assert (votes.precision <= 1.01e4).all()


def test_for_data_reads_shape_and_likelihood_from_the_data() -> None:
    pictures = GroupedData.from_arrays(np.zeros((4, 16, 16), np.uint8), [0, 0, 1, 1])
    model = MLVAE.for_data(pictures, content_dim=5, style_dim=2, style_given_content=True)
    assert [(level.name, level.dim) for level in model.levels] == [("content", 5), ("style", 2)]
    assert model.network == "conv"
    assert isinstance(model.likelihood, Bernoulli)
    assert model.level("style").given == ("content",)
    numbers = GroupedData.from_arrays(np.array([[-1.0], [2.0]]), [0, 0])
    assert isinstance(MLVAE.for_data(numbers).likelihood, NormalLikelihood)
    grey = MLVAE.for_data(GroupedData.from_arrays(np.full((4, 16, 16), 100, np.uint8), [0, 0, 1, 1]))
    assert isinstance(grey.likelihood, NormalLikelihood) and grey.likelihood.scale.item() == 0.25
    plain = MLVAE.for_data(numbers, content_dim=0)
    assert plain.group_levels == ()


def test_prepare_scales_bytes_and_refuses_other_shapes() -> None:
    model = small()
    assert model.prepare(np.full((1, 6), 255, np.uint8)).tolist() == [[1.0] * 6]
    assert model.prepare(torch.zeros(2, 6, dtype=torch.float64)).dtype == torch.float32
    with pytest.raises(DataError, match=r"shape \(N, 6\); got \(6,\)"):
        model.prepare(torch.zeros(6))


def test_check_names_the_row_that_is_not_finite() -> None:
    x = torch.zeros(3, 6)
    x[1, 2] = torch.nan
    with pytest.raises(DataError, match="row 1"):
        small().check(x)


def test_any_module_replaces_the_networks() -> None:
    model = MLVAE((2, 3), TWO, encoder=nn.Flatten(), decoder=nn.Sequential(nn.Linear(7, 6), nn.Unflatten(1, (2, 3))))
    assert model.decode({"content": torch.zeros(2, 4), "style": torch.zeros(2, 3)}).shape == (2, 2, 3)
    assert model.replaced == {"encoder": True, "decoder": True}
    with pytest.raises(ModelError, match="nn.Flatten"):
        MLVAE((2, 3), TWO, encoder=nn.Identity())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MLVAE((6,), []), "at least one level"),
        (lambda: MLVAE((6,), [Level("a", 1), Level("a", 1)]), "'a' twice"),
        (lambda: MLVAE((6,), [Level("a", 0)]), "dim=0"),
        (lambda: MLVAE((6,), [Level("a", 1, readout="prodct")]), "Did you mean 'product'"),
        (lambda: MLVAE((6,), [Level("s", 1, given=("c",)), Level("c", 1)]), "coarse to fine"),
        (lambda: MLVAE((6,), [Level("a.b", 1)]), "'a.b'"),
        (lambda: MLVAE((6,), [Level("keys", 1)]), "'keys'"),
        (lambda: MLVAE((6,), [Level("a", 1), Level("b", 1, given="a")]), r"Write \('a',\)"),
        (lambda: MLVAE((2, 3), TWO, decoder=nn.Linear(7, 6)), r"to \(2, \*\(2, 3\)\).*got \(2, 6\)"),
        (lambda: MLVAE((6,), TWO, likelihood=lambda: 1), "got function"),
        (lambda: small(network="cnov"), "Did you mean 'conv'"),
        (lambda: small(likelihood="bernouli"), "Did you mean 'bernoulli'"),
        (lambda: small().level("contnet"), "Did you mean 'content'"),
    ],
)
def test_errors_say_what_to_do(make, match: str) -> None:
    with pytest.raises(ModelError, match=match) as error:
        make()
    assert isinstance(error.value, MLVAEError)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.flatten(1), x


@pytest.mark.parametrize(
    ("networks", "match"),
    [
        ({"encoder": nn.Linear(64, 16)}, r"encoder to take \(2, 8, 8\).* it failed: RuntimeError: .*nn.Flatten"),
        ({"encoder": Pair()}, "encoder to return one tensor; got tuple"),
        ({"decoder": nn.Linear(3, 64)}, r"decoder to take \(2, 7\)"),
    ],
)
def test_networks_that_fail_are_told_what_they_were_tried_on(networks: dict[str, nn.Module], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        MLVAE((8, 8), TWO, **networks)


def test_lazy_layers_take_their_sizes_from_the_trial() -> None:
    model = MLVAE((8, 8), TWO, encoder=nn.Sequential(nn.Flatten(), nn.LazyLinear(16)))
    assert model.encoder[1].in_features == 64 and model.evidence(torch.rand(3, 8, 8)).count().tolist() == [3]


def test_batch_normalisation_is_warned_of() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8))
    with pytest.warns(UserWarning, match="leak into each other's votes"):
        MLVAE((4, 4), [Level("content", 2, by="g"), Level("style", 2)], encoder=encoder)


@pytest.mark.parametrize("x", [100 * torch.randn(50, 4), torch.randint(0, 256, (50, 4), dtype=torch.uint8)])
def test_a_normal_likelihood_starts_at_the_spread_of_the_data(x: torch.Tensor) -> None:
    data = GroupedData.from_arrays(x, torch.arange(50) // 5)
    model = MLVAE.for_data(data, likelihood="normal")
    prepared = model.prepare(x)
    spread = (prepared - prepared.mean(0)).square().mean().sqrt()
    assert model.likelihood.scale.item() == pytest.approx(spread.item(), rel=1e-3)


def test_heads_say_together_what_each_says_alone() -> None:
    levels = [Level("a", 3, by="a"), Level("b", 2, by="b", given=("a",)), Level("style", 4)]
    model = MLVAE((6,), levels, network="mlp").double()
    features = model.features(torch.randn(5, 6, dtype=torch.float64))
    together = model.said_alone(features)
    assert list(together) == ["a", "style"]
    for name, said in together.items():
        assert torch.allclose(said, model.said(name, features), atol=1e-12)


def test_one_gap_or_one_rare_category_among_many_rows_is_seen() -> None:
    """Likelihoods are made for a sample of the rows; what it missed once made training refuse the data."""
    x = np.random.default_rng(0).normal(size=(30_000, 3)).astype(np.float32)
    x[7, 1] = np.nan
    ids = np.arange(30_000) % 50
    assert MLVAE.for_data(GroupedData.from_arrays(x, ids, gaps=True), width=8).likelihood.missing
    codes = np.random.default_rng(0).integers(0, 3, (30_000, 4)).astype(np.float32)
    codes[11, 2] = 9
    made = MLVAE.for_data(GroupedData.from_arrays(codes, ids), likelihood="categorical", width=8)
    assert made.likelihood.categories == 10


def test_data_without_groups_have_no_content() -> None:
    data = GroupedData.from_arrays(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    with pytest.raises(DataError, match="Expected data with groups"):
        MLVAE.for_data(data, width=8)
    assert not MLVAE.for_data(data, content_dim=0, width=8).group_levels
