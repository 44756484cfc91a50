"""Versions, device, and what a run holds."""

from __future__ import annotations

PACKAGES = ("numpy", "lightning-fabric", "safetensors", "pyarrow", "scikit-learn", "jsonargparse", "pillow")


def info(run: str | None = None, network: str | None = None, likelihood: str | None = None) -> None:
    """Print versions and device, and what a run holds. Example: mlvae info runs/faces

    Args:
        run: the folder that training wrote
        network: package.module:name of the network that the run was trained with, where it is one's own
        likelihood: likewise of the likelihood
    """
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from mlvae import __version__

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    print(f"mlvae {__version__}, torch {torch.__version__}, Python {platform.python_version()}, device {device}")
    print(f"{platform.platform()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads")
    for name in PACKAGES:
        try:
            print(f"  {name} {version(name)}")
        except PackageNotFoundError:
            print(f"  {name} is not installed")
    print(f"  numbers: {'as expected on cpu' if (trouble := _numbers()) is None else trouble}")
    print(f"  this folder {'can' if os.access('.', os.W_OK) else 'CANNOT'} be written to: {os.getcwd()}")
    if run is not None:
        from mlvae.commands.common import load_run
        from mlvae.runs import unfinished

        model = load_run(run, network, likelihood)
        shape = " x ".join(map(str, model.shape))
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{run}: {model.network} of width {model.width}, {parameters:,} parameters, observations {shape}")
        if left := unfinished(run, model):
            print(f"  ! {left}")
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


def _numbers() -> str | None:
    """A few seconds' arithmetic whose answer is known, or what is wrong with it."""
    import torch

    from mlvae.batch import GroupBatch
    from mlvae.evidence import Evidence
    from mlvae.grouping import Grouping
    from mlvae.levels import Level
    from mlvae.model import MLVAE
    from mlvae.objective import elbo

    votes = Evidence.votes(torch.arange(6.0).double()[:, None], torch.full((6, 1), 2.0, dtype=torch.float64))
    added = votes.sum(Grouping.from_ids([0, 1, 0, 1, 0, 0])).information[:, 0].tolist()
    if added != [22.0, 8.0]:
        return f"WRONG: evidence adds to {added}, not [22.0, 8.0]"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MLVAE((16, 16), [Level("content", 2, by="g"), Level("style", 2)], width=8)
        batch = GroupBatch.of(torch.rand(6, 16, 16), {"content": [0, 0, 1, 1, 1, 2]})
        bound = elbo(model, batch).elbo
        bound.backward()
        if not all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None):
            return f"WRONG: a gradient of the bound {bound.item()} is not finite"
        outputs = []
        for dtype in (torch.float32, torch.float64):
            each = GroupBatch(batch.x.to(dtype), batch.groupings)
            latents = model.to(dtype).encode(each, draw="mean")
            outputs.append(model.decode({name: latent.sample for name, latent in latents.items()}).double())
    gap = (outputs[0] - outputs[1]).abs().max().item()
    return None if gap < 1e-3 else f"WRONG: float32 differs from float64 by {gap:.2g}"
