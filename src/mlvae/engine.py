"""What training computes on: Lightning Fabric on one device, or on all that `torchrun` started processes for."""

from __future__ import annotations

import os
from typing import Any

import torch

from mlvae.errors import TrainingError, nearest

PRECISIONS = ("32-true", "bf16-mixed", "64-true")


def engine(device: str, precision: Any, logger: Any = None) -> Any:
    """The engine, on one device; on all that `torchrun` started processes for, where it did.

    Raises:
        TrainingError: no such precision, or the device is not here or cannot compute in it.
    """
    if precision not in PRECISIONS:
        raise TrainingError(
            f"Expected precision {', '.join(map(repr, PRECISIONS[:-1]))} or {PRECISIONS[-1]!r}; got {precision!r}."
            f" {nearest(str(precision), PRECISIONS)}"
        )
    from lightning_fabric import Fabric
    from lightning_fabric.accelerators.cuda import CUDAAccelerator
    from lightning_fabric.accelerators.mps import MPSAccelerator

    if precision == "bf16-mixed":
        chosen = {
            "auto": "cuda" if CUDAAccelerator.is_available() else "mps" if MPSAccelerator.is_available() else "cpu"
        }
        kind = chosen.get(device, device)
        if kind == "mps" or (kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)):
            raise TrainingError(
                f"Expected a device that computes in bfloat16 for precision 'bf16-mixed'; {kind!r} here does not. Use"
                " 32-true."
            )
    here = {"auto": True, "cpu": True, "cuda": CUDAAccelerator.is_available(), "mps": MPSAccelerator.is_available()}
    if not here.get(device):
        known = ", ".join(name for name, there in here.items() if there)
        raise TrainingError(f"Expected a device that is here ({known}); got {device!r}. Leave it out, or take one.")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Fabric(accelerator=device, devices=1, precision=precision, loggers=logger)
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["WORLD_SIZE"]) // local
    fabric = Fabric(
        accelerator=device, strategy="ddp", devices=local, num_nodes=nodes, precision=precision, loggers=logger
    )
    fabric.launch()
    return fabric
