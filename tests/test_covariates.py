"""What is known beside an observation goes to encoder and decoder, and need not be learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mlvae
from mlvae.batch import GroupBatch
from mlvae.bound import importance_weighted_bound
from mlvae.data import GroupedData
from mlvae.draw import DRAWINGS
from mlvae.errors import DataError, ModelError

OFFSET = torch.tensor([0.0, 4.0, -4.0])


def make(n: int = 360, shape: tuple[int, ...] = (6,), seed: int = 0) -> GroupedData:
    """Groups with a content, each observation in one of three sites that adds a number; and an age without use."""
    torch.manual_seed(seed)
    group = torch.arange(n) // 6
    site = torch.randint(0, 3, (n,))
    x = torch.randn(int(group.max()) + 1, *shape)[group] + 0.3 * torch.randn(n, *shape)
    x = x + OFFSET[site].reshape(-1, *[1] * len(shape))
    columns = {"site": np.array(["A", "B", "C"])[site], "age": np.linspace(20, 60, n)}
    return GroupedData.from_arrays(x, group, columns=columns).with_covariates("site", "age")


def model_for(data: GroupedData, **options: object) -> mlvae.MLVAE:
    torch.manual_seed(0)
    return mlvae.MLVAE.for_data(data, content_dim=3, style_dim=3, width=32, **options)


@pytest.fixture(scope="module")
def trained() -> tuple[mlvae.MLVAE, GroupedData]:
    data = make(1200)
    model = model_for(data)
    mlvae.fit(model, data, epochs=25, lr=5e-3, objective=mlvae.Objective.plain(), progress=False)
    return model, data


def test_another_site_moves_what_is_decoded_by_what_the_site_adds(trained) -> None:
    model, data = trained
    rows = slice(0, 300)
    known = {name: values[rows] for name, values in data.columns.items()}
    in_a, in_b = (
        model.reconstruct(data.x[rows], covariates=known, instead={"site": site}).mean() for site in ("A", "B")
    )
    assert 3.0 < float(in_b - in_a) < 5.0
    own = model.reconstruct(data.x[rows], covariates=known)
    assert (own - data.x[rows]).abs().mean() < 1.0


def test_codes_need_not_hold_the_site(trained) -> None:
    model, data = trained
    blind = GroupedData.from_arrays(data.x, data.groups)
    without = model_for(blind)
    mlvae.fit(without, blind, epochs=25, lr=5e-3, objective=mlvae.Objective.plain(), progress=False)
    site = data.codes("site")

    def between(mean: torch.Tensor) -> float:
        """The variance of means between sites, where the prior's is 1 a dimension."""
        return float(torch.stack([mean[site == s].mean(0) for s in range(3)]).var(0).sum())

    told = sum(between(code.mean) for code in model.codes(data.x, covariates=data.columns).values())
    untold = sum(between(code.mean) for code in without.codes(data.x).values())
    assert untold > 0.5 and told < 0.1 * untold


@pytest.mark.parametrize("shape", [(5,), (17, 16), (3, 16, 16)])
def test_every_way_through_the_model(shape: tuple[int, ...], tmp_path: Path) -> None:
    data = make(60, shape)
    model = model_for(data)
    again = mlvae.load(mlvae.save(model, tmp_path))
    assert again.schema == model.schema and model.schema.covariate_dim == 4
    known = again.covariates(data.columns, len(data))
    assert known.shape == (60, 4) and torch.allclose(known[:, 3].mean(), torch.zeros(()), atol=1e-5)
    evidence = again.evidence(data.x, data.groups, data.columns)
    assert len(evidence.groups["content"]) == 10
    batch = GroupBatch.of(again.prepare(data.x), {"content": data.codes("group")}, known)
    assert torch.isfinite(mlvae.elbo(again, batch).elbo)
    assert importance_weighted_bound(again, batch, content_samples=2, style_samples=3).shape == (10,)
    assert again.generate(2, covariates={"site": "B", "age": 30}).shape == (2, *shape)
    assert again.generate(2, covariates={"site": ["B", "Z"], "age": [30, np.nan]}).shape == (2, *shape)
    for draw in DRAWINGS.values():
        assert torch.isfinite(draw(again, data, 3, 0)).all()


def test_a_site_never_seen_is_no_site() -> None:
    data = make(60)
    rows = model_for(data).covariates({"site": ["A", "Z"], "age": [40.0, np.nan]}, 2)
    assert rows[0, :3].tolist() == [1, 0, 0] and rows[1].tolist() == [0, 0, 0, 0]


def test_what_is_missing_is_asked_for() -> None:
    data = make(60)
    model = model_for(data)
    with pytest.raises(DataError, match=r"'site'"):
        model.codes(data.x)
    with pytest.raises(DataError, match="'age'"):
        model.codes(data.x, covariates={"site": "A"})
    with pytest.raises(DataError, match=r"shape \(60,\)"):
        model.codes(data.x, covariates={"site": ["A"], "age": 3})
    with pytest.raises(DataError, match="covariates=data.columns"):
        mlvae.elbo(model, GroupBatch.of(data.x, {"content": data.codes("group")}))
    with pytest.raises(ModelError, match="'sit'"):
        model.reconstruct(data.x, covariates=data.columns, instead={"sit": "B"})


def test_evaluation_asks_what_covariates_allow() -> None:
    train, new = make(240).split(by="observation", test=0.3)
    metrics = mlvae.evaluate(model_for(train), train, new, controls=False)
    assert {"elbo", "iwae", "probe.content.k1.linear"} <= metrics.keys() and "swap.cross_member_mse" not in metrics


def test_a_missing_answer_is_neither_yes_nor_no_and_infinity_is_refused() -> None:
    smokes = np.array([0, 0, 0, 1] * 30)
    data = GroupedData.from_arrays(torch.rand(120, 3), np.arange(120) // 6, columns={"smokes": smokes})
    model = model_for(data.with_covariates("smokes"))
    rows = model.covariates({"smokes": [np.nan, 0.0, 1.0]}, 3).flatten().tolist()
    assert rows == [0.0, -0.25, 0.75]
    with pytest.raises(DataError, match="finite numbers as covariate 'smokes'; got infinity"):
        model.evidence(data.x[:2], covariates={"smokes": [np.inf, 0.0]})
