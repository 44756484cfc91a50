"""The pages' examples run as they are written, in order, on data that packages ship."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlvae
from mlvae.cli import main

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.filterwarnings("ignore")
def test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("statsmodels", "pandas", "seglearn"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    seen = {}
    for number, block in enumerate(blocks("data.md", "python")):
        exec(compile(block, f"data.md, block {number}", "exec"), names)
        seen[number] = names["data"]
    repeated, mixed, pictures, motion, sites = seen.values()
    assert len(repeated) == 220 and repeated.num_groups == 11
    assert [feature.kind for feature in mixed.schema.features] == [
        "category",
        "binary",
        "number",
        "count",
        "number",
        "number",
    ]
    assert names["hidden"].sum() == len(names["filled"]) > 50
    assert pictures.shape == (16, 16) and pictures.num_groups == 10
    assert motion.shape == (6, 64) and motion.num_groups == 10 and len(motion) > 500
    assert sites.schema.covariates[0].name == "site" and names["in_b"].shape == (300, 6)


def test_bring_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("bring-your-own.md", "python")
    (commands,) = blocks("bring-your-own.md", "console")
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for line in commands.splitlines():
        main(shlex.split(line)[1:])
    assert (tmp_path / "codes.parquet").exists()
    import mine  # type: ignore[import-not-found]

    model = mlvae.load("runs/waves", network=mine.network, likelihood=mine.Cauchy)
    assert isinstance(model.likelihood, mine.Cauchy) and model.network == "own"
    with pytest.raises(mlvae.MLVAEError, match=r"likelihood and the network.*--likelihood package"):
        mlvae.load("runs/waves")


@pytest.mark.filterwarnings("ignore")
def test_sklearn() -> None:
    import sklearn

    names: dict[str, Any] = {}
    with sklearn.config_context():
        for number, block in enumerate(blocks("sklearn.md", "python")):
            exec(compile(block, f"sklearn.md, block {number}", "exec"), names)
    assert len(names["scores"]) == 2 and names["who"].gallery_.count().sum() == 400


def test_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Served by a process that never imports torch, to the numbers of PyTorch."""
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    for line in blocks("export.md", "console")[0].splitlines():
        main(shlex.split(line)[1:])
    (code,) = blocks("export.md", "python")
    x = np.random.default_rng(0).integers(0, 255, (5, 8, 8), dtype=np.uint8)
    np.save("pictures.npy", x)
    served = subprocess.run(
        [sys.executable, "-c", code, "served", "pictures.npy"], capture_output=True, text=True, check=True
    )
    answer = json.loads(served.stdout)
    model = mlvae.load("runs/export")
    expected = model.evidence(x, np.arange(5) % 2).posterior("content").mean
    np.testing.assert_allclose(answer["mean"], expected, atol=1e-4)
    assert answer["drawn"] == [2, 8, 8]


@pytest.mark.filterwarnings("ignore")
def test_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("tuning.md", "python")
    names: dict[str, Any] = {}
    exec(compile(code, "tuning.md", "exec"), names)
    assert len(names["study"].trials) == 3 and names["model"].level("content").dim == names["choice"].content_dim


@pytest.mark.parametrize(
    "page",
    [
        "sklearn.md",
        "data.md",
        "bring-your-own.md",
        "index.md",
        "start.md",
        "mathematics.md",
        "comparison.md",
        "tuning.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (DOCS / page).read_text(encoding="utf-8"))
    assert links and [link for link in links if not (DOCS / link).exists()] == []
