"""A run for programs without PyTorch."""

from __future__ import annotations

from mlvae.commands.common import load_run, say
from mlvae.errors import CheckpointError


def export(run: str, out: str | None = None, network: str | None = None, likelihood: str | None = None) -> None:
    """Write ONNX and torch.export graphs, checked. Example: mlvae export runs/faces --out faces-onnx

    Args:
        run: the folder that training wrote
        out: the folder to write; one that holds something is refused
        network: package.module:name of the network that the run was trained with, where it is one's own
        likelihood: likewise of the likelihood
    """
    if out is None:
        raise CheckpointError("Expected a folder to write; got none. Add --out NAME.")
    from mlvae.export import TOLERANCE
    from mlvae.export import export as write

    for name, gap in write(load_run(run, network, likelihood), out).items():
        say(f"  {name}: within {gap:.1g} of PyTorch")
    say(f"Wrote {out}: every graph as .onnx and .pt2, checked to {TOLERANCE}, and export.json")
