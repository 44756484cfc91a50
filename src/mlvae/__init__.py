"""mlvae: what a group shares, apart from what makes each observation its own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Evidence": "evidence",
    "EvidenceStore": "store.living",
    "Gallery": "gallery",
    "GroupBatch": "batch",
    "GroupEvidence": "group_evidence",
    "GroupSampler": "data",
    "GroupedData": "data",
    "Grouping": "grouping",
    "Held": "weights",
    "Level": "levels",
    "LevelSampler": "data",
    "MLVAE": "model",
    "MLVAEError": "errors",
    "Normal": "normal",
    "Objective": "asked",
    "Ramp": "weights",
    "elbo": "objective",
    "evaluate": "evaluate",
    "fit": "training",
    "load": "checkpoint",
    "loss": "objective",
    "populate": "temperature",
    "read": "data",
    "save": "checkpoint",
    "temper": "temperature",
}

if TYPE_CHECKING:
    from mlvae.asked import Objective
    from mlvae.batch import GroupBatch
    from mlvae.checkpoint import load, save
    from mlvae.data import GroupedData, GroupSampler, LevelSampler, read
    from mlvae.errors import MLVAEError
    from mlvae.evaluate import evaluate
    from mlvae.evidence import Evidence
    from mlvae.gallery import Gallery
    from mlvae.group_evidence import GroupEvidence
    from mlvae.grouping import Grouping
    from mlvae.levels import Level
    from mlvae.model import MLVAE
    from mlvae.normal import Normal
    from mlvae.objective import elbo, loss
    from mlvae.store.living import EvidenceStore
    from mlvae.temperature import populate, temper
    from mlvae.training import fit
    from mlvae.weights import Held, Ramp

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Loads a name's module when it is first asked for, so that `import mlvae` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mlvae' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mlvae.{_HOMES[name]}"), name)
    if _HOMES[name] != name:  # `mlvae.evaluate` stays the room, which can be called: it has more in it
        globals()[name] = value
    return value
