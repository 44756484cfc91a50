"""What a third level costs: a step with three levels beside one with two of the same total size, interleaved, medians.

    python benchmarks/speed/levels.py [--threads 1] [--rounds 60] [--compile] [--out result.json]

Both variants have the same encoder, decoder, codes in all, optimiser and batch; the one has 16 dimensions shared by one
grouping and 16 of each observation's own, the other 8, 8 and 16. The bound alone, and the default objective.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from clock import interleaved

from mlvae import MLVAE, GroupBatch, Level, Objective, loss
from mlvae.objective import Measure
from mlvae.steps import compiled

LEVELS = {
    "two": [Level("content", 16, by="a"), Level("style", 16)],
    "three": [Level("speaker", 8, by="a"), Level("word", 8, by="b"), Level("style", 16)],
}


def stepper(
    batch: GroupBatch, levels: list[Level], network: str, objective: Objective, measure: Measure
) -> Callable[[], None]:
    """One optimiser step on a fresh model."""
    torch.manual_seed(0)
    model = MLVAE(tuple(batch.x.shape[1:]), levels, network=network)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(model, batch, objective, measure=measure).total.backward()
        optimizer.step()

    return step


def main() -> None:
    """Prints, and writes where asked, the ratio of medians for each network and objective."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--compile", action="store_true", help="as `fit(compile=True)`; minutes of compiling first")
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--networks", nargs="+", default=["mlp", "conv"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.rand(256, options.size, options.size)
    place = torch.arange(256)
    a, b = place % 32, place // 32 * 4 + place % 4
    results: dict[str, dict[str, float]] = {}
    batches = {"two": GroupBatch.of(x, {"content": a}), "three": GroupBatch.of(x, {"speaker": a, "word": b})}
    for network, (name, objective) in itertools.product(
        options.networks, {"bound": Objective.plain(), "default": Objective()}.items()
    ):
        with compiled(options.compile) as measure:
            variants = {
                which: stepper(batch, LEVELS[which], network, objective, measure) for which, batch in batches.items()
            }
            two, three = interleaved(variants, options.rounds).values()
        results[f"{network}, {name}"] = {"two_ms": 1e3 * two, "three_ms": 1e3 * three, "ratio": three / two}
        print(f"{network:5} {name:8} {1e3 * two:8.2f} ms {1e3 * three:8.2f} ms  {three / two:.3f}", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"threads": options.threads, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
