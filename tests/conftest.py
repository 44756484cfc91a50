from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once in a process, at the first product on a GPU

import numpy as np
import pytest
import torch

from mlvae.engine import engine

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests mean the CPU where they name no device, whatever is there."""

    def on(device: str, *rest: Any) -> Any:
        return engine("cpu" if device == "auto" else device, *rest)

    monkeypatch.setattr("mlvae.training.engine", on)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test's numbers do not depend on which tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training saves at the end of every epoch, however short."""
    monkeypatch.setattr("mlvae.training.SAVE_EVERY", 0.0)
