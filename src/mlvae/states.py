"""Training states on disk: the latest of a run, and those before it, to go back to where a disk lost one."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mlvae import atomic, checkpoint
from mlvae.errors import CheckpointError

KIND = "training state"

KEEP = 2
"""Training states that a run's folder holds where nothing else is asked for."""

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
"""What Adam keeps of each parameter."""

Saved = tuple[dict[str, Tensor], dict[str, Any]]


def write(folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], keep: int = KEEP) -> None:
    """Writes the latest state; ``keep - 1`` of those before it stay, under names of their own.

    At no instant is there no whole state under the latest's name.
    """
    latest = folder / checkpoint.TRAINING_FILE
    for age in range(keep - 1, 1, -1):
        if former(folder, age - 1).exists():
            os.replace(former(folder, age - 1), former(folder, age))
    if keep > 1 and latest.exists():
        with atomic.replacing(former(folder, 1)) as beside:
            shutil.copyfile(latest, beside)
    checkpoint.write(latest, tensors, {"kind": KIND, **about})


def former(folder: Path, age: int) -> Path:
    """Where the state of so many savings ago is kept."""
    return folder / f"training.{age}.safetensors"


def latest(folder: Path) -> Saved:
    """The last state of a run that is whole; warns where that is not the last one.

    Raises:
        CheckpointError: there is none, or none is whole.
    """
    candidates = sorted(folder.glob("training.*.safetensors"), key=lambda path: (len(path.name), path.name))
    damage: CheckpointError | None = None
    for path in (folder / checkpoint.TRAINING_FILE, *candidates):
        try:
            found = read(path)
        except CheckpointError as error:
            damage = damage or error
            continue
        if damage:
            warnings.warn(f"{damage} Going on from {path}, which was saved before it.", stacklevel=4)
        return found
    assert damage is not None
    raise damage


def read(path: Path) -> Saved:
    """One state: tensors, and the description that says where training stood.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    tensors, about = checkpoint.read(path, KIND)
    state = about.get("state")
    if not (
        isinstance(about.get("settings"), dict)
        and isinstance(about.get("model"), dict)
        and isinstance(state, dict)
        and all(isinstance(state.get(name), int) and state[name] >= 0 for name in ("epoch", "batch", "seen"))
        and isinstance(state.get("best"), (int, float))
        and not math.isnan(state["best"])
    ):
        raise CheckpointError(f"Expected in {path} where training stood; it is damaged. Use an earlier copy.")
    return tensors, about


def moments(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[int, dict[str, Tensor]]:
    """What Adam kept of each parameter, by its place.

    Raises:
        ValueError: it is not of this model.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, place, key = name.split(".", 2)
            state.setdefault(int(place), {})[key] = value
    shapes = {place: parameter.shape for place, parameter in enumerate(model.parameters())}
    for number, kept in state.items():
        if kept.keys() != MOMENTS or any(v.ndim and v.shape != shapes.get(number) for v in kept.values()):
            raise ValueError(f"what the optimiser kept of parameter {number} is not of its shape")
    return state
