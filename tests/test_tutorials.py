"""Tutorials: committed as they ran, without errors or paths of a machine; the quick ones run again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import mlvae

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "docs" / "tutorials").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_is_kept_as_it_ran(path: Path) -> None:
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] in ("error", "stream") and "text" not in output]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    texts = ["".join(cell["source"]) for cell in code] + ["".join(o.get("text", "")) for o in outputs]
    assert not [text for text in texts if re.search(r"(?<!\w)/(work|tmp|root|home)/", text)]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert links and [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["streaming", "identification", "table", "own-network"])
def test_the_quick_ones_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code as it stands, but for two epochs a run."""
    for package in ("IPython", "matplotlib", "statsmodels", "duckdb"):
        pytest.importorskip(package)
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    whole = mlvae.fit
    monkeypatch.setattr(mlvae, "fit", lambda *args, **options: whole(*args, **{**options, "epochs": 2}))
    (path,) = (path for path in TUTORIALS if path.stem == name)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells(path, "code")):
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
