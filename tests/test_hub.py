"""Folders for others: weights, description and card come back equal, and nothing here needs a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import mlvae
from mlvae import Level
from mlvae.errors import CheckpointError, MissingExtraError
from mlvae.hub import Card, from_pretrained, push_to_hub, save_pretrained

CARD = Card("Voices", data="Ten speakers.", metrics={"accuracy": 0.91}, people=True, license="apache-2.0")


def model() -> mlvae.MLVAE:
    return mlvae.MLVAE(
        (6,), [Level("content", 2, by=("a", "b")), Level("style", 2)], width=8, likelihood="normal"
    ).eval()


def test_a_folder_comes_back_equal_and_twice_the_same(tmp_path: Path) -> None:
    first = model()
    folder = save_pretrained(first, tmp_path / "one", CARD)
    again = from_pretrained(folder)
    x = torch.randn(5, 6)
    assert torch.equal(again.reconstruct(x), first.reconstruct(x)) and not again.training
    other = save_pretrained(again, tmp_path / "two", CARD)
    for file in folder.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes()
    about = json.loads((folder / "config.json").read_text())
    assert about["schema"] == mlvae.checkpoint.SCHEMA and about["fingerprint"] == mlvae.checkpoint.fingerprint(first)


def test_preprocessing_travels(tmp_path: Path) -> None:
    data = mlvae.GroupedData.from_arrays(
        torch.randn(20, 3), [0, 1] * 10, columns={"site": ["A", "B"] * 10}
    ).with_covariates("site")
    folder = save_pretrained(mlvae.MLVAE.for_data(data, content_dim=2, style_dim=2, width=8), tmp_path)
    assert from_pretrained(folder).schema.covariates[0].categories == ("A", "B")
    assert "site, a covariate: category" in (folder / "README.md").read_text()


def test_the_card_says_what_is_known_and_what_is_not(tmp_path: Path) -> None:
    text = (save_pretrained(model(), tmp_path, CARD) / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1]) == {
        "library_name": "mlvae",
        "tags": ["mlvae", "variational-autoencoder", "disentanglement"],
        "license": "apache-2.0",
    }
    for line in ("# Voices", "| content | 2 | a, b | product_with_prior |", "| accuracy | 0.91 |", "Ten speakers.",
                 "## Groups\n\nNot said.", "## Intended use\n\nNot said.", "biometric template"):  # fmt: skip
        assert line in text
    assert "biometric" not in (save_pretrained(model(), tmp_path) / "README.md").read_text()


def test_weights_of_another_model_are_noticed(tmp_path: Path) -> None:
    folder = save_pretrained(model(), tmp_path)
    mlvae.save(model(), folder)
    with pytest.raises(CheckpointError, match="replaced or changed"):
        from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"missing or damaged.*mlvae.load"):
        from_pretrained(folder)


def test_the_golden_file_serves_as_a_folder(tmp_path: Path) -> None:
    golden = mlvae.load(Path(__file__).parent / "golden" / "tiny.safetensors")
    assert from_pretrained(save_pretrained(golden, tmp_path)).levels == golden.levels


def test_names_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (tmp_path / "nowhere", "nowhere", "a/b/c", "./runs"):
        with pytest.raises(CheckpointError, match="'owner/name'"):
            from_pretrained(name)
    with pytest.raises(CheckpointError, match="`revision` with a repository only"):
        from_pretrained(save_pretrained(model(), tmp_path), revision="main")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"mlvae\[hub\]"):
        from_pretrained("someone/faces")


def test_a_repository_is_fetched_and_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in for the Hub: a folder."""
    stored = tmp_path / "hub"
    calls = []

    def upload_folder(repo_id: str, folder_path: str, commit_message: str) -> SimpleNamespace:
        Path(folder_path).rename(stored)
        Path(folder_path).mkdir()  # the caller clears it away
        return SimpleNamespace(commit_url=f"hub/{repo_id}")

    def snapshot_download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((name, revision, allow_patterns))
        return str(stored)

    def create_repo(name: str, private: bool, exist_ok: bool) -> None:
        calls.append((name, private, exist_ok))

    stand_in = SimpleNamespace(
        create_repo=create_repo, upload_folder=upload_folder, snapshot_download=snapshot_download
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    first = model()
    assert push_to_hub(first, "me/voices", CARD) == "hub/me/voices"
    again = from_pretrained("me/voices", revision="v1")
    assert mlvae.checkpoint.fingerprint(again) == mlvae.checkpoint.fingerprint(first)
    assert calls == [("me/voices", True, True), ("me/voices", "v1", ["model.safetensors", "config.json"])]
