"""The demonstration: all commands on the built-in avatars."""

from __future__ import annotations

import time
from pathlib import Path

from mlvae.commands.codes import draw, encode
from mlvae.commands.common import say
from mlvae.commands.measure import measure
from mlvae.commands.train import train


def demo(out: str = "demo", epochs: int = 30, seed: int = 0, device: str = "auto") -> None:
    """Train on the built-in avatars and draw identities never seen. Example: mlvae demo --out demo

    Args:
        out: the folder to write
        epochs: passes over the data
        seed: of everything random
        device: auto, cpu, cuda or mps
    """
    started = time.perf_counter()
    folder = Path(out)
    # Small batches make more of so few steps.
    train("avatars", out=out, epochs=epochs, groups=25, seed=seed, device=device, resume=True)
    if not (folder / "evidence.parquet").exists():  # else from a demonstration before
        encode(out, "avatars", out=str(folder / "codes.parquet"), evidence=str(folder / "evidence.parquet"))
    for kind in ("swap", "interpolate", "generate", "reconstruct"):
        draw(kind, out, "avatars", out=str(folder / f"{kind}.png"))
    measure(out, "avatars", quick=True, out=str(folder / "metrics.json"))
    say(
        f"Done in {time.perf_counter() - started:.0f} s. Open {folder / 'swap.png'}: identities never seen in training,"
    )
    say("who gives content down the side, who gives style along the top.")
