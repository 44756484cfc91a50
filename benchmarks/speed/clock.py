"""Time taken by turns: variants interleaved, medians, so that what else the machine does counts for all alike."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import torch

from mlvae.resident import keep_freed


def interleaved(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each variant, one call a turn, the first turns left out.

    With one thread they are seconds of the processor, which other processes touch least. What one variant frees stays
    in the process for the next, as in `fit`: otherwise it is chance which of them asks the system for memory.
    """
    keep_freed()
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 2):
        for name, run in variants.items():
            started = clock()
            run()
            if turn > 1:
                seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


LAUNCHER = """
import os, sys
process = os.fork()
if not process:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
_, status, usage = os.wait4(process, 0)
print(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
"""
"""A process between: a program's peak memory begins with that of the process it is forked from, which is small here."""


def child(code: str) -> tuple[float, float]:
    """A program's seconds of processor, and the most memory it had in MB."""
    said = subprocess.run([sys.executable, "-c", LAUNCHER, code], check=True, capture_output=True, text=True).stdout
    status, seconds, megabytes = said.split()
    if int(status):
        raise SystemExit(f"A measured program failed:\n{code}")
    return float(seconds), float(megabytes)


def matrix_rate(rounds: int) -> float:
    """Floating operations a second of matrix products of the step's sizes."""
    a, b = torch.rand(256, 784), torch.rand(784, 500)
    return 2 * 256 * 784 * 500 / interleaved({"mm": lambda: a @ b}, rounds)["mm"]


def memory_rate(rounds: int) -> float:
    """Bytes a second of a copy that no cache holds, read and written."""
    a, b = torch.rand(2**24), torch.rand(2**24)
    return 2 * 4 * 2**24 / interleaved({"copy": lambda: b.copy_(a)}, rounds)["copy"]
