"""What accumulating evidence costs: one step with groups beside the same step without, interleaved, medians.

    python benchmarks/speed/accumulation.py [--threads 1] [--rounds 60] [--out result.json]

Both variants have the same networks, codes, optimiser and batch; the plain one gives every observation its own codes.
Penalties are off: this is the price of the sum alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mlvae import MLVAE, GroupBatch, Level, Objective, loss


def stepper(batch: GroupBatch, network: str) -> Callable[[], float]:
    """One optimiser step on a fresh model; returns its seconds."""
    torch.manual_seed(0)
    model = MLVAE((28, 28), [Level("content", 16, by="group"), Level("style", 16)], network=network)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        loss(model, batch, Objective.plain()).total.backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


def main() -> None:
    """Prints, and writes where asked, the ratio of medians for each network and number of groups."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--networks", nargs="+", default=["mlp", "conv"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.rand(256, 28, 28)
    results = {}
    for network in options.networks:
        variants = {"plain": stepper(GroupBatch(x), network)}
        for groups in (10, 64):
            ids = torch.arange(256) % groups
            variants[f"{groups} groups"] = stepper(GroupBatch.of(x, {"content": ids}), network)
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(options.rounds):
            for name, step in variants.items():
                seconds[name].append(step())
        medians = {name: statistics.median(values[options.rounds // 10 :]) for name, values in seconds.items()}
        results[network] = {
            name: {"milliseconds": 1e3 * median, "ratio": median / medians["plain"]} for name, median in medians.items()
        }
        for name, row in results[network].items():
            print(f"{network:5} {name:10} {row['milliseconds']:8.2f} ms  {row['ratio']:.3f}", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"threads": options.threads, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
