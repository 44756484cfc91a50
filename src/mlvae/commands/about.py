"""Versions, device, and what a run holds."""

from __future__ import annotations


def info(run: str | None = None) -> None:
    """Print versions and device, and what a run holds. Example: mlvae info runs/faces

    Args:
        run: the folder that training wrote
    """
    import platform

    import torch

    from mlvae import __version__

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    print(f"mlvae {__version__}, torch {torch.__version__}, Python {platform.python_version()}, device {device}")
    if run is not None:
        from mlvae.checkpoint import load

        model = load(run)
        shape = " x ".join(map(str, model.shape))
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{run}: {model.network} of width {model.width}, {parameters:,} parameters, observations {shape}")
        for level in model.levels:
            by = "each observation its own" if level.by is None else f"shared by {level.by}"
            given = f", given {', '.join(level.given)}" if level.given else ""
            print(f"  {level.name}: {level.dim} dimensions, {by}, {level.readout}{given}")
        print(f"  likelihood: {type(model.likelihood).__name__} {model.likelihood.settings()}")
