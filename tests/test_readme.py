"""The Python of the README and of the page on evidence runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
EVIDENCE = README.parent / "docs" / "evidence.md"


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


BLOCKS = blocks(README)


def test_the_readme_has_both_ways_to_train() -> None:
    assert [("mlvae.fit(" in block, "mlvae.elbo(" in block) for block in BLOCKS] == [(True, False), (False, True)]


@pytest.mark.parametrize("block", [*BLOCKS, *blocks(EVIDENCE)], ids=["fit", "loop", "evidence"])
def test_a_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shorter = block.replace("epochs=60", "epochs=2")  # what is shown takes half a minute
    exec(compile(shorter, str(README), "exec"), {})


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
