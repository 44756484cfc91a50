"""What a CUDA device makes of a step: images a second, share of the measured matrix rate, the gain of each option.

    python benchmarks/speed/gpu.py

The MNIST-sized MLP and the convolutional network, batches of 256 and 4,096 in tens, the bound and the default
objective; in float32, TF32, bf16 and compiled, in turns, medians. The floor is the step's products at the device's
measured matrix rate (of the same precision) and the optimiser's numbers at its measured memory rate.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from mlvae import MLVAE, GroupBatch, Level, Objective, loss

ROUNDS = 30


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
        a = torch.rand(8192, 8192, device="cuda", dtype=kind)
        result[name] = 2 * 8192**3 / medians({name: lambda a=a: a @ a})[name]
    a, b = torch.rand(2, 2**28, device="cuda")
    return result | {"memory": 2 * 4 * 2**28 / medians({"copy": lambda: b.copy_(a)})["copy"]}


def stepper(
    network: str, objective: Objective, size: int, half: bool, tf32: bool, compiled: bool
) -> Callable[[], None]:
    """One optimiser step on the device."""
    torch.manual_seed(0)
    levels = [Level("content", 16, by="group"), Level("style", 16)]
    model = MLVAE((28, 28), levels, network=network, width=500 if network == "mlp" else None).cuda()
    if compiled:
        for part in (model.encoder, model.decoder):
            part.forward = torch.compile(part.forward)  # `compile()` leaves a Sequential as it is
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    x, groups = torch.rand(size, 28, 28), {"content": torch.arange(size) // 10}
    batch = GroupBatch.of(x, groups).to("cuda")

    def step() -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            total = loss(model, batch, objective, progress=0.5).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    step.parameters = sum(p.numel() for p in model.parameters())  # type: ignore[attr-defined]
    return step


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
    options = {"float32": (False, False, False), "tf32": (False, True, False), "bf16": (True, False, False),
               "bf16, compiled": (True, False, True)}  # fmt: skip
    for network in ("mlp", "conv-large"):
        for name, objective in (("bound", Objective.plain()), ("default", Objective())):
            for size in (256, 4096):
                steps = {option: stepper(network, objective, size, *how) for option, how in options.items()}
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


if __name__ == "__main__":
    main()
