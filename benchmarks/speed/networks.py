"""Parameters of every network, and its images per second in a training step over the base network's.

    python benchmarks/speed/networks.py [--rounds 7] [--threads 1]

One whole step (forward, default objective, backward, Adam) on a batch of 250 in 50 groups; the networks take turns,
medians over rounds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from mlvae import MLVAE, GroupBatch, Level, Objective, loss

SHAPES = {"28 x 28": (28, 28), "64 x 64": (64, 64)}
NAMES = ("mlp-small", "mlp", "mlp-large", "conv-small", "conv", "conv-large")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    groups = {"content": torch.arange(50).repeat_interleave(5)}
    print("| images | network | parameters | images/s | over base |\n|---|---|---|---|---|")
    for text, shape in SHAPES.items():
        batch = GroupBatch.of(torch.rand(250, *shape), groups)
        models = {n: MLVAE(shape, [Level("content", 16, by="g"), Level("style", 16)], network=n) for n in NAMES}
        optimizers = {name: torch.optim.Adam(model.parameters(), fused=True) for name, model in models.items()}
        seconds: dict[str, list[float]] = {name: [] for name in NAMES}
        for turn in range(arguments.rounds + 1):
            for name, model in models.items():
                started = time.perf_counter()
                total = loss(model, batch, Objective(), progress=0.5).total
                optimizers[name].zero_grad()
                total.backward()
                optimizers[name].step()
                if turn:
                    seconds[name].append(time.perf_counter() - started)
        rate = {name: len(batch) / float(np.median(values)) for name, values in seconds.items()}
        for name, model in models.items():
            count = sum(p.numel() for p in model.parameters())
            base = rate[name] / rate[name.partition("-")[0]]
            print(f"| {text} | {name} | {count:,} | {rate[name]:,.0f} | {base:.2f} |", flush=True)


if __name__ == "__main__":
    main()
