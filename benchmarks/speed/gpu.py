"""What a CUDA device makes of a step: images a second, share of the measured matrix rate, the gain of each option.

    python benchmarks/speed/gpu.py

The MNIST-sized MLP and the convolutional network, batches of 256 and 4,096 in tens, a plain VAE of as many
dimensions, the bound and the default objective; in float32, TF32, bf16 and compiled, in turns, medians. The floor is
the step's products at the device's measured matrix rate (of the same precision) and the optimiser's numbers at its
measured memory rate. Then whole training: `fit` on resident bytes, its last epoch.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from mlvae import MLVAE, GroupBatch, GroupedData, Level, Objective, fit, loss
from mlvae.objective import Measure, measured
from mlvae.steps import compiled

DEVICE = "cuda"
ROUNDS = 30
OBJECTIVES = {"plain VAE": Objective.plain(), "bound": Objective.plain(), "default": Objective()}
LEVELS = {
    "plain VAE": [Level("style", 32)],
    "bound": [Level("content", 16, by="group"), Level("style", 16)],
    "default": [Level("content", 16, by="group"), Level("style", 16)],
}
NETWORKS = {"mlp": 500, "conv": None, "conv-large": None}
IMAGES, EPOCHS = 60_000, 2


def medians(variants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each variant; the device is waited for."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(ROUNDS + 5):
        for name, run in variants.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            torch.cuda.synchronize()
            if turn >= 5:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def rates() -> dict[str, float]:
    """Floating operations a second by precision, and bytes a second of a copy."""
    result = {}
    for name, kind, tf32 in (("float32", torch.float32, False), ("tf32", torch.float32, True),
                             ("bf16", torch.bfloat16, False)):  # fmt: skip
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a = torch.rand(8192, 8192, device=DEVICE, dtype=kind)
        result[name] = 2 * 8192**3 / medians({name: lambda a=a: a @ a})[name]
    a, b = torch.rand(2, 2**28, device=DEVICE)
    return result | {"memory": 2 * 4 * 2**28 / medians({"copy": lambda: b.copy_(a)})["copy"]}


def stepper(
    network: str, name: str, size: int, half: bool, tf32: bool, measure: Measure = measured
) -> Callable[[], None]:
    """One optimiser step on the device."""
    torch.manual_seed(0)
    model = MLVAE((28, 28), LEVELS[name], network=network, width=NETWORKS[network]).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    groups = {level.name: torch.arange(size) // 10 for level in model.group_levels}
    batch = GroupBatch.of(torch.rand(size, 28, 28), groups).to(DEVICE)

    def step() -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
            total = loss(model, batch, OBJECTIVES[name], progress=0.5, measure=measure).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    step.parameters = sum(p.numel() for p in model.parameters())  # type: ignore[attr-defined]
    return step


def loops() -> None:
    """Images a second of whole training."""
    x = torch.randint(0, 256, (IMAGES, 28, 28), dtype=torch.uint8)
    data = GroupedData.from_arrays(x, torch.arange(IMAGES) % 10)
    print("\n| network | objective | groups of 2 to 8 in a batch | option | images/s of `fit` |\n|---|---|---|---|---|")
    options = {"float32": {}, "bf16": {"precision": "bf16-mixed"},
               "bf16, compiled": {"precision": "bf16-mixed", "compile": True}}  # fmt: skip
    for network, width in NETWORKS.items():
        for name in ("plain VAE", "default"):
            for groups in (70, 800):
                for option, how in options.items():
                    torch.manual_seed(0)
                    model = MLVAE((28, 28), LEVELS[name], network=network, width=width)
                    settings = {
                        "objective": OBJECTIVES[name],
                        "epochs": EPOCHS,
                        "groups": groups,
                        "device": DEVICE,
                        **how,
                    }
                    rate = fit(model, data, progress=False, **settings).epochs[-1]["images_per_second"]
                    print(f"| {network} | {name} | {groups} | {option} | {rate:,.0f} |", flush=True)


def main() -> None:
    """Prints a table; says so and stops where there is no CUDA device."""
    if not torch.cuda.is_available():
        print("No CUDA device here: nothing was measured.")
        sys.exit(0)
    print(torch.cuda.get_device_name(), torch.__version__)
    rate = rates()
    print("  ".join(f"{name} {value / 1e9:,.0f} G/s" for name, value in rate.items()))
    print("| network | objective | batch | option | images/s | over float32 | over floor | share of matrix rate |")
    print("|---|---|---|---|---|---|---|---|")
    for network in NETWORKS:
        for name, size in itertools.product(OBJECTIVES, (256, 4096)):
            with compiled(True) as fast:
                options = {"float32": (False, False), "float32, compiled": (False, False, fast), "tf32": (False, True),
                           "bf16": (True, False), "bf16, compiled": (True, False, fast)}  # fmt: skip
                steps = {option: stepper(network, name, size, *how) for option, how in options.items()}
                with FlopCounterMode(display=False) as counter:
                    steps["float32"]()
                work, moved = counter.get_total_flops(), 7 * 4 * steps["float32"].parameters  # type: ignore[attr-defined]
                seconds = medians(steps)
                for option, value in seconds.items():
                    best = rate[option.partition(",")[0]]
                    floor = work / best + moved / rate["memory"]
                    print(
                        f"| {network} | {name} | {size} | {option} | {size / value:,.0f} |"
                        f" {seconds['float32'] / value:.2f} | {value / floor:.2f} | {work / value / best:.1%} |",
                        flush=True,
                    )
    loops()


if __name__ == "__main__":
    main()
