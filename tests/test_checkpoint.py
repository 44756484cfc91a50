"""Saved models come back equal, and damaged files say so."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import mlvae
from mlvae import atomic, checkpoint
from mlvae.errors import CheckpointError
from mlvae.likelihoods import Normal
from mlvae.model import MLVAE, Level

LEVELS = [Level("country", 2, by=("a", "b")), Level("person", 3, by="b", readout="product"), Level("style", 2)]


@pytest.mark.parametrize("likelihood", ["bernoulli", Normal(0.5), Normal("per_feature", (6,))], ids=str)
def test_a_model_comes_back_equal(tmp_path: Path, likelihood: str) -> None:
    model = MLVAE((6,), LEVELS, likelihood=likelihood, width=8).eval()
    again = mlvae.load(mlvae.save(model, tmp_path))
    assert again.levels == model.levels and not again.training
    x = torch.rand(5, 6)
    for name, code in model.codes(x).items():
        assert torch.equal(again.codes(x)[name].mean, code.mean)
    assert torch.equal(again.reconstruct(x), model.reconstruct(x))


def test_a_users_own_encoder_is_asked_for(tmp_path: Path) -> None:
    def own() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.Tanh())

    model = MLVAE((6,), LEVELS, encoder=own())
    mlvae.save(model, tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder=YourModule"):
        mlvae.load(tmp_path / "own.safetensors")
    again = mlvae.load(tmp_path / "own.safetensors", encoder=own())
    assert torch.equal(again.encoder[0].weight, model.encoder[0].weight)
    with pytest.raises(CheckpointError, match="differs"):
        mlvae.load(tmp_path / "own.safetensors", encoder=nn.Linear(6, 5))


def test_missing_truncated_foreign_and_other_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mlvae.save(MLVAE((6,), LEVELS, width=8), tmp_path)
    with pytest.raises(CheckpointError, match="there is none"):
        mlvae.load(tmp_path / "nowhere")
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            mlvae.load(tmp_path / "cut.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="no description by mlvae"):
        mlvae.load(tmp_path / "foreign.safetensors")
    monkeypatch.setattr(checkpoint, "SCHEMA", 99)
    with pytest.raises(CheckpointError, match="schema 99"):
        mlvae.load(path)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    atomic.write(path, b"old")

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device. Free some space"):
        atomic.write(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("name", "layout"), [("tiny", 1), ("gated", 2), ("residual", 2)])
def test_a_checkpoint_of_before_keeps_its_numbers(name: str, layout: int) -> None:
    model = mlvae.load(GOLDEN / f"{name}.safetensors")
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    assert model.layout == layout
    assert checkpoint.fingerprint(model) == expected["fingerprint"]  # else evidence of before would add no more
    model = model.double()
    x = torch.linspace(0, 1, 4 * math.prod(model.shape), dtype=torch.float64).reshape(4, *model.shape)
    evidence = model.evidence(x, ["a", "a", "b", "b"])
    torch.testing.assert_close(
        evidence.posterior("content").mean, torch.tensor(expected["content"], dtype=torch.float64), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        model.reconstruct(x), torch.tensor(expected["reconstruction"], dtype=torch.float64), rtol=1e-9, atol=1e-9
    )
