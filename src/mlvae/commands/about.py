"""Versions, device, and what a run holds."""

from __future__ import annotations


def info(run: str | None = None, network: str | None = None, likelihood: str | None = None) -> None:
    """Print versions and device, and what a run holds. Example: mlvae info runs/faces

    Args:
        run: the folder that training wrote
        network: package.module:name of the network that the run was trained with, where it is one's own
        likelihood: likewise of the likelihood
    """
    import platform

    import torch

    from mlvae import __version__

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    print(f"mlvae {__version__}, torch {torch.__version__}, Python {platform.python_version()}, device {device}")
    if run is not None:
        from mlvae.commands.common import load_run

        model = load_run(run, network, likelihood)
        shape = " x ".join(map(str, model.shape))
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{run}: {model.network} of width {model.width}, {parameters:,} parameters, observations {shape}")
        for level in model.levels:
            by = "each observation its own" if level.by is None else f"shared by {level.by}"
            given = f", given {', '.join(level.given)}" if level.given else ""
            print(f"  {level.name}: {level.dim} dimensions, {by}, {level.readout}{given}")
        print(f"  likelihood: {type(model.likelihood).__name__} {model.likelihood.settings()}")
        for what, features in (("feature", model.schema.features), ("covariate", model.schema.covariates)):
            for feature in features[:20]:
                words = f" ({', '.join(feature.categories[:6])})" if feature.categories else ""
                print(f"  {what} {feature.name}: {feature.kind}{words}")
            if len(features) > 20:
                print(f"  and {len(features) - 20:,} more {what}s")
