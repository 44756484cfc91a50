"""Graphs for other runtimes give PyTorch's numbers, for any number of observations and groups."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mlvae
from mlvae import Level, export
from mlvae.errors import CheckpointError, ExportError, MissingExtraError
from mlvae.evidence import READOUTS, product
from mlvae.likelihoods import Mixed
from mlvae.likelihoods import Normal as NormalLikelihood

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def table() -> mlvae.MLVAE:
    """Gaps, categories, a covariate, a shared level given another, every readout."""
    columns = {"site": ["A", "B"] * 10, "country": np.arange(20) // 10, "person": np.arange(20) // 5}
    data = mlvae.GroupedData.from_arrays(torch.rand(20, 3), columns=columns, by="country").with_covariates("site")
    levels = [
        Level("country", 2, by="country", readout="product"),
        Level("person", 3, by="person", readout="average"),
        Level("style", 2, given=("country", "person")),
    ]
    return mlvae.MLVAE.for_data(data, levels=levels, likelihood=Mixed(["normal", 3, "bernoulli"], True), width=8)


@pytest.mark.parametrize(
    ("shape", "network", "gaps"), [((8, 8), "conv", False), ((3, 8, 8), "conv", False), ((2, 16), "mlp", False),
    ((4,), "mlp", True)],
)  # fmt: skip
def test_covariates_beside_observations_of_every_shape(
    shape: tuple[int, ...], network: str, gaps: bool, tmp_path: Path
) -> None:
    x = torch.rand(20, *shape)
    if gaps:
        x[3, 1] = torch.nan
    columns = {"site": ["A", "B"] * 10, "who": np.arange(20) // 5}
    data = mlvae.GroupedData.from_arrays(x, columns=columns, by="who", gaps=gaps).with_covariates("site")
    model = mlvae.MLVAE.for_data(data, network=network, width=8, likelihood=NormalLikelihood(missing=gaps))
    assert max(export.export(model, tmp_path / "out").values()) < 1e-4
    known = model.covariates({"site": ["A", "B", "B"]}, 3)
    session = runtime.InferenceSession(str(tmp_path / "out" / "encoder.onnx"))
    assert known is not None
    seen = {"x": x[:3].numpy(), "covariates": known.numpy()}  # three rows, as any number
    assert session.run(["content_precision"], seen)[0].shape == (3, 16)


def test_every_kind_of_graph(tmp_path: Path) -> None:
    model = table()
    with torch.no_grad():
        model.calibration("person").temperature.fill_(3.0)
    before = torch.get_rng_state()
    gaps = export.export(model, tmp_path / "out")
    assert torch.equal(torch.get_rng_state(), before) and max(gaps.values()) < 1e-4
    names = ["encoder", "decoder", "posterior_country", "posterior_person", "votes_style", "posterior_style"]
    assert sorted(gaps) == sorted(names)
    files = {f"{name}.{ending}" for name in names for ending in ("onnx", "pt2")} | {"export.json"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == files and len(list(tmp_path.iterdir())) == 1
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["preprocessing"]["covariates"][0]["categories"] == ["A", "B"]
    assert "one-hot" in about["preprocessing"]["how"]["covariates"]
    assert about["fingerprint"] == mlvae.checkpoint.fingerprint(model)

    # From rows to a posterior outside of PyTorch, against the model's own words for it: tempered, and by group.
    x = torch.tensor([[0.1, 2.0, 1.0], [float("nan"), 1.0, 0.0], [0.3, 0.0, float("nan")]])
    covariates = {"site": ["A", "B", "A"]}
    session = runtime.InferenceSession(str(tmp_path / "out" / "encoder.onnx"))
    known = model.covariates(covariates, 3)
    assert known is not None
    votes = session.run(["person_precision", "person_information"], {"x": x.numpy(), "covariates": known.numpy()})
    session = runtime.InferenceSession(str(tmp_path / "out" / "posterior_person.onnx"))
    group = np.array([1, 0, 1])
    mean, precision = session.run(
        None, {"precision": votes[0], "information": votes[1], "group": group, "groups": np.arange(2)}
    )
    expected = model.evidence(x, {"country": group, "person": group}, covariates).posterior("person")
    np.testing.assert_allclose(mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(precision, expected.precision, rtol=1e-5)


def test_a_graph_with_other_numbers_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = export.graphs
    monkeypatch.setattr(export, "graphs", lambda model: {"decoder": every(model)["decoder"]})
    monkeypatch.setattr(export, "_difference", lambda a, b: 2e-4)
    with pytest.raises(ExportError, match="they differ by 0.0002"):
        export.export(mlvae.MLVAE((4,), [Level("content", 1, by="g"), Level("style", 1)], width=8), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_gives_no_numbers_is_not_kept(tmp_path: Path) -> None:
    class Nothing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / (x - x)

    graph = export.Graph(Nothing(), {"x": "N"}, ("y",), lambda n, _: (torch.zeros(n, 3),), oracle=lambda x: (x,))
    with pytest.raises(ExportError, match="they differ by inf"):
        export._export("bad", graph, tmp_path, runtime)


def test_what_has_no_value_is_no_vote_in_a_graph_either(tmp_path: Path) -> None:
    x = torch.rand(20, 3, 16)
    x[3, 1, 4] = torch.nan
    data = mlvae.GroupedData.from_arrays(x, np.arange(20) // 5, gaps=True)
    model = mlvae.MLVAE.for_data(data, network="series", width=8, likelihood="normal")
    export.export(model, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "export.json").read_text())["preprocessing"]
    assert about["gaps"] is True and "not observed" in about["how"]["gaps"]
    x[:2] = torch.nan
    session = runtime.InferenceSession(str(tmp_path / "out" / "encoder.onnx"))
    precision = session.run(["content_precision"], {"x": x.numpy()})[0]
    assert (precision[:2] == 0).all() and (precision[2:] > 0).all()
    assert not session.run(["content_information"], {"x": x.numpy()})[0][:2].any()
    assert (session.run(["style_precision"], {"x": x.numpy()})[0] > 0).all()


def test_a_readout_of_ones_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READOUTS, "own", product)
    model = mlvae.MLVAE((4,), [Level("content", 1, by="g", readout="own"), Level("style", 1)], width=8)
    with pytest.raises(ExportError, match="product_with_prior, product, average.; got 'own'"):
        export.export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_posterior_is_checked_against_the_readout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = export.graphs
    monkeypatch.setattr(export, "graphs", lambda model: {"posterior_content": every(model)["posterior_content"]})
    monkeypatch.setitem(READOUTS, "average", product)
    model = mlvae.MLVAE((4,), [Level("content", 1, by="g", readout="average"), Level("style", 1)], width=8)
    with pytest.raises(ExportError, match="Expected posterior_content to give PyTorch's numbers"):
        export.export(model, tmp_path / "out")


def test_a_network_that_cannot_be_traced_says_so(tmp_path: Path) -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    model = mlvae.MLVAE((4,), [Level("content", 1, by="g"), Level("style", 1)], width=8, encoder=Branches())
    with pytest.raises(ExportError, match="must not branch on values"):
        export.export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    model = mlvae.MLVAE((4,), [Level("style", 1)], width=8)
    with pytest.raises(CheckpointError, match="holds something"):
        export.export(model, tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"mlvae\[export\]"):
        export.export(model, tmp_path / "out")
